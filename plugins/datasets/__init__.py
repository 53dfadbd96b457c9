"""Makers of samples, one file each; the same file runs inside a runtime."""
