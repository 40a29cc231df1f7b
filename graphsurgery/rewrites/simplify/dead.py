"""Nodes and initializers that nobody reads."""

from __future__ import annotations

from graphsurgery.graph.editor import Workspace
from graphsurgery.graph.facts import Facts


def drop_dead(work: Workspace, _: Facts) -> int:
    """Take out what nobody reads, from the end on; how much. Of initializers of one name the last counts."""
    dead = 0
    for node in reversed(list(work.nodes)):
        if not any(work.is_read(name) for name in node.output if name):
            work.remove(node)
            dead += 1
    last = {one.name: place for place, one in enumerate(work.graph.initializer)}
    unread = [
        place
        for place, one in enumerate(work.graph.initializer)
        if place != last[one.name] or not (work.is_read(one.name) or one.name in work.inputs)
    ]
    work.drop_initializers(unread)
    sparse = work.graph.sparse_initializer
    lost = [place for place, one in enumerate(sparse) if not work.is_read(one.values.name)]
    for place in reversed(lost):
        del sparse[place]
    return dead + len(unread) + len(lost)
