"""Runs inside a runtime: imports the standard library, numpy and onnxruntime only."""
