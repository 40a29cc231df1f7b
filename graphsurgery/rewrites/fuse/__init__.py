"""Run ONNX Runtime's transformer optimizer, and find what it should fuse, what it fuses, and why it leaves the rest."""
