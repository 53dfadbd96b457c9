"""Model-to-model changes, one file each; the same file runs inside a runtime."""
