"""The parts of the rewrite `padding-free`."""
