"""New nodes of a narrowed encoder: the positions of the rows, one position of a value, and shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx

from graphsurgery.deferred import ir
from graphsurgery.errors import require_value
from graphsurgery.graph.attributes import get_int, read_array
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import get_operator
from graphsurgery.graph.sizes import BATCH, Dim, Dims, Layout
from graphsurgery.rewrites.narrow.positions import Position

PREFIX = "pooled_token"
"""The first part of the names of new values."""


class Builder:
    """Adds nodes to an encoder. Equal values are added once."""

    def __init__(self, work: Editor, whole: Graph, layout: Layout, position: Position) -> None:
        """Prepare to change ``work``. ``whole`` is its graph with the head, whose dims are ``layout``."""
        self._work, self._whole, self._layout, self._position = work, whole, layout, position
        self._copies: dict[ir.Value, ir.Value] = {}
        self._constants: dict[tuple[int, ...], ir.Value] = {}
        self._sizes: dict[Dim, ir.Value] = {}
        self._positions: dict[tuple[ir.Value, int, int], ir.Value] = {}
        self._rows: ir.Value | None = None
        self._whole_axes: dict[Dim, tuple[ir.Value, int]] = {}
        """By size: a value from which a position was taken, along an axis of that size."""

    def add(
        self, op_type: str, inputs: Sequence[ir.Value | None], what: str, domain: str = "",
        attributes: Mapping[str, Any] = MappingProxyType({}),
    ) -> ir.Value:  # fmt: skip
        """Add a node and return its output. ``what`` says what it is, and becomes part of its name."""
        node = self._work.make_value(op_type, inputs, f"{PREFIX}/{what}", attributes, domain)
        self._work.insert(None, [node])
        return node.outputs[0]

    def add_integers(self, numbers: Iterable[int]) -> ir.Value:
        """Return a constant vector of ``numbers``."""
        key = tuple(numbers)
        if key not in self._constants:
            self._constants[key] = self._work.add_constant(f"{PREFIX}/numbers", np.array(key, np.int64))
        return self._constants[key]

    def take(self, value: ir.Value, dims: Dims, axis: int, rank: int) -> ir.Value:
        """Return the position of ``value`` along ``axis``, which becomes a dim of one.

        A value without a batch gets one if the position differs from row to row. ``rank`` is the number of dims that it
        broadcasts to.
        """
        key, size = (value, axis, rank), dims[axis]
        if size is not None:
            self._whole_axes.setdefault(size, (value, axis))
        if key not in self._positions:
            number = self._position.number
            if number is not None:
                taken = self.add("Gather", [value, self.add_integers([number])], "token", attributes={"axis": axis})
            elif BATCH in dims:
                taken = self._take_of_rows(value, dims, axis)
            else:
                taken = self._take_for_rows(value, axis, len(dims), rank - len(dims))
            self._positions[key] = taken
        return self._positions[key]

    def repeat(self, value: ir.Value, axis: int, rank: int, size: Dim) -> ir.Value:
        """Return ``value`` with its one position repeated ``size`` times along ``axis``: ``Expand(x, [1, size, 1])``.

        The number is read from a value from which a position was taken, because inputs may have several axes of that size.
        """
        whole = self._whole_axes.pop(size, None)
        if whole is not None:
            self._sizes[size] = self._read_size(*whole)
        shape = self.add_shape([size if place == axis else (1, 1) for place in range(rank)])
        return self.add("Expand", [value, shape], "repeated")

    def add_shape(self, dims: Iterable[Dim]) -> ir.Value:
        """Return a vector of ``dims``. Those that are not numbers are read from the inputs."""
        pieces: list[ir.Value] = []
        numbers: list[int] = []
        for dim in dims:
            if dim[0] == dim[1]:
                numbers.append(dim[0])
                continue
            pieces += [self.add_integers(numbers)] if numbers else []
            pieces.append(self._find_size(dim))
            numbers = []
        pieces += [self.add_integers(numbers)] if numbers else []
        return pieces[0] if len(pieces) == 1 else self.add("Concat", pieces, "shape", attributes={"axis": 0})

    def add_shape_of(self, node: ir.Node) -> ir.Value:
        """Return what ``node``, a Shape in the graph with the head, reads of dims that are numbers or those of inputs."""
        dims = self._layout.dims(node.inputs[0]) or ()
        read = dims[get_int(node, "start", 0) : get_int(node, "end", len(dims))]
        return self.add_shape(dim for dim in read if dim is not None)

    def _find_size(self, dim: Dim) -> ir.Value:
        """Return a dim that an input has, as a vector of one number."""
        if dim not in self._sizes:
            name, place = find_size_source(self._whole, self._layout, self._work.main.inputs, dim) or ("", 0)
            self._sizes[dim] = self._read_size(self._work.value(name), place)
        return self._sizes[dim]

    def _read_size(self, value: ir.Value | None, axis: int) -> ir.Value:
        shape = self.add("Shape", [value], "shape_of")
        return self.add("Gather", [shape, self.add_integers([axis])], "size", attributes={"axis": 0})

    def _take_of_rows(self, value: ir.Value, dims: Dims, axis: int) -> ir.Value:
        """Return ``x[b, i[b]]`` of a value with a batch: ``GatherND(x, i [batch, 1, 1], batch_dims=1)``."""
        first = dims.index(BATCH)
        order = [first, axis, *(place for place in range(len(dims)) if place not in (first, axis))]
        places = self.add("Reshape", [self._find_rows(), self.add_integers([-1, 1, 1])], "places")
        taken = self.add("GatherND", [self._transpose(value, order), places], "token", attributes={"batch_dims": 1})
        return self._transpose(taken, [order.index(place) for place in range(len(dims))])

    def _take_for_rows(self, value: ir.Value, axis: int, rank: int, missing: int) -> ir.Value:
        """Return ``x[0, i[b]]`` of a value that is the same for all rows."""
        if missing:
            value, axis, rank = self._insert_dims(value, missing), axis + missing, rank + missing
        taken = self.add("Gather", [value, self._find_rows()], "token", attributes={"axis": axis})
        order = list(range(rank))
        order[0], order[axis] = order[axis], order[0]
        return self._transpose(taken, order)

    def _find_rows(self) -> ir.Value:
        """Return the position of each row: ``[batch]`` int64."""
        index, column = self._position.index, self._position.column
        if self._rows is not None:
            return self._rows
        rows = self._copy(require_value(index, "a computed position"))
        if column is not None:
            rows = self.add("Gather", [rows, self.add_integers([column])], "column", attributes={"axis": -1})
        rows = self.add("Reshape", [rows, self.add_integers([-1])], "positions")
        if self._layout.dtype(index) != onnx.TensorProto.INT64:
            rows = self.add("Cast", [rows], "positions_int64", attributes={"to": int(onnx.TensorProto.INT64)})
        self._rows = rows
        return rows

    def _copy(self, value: ir.Value) -> ir.Value:
        """Return ``value`` of the whole graph in the encoder: the encoder's own, or computed by copies of the head's nodes.

        A shape is stated, because the value that has it may be the one that is narrowed.
        """
        if value not in self._copies and is_shape(value):
            self._copies[value] = self.add_shape_of(require_value(value.producer(), "a Shape"))
        if value in self._copies:
            return self._copies[value]
        own = self._work.value(value.name or "")
        if own is not None:
            return own
        tensor, node = self._whole.constant(value), value.producer()
        array = None if tensor is None else read_array(tensor)
        if array is not None:
            self._copies[value] = self._work.add_constant(f"{PREFIX}/constant", array)
        elif node is not None:
            inputs = [None if one is None else self._copy(one) for one in node.inputs]
            self._copies[value] = self.add(node.op_type, inputs, "place", node.domain, node.attributes)
        return self._copies[value]

    def _transpose(self, value: ir.Value, order: list[int]) -> ir.Value:
        if order == sorted(order):
            return value
        return self.add("Transpose", [value], "turned", attributes={"perm": order})

    def _insert_dims(self, value: ir.Value, count: int) -> ir.Value:
        """Return ``value`` with ``count`` more dims of one at the front."""
        node = self._work.make_with_axes("Unsqueeze", value, range(count), f"{PREFIX}/with_batch")
        self._work.insert(None, [node])
        return node.outputs[0]


def is_shape(value: ir.Value) -> bool:
    """Return whether ``value`` is the shape of a value that nodes compute."""
    node = value.producer()
    if node is None or get_operator(node) != "Shape":
        return False
    return node.inputs[0] is not None and node.inputs[0].producer() is not None


def find_size_source(whole: Graph, layout: Layout, inputs: Iterable[ir.Value], dim: Dim) -> tuple[str, int] | None:
    """Return an input of the encoder that has ``dim``, and the place of the dim; None if none has it."""
    for one in inputs:
        value = whole.value(one.name or "")
        dims = None if value is None or not whole.is_fed(value) else layout.dims(value)
        if dims is not None and dim in dims:
            return one.name or "", dims.index(dim)
    return None
