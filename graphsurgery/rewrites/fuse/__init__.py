"""ONNX Runtime's transformer optimizer: run, watched, and told what it misses."""
