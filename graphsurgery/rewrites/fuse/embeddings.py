"""Fuse embeddings whose positions are computed from the ids, as those of RoBERTa, which the optimizer leaves.

    EmbedLayerNormalization(ids, types, words, positions, type_rows, scale, offset, position_ids)
        = LayerNormalization(words[ids] + type_rows[types] + positions[position_ids])           [batch, seq, dim]

The operator of com.microsoft takes indices of any origin as int32.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from graphsurgery.deferred import ir
from graphsurgery.graph.attributes import get_input, get_int
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.operators import COPYING, VENDOR, get_operator

ROWS = "Gather"
NORM = "LayerNormalization"
MOST_TABLES = 3


def fuse_embeddings(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``model`` with one operator for each norm of a sum of two or three table rows, or ``model`` itself without any.

    All indices must have the same dims ``[batch, seq]``, and those of the words must be an input.
    """
    if not any(get_operator(node) == NORM for node in model.graph.node):
        return model
    editor = Editor(model)
    found = [node for node in editor.nodes if get_operator(node) == NORM and _list_lookups(editor, node)]
    if not found:
        return model
    facts = Facts(editor)
    changed = [node for node in found if _fuse(editor, facts, node)]
    if not changed:
        return model
    editor.update_pinned()
    editor.remove_unread()
    return editor.finish()


def _list_lookups(editor: Editor, norm: ir.Node) -> list[ir.Node]:
    """Return the Gathers whose rows a norm adds up, or none if it adds anything else."""
    todo, found = [get_input(norm, 0)], list[ir.Node]()
    while todo:
        value = todo.pop()
        node = value.producer() if value is not None else None
        if node is None or value is None or not editor.is_read_once(value):
            return []
        if get_operator(node) == "Add" and len(found) + len(todo) < MOST_TABLES:
            todo += node.inputs
        elif get_operator(node) == ROWS and get_int(node, "axis", 0) == 0:
            found.append(node)
        else:
            return []
    return found if 1 < len(found) <= MOST_TABLES else []


def _fuse(editor: Editor, facts: Facts, norm: ir.Node) -> bool:
    lookups = _list_lookups(editor, norm)
    tables, scales = [node.inputs[0] for node in lookups], [get_input(norm, 1), get_input(norm, 2)]
    stored = [editor.tensor(value) for value in (*tables, *scales)]
    dims = {facts[node.inputs[1]].dims for node in lookups}
    widths = {tensor.dims[-1] for tensor in stored if tensor is not None}
    types = {tensor.data_type for tensor in stored if tensor is not None}
    if None in stored or len(widths) != 1 or types != {onnx.TensorProto.FLOAT} or len(dims) != 1:
        return False
    if len(next(iter(dims)) or ()) != 2 or any(len(tensor.dims) != 2 for tensor in stored[: len(tables)] if tensor is not None):
        return False
    if get_int(norm, "axis", -1) not in (-1, 2) or any(editor.is_read(value) for value in norm.outputs[1:]):
        return False
    ordered = _order(editor, lookups)
    if ordered is None:
        return False
    new: list[ir.Node] = []
    words, positions, *others = ((node.inputs[0], _cast(editor, new, norm, node.inputs[1])) for node in ordered)
    type_table, type_ids = others[0] if others else (None, None)
    inputs = [words[1], type_ids, words[0], positions[0], type_table, *scales, None, positions[1]]
    names = [editor.namer.new(f"{norm.name or norm.outputs[0].name}/embeddings{end}") for end in ("", "/mask")]
    epsilon = norm.attributes.get("epsilon")
    attributes = {"epsilon": 1e-5 if epsilon is None else float(epsilon.value)}
    fused = editor.make_node("EmbedLayerNormalization", inputs, names, attributes, names[0], VENDOR)
    editor.insert(norm, [*new, fused])
    return editor.replace_node(norm, fused.outputs[:1])


def _order(editor: Editor, lookups: Sequence[ir.Node]) -> list[ir.Node] | None:
    """Return the lookups of words, positions and types. Words are those of the largest table, and are looked up by an input."""
    largest, *others = sorted(lookups, key=lambda node: -_count_rows(editor, node))
    index = largest.inputs[1]
    if index is None or not editor.origin(index, COPYING).is_graph_input():
        return None
    return [largest, *others]


def _count_rows(editor: Editor, node: ir.Node) -> int:
    tensor = editor.tensor(node.inputs[0])
    return 0 if tensor is None else int(tensor.dims[0])


def _cast(editor: Editor, new: list[ir.Node], norm: ir.Node, index: ir.Value | None) -> ir.Value:
    new.append(editor.make_value("Cast", [index], f"{norm.name or norm.outputs[0].name}/index", {"to": onnx.TensorProto.INT32}))
    return new[-1].outputs[0]
