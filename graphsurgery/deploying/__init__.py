"""The files by which other programs serve a model folder, written from the interface of its ONNX file."""
