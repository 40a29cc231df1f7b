"""Comparisons of two models on the same feeds: tolerances, which positions count, losses and times."""
