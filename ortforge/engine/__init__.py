"""Walks the plan through an executor: journal, resume, progress events."""
