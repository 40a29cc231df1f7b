"""Simplify a graph to fewer nodes, all of them standard operators."""
