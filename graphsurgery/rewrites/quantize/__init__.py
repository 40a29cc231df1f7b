"""Products in integers, and smaller weights: finding products, calibrating, rounding weights, building nodes."""
