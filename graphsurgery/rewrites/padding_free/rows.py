"""Attention row by row: a Loop over the rows of a batch, whose body attends within the tokens of one row.

The body computes what the attention computes on a batch of this one row, cut to the row's tokens. So nothing is left to be
masked, and no time or memory goes into padding. Values that depend on positions are gathered at the positions of the tokens.
Loop with sequences of tensors is in ONNX since opset 13.
"""

from __future__ import annotations

import onnx

from graphsurgery.deferred import ir
from graphsurgery.errors import require_value
from graphsurgery.graph.attributes import get_ints
from graphsurgery.graph.operators import (
    AT_PLACES,
    ATTENTIONS,
    FUSED_ROTATIONS,
    MASK_INPUTS,
    NOT_BY_ROW,
    REPEATING,
    SHAPE_READING,
    SHAPED,
    VENDOR,
    get_operator,
)
from graphsurgery.rewrites.padding_free.building import Builder
from graphsurgery.rewrites.padding_free.cores import Core, find_core
from graphsurgery.rewrites.padding_free.layout import Layout
from graphsurgery.rewrites.padding_free.packing import Packing
from graphsurgery.rewrites.padding_free.regions import Region
from graphsurgery.runtime.observed_dims import POSITIONS, ROWS, Dims, Size

Order = tuple[int, ...]
JOIN: tuple[Order, Order, Order] = ((0, 2, 1, 3), (0, 3, 1, 2), (0, 2, 1, 3))
"""The orders of axes by which the heads of queries, keys and values are joined."""
INVERSE: dict[Order, Order] = {(0, 2, 1, 3): (0, 2, 1, 3), (0, 3, 1, 2): (0, 2, 3, 1)}
"""The orders of axes by which they were parted."""
TOKEN_AXIS = 1
"""The axis of the tokens in packed values."""
ROW_INPUTS = 2
"""The inputs of a fused rotation before its tables, which have rows for all positions of the batch."""


def make_loop(region: Region, packing: Packing, layout: Layout) -> None:
    """Make the Loop of an attention that can run row by row, and note the packed values that it gives."""
    outputs = list_outputs(region)
    row = _Row(region, packing, layout)
    cores = [core for one in region.attentions if (core := find_core(one, layout, region.masks)) is not None]
    replaced = {core.output: core for core in cores}
    covered = {node for core in cores for node in core.nodes}
    for node in region.nodes:
        if node.outputs[0] in replaced:
            row.attend(replaced[node.outputs[0]])
        elif node not in covered:
            row.copy(node)
    build, inner = packing.builder, row.build
    dtypes = [onnx.helper.np_dtype_to_tensor_dtype(layout.observed[value.name or ""].dtype) for value in outputs]
    kinds = [ir.SequenceType(ir.TensorType(ir.DataType(dtype))) for dtype in dtypes]
    new = build.editor.namer.new
    sofar = [ir.Value(name=new(f"{one.name}/rows"), type=kind) for one, kind in zip(outputs, kinds, strict=True)]
    longer = [inner.node("SequenceInsert", [so, row.get(one)], "longer") for so, one in zip(sofar, outputs, strict=True)]
    going = inner.node("Identity", [row.going], "going")
    going.type, going.shape = ir.TensorType(ir.DataType.BOOL), ir.Shape([])
    for value, kind in zip(longer, kinds, strict=True):
        value.type = kind
    row.build.drop_unread([going, *longer])
    body = ir.Graph([row.index, row.going, *sofar], [going, *longer], nodes=inner.nodes, name=new("row"))
    empty = [build.node("SequenceEmpty", [], "no_rows", {"dtype": dtype}) for dtype in dtypes]
    count = build.node("Size", [packing.full_rows], "row_count")
    names = [new(f"{value.name}/all_rows") for value in outputs]
    loop = build.editor.make_node("Loop", [count, None, *empty], names, {"body": body}, new("padding_free/rows"))
    build.nodes.append(loop)
    for value, made in zip(outputs, loop.outputs, strict=True):
        packing.note(value, build.node("ConcatFromSequence", [made], "packed", {"axis": TOKEN_AXIS}))


def list_outputs(region: Region) -> list[ir.Value]:
    """Return the values of a region that others read."""
    inside = set(region.nodes)
    return [
        value
        for node in region.nodes
        for value in node.outputs
        if value.is_graph_output()
        or any(one not in inside and get_operator(one) not in SHAPE_READING for one, _ in value.uses())
    ]


