"""What a value is computed from."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx

from graphsurgery.model.nodes import reads


def upstream(nodes: Iterable[onnx.NodeProto], value: str, there: Collection[str] = ()) -> set[str]:
    """``value`` and every value that it is computed from, back to inputs, weights, and what is ``there``, which is left out."""
    producers = {output: node for node in nodes for output in node.output if output}
    found, todo = set[str](), [value]
    while todo:
        name = todo.pop()
        if name not in found and name not in there:
            found.add(name)
            todo += reads(producers[name]) if name in producers else ()
    return found
