"""Two models on the same feeds: how close is close enough, which positions count, and what a comparison came to."""
