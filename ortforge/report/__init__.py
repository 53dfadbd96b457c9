"""What a run says: terminal, files, comparing two runs."""
