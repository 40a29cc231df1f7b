"""Find the places where a batch or sequence size is baked into a graph, and plan the values that replace it.

An export without dynamic axes holds these sizes in constants: shapes for Reshape and Expand, ends of slices, positions
0, 1, ..., coordinates for GatherND, and tables of relative positions or masks. A plan follows the dims of all values through
the graph, with the freed sizes as symbols. So it knows which dim a constant has to fit. Where that is unknown, it guesses from
the number. Only a run shows whether a plan is right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from graphsurgery.deferred import ir
from graphsurgery.edits.folded_constants import Constants, find_first_position
from graphsurgery.edits.free_sizes import BATCH, SEQUENCE, Entries, FreeSizes
from graphsurgery.encoder.hidden_state import infer_values
from graphsurgery.encoder.roles import Roles
from graphsurgery.graph.attributes import get_int
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import BROADCASTING, get_operator
from graphsurgery.graph.symbolic import Fact, Size, Sizes
from graphsurgery.model.model import Model

AXES = {BATCH: 0, SEQUENCE: 1}
SHAPE, POSITIONS, CUT, TILED, END, GRID = "shape", "positions", "cut", "tiled", "end", "grid"
PLACES = "places"
PARAMETRIC = frozenset({
    "Pad", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare", "Resize", "Slice", "Split", "Squeeze", "Tile", "Unsqueeze",
})  # fmt: skip
"""Operators whose inputs after the first are settings, and never positions of tokens."""
REPEATING = frozenset({"GatherElements"})
"""Operators that do not broadcast: a constant that is the same for all texts is repeated for each."""


@dataclass(frozen=True)
class Plan:
    """What a constant becomes, and what is known of it then: its dims, or the integers in it.

    The ``kind`` says what replaces the constant:

    - ``shape``: the vector of ``entries``.
    - ``positions``: entries[0], entries[0] + 1, ..., with rank entries[1], as many as entries[2] says. They go along the first
      axis for the batch, and along the last one for the sequence.
    - ``cut``: the old value up to the end of the sequence along the axes ``entries``. The entry ``batch`` keeps the first row.
    - ``tiled``: the first entries[0] rows of the old value, once for each text, cut along the axes that the other entries name.
    - ``end``: the size of the sequence.
    - ``grid``: coordinates, int64 with the dims ``entries`` and one dim more. Each of them counts 0, 1, ... along one of the
      ``axes``.
    - ``places``: the places of tokens in all texts, one text after the other, int64. Its two ``axes`` are the batch's and the
      sequence's, and the ``entries`` are their sizes.
    """

    kind: str
    entries: Entries
    dims: Sizes
    numbers: Sizes | None = None
    axes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Replacement:
    """A new value for one input of a node. The node is identified by its first output."""

    output: str
    place: int
    plan: Plan
    name: str
    """The old input."""
    dtype: int
    """The element type of the old input."""
    table: np.ndarray | None
    """The old input if it is cut or tiled and nodes compute it. None for an initializer."""


def plan_replacements(model: Model, roles: Roles, sizes: Mapping[str, int]) -> list[Replacement]:
    """Plan how to free ``sizes`` of the batch, the sequence or both. A constant is replaced where a computed value meets it."""
    return _Planner(model, roles, sizes).replacements


def describe_places(model: Model, replacements: list[Replacement]) -> Iterator[str]:
    """Yield a description of each node that a size is baked into."""
    graph = Graph.of(model)
    for one in replacements:
        value = graph.value(one.output)
        node = value.producer() if value is not None else None
        if node is not None:
            yield f"{node.op_type} {node.name or repr(one.output)}"


class _Planner(Facts):
    """Infers the dims of all values with the freed sizes as symbols, and on the way plans what each constant becomes."""

    def __init__(self, model: Model, roles: Roles, sizes: Mapping[str, int]) -> None:
        self.replacements: list[Replacement] = []
        graph = Graph.of(model)
        self._model, self._roles, self._sizes = model, roles, sizes
        self._constants = Constants(model, graph, sizes.get(SEQUENCE))
        declared = (*infer_values(model).outputs, *model.interface.inputs, *model.interface.outputs)
        self._declared = {value.name: value.dims for value in declared}
        super().__init__(graph)

    def _read_inputs(self) -> None:
        super()._read_inputs()
        self._free = FreeSizes(self._symbols, self._sizes)
        for value in self._roles.known:
            dims = self._facts[value.name].dims
            if dims is not None:
                freed = {AXES[which]: symbol for which, symbol in self._free.freed.items()}
                self._facts[value.name] = Fact(value.dtype, tuple(freed.get(axis, dim) for axis, dim in enumerate(dims)))

    def _infer_node(self, node: ir.Node) -> None:
        """Infer the outputs of ``node`` from its inputs as they are after the constants among them are replaced."""
        plans = self._plan_inputs(node) if node.outputs[0] not in self._constants else {}
        numbers = enumerate(super()._list_numbers(node))
        self._inputs_numbers = tuple(plans[place].numbers if place in plans else one for place, one in numbers)
        kept: list[tuple[str, Fact, Sizes | None]] = []
        for place, plan in plans.items():
            value = node.inputs[place]
            if value is not None:
                self._note(node, place, value, plan)
                kept.insert(0, (value.name or "", self[value], self.numbers(value)))
                self._know(value.name or "", Fact(self._constants.dtype(value), plan.dims), None)
        super()._infer_node(node)
        for name, fact, known in kept:  # other nodes that read the constant may need something else in its place
            self._know(name, fact, known)

    def _list_numbers(self, node: ir.Node) -> tuple[Sizes | None, ...]:
        return self._inputs_numbers

    def _know(self, name: str, fact: Fact, numbers: Sizes | None) -> None:
        self._facts[name] = fact
        self._numbers.pop(name, None)
        if numbers is not None:
            self._numbers[name] = numbers

    def _plan_inputs(self, node: ir.Node) -> dict[int, Plan]:
        constant = {place: one for place, one in enumerate(node.inputs) if one is not None and one in self._constants}
        plans = {place: self._plan(node, place, value) for place, value in constant.items()}
        return {place: plan for place, plan in plans.items() if plan is not None}

    def _note(self, node: ir.Node, place: int, value: ir.Value, plan: Plan) -> None:
        is_computed = plan.kind in (CUT, TILED) and value.name not in self._model.initializers
        table, name, dtype = self._constants[value] if is_computed else None, value.name or "", self._constants.dtype(value)
        self.replacements.append(Replacement(node.outputs[0].name or "", place, plan, name, dtype, table))

    def _dims(self, value: ir.Value | None) -> Sizes | None:
        """Return the dims of a computed value: as inferred, or else guessed from what the export declares."""
        dims = self[value].dims
        declared = None if value is None else self._declared.get(value.name or "")
        if dims is not None or declared is None:
            return dims
        return self._free.guess([size if isinstance(size, int) else None for size in declared])

    def _plan(self, node: ir.Node, place: int, value: ir.Value) -> Plan | None:
        """Plan what a constant input of ``node`` becomes. None if it does not depend on the freed sizes."""
        operator, constants = get_operator(node), self._constants
        if (operator, place) in (("Reshape", 1), ("Expand", 1)):
            return self._plan_shape(node, value)
        if operator == "Concat":
            return self._plan_part_of_shape(node, place, value)
        if (operator, place) == ("Slice", 2):
            return self._plan_end(node, value)
        if (operator, place) == ("Gather", 1) and (places := self._plan_places(node, value)) is not None:
            return places
        dims = constants.dims(value)
        if constants.is_positions(value) and (place == 0 or operator not in PARAMETRIC):
            first = find_first_position(constants[value]) or 0
            return Plan(POSITIONS, (first, len(dims), SEQUENCE), (*dims[:-1], self._free.freed[SEQUENCE]))
        if (operator, place) == ("GatherND", 1):
            return self._plan_grid(node, value)
        targets = self._align(node, place, dims)
        return None if targets is None else self._plan_table(value, targets, operator in REPEATING)

    def _plan_shape(self, node: ir.Node, value: ir.Value) -> Plan | None:
        dims, wanted = self._dims(node.inputs[0]), [int(one) for one in self._constants[value].ravel()]
        if dims is None:
            return None
        chosen = (
            self._free.choose_expand(dims, wanted) if get_operator(node) == "Expand"
            else self._free.choose_reshape(dims, wanted, copies_zero=not get_int(node, "allowzero", 0))
        )  # fmt: skip
        if chosen is None or list(chosen[0]) == wanted:
            return None
        entries, found = chosen
        return Plan(SHAPE, entries, (len(entries),), found)

    def _plan_part_of_shape(self, node: ir.Node, place: int, value: ir.Value) -> Plan | None:
        """Plan entries of a shape that is computed in part: the batch can only be its first entry."""
        dims, free = self._constants.dims(value), self._free
        if len(dims) != 1 or self._constants.dtype(value) != onnx.TensorProto.INT64:
            return None
        numbers = [int(one) for one in self._constants[value]]
        found: list[Size] = [free.freed[SEQUENCE] if one == free.sizes.get(SEQUENCE) else one for one in numbers]
        if place == 0 and numbers[:1] == [free.sizes.get(BATCH)]:
            found[0] = free.freed[BATCH]
        entries = tuple(free.name(size) or 0 for size in found)
        return Plan(SHAPE, entries, dims, tuple(found)) if found != numbers else None

    def _plan_end(self, node: ir.Node, value: ir.Value) -> Plan | None:
        """Plan the end of a slice: the size of the sequence, unless the slice goes to the end of a dim that stays."""
        if self._constants.dims(value) not in ((), (1,)):
            return None
        end, dims, axes = int(self._constants[value].ravel()[0]), self._dims(node.inputs[0]), self.literals(_get_input(node, 3))
        stays = dims is not None and axes is not None and len(axes) == 1 and dims[axes[0]] == end
        return None if stays or end != self._sizes.get(SEQUENCE) else Plan(END, (), (1,), (self._free.freed[SEQUENCE],))

    def _plan_grid(self, node: ir.Node, value: ir.Value) -> Plan | None:
        """Plan coordinates ``[..., n]``: each counts 0, 1, ... along one axis, as far as the dim of the data is long."""
        data, dims = self._dims(node.inputs[0]), self._constants.dims(value)
        if data is None or get_int(node, "batch_dims", 0) or not dims or dims[-1] > len(data):
            return None
        values, sizes, axes = self._constants[value], list[Size](dims[:-1]), []
        for coordinate in range(dims[-1]):
            axis = _find_counting_axis(values[..., coordinate], self._free.bake(data[coordinate]))
            if axis is None:
                return None
            sizes[axis] = data[coordinate]
            axes.append(axis)
        names = tuple(self._free.name(size) for size in sizes)
        entries = tuple(name for name in names if name is not None)
        if len(entries) < len(names) or not any(isinstance(entry, str) for entry in entries):
            return None
        return Plan(GRID, entries, (*sizes, dims[-1]), axes=tuple(axes))

    def _plan_places(self, node: ir.Node, value: ir.Value) -> Plan | None:
        """Plan indices into the tokens of all texts, one text after the other: row * length + position."""
        ids = self._roles.ids
        sizes = self._facts[ids.name].dims if ids is not None else None
        data, dims, free = self._dims(node.inputs[0]), self._constants.dims(value), self._free
        if data is None or sizes is None or len(sizes) != 2 or self._constants.dtype(value) != onnx.TensorProto.INT64:
            return None
        if len(dims) < 2 or len(data) != 1 or data[0] != self._symbols.multiply(sizes):
            return None
        rows, columns = map(free.bake, sizes)
        counted = np.arange(rows * columns).reshape(rows, *[1] * (len(dims) - 2), columns)
        entries = tuple(entry for entry in map(free.name, sizes) if entry is not None)
        if dims != counted.shape or len(entries) < 2 or not (self._constants[value] == counted).all():
            return None
        return Plan(PLACES, entries, (sizes[0], *dims[1:-1], sizes[1]), axes=(0, len(dims) - 1))

    def _align(self, node: ir.Node, place: int, dims: Sequence[int]) -> list[Size | None] | None:
        """Return for each axis of a constant the dim that it has to fit, or None where nothing says so.

        None for the whole where the operator has no constant of such a kind.
        """
        operator = get_operator(node)
        unknown: list[Size | None] = [None] * len(dims)
        if operator in BROADCASTING:
            others = [self._dims(one) for one in node.inputs if one is not None and one not in self._constants]
            return [_find_size(others, axis) for axis in range(-len(dims), 0)]
        other = self._dims(node.inputs[1 - place]) if place < 2 <= len(node.inputs) else None
        if operator == "MatMul" and len(dims) > 2:
            batch = [_find_size([other], axis) for axis in range(-len(dims), -2)]
            return [*batch, *dims[-2:]]
        if operator == "GatherElements" and other is not None and len(other) == len(dims):
            targets: list[Size | None] = list(other)
            targets[get_int(node, "axis", 0)] = dims[get_int(node, "axis", 0)] if place == 0 else None
            return targets
        return unknown if (operator, place) in (("Gather", 1), ("Expand", 0)) else None

    def _plan_table(self, value: ir.Value, targets: Sequence[Size | None], repeats: bool) -> Plan | None:
        """Plan how to cut a table along its axes of the sequence, and to keep its first rows if all texts have the same ones.

        ``targets`` are the dims that its axes have to fit. ``repeats`` says that the node does not broadcast, so that each text
        needs rows of its own. A value that may be a weight is not cut where nothing shows that it has to be.
        """
        dims, free, constants = self._constants.dims(value), self._free, self._constants
        sequence, batch = free.freed.get(SEQUENCE, 0), free.sizes.get(BATCH, 0)
        long = [
            axis for axis, size in enumerate(dims) if size == free.sizes.get(SEQUENCE) and targets[axis] in (None, sequence)
        ]
        guessed = [axis for axis in long if targets[axis] is None]
        is_weight = constants.is_float(value) and len(long) < 2 and (len(dims) < 3 or guessed == [len(dims) - 1])
        axes = [axis for axis in long if targets[axis] is not None or not is_weight]
        found = [sequence if axis in axes else size for axis, size in enumerate(dims)]
        rows = None
        if dims and targets[0] is not None:
            rows = free.count_rows(targets[0]) if free.bake(targets[0]) == dims[0] else None
        elif len(dims) > 1 and dims[0] == batch > 1 and not is_weight:
            if math.prod(dims) == batch and find_first_position(constants[value]) == 0:
                return Plan(POSITIONS, (0, len(dims), BATCH), (free.freed[BATCH], *dims[1:]))
            rows = 1
        if rows is not None and 0 not in axes and (repeats or dims[0] > 1) and _has_equal_rows(constants[value], rows):
            if rows == 1 and not repeats:
                return Plan(CUT, (BATCH, *axes), (1, *found[1:]))
            return Plan(TILED, (rows, *axes), (targets[0] or dims[0], *found[1:]))
        return Plan(CUT, tuple(axes), tuple(found)) if axes else None


def _get_input(node: ir.Node, place: int) -> ir.Value | None:
    return node.inputs[place] if place < len(node.inputs) else None


def _find_size(others: Sequence[Sizes | None], axis: int) -> Size | None:
    """Return the first dim other than 1 that ``others`` have at ``axis``, counted from the end."""
    return next((dims[axis] for dims in others if dims is not None and len(dims) >= -axis and dims[axis] != 1), None)


def _has_equal_rows(values: np.ndarray, rows: int) -> bool:
    """Return whether ``values`` repeats its first ``rows``."""
    parts = values.reshape(-1, rows, *values.shape[1:])
    return bool((parts == parts[:1]).all())


def _find_counting_axis(values: np.ndarray, size: int) -> int | None:
    """Return the first axis of length ``size`` along which ``values`` is 0, 1, ..., if it changes along no other."""
    for axis in range(values.ndim):
        counted = np.arange(size).reshape([-1 if one == axis else 1 for one in range(values.ndim)])
        if values.shape[axis] == size and (values == counted).all():
            return axis
    return None
