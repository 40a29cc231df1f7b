"""Models as they are: reading and writing .onnx files without touching what an edit leaves alone."""
