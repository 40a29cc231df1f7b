"""Compute the parts of a packed product on their own: ``x [W1 W2 W3]`` becomes ``x W1``, ``x W2`` and ``x W3``.

Some exports make queries, keys and values with one product, and cut its result apart after a bias, a Reshape and a Transpose.
Keys and values are needed at all positions, so the whole product is. As a product of their own, the queries can be computed at
one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graphsurgery.deferred import ir
from graphsurgery.errors import require_value
from graphsurgery.graph.attributes import get_int, get_ints
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import get_operator
from graphsurgery.graph.sizes import Dim, Dims, Layout, multiply
from graphsurgery.rewrites.narrow.demand import Demand, plan_shape
from graphsurgery.rewrites.narrow.positions import read_index, read_slice


@dataclass(frozen=True)
class Columns:
    """Where the columns of ``W`` stand in a value that is made of ``x W``."""

    numbers: np.ndarray
    """The numbers of the columns, by the value's axes. Axes that are those of x have size one."""
    places: tuple[int | None, ...]
    """For each axis, its place in ``rows``, or None if columns stand along it."""
    rows: Dims
    """The dims of x without its last one."""
    bias: ir.Value | None = None
    """What is added, ``[columns]``."""


@dataclass(frozen=True)
class Part:
    """A value with a part of the columns of a packed product."""

    value: ir.Value
    product: ir.Node
    columns: Columns


def find_parts(demand: Demand) -> list[Part]:
    """Return the parts of all products that have a part needed at one position, and another one needed whole."""
    products = [node for node in demand.graph.nodes if get_operator(node) == "MatMul"]
    return [part for node in products for part in _list_useful_parts(demand, node)]


def unpack(work: Editor, layout: Layout, parts: list[Part]) -> None:
    """Compute each of ``parts`` by a product of its own in ``work``. ``layout`` has the dims of the values."""
    for part in parts:
        value = require_value(work.value(part.value.name or ""), "a value of the encoder")
        work.replace_uses(value, _compute_part(work, layout, part))


def _compute_part(work: Editor, layout: Layout, part: Part) -> ir.Value:
    """Add the nodes that compute ``part`` alone, after the product, and return its new value.

    Runtimes pick columns of constant weights once, when they load the model.
    """
    made: list[ir.Node] = []

    def add(operator: str, inputs: list[ir.Value | None], what: str, **attributes: Any) -> ir.Value:
        made.append(work.make_value(operator, inputs, f"{part.value.name}/{what}", attributes))
        return made[-1].outputs[0]

    product = require_value(work.value(part.product.outputs[0].name or ""), "the packed product").producer()
    given, weights = require_value(product, "the packed product").inputs
    columns, rows = part.columns, part.columns.rows
    places = columns.numbers.ravel()
    chosen = work.add_constant(f"{part.value.name}/columns", places)
    value = add("MatMul", [given, add("Gather", [weights, chosen], "weights", axis=1)], "product")
    if columns.bias is not None:
        bias = work.value(columns.bias.name or "")
        value = add("Add", [value, add("Gather", [bias, chosen], "bias", axis=0)], "biased")
    before, after = _list_dims(layout, part)
    if before != after:
        shape = np.array(plan_shape(before, after), np.int64)
        value = add("Reshape", [value, work.add_constant(f"{part.value.name}/shape", shape)], "split")
    others = iter(range(len(rows), len(after)))
    order = [next(others) if place is None else place for place in columns.places]
    if order != sorted(order):
        value = add("Transpose", [value], "turned", perm=order)
    work.insert(product, made)
    return value


def _list_dims(layout: Layout, part: Part) -> tuple[Dims, Dims]:
    """Return the dims of the product for ``part``, and those with its columns split as they are in it, before any Transpose."""
    sizes = [size for size, place in zip(part.columns.numbers.shape, part.columns.places, strict=True) if place is None]
    count = part.columns.numbers.size
    rows = (layout.dims(part.product.outputs[0]) or ())[:-1]
    return (*rows, (count, count)), (*part.columns.rows, *((size, size) for size in sizes))


def _list_useful_parts(demand: Demand, product: ir.Node) -> list[Part]:
    """Return the parts of ``product`` if it pays to compute each on its own, else none."""
    parts = [part for part in _list_parts(demand.graph, demand.layout, product) if part.value.uses()]
    reads = {_is_read_at_one_position(demand, part.value) for part in parts}
    can_shape = all(plan_shape(*_list_dims(demand.layout, part)) is not None for part in parts)
    return parts if len(reads) > 1 and can_shape else []


def _is_read_at_one_position(demand: Demand, value: ir.Value) -> bool:
    """Return whether all nodes that read ``value`` need one position of it alone."""
    return all(index in demand.axes.get(node, {}) or get_operator(node) == "Shape" for node, index in value.uses())


