"""Task metrics, one file each."""
