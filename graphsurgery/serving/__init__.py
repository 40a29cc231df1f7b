"""A model folder as a service: one queue for every route, batches by a budget of tokens, and a cache."""
