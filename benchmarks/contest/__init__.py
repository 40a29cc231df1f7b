"""Embedding engines side by side on the same texts: what benchmarks/peers.py runs."""
