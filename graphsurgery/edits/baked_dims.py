"""Find the places where a batch or sequence size is baked into a graph, and plan what to put there instead.

Exports without dynamic axes hold sizes as constants: shapes to reshape and expand to, ends of slices, positions 0, 1, ..., and
tables of relative positions or masks. A plan guesses by the place of such a number. Only a run tells whether it is right.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from graphsurgery.encoder.hidden_state import infer_values
from graphsurgery.graph.graph import Graph
from graphsurgery.model.dtypes import FLOATS
from graphsurgery.model.model import Model

LOG = logging.getLogger(__name__)
BATCH, SEQUENCE = "batch", "sequence"
AXES = {BATCH: 0, SEQUENCE: 1}
SHAPE, POSITIONS, CUT, END = "shape", "positions", "cut", "end"
MOST_FLOATS, MOST_INTEGERS = 1 << 16, 1 << 20
"""The most elements of a constant that is folded. Weights are larger, so they are not read."""
ELEMENTWISE = frozenset({
    "Abs", "Add", "And", "Cast", "Clip", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mul",
    "Neg", "Not", "Or", "Sub", "Unsqueeze", "Where",
})  # fmt: skip
Entry = int | str


@dataclass(frozen=True)
class Replacement:
    """Another value for one input of a node. The node is identified by its first output.

    ``shape``: a vector of ``entries``; ``positions``: entries[0], entries[0] + 1, ... of rank entries[1]; ``cut``: the value
    as it was, along axes ``entries`` up to the sequence's end, and of ``batch`` the first row; ``end``: the sequence's size.
    """

    output: str
    place: int
    kind: str
    entries: tuple[Entry, ...]
    name: str
    """The name of the input before."""


def plan_replacements(model: Model, sizes: Mapping[str, int]) -> list[Replacement]:
    """Plan the rewrites that free ``sizes``, of batch, sequence or both: at the places where constants meet other values."""
    constants = Constants(model, sizes.get(SEQUENCE))
    declared = (*model.interface.inputs, *model.interface.outputs)
    shapes = {value.name: value.dims for value in (*infer_values(model).outputs, *declared)}
    found = []
    for node in model.proto.graph.node:
        if not node.output or node.output[0] in constants:
            continue
        for place, name in enumerate(node.input):
            rewrite = _plan_replacement(node, place, constants, shapes.get(node.input[0]), sizes) if name in constants else None
            if rewrite is not None:
                found.append(Replacement(node.output[0], place, *rewrite, name))
    return found


def describe_places(model: Model, rewrites: list[Replacement]) -> Iterator[str]:
    """Describe each place where a size is baked in."""
    by_output = {node.output[0]: node for node in model.proto.graph.node if node.output}
    for rewrite in rewrites:
        node = by_output[rewrite.output]
        yield f"{node.op_type} {node.name or rewrite.output!r}"


def _plan_replacement(
    node: onnx.NodeProto, place: int, constants: Constants, shape: tuple[Entry | None, ...] | None, sizes: Mapping[str, int]
) -> tuple[str, tuple[Entry, ...]] | None:
    """Return (kind, entries) for a constant input of a node; None if nothing of ``sizes`` shows in it."""
    name = node.input[place]
    if (node.op_type, place) in (("Reshape", 1), ("Expand", 1)):
        if shape is None or any(one.name == "allowzero" and one.i for one in node.attribute):
            return None
        wanted = [int(one) for one in constants[name].ravel()]
        entries = (_plan_reshape if node.op_type == "Reshape" else _plan_expand)(wanted, shape, sizes)
        return None if entries == wanted else (SHAPE, tuple(entries))
    length, dims = sizes.get(SEQUENCE), constants.dims(name)
    if (node.op_type, place) == ("Slice", 2):
        return (END, ()) if math.prod(dims) == 1 and int(constants[name].ravel()[0]) == length else None
    if constants.counts(name):
        return POSITIONS, (_find_first_position(constants[name]) or 0, len(dims))
    if node.op_type not in ELEMENTWISE and (node.op_type, place) not in (("Gather", 1), ("Expand", 0)):
        return None
    return _plan_cut(dims, constants, name, sizes)


def _plan_cut(
    dims: tuple[int, ...], constants: Constants, name: str, sizes: Mapping[str, int]
) -> tuple[str, tuple[Entry, ...]] | None:
    """Say how to cut a table: along its axes of the sequence's length, unless it may be a weight; and to its first row if all
    rows of the batch are alike."""
    axes = tuple(axis for axis, size in enumerate(dims) if size == sizes.get(SEQUENCE))
    is_weight = constants.is_float(name) and len(axes) < 2 and (len(dims) < 3 or axes == (len(dims) - 1,))
    entries: tuple[Entry, ...] = () if is_weight else axes
    rows = sizes.get(BATCH, 1)
    if rows > 1 and len(dims) > 1 and dims[0] == rows and not is_weight and _has_equal_rows(constants[name]):
        entries = (BATCH, *(axis for axis in entries if axis != 0))
    return (CUT, entries) if entries else None


def _has_equal_rows(values: np.ndarray) -> bool:
    return bool((values == values[:1]).all())


def _plan_reshape(wanted: list[int], shape: tuple[Entry | None, ...], sizes: Mapping[str, int]) -> list[Entry]:
    """Return a shape to reshape to: 0 where the dim of the input stays, and -1 at most once, for a size that stays nowhere."""
    entries: list[Entry] = list(wanted)
    for place, size in enumerate(wanted):
        baked = sizes.get(BATCH) if place == 0 else sizes.get(SEQUENCE)
        if size != baked:
            continue
        if place < len(shape) and shape[place] == size:
            entries[place] = 0
        elif place == 0 or -1 not in wanted:  # where there was a -1, that varies, and this may be the size of something else
            entries[place] = (BATCH if place == 0 else SEQUENCE) if -1 in entries else -1
    merged = any(wanted[0] % size == 0 for size in sizes.values()) if wanted else False
    if merged and entries[0] == wanted[0] and -1 not in entries and shape[:1] != (wanted[0],):
        entries[0] = -1  # batch, sequence and something else in one dim
    return entries


def _plan_expand(wanted: list[int], shape: tuple[Entry | None, ...], sizes: Mapping[str, int]) -> list[Entry]:
    """Return a shape to expand to: 1 where the input has that dim itself, which then stays, whatever it is."""
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
    """Every small value of the main graph that is made of constants alone, and every initializer, whatever its size.

    A value that is made of positions of ``length`` is left out: positions are counted anew, and values made of them follow.
    """

    def __init__(self, model: Model, length: int | None) -> None:
        self._model, self._length = model, length
        self._tensors = dict(model.initializers)
        self._made: dict[str, np.ndarray] = {}
        graph = Graph.of(model)
        for node in model.proto.graph.node:
            tensor = graph.tensor(graph.value(next(iter(node.output), "")))
            if tensor is not None:
                self._tensors[node.output[0]] = tensor
            elif len(node.output) == 1 and node.input and all(map(self._folds, node.input)):
                self._fold(node)

    def __contains__(self, name: str) -> bool:
        return name in self._made or name in self._tensors

    def __getitem__(self, name: str) -> np.ndarray:
        return self._made[name] if name in self._made else self._model.values(self._tensors[name])

    def initializer(self, name: str) -> onnx.TensorProto | None:
        """Return the initializer ``name``; None if nodes make that constant."""
        return self._model.initializers.get(name)

    def dims(self, name: str) -> tuple[int, ...]:
        return self._made[name].shape if name in self._made else tuple(int(dim) for dim in self._tensors[name].dims)

    def is_float(self, name: str) -> bool:
        return self._made[name].dtype.kind == "f" if name in self._made else self._tensors[name].data_type in FLOATS

    def _folds(self, name: str) -> bool:
        return self._is_small(name) and not (name and self.counts(name))

    def counts(self, name: str) -> bool:
        """Whether a constant is n, n + 1, ... of the length in question, and nothing more."""
        dims = self.dims(name)
        return bool(dims) and dims[-1] == self._length == math.prod(dims) and _find_first_position(self[name]) is not None

    def _is_small(self, name: str) -> bool:
        return not name or (
            name in self and math.prod(self.dims(name)) <= (MOST_FLOATS if self.is_float(name) else MOST_INTEGERS)
        )

    def _fold(self, node: onnx.NodeProto) -> None:
        """Add the output of a node, if onnx's own evaluator can run it."""
        names = [name for name in dict.fromkeys(node.input) if name]
        tensors = [onnx.numpy_helper.from_array(np.asarray(self[name]), name) for name in names]
        graph = onnx.helper.make_graph([node], "constant", [], [onnx.ValueInfoProto(name=node.output[0])], tensors)
        model = onnx.helper.make_model(graph, opset_imports=self._model.proto.opset_import)
        try:
            with np.errstate(all="ignore"):
                found = np.asarray(next(iter(ReferenceEvaluator(model).run(None, {}))))
        except Exception as error:  # an operator that the evaluator does not know: its output counts as no constant
            LOG.debug("onnx's evaluator cannot run %s %s on constants: %s", node.op_type, node.name, error)
            return
        self._made[node.output[0]] = found
        if not self._is_small(node.output[0]):
            del self._made[node.output[0]]
