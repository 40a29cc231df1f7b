"""Serve a model folder over HTTP: all routes share one queue, batches within a budget of tokens, and a cache."""
