"""Running models in ONNX Runtime, and what to feed them."""
