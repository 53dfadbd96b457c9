"""What the passes for 16-bit floats share: graph changes, repairs of what a converter leaves, the search for nodes."""
