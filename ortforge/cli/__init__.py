"""The command line: one module per verb, nothing heavy imported until the verb runs."""
