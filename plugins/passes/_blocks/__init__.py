"""Weights rounded in blocks: the methods, the nodes that read them, the kernels that a runtime has for them."""