def explain_why_not(region: Region, layout: Layout) -> str | None:
    """Return why an attention cannot run row by row, or None if it can."""
    odd = next((value for value in list_outputs(region) if not layout.has_tokens(value)), None)
    if odd is not None:
        return f"{odd.name!r}, which an attention gives, is not [batch, seq, ...]"
    made = region.made
    for node in region.nodes:
        called = f"the operator {get_operator(node)} ({node.name or node.outputs[0].name!r}) in an attention"
        if _takes_places(node, layout):
            return f"{called} takes positions by their places in the padded row"
        is_shaped = get_operator(node) in SHAPED
        if is_shaped and None in (layout.dims(node.outputs[0]) or (None,)):
            return f"the dims that {called} gives are unknown"
        count = 1 if is_shaped else ROW_INPUTS if get_operator(node) in FUSED_ROTATIONS else None
        given = [value for value in node.inputs[:count] if value is not None and value not in made]
        strange = next((one for one in given if one.name not in region.masks and not _can_take_row(one, layout)), None)
        if strange is not None:
            return f"no row can be taken of {strange.name!r}, which {called} reads"
    return None


def _takes_places(node: ir.Node, layout: Layout) -> bool:
    """Return whether a node reads positions by their places in the batch."""
    operator = get_operator(node)
    if operator in AT_PLACES:
        axes, dims = layout.list_axes(node), layout.dims(require_value(node.inputs[0], "what is taken"))
        return axes is None or not all(dims is None or (dims[axis] or ROWS).is_literal for axis in axes)
    return operator in NOT_BY_ROW


def _has_rows(value: ir.Value, layout: Layout) -> bool:
    """Return whether every dim of ``value`` is the batch, the sequence, or the same for every batch."""
    return all(size is not None and (size.is_literal or size in (ROWS, POSITIONS)) for size in layout.dims(value) or ())


def _can_take_row(value: ir.Value, layout: Layout) -> bool:
    """Return whether ``value`` can be had for one row: by gathering, or by repeating something less often."""
    if _has_rows(value, layout) or layout.is_flat(value):
        return True
    node = value.producer()
    if node is None or get_operator(node) not in REPEATING or None in (layout.dims(value) or (None,)):
        return False
    return _can_take_row(require_value(node.inputs[0], "what is repeated"), layout)


