"""The known faults of exports: found in a file, mended where that can be proven, and named where it cannot."""
