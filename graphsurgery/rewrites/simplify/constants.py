"""What only constants go into is a constant itself.

Bounds come before computing: how large a result is has to be known from dims, and it is kept only where the file does not
grow by more than `GROWTH` for it. Weights are read only where a smaller or an equal one takes their place.
"""

from __future__ import annotations

import numpy as np
import onnx

from graphsurgery.graph.editor import SMALL, Workspace
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.reading import array_of, byte_size, constant_tensor
from graphsurgery.model.dtypes import payload_size
from graphsurgery.rewrites.simplify.evaluation import evaluated

GROWTH = 64 << 10
"""Bytes by which a result may be larger than what it takes the place of."""
MOST_GROWTH = 16 << 20
"""Bytes of constants of up to `GROWTH` each: where a model has more, none is added."""
LAID_OUT_ANEW = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that a weight goes through as a whole: done once and for all, they vanish."""
FOLDED = LAID_OUT_ANEW | {
    "Abs", "Add", "And", "CastLike", "Ceil", "Clip", "Concat", "ConstantOfShape", "Cos", "CumSum", "Div", "Equal", "Erf",
    "Exp", "Expand", "EyeLike", "Floor", "Gather", "GatherElements", "GatherND", "Greater", "GreaterOrEqual", "IsNaN", "Less",
    "LessOrEqual", "Log", "MatMul", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pad", "Pow", "Range", "Reciprocal",
    "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "Relu", "Round", "ScatterElements", "ScatterND",
    "Sigmoid", "Sign", "Sin", "Slice", "Sqrt", "Sub", "Tanh", "Tile", "Trilu", "Where", "Xor",
}  # fmt: skip
"""Operators that are computed: deterministic, and with results whose size is known beforehand."""
MOVED = (LAID_OUT_ANEW - {"Cast"}) | {"Concat", "ConstantOfShape", "Expand", "Gather", "GatherElements", "Slice", "Tile"}
"""Operators that compute nothing: all that is done beforehand with float16, for ONNX Runtime computes with it in float32 on
the CPU, several nodes at a time, so that what is rounded to float16 beforehand would be another number."""
NUMPY = frozenset(
    getattr(onnx.TensorProto, name)
    for name in ("FLOAT", "FLOAT16", "DOUBLE", "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
)
"""Element types that ONNX Runtime hands out as they are."""


def fold_constants(work: Workspace, facts: Facts) -> int:
    """Make constants of what constants decide; how many."""
    moved = _move_constant_nodes(work)
    region = Region(work, facts)
    values = region.values()
    for name, array in values.items():
        work.hold(name, onnx.numpy_helper.from_array(array, name))
    return moved + len(values)


def _move_constant_nodes(work: Workspace) -> int:
    """Constant nodes are initializers, where the format has such."""
    moved = 0
    for node in work.nodes if work.holds_initializers else ():
        tensor = constant_tensor(node)
        if tensor is not None and node.output[0] not in work.outputs:
            work.hold(node.output[0], tensor)
            moved += 1
    return moved


class Region:
    """The nodes that can be computed now, and what of them is worth keeping."""

    def __init__(self, work: Workspace, facts: Facts) -> None:
        self._work, self._facts = work, facts
        self._sizes: dict[str, int] = {}
        self._nodes: list[onnx.NodeProto] = []
        small = (size for one in work.constants.values() if (size := byte_size(one) or 0) <= GROWTH)
        self._left = MOST_GROWTH - sum(small)
        for node in work.nodes:
            if self._can_be_computed(node):
                self._add(node)

    def values(self) -> dict[str, np.ndarray]:
        """What nodes outside the region, or others than nodes, read of it."""
        own = {id(node) for node in self._nodes}
        wanted = [
            name
            for node in self._nodes
            for name in node.output
            if name in self._work.pinned or any(id(reader) not in own for reader in self._work.readers(name))
        ]
        if not wanted:
            return {}
        found = evaluated(self._nodes, self._given(), wanted, self._work.opset)
        return {name: array for name, array in found.items() if self._is_as_foretold(name, array)}

    def _given(self) -> dict[str, np.ndarray]:
        names = {name for node in self._nodes for name in node.input if name and name not in self._sizes}
        arrays = {name: array_of(self._work.constants[name]) for name in sorted(names)}
        return {name: array for name, array in arrays.items() if array is not None}

    def _is_as_foretold(self, name: str, array: np.ndarray) -> bool:
        fact = self._facts[name]
        return array.shape == fact.literal and onnx.helper.np_dtype_to_tensor_dtype(array.dtype) == fact.dtype

    def _add(self, node: onnx.NodeProto) -> None:
        self._nodes.append(node)
        self._sizes[node.output[0]] = self._size(node.output[0]) or 0
        self._left -= max(self._sizes[node.output[0]] - self._replaced(node), 0)

    def _can_be_computed(self, node: onnx.NodeProto) -> bool:
        """Whether constants decide what ``node`` gives, at a size that is known and admitted."""
        if not self._work.is_standard(node) or node.op_type not in FOLDED or len(node.output) != 1 or not any(node.input):
            return False
        if node.output[0] in self._work.kept:
            return False
        size, inputs = self._size(node.output[0]), {name for name in node.input if name}
        if size is None or not all(map(self._is_given, inputs)) or _may_trap(node, self._work):
            return False
        growth = size - self._replaced(node)
        if growth > max(min(GROWTH, self._left), 0) or not all(self._may_read(node, name, size) for name in inputs):
            return False
        return node.op_type in MOVED or not self._is_half(node)

    def _is_half(self, node: onnx.NodeProto) -> bool:
        """Whether a node computes with float16; it does not where it only widens it."""
        names = node.output if node.op_type == "Cast" else (*node.input, *node.output)
        return any(self._facts[name].dtype == onnx.TensorProto.FLOAT16 for name in names)

    def _may_read(self, node: onnx.NodeProto, name: str, size: int) -> bool:
        """Whether a result of ``size`` bytes is worth reading an input for."""
        own = self._given_size(name)
        replaced = node.op_type in LAID_OUT_ANEW and self._work.is_read_once(name)
        return own <= SMALL or size < own or (replaced and size == own)

    def _replaced(self, node: onnx.NodeProto) -> int:
        """Bytes of what nobody reads any more once ``node`` is computed."""
        return sum(self._given_size(name) for name in set(node.input) if name and self._work.is_read_once(name))

    def _given_size(self, name: str) -> int:
        return self._sizes[name] if name in self._sizes else byte_size(self._work.constants[name]) or 0

    def _is_given(self, name: str) -> bool:
        """Whether a value is a constant whose elements are there, or will be one of the region's."""
        if name in self._sizes:
            return True
        tensor = self._work.constants.get(name)
        return tensor is not None and tensor.data_type in NUMPY and _is_inside(tensor)

    def _size(self, name: str) -> int | None:
        """Bytes of a value by what is known of it."""
        fact = self._facts[name]
        return None if fact.dtype not in NUMPY or fact.literal is None else payload_size(fact.dtype, fact.literal)


def _is_inside(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor's elements are in the model, as far as can be told without reading them."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return False
    return not tensor.HasField("raw_data") or tensor.ByteSize() >= (byte_size(tensor) or 0)


def _may_trap(node: onnx.NodeProto, work: Workspace) -> bool:
    """Whether the processor may refuse to divide: integers by 0, or the least integer by -1."""
    if node.op_type not in ("Div", "Mod"):
        return False
    tensor = work.constants.get(node.input[1]) if len(node.input) > 1 else None
    if tensor is None:
        return True
    if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE):
        return False
    divisor = work.array(node.input[1])
    return divisor is None or bool(((divisor == 0) | (divisor == -1)).any())