class _Row:
    """One row of the batch, in the body of a loop."""

    def __init__(self, region: Region, packing: Packing, layout: Layout) -> None:
        self.build = Builder(packing.builder.editor, constants=packing.builder.constants)
        self._packing, self._layout = packing, layout
        new = self.build.editor.namer.new
        self.index = ir.Value(name=new("row_index"), type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([]))
        self.going = ir.Value(name=new("is_going"), type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([]))
        build, place = self.build, self.build.node("Reshape", [self.index, self.build.integers([-1])], "place")
        self.start, self.end = (build.gather(one, place, 0, "bound") for one in (packing.starts, packing.ends))
        self._place = place
        self._row: ir.Value | None = None
        self._positions: ir.Value | None = None
        self._length: ir.Value | None = None
        self._values: dict[ir.Value, ir.Value] = {}
        self._masks = region.masks

    def copy(self, node: ir.Node) -> None:
        """Add a node of the attention, as it is for the tokens of this row."""
        unmasked = [value for value in node.inputs if value is not None and value.name not in self._masks]
        if get_operator(node) == "Add" and len(unmasked) == 1:
            self._values[node.outputs[0]] = self.get(unmasked[0])
            return
        if get_operator(node) in SHAPED:
            shape = self._measure(node, self._layout.dims(node.outputs[0]) or ())
            inputs: list[ir.Value | None] = [self.get(require_value(node.inputs[0], "what is reshaped")), shape]
        elif get_operator(node) in FUSED_ROTATIONS:
            inputs = self._place_rotation(node)
        else:
            left_out = MASK_INPUTS.get(get_operator(node), ()) if get_operator(node) in ATTENTIONS else ()
            inputs = [
                None if value is None or (place in left_out and value.name in self._masks) else self.get(value)
                for place, value in enumerate(node.inputs)
            ]
        made = self.build.copy(node, inputs)
        self._values.update(zip(node.outputs, made.outputs, strict=True))

    def attend(self, core: Core) -> None:
        """Add the fused operator that computes the core of an attention."""
        build, dims = self.build, self._layout.dims(core.queries) or ()
        heads = require_value(dims[1], "the number of heads").number
        queries = self.get(core.queries)
        for operator, scale in core.scales:
            queries = build.node(operator, [queries, self.get(scale)], "scaled")
        parts = zip((queries, self.get(core.keys), self.get(core.values)), JOIN, strict=True)
        joined = [self._join_heads(value, order) for value, order in parts]
        bias = [] if core.bias is None else [None, None, self.get(core.bias)]
        attributes = {"num_heads": heads, "scale": 1.0}
        attended = build.node("MultiHeadAttention", [*joined, *bias], "attention", attributes, VENDOR)
        if core.zeroes_nan and core.bias is not None:
            is_nan = build.node("IsNaN", [attended], "is_nan")
            attended = build.node("Where", [is_nan, build.number(0), attended], "numbers")
        parted = build.node("Reshape", [attended, build.integers([1, -1, heads, self._count_dims(core.output)])], "parted")
        self._values[core.output] = build.node("Transpose", [parted], "heads", {"perm": [0, 2, 1, 3]})

    def _place_rotation(self, node: ir.Node) -> list[ir.Value | None]:
        """Return the inputs of a rotation: its tables have one row for each token of this row, and are read from the first."""
        source, told, *tables = (require_value(one, "an input of a rotation") for one in node.inputs)
        if self._layout.counts_on(node):
            places = self.build.node("Add", [self._get_positions(), told], "places")
        else:
            places = self.build.node("Reshape", [self.get(told), self.build.integers([-1])], "places")
        rows = [self.build.gather(table, places, 0, f"{table.name}/tokens") for table in tables]
        return [self.get(source), self.build.integers([0]), *rows]

    def _join_heads(self, value: ir.Value, order: Order) -> ir.Value:
        """Return the heads of a value side by side, ``[1, tokens, heads x size]``."""
        node = value.producer()
        if node is not None and get_operator(node) == "Transpose" and get_ints(node, "perm") == list(INVERSE[order]):
            turned = require_value(node.inputs[0], "what a Transpose turns")
        else:
            turned = self.build.node("Transpose", [value], "turned", {"perm": order})
        return self.build.node("Reshape", [turned, self.build.integers([0, 0, -1])], "joined")

    def _count_dims(self, value: ir.Value) -> int:
        size = (self._layout.dims(value) or (None,))[-1]
        return require_value(size, "the width of a head").number

    def get(self, value: ir.Value) -> ir.Value:
        """Return ``value`` for this row."""
        if value in self._values or self._layout.is_free(value):
            return self._values.get(value, value)
        packed = self._packing.get(value)
        if packed is not None:
            axis = 0 if self._layout.is_flat(value) else TOKEN_AXIS
            found = self.build.slice(packed, self.start, self.end, axis, f"{value.name}/row")
        else:
            found = self._pick(value)
        self._values[value] = found
        return found

    def _pick(self, value: ir.Value) -> ir.Value:
        """Return what a value that is not made of tokens is for this row: at the row, and at the positions of its tokens."""
        if not _has_rows(value, self._layout):
            return self._repeat(require_value(value.producer(), "what repeats it"))
        dims = self._layout.dims(value) or ()
        for axis, size in enumerate(dims):
            if size == ROWS:
                value = self.build.gather(value, self._get_row(), axis, f"{value.name}/row")
        for axis, size in enumerate(dims):
            if size == POSITIONS:
                value = self.build.gather(value, self._get_positions(), axis, f"{value.name}/tokens")
        return value

    def _repeat(self, node: ir.Node) -> ir.Value:
        """Return what a node of `REPEATING` gives for a batch of this row alone."""
        operator, source = get_operator(node), self.get(require_value(node.inputs[0], "what is repeated"))
        inputs: list[ir.Value | None] = [source]
        shape = self._measure(node, self._layout.dims(node.outputs[0]) or ())
        if operator == "Tile":
            inputs.append(self.build.node("Div", [shape, self.build.node("Shape", [source], "before")], "repeats"))
        elif operator in SHAPED:
            inputs.append(shape)
        return self.build.copy(node, inputs).outputs[0]

    def _measure(self, node: ir.Node, dims: Dims) -> ir.Value:
        sizes = [Size(size.number, 0, size.positions) for size in dims if size is not None]
        if get_operator(node) == "Reshape" and sum(bool(size.positions) for size in sizes) == 1:
            return self.build.integers([-1 if size.positions else size.number for size in sizes])
        return self.build.measure(sizes, self.build.integers([1]), self._get_length(), "shape")

    def _get_row(self) -> ir.Value:
        self._row = self._row or self.build.gather(self._packing.full_rows, self._place, 0, "row")
        return self._row

    def _get_positions(self) -> ir.Value:
        if self._positions is None:
            self._positions = self.build.slice(self._packing.positions, self.start, self.end, 0, "row_positions")
        return self._positions

    def _get_length(self) -> ir.Value:
        self._length = self._length or self.build.node("Sub", [self.end, self.start], "row_length")
        return self._length
