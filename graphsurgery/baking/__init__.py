"""From a model folder of sentence-transformers to one verified ONNX file, in a folder ready to publish."""
