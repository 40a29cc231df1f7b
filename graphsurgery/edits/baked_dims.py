"""Find the places where a batch or sequence size is baked into a graph, and plan the values that replace it.

An export without dynamic axes holds these sizes in constants: shapes for Reshape and Expand, ends of slices, positions
0, 1, ..., and tables of relative positions or masks. A plan guesses from the place of such a number. Only a run shows whether
it is right.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from graphsurgery.encoder.hidden_state import infer_values
from graphsurgery.graph.attributes import get_int
from graphsurgery.graph.graph import Graph
from graphsurgery.model.dtypes import FLOATS
from graphsurgery.model.model import Model

LOG = logging.getLogger(__name__)
BATCH, SEQUENCE = "batch", "sequence"
AXES = {BATCH: 0, SEQUENCE: 1}
SHAPE, POSITIONS, CUT, END = "shape", "positions", "cut", "end"
MOST_FLOATS, MOST_INTEGERS = 1 << 16, 1 << 20
"""The most elements that a constant may have to be an input of constant folding. Larger ones are weights and are not read."""
ELEMENTWISE = frozenset({
    "Abs", "Add", "And", "Cast", "Clip", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mul",
    "Neg", "Not", "Or", "Sub", "Unsqueeze", "Where",
})  # fmt: skip
Entry = int | str
Dims = tuple[Entry | None, ...]


@dataclass(frozen=True)
class Replacement:
    """A new value for one input of a node. The node is identified by its first output.

    The value depends on ``kind``. ``shape``: the vector of ``entries``. ``positions``: entries[0], entries[0] + 1, ..., with
    rank entries[1]. ``cut``: the old value up to the end of the sequence along the axes ``entries``; the entry ``batch`` keeps
    the first row. ``end``: the size of the sequence.
    """

    output: str
    place: int
    kind: str
    entries: tuple[Entry, ...]
    name: str
    """The old input."""
    dtype: int
    """The element type of the old input."""
    table: np.ndarray | None
    """The old input of a ``cut``, if nodes compute it. None for an initializer."""


def plan_replacements(model: Model, sizes: Mapping[str, int]) -> list[Replacement]:
    """Plan how to free ``sizes`` of the batch, the sequence or both. A constant is replaced where a computed value meets it."""
    graph = Graph.of(model)
    constants = Constants(model, graph, sizes.get(SEQUENCE))
    declared = (*model.interface.inputs, *model.interface.outputs)
    shapes = {value.name: value.dims for value in (*infer_values(model).outputs, *declared)}
    planned = []
    for node in graph.nodes:
        if not node.outputs or node.outputs[0] in constants:
            continue
        first = node.inputs[0] if node.inputs else None
        for place, value in enumerate(node.inputs):
            if value is None or value not in constants:
                continue
            plan = _plan_replacement(node, place, constants, shapes.get(first.name or "") if first is not None else None, sizes)
            if plan is not None:
                kind, entries = plan
                table = constants[value] if kind == CUT and value.name not in model.initializers else None
                output, dtype = node.outputs[0].name or "", constants.dtype(value)
                planned.append(Replacement(output, place, kind, entries, value.name or "", dtype, table))
    return planned


def describe_places(model: Model, replacements: list[Replacement]) -> Iterator[str]:
    """Yield a description of each node that a size is baked into."""
    graph = Graph.of(model)
    for one in replacements:
        value = graph.value(one.output)
        node = value.producer() if value is not None else None
        if node is not None:
            yield f"{node.op_type} {node.name or repr(one.output)}"


def _plan_replacement(
    node: ir.Node, place: int, constants: Constants, shape: Dims | None, sizes: Mapping[str, int]
) -> tuple[str, tuple[Entry, ...]] | None:
    """Return kind and entries for a constant input of ``node``, or None if it does not depend on ``sizes``.

    ``shape`` holds the dims of the node's first input.
    """
    value = node.inputs[place]
    if value is None:
        return None
    if (node.op_type, place) in (("Reshape", 1), ("Expand", 1)):
        if shape is None or get_int(node, "allowzero", 0):
            return None
        wanted = [int(one) for one in constants[value].ravel()]
        entries = (_plan_reshape if node.op_type == "Reshape" else _plan_expand)(wanted, shape, sizes)
        return None if entries == wanted else (SHAPE, tuple(entries))
    length, dims = sizes.get(SEQUENCE), constants.dims(value)
    if (node.op_type, place) == ("Slice", 2):
        return (END, ()) if math.prod(dims) == 1 and int(constants[value].ravel()[0]) == length else None
    if constants.is_positions(value):
        return POSITIONS, (_find_first_position(constants[value]) or 0, len(dims))
    if node.op_type not in ELEMENTWISE and (node.op_type, place) not in (("Gather", 1), ("Expand", 0)):
        return None
    return _plan_cut(value, constants, sizes)


def _plan_cut(value: ir.Value, constants: Constants, sizes: Mapping[str, int]) -> tuple[str, tuple[Entry, ...]] | None:
    """Return how to cut a table: along its axes of the sequence's length, and to its first row if all rows are equal.

    A value that may be a weight is not cut.
    """
    dims = constants.dims(value)
    axes = tuple(axis for axis, size in enumerate(dims) if size == sizes.get(SEQUENCE))
    is_weight = constants.is_float(value) and len(axes) < 2 and (len(dims) < 3 or axes == (len(dims) - 1,))
    if is_weight:
        return None
    entries: tuple[Entry, ...] = axes
    rows = sizes.get(BATCH, 1)
    if rows > 1 and len(dims) > 1 and dims[0] == rows and _has_equal_rows(constants[value]):
        entries = (BATCH, *(axis for axis in entries if axis != 0))
    return (CUT, entries) if entries else None


def _has_equal_rows(values: np.ndarray) -> bool:
    return bool((values == values[:1]).all())


def _plan_reshape(wanted: list[int], shape: Dims, sizes: Mapping[str, int]) -> list[Entry]:
    """Return a shape for Reshape: 0 where the input's dim stays, and at most one -1, for a size that no input dim gives."""
    entries: list[Entry] = list(wanted)
    for place, size in enumerate(wanted):
        baked = sizes.get(BATCH) if place == 0 else sizes.get(SEQUENCE)
        if size != baked:
            continue
        if place < len(shape) and shape[place] == size:
            entries[place] = 0
        elif place == 0 or -1 not in wanted:  # if the export has a -1, that one varies, and this may be another size
            entries[place] = (BATCH if place == 0 else SEQUENCE) if -1 in entries else -1
    is_merged = any(wanted[0] % size == 0 for size in sizes.values()) if wanted else False
    if is_merged and entries[0] == wanted[0] and -1 not in entries and shape[:1] != (wanted[0],):
        entries[0] = -1  # batch, sequence and another size in one dim
    return entries


