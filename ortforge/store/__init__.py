"""Content-addressed objects and the ledger."""
