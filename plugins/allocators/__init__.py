"""Memory allocators, one file each."""
