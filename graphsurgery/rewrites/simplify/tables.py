"""Fold a lookup that gives the same row everywhere into the table of the lookup that it is added to.

    Add(Gather(W, ids), Gather(T, k everywhere))    ->    Gather(W + T[k], ids)

Token types are such a lookup where a model takes none, or was made to take none: all of them are 0. The sum of a row of W and
T[k] is the same float32 number, whether it is computed beforehand or in each run.
"""

from __future__ import annotations

import numpy as np
import onnx

from graphsurgery.deferred import ir
from graphsurgery.graph.attributes import count_bytes, get_int, read_array, to_tensor_proto
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import PICKING, VIEWS, get_operator
from graphsurgery.graph.sizes import Layout
from graphsurgery.rewrites.simplify.constants import is_inside

LARGEST = 256 << 20
"""The most bytes of a table that is computed anew."""
LONGEST = 1 << 20
"""The most bytes of a constant that is searched for a number other than its first one."""


def fold_tables(work: Editor) -> int:
    """Fold every such lookup, and return how many there were."""
    sums = [node for node in work.nodes if work.is_standard(node) and get_operator(node) == "Add"]
    found = [(node, pair) for node in sums if (pair := _match(work, node)) is not None]
    if not found:
        return 0
    layout, folded = Layout(work), 0
    for node, (words, other, row) in found:
        if layout.dims(node.outputs[0]) != layout.dims(words.outputs[0]) or layout.dims(node.outputs[0]) is None:
            continue
        arrays = [read_array(work.constant(one.inputs[0]) or onnx.TensorProto()) for one in (words, other)]
        table, rows = arrays
        if table is None or rows is None or table.shape[1:] != rows.shape[1:] or not -len(rows) <= row < len(rows):
            continue
        name = words.inputs[0].name if words.inputs[0] is not None else ""
        words.replace_input_with(0, work.add_constant(f"{name}/with_types", table + rows[row]))
        folded += work.replace_node(node, [words.outputs[0]])
    return folded


def _match(work: Editor, node: ir.Node) -> tuple[ir.Node, ir.Node, int] | None:
    """Return (the lookup that stays, the one that gives one row, that row) if ``node`` adds two such lookups."""
    made = [value.producer() for value in node.inputs if value is not None and work.is_read_once(value)]
    lookups = [one for one in made if one is not None and _is_lookup(work, one)]
    if len(lookups) != 2 or node.outputs[0].name in work.protected or node.outputs[0].name in work.pinned:
        return None
    for words, other in (lookups, lookups[::-1]):
        row = find_only_number(work, other.inputs[1])
        table = words.inputs[0]
        if row is not None and table is not None and work.is_read_once(table):
            return words, other, row
    return None


def _is_lookup(work: Editor, node: ir.Node) -> bool:
    """Return whether a node looks up rows of a float32 table that the model holds."""
    if not work.is_standard(node) or get_operator(node) != "Gather" or get_int(node, "axis", 0):
        return False
    tensor = work.constant(node.inputs[0])
    is_table = tensor is not None and tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2
    return is_table and tensor is not None and is_inside(tensor) and (count_bytes(tensor) or LARGEST + 1) <= LARGEST


def find_only_number(graph: Graph, value: ir.Value | None) -> int | None:
    """Return the integer that all elements of ``value`` are in every run, or None if they may differ."""
    while value is not None:
        tensor, node = graph.constant(value), value.producer()
        if tensor is None and node is not None and graph.is_standard(node) and get_operator(node) == "ConstantOfShape":
            filling = node.attributes.get("value")
            tensor = to_tensor_proto(filling.value) if filling is not None else None
        if tensor is not None:
            array = read_array(tensor) if (count_bytes(tensor) or 0) <= LONGEST else None
            is_one = array is not None and array.size > 0 and array.dtype.kind == "i" and bool(np.all(array == array.flat[0]))
            return int(array.flat[0]) if is_one and array is not None else None
        if node is None or not graph.is_standard(node) or get_operator(node) not in VIEWS | PICKING:
            return None
        value = node.inputs[0]
    return None
