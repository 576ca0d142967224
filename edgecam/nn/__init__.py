"""Neural nets: the model registry, converters and onnxruntime sessions."""