def _list_parts(graph: Graph, layout: Layout, product: ir.Node) -> list[Part]:
    """Return the parts into which ``product`` is cut. Empty if something reads it otherwise."""
    weights, dims = graph.constant(product.inputs[1]), layout.dims(product.outputs[0])
    if weights is None or len(weights.dims) != 2 or dims is None or len(dims) < 2:
        return []
    numbers = np.arange(int(weights.dims[1])).reshape([1] * (len(dims) - 1) + [-1])
    columns, node = Columns(numbers, (*range(len(dims) - 1), None), dims[:-1]), product
    while True:
        value = node.outputs[0]
        readers = graph.all_consumers(value)
        after = _follow(graph, layout, readers[0], columns) if len(readers) == 1 else None
        if value.is_graph_output():
            return []
        if after is None:
            break
        columns, node = after, readers[0]
    cuts = [_cut(layout, reader, columns) if reader.inputs[0] is value else [] for reader in readers]
    return [Part(one, product, own) for cut in cuts for one, own in cut if one.name] if all(cuts) else []


def _follow(graph: Graph, layout: Layout, node: ir.Node, columns: Columns) -> Columns | None:
    """Return where the columns are after a bias, a Reshape that splits them, or a Transpose; None after other operators."""
    out = layout.dims(node.outputs[0])
    is_joined = columns.places == (*range(len(columns.rows)), None)
    if out is None:
        return None
    if get_operator(node) == "Transpose":
        order = get_ints(node, "perm") or list(range(len(out)))[::-1]
        return replace(columns, numbers=columns.numbers.transpose(order), places=tuple(columns.places[one] for one in order))
    if get_operator(node) == "Add" and is_joined and columns.bias is None:
        bias = next((one for one in node.inputs if graph.constant(one) is not None), None)
        fits = layout.dims(bias) == (out[-1],) == (_double(columns.numbers.size),)
        return replace(columns, bias=bias) if fits else None
    if get_operator(node) == "Reshape" and is_joined:
        return _split(columns, out)
    return None


def _split(columns: Columns, out: Dims) -> Columns | None:
    """Return the columns in a value with the dims ``out``, if the last of these are those of the columns alone."""
    size, count = _double(columns.numbers.size), multiply(columns.rows)
    for place in reversed(range(len(out))):
        if multiply(out[place:]) == size:
            split = [one[0] for one in out[place:] if one is not None]
            if count is None or multiply(out[:place]) != count:
                return None
            numbers = columns.numbers.reshape([1] * place + split)
            return replace(columns, numbers=numbers, places=(*range(place), *[None] * len(split)), rows=out[:place])
    return None


def _cut(layout: Layout, node: ir.Node, columns: Columns) -> list[tuple[ir.Value, Columns]]:
    """Return the values that ``node`` cuts out of a value, with their columns. Empty if it does not cut columns."""
    rank = len(columns.places)
    if get_operator(node) == "Split":
        return _cut_in_turn(layout, node, columns, get_int(node, "axis", 0) % rank)
    if get_operator(node) == "Slice":
        found = read_slice(layout, node, rank)
        own = None if found is None else _take(columns, found[0], slice(*found[1:]))
    elif get_operator(node) == "Gather":
        index = read_index(layout, node, rank)
        own = None if index is None else _take(columns, index[0], index[1] if layout.dims(node.inputs[1]) == () else [index[1]])
    else:
        own = None
    return [] if own is None else [(node.outputs[0], own)]


def _cut_in_turn(layout: Layout, node: ir.Node, columns: Columns, axis: int) -> list[tuple[ir.Value, Columns]]:
    """Return the outputs of a Split with their columns."""
    found, start = list[tuple[ir.Value, Columns]](), 0
    for value in node.outputs:
        dims = layout.dims(value)
        size = None if dims is None else dims[axis]
        own = None if size is None or size[0] != size[1] else _take(columns, axis, slice(start, start + size[0]))
        if own is None or size is None:
            return []
        found.append((value, own))
        start += size[0]
    return found


def _take(columns: Columns, axis: int, index: int | list[int] | slice) -> Columns | None:
    """Return the columns at ``index`` of an axis, which is dropped for a single number. None if no columns stand along it."""
    if columns.places[axis] is not None:
        return None
    places = columns.places[:axis] + columns.places[axis + 1 :] if isinstance(index, int) else columns.places
    return replace(columns, numbers=columns.numbers[(*[slice(None)] * axis, index)], places=places)


def _double(size: int) -> Dim:
    """Return ``size`` as a dim that does not depend on the batch and the tokens."""
    return size, size
