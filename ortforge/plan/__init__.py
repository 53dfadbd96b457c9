"""From a Matrix to a graph of steps with content keys, and why each would run."""
