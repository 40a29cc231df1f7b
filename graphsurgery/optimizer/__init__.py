"""The optimize verb: search for a list of rewrites whose result is right, and time it."""
