"""Where ONNX Runtime's source comes from: a repository, an archive, a distribution."""
