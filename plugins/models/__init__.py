"""Resolvers for model references, one file each."""
