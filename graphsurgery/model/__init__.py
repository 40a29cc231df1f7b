"""Models as files: reading and writing .onnx files without touching anything that an edit leaves alone."""
