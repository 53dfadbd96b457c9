"""From raw samples and tensors to a verdict: pure functions."""
