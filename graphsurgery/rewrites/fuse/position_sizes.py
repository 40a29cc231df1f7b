"""Write the number of positions in the nodes that the optimizer's pattern of embeddings expects.

positions[:, : Shape(x, start=1, end=2)]                            by an exporter in dynamo form
positions[:, : Unsqueeze(Gather(Shape(input_ids), 1), 0)]           what the optimizer looks for
"""

from __future__ import annotations

import numpy as np
import onnx

from graphsurgery.deferred import ir
from graphsurgery.graph.attributes import get_input
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.operators import get_operator


def spell_out_position_sizes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``model`` with the sequence length taken from the ids where it cuts stored positions ``[1, n]``.

    Returns ``model`` itself if no such length is computed in another way.
    """
    if not any(get_operator(node) == "Shape" and node.attribute for node in model.graph.node):  # importing takes a while
        return model
    editor = Editor(model)
    found = [node for node in editor.nodes if _cuts_positions(editor, node)]
    if not found:
        return model
    facts, changed = Facts(editor), False
    for node in found:
        ids, sizes = _find_ids(editor, node), facts.numbers(node.inputs[2])
        dims = facts[ids].dims
        if ids is None or sizes is None or dims is None or len(dims) != 2 or sizes != dims[1:]:
            continue
        _read_size_of(editor, node, ids)
        changed = True
    return editor.finish() if changed else model


def _cuts_positions(editor: Editor, node: ir.Node) -> bool:
    """Return whether a node cuts stored integers ``[1, n]`` at a length that one Shape gives."""
    if get_operator(node) != "Slice" or len(node.inputs) < 3:
        return False
    stored, end = editor.constant(node.inputs[0]), get_input(node, 2)
    shape = None if end is None else end.producer()
    return (
        stored is not None and len(stored.dims) == 2 and stored.dims[0] == 1
        and shape is not None and get_operator(shape) == "Shape" and "start" in shape.attributes
    )  # fmt: skip


def _find_ids(editor: Editor, node: ir.Node) -> ir.Value | None:
    """Return the ids of the first rows to which the rows of the positions ``node`` are added. None if they are not added."""
    position = next((one for one in editor.consumers(node.outputs[0]) if get_operator(one) == "Gather"), None)
    readers = [] if position is None else editor.consumers(position.outputs[0])
    if position is None or len(readers) != 1 or get_operator(readers[0]) != "Add":
        return None
    made = next((one.producer() for one in readers[0].inputs if one is not position.outputs[0] and one is not None), None)
    while made is not None and get_operator(made) == "Add" and made.inputs[0] is not None:
        made = made.inputs[0].producer()
    return get_input(made, 1) if made is not None and get_operator(made) == "Gather" else None


def _read_size_of(editor: Editor, node: ir.Node, ids: ir.Value) -> None:
    """Let ``node`` cut at the second dim of ``ids``."""
    names = [editor.namer.new(f"{node.outputs[0].name}/{what}") for what in ("shape", "length", "end")]
    one, first = (editor.add_constant(f"{node.outputs[0].name}/place", np.array(place, np.int64)) for place in (1, [0]))
    shape = editor.make_node("Shape", [ids], names[:1], name=names[0])
    length = editor.make_node("Gather", [shape.outputs[0], one], names[1:2], name=names[1])
    end = editor.make_node("Unsqueeze", [length.outputs[0], first], names[2:], name=names[2])
    before = get_input(node, 2)
    editor.insert(before.producer() if before is not None else None, [shape, length, end])
    editor.set_inputs(node, [*node.inputs[:2], end.outputs[0], *node.inputs[3:]])