def _plan_expand(wanted: list[int], shape: Dims, sizes: Mapping[str, int]) -> list[Entry]:
    """Return a shape for Expand: 1 where the input already has that dim, which then stays at any size."""
    own = [1] * (len(wanted) - len(shape)) + list(shape)
    entries: list[Entry] = list(wanted)
    for place, size in enumerate(wanted):
        if size == (sizes.get(BATCH) if place == 0 else sizes.get(SEQUENCE)) and size > 1:
            entries[place] = 1 if own[place] == size else BATCH if place == 0 else SEQUENCE
    return entries


def _find_first_position(values: np.ndarray) -> int | None:
    """Return n if a constant is n, n + 1, ...; else None."""
    flat = values.ravel()
    if len(flat) < 2 or values.dtype.kind not in "if" or not float(flat[0]).is_integer():
        return None
    return int(flat[0]) if (flat == flat[0] + np.arange(len(flat))).all() else None


class Constants:
    """The values of the main graph that only constants make: stored tensors of any size, and small values that are folded here.

    A value that is computed from positions of ``length`` is left out: it follows the positions, which are replaced.
    """

    def __init__(self, model: Model, graph: Graph, length: int | None) -> None:
        self._model, self._graph, self._length = model, graph, length
        self._folded: dict[ir.Value, np.ndarray] = {}
        for node in graph.nodes:
            if len(node.outputs) == 1 and node.inputs and all(map(self._is_foldable, node.inputs)):
                self._fold(node)

    def __contains__(self, value: ir.Value) -> bool:
        return value in self._folded or self._graph.tensor(value) is not None

    def __getitem__(self, value: ir.Value) -> np.ndarray:
        return self._folded[value] if value in self._folded else self._model.values(self._tensor(value))

    def dims(self, value: ir.Value) -> tuple[int, ...]:
        """Return the dims of a constant, without reading its elements."""
        return self._folded[value].shape if value in self._folded else tuple(int(dim) for dim in self._tensor(value).dims)

    def dtype(self, value: ir.Value) -> int:
        """Return the element type of a constant."""
        if value in self._folded:
            return int(onnx.helper.np_dtype_to_tensor_dtype(self._folded[value].dtype))
        return int(self._tensor(value).data_type)

    def is_float(self, value: ir.Value) -> bool:
        return self._folded[value].dtype.kind == "f" if value in self._folded else self.dtype(value) in FLOATS

    def is_positions(self, value: ir.Value) -> bool:
        """Return whether a constant is n, n + 1, ..., has the length in question, and has no other dims than 1."""
        dims = self.dims(value)
        return bool(dims) and dims[-1] == self._length == math.prod(dims) and _find_first_position(self[value]) is not None

    def _tensor(self, value: ir.Value) -> onnx.TensorProto:
        tensor = self._graph.tensor(value)
        if tensor is None:
            raise KeyError(value.name)
        return tensor

    def _is_foldable(self, value: ir.Value | None) -> bool:
        if value is None:
            return True
        return value in self and self._is_small(value) and not self.is_positions(value)

    def _is_small(self, value: ir.Value) -> bool:
        return math.prod(self.dims(value)) <= (MOST_FLOATS if self.is_float(value) else MOST_INTEGERS)

    def _fold(self, node: ir.Node) -> None:
        """Compute the output of ``node`` with onnx's own evaluator and keep it, if that succeeds and the output is small."""
        inputs = [value for value in dict.fromkeys(node.inputs) if value is not None]
        tensors = [onnx.numpy_helper.from_array(np.asarray(self[value]), value.name) for value in inputs]
        output = node.outputs[0]
        declared = [onnx.ValueInfoProto(name=output.name or "")]
        graph = onnx.helper.make_graph([ir.serde.serialize_node(node)], "constant", [], declared, tensors)
        model = onnx.helper.make_model(graph, opset_imports=self._model.proto.opset_import)
        try:
            with np.errstate(all="ignore"):
                folded = np.asarray(next(iter(ReferenceEvaluator(model).run(None, {}))))
        except Exception as error:  # the evaluator does not know the operator: the output does not count as a constant
            LOG.debug("onnx's evaluator cannot run %s %s on constants: %s", node.op_type, node.name, error)
            return
        self._folded[output] = folded
        if not self._is_small(output):
            del self._folded[output]
