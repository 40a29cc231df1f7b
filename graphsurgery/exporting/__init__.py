"""From a model folder's weights to an ONNX file, with PyTorch and transformers (extra ``export``).

Only this package imports PyTorch, transformers and Optimum, and only during an export.
"""
