"""Compute an encoder only where its result is read: at one position of each text."""
