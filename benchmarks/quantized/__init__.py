"""Quantised files side by side, ours and other programs': what benchmarks/quantize.py measures."""
