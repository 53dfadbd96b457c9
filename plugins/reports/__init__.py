"""Report writers, one file each."""
