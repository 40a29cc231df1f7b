"""Nodes and initializers that nobody reads."""

from __future__ import annotations

from graphsurgery.graph.editor import Editor
from graphsurgery.graph.facts import Facts


def drop_dead(graph: Editor, _: Facts) -> int:
    """Take out what nobody reads, from the end on; return how much."""
    dead = 0
    for node in reversed(list(graph.nodes)):
        if not any(graph.is_read(value) for value in node.outputs if value.name):
            graph.remove(node)
            dead += 1
    return dead + graph.drop_unread()
