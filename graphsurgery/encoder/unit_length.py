"""Vectors of length one: x / sqrt(sum x^2), in one operator or several, and what a run shows of it."""

from __future__ import annotations

import numpy as np

from graphsurgery.deferred import ir
from graphsurgery.graph.attributes import get_input, get_int
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import SCALING, SQUARE_SUMS, get_operator


def find_scaled_to_length_one(graph: Graph, node: ir.Node) -> ir.Value | None:
    """Return x if ``node`` gives x over its length, sqrt(sum x^2), in one operator or as the last of several; else None."""
    operator = get_operator(node)
    if operator == "LpNormalization":
        return get_input(node, 0) if get_int(node, "p", 2) == 2 and get_int(node, "axis", -1) in (-1, 1) else None
    if operator not in SCALING:
        return None
    for vector, length in (node.inputs, reversed(node.inputs)) if operator == "Mul" else (node.inputs,):
        if vector is None or length is None:
            continue
        behind = {get_operator(one) for one in graph.upstream_nodes(length, until=(vector,))}
        if vector in graph.ancestors([length]) and behind & SQUARE_SUMS:
            return vector
    return None


def have_length_one(vectors: np.ndarray, near: float) -> bool:
    """Return whether there are ``vectors [..., dim]``, and all have length one to within ``near``."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=-1)
    return bool(lengths.size and np.all(np.abs(lengths - 1) < near))
