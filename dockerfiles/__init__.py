"""Toolchain images, one Dockerfile per base."""
