"""Proof that an output computes what its edits mean. Imports nothing from the edits, so that it cannot share their mistakes."""
