"""Measures for passes that search: how close answers are, and which of two sessions is faster."""
