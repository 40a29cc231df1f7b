"""What only constants go into is a constant itself.

Bounds come before computing: how large a result is has to be known from dims, and it is kept only where the file does not
grow by more than `GROWTH` for it. Weights are read only where a smaller or an equal one takes their place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.graph.attributes import count_bytes, get_constant_tensor, read_array
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.graph import SMALL
from graphsurgery.model.dtypes import payload_size
from graphsurgery.runtime.session import Session

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


def fold_constants(work: Editor, facts: Facts) -> int:
    """Make constants of what constants decide; return how many."""
    moved = _move_constant_nodes(work)
    values = Region(work, facts).compute()
    for value, array in values.items():
        work.replace_with_constant(value, onnx.numpy_helper.from_array(array))
    return moved + len(values)


def _move_constant_nodes(work: Editor) -> int:
    """Constant nodes are initializers, where the format has such."""
    moved = 0
    for node in list(work.nodes) if work.supports_initializers else ():
        tensor = get_constant_tensor(node)
        if tensor is not None and not node.outputs[0].is_graph_output():
            work.replace_with_constant(node.outputs[0], tensor)
            moved += 1
    return moved


class Region:
    """The nodes that can be computed now, and what of them is worth keeping."""

    def __init__(self, work: Editor, facts: Facts) -> None:
        self._work, self._facts = work, facts
        self._constants = work.constants
        self._sizes: dict[ir.Value, int] = {}
        self._nodes: list[ir.Node] = []
        small = (size for one in self._constants.values() if (size := count_bytes(one) or 0) <= GROWTH)
        self._left = MOST_GROWTH - sum(small)
        for node in work.nodes:
            if self._can_be_computed(node):
                self._add(node)

    def compute(self) -> dict[ir.Value, np.ndarray]:
        """What nodes outside the region, or others than nodes, read of it."""
        own = set(self._nodes)
        wanted = [
            value
            for node in self._nodes
            for value in node.outputs
            if value.name in self._work.pinned or any(reader not in own for reader in self._work.consumers(value))
        ]
        if not wanted:
            return {}
        nodes = [ir.serde.serialize_node(node) for node in self._nodes]
        found = evaluate(nodes, self._given(), [value.name or "" for value in wanted], self._work.opset)
        arrays = {value: found[value.name or ""] for value in wanted if value.name in found}
        return {value: array for value, array in arrays.items() if self._is_as_foretold(value, array)}

    def _given(self) -> dict[str, np.ndarray]:
        values = {value.name or "": value for node in self._nodes for value in node.inputs if value is not None}
        held = {name: self._constants[values[name]] for name in sorted(values) if values[name] not in self._sizes}
        arrays = {name: read_array(tensor) for name, tensor in held.items()}
        return {name: array for name, array in arrays.items() if array is not None}

    def _is_as_foretold(self, value: ir.Value, array: np.ndarray) -> bool:
        fact = self._facts[value]
        return array.shape == fact.literal and onnx.helper.np_dtype_to_tensor_dtype(array.dtype) == fact.dtype

    def _add(self, node: ir.Node) -> None:
        self._nodes.append(node)
        self._sizes[node.outputs[0]] = self._size(node.outputs[0]) or 0
        self._left -= max(self._sizes[node.outputs[0]] - self._replaced(node), 0)

    def _can_be_computed(self, node: ir.Node) -> bool:
        """Whether constants decide what ``node`` gives, at a size that is known and admitted."""
        inputs = {value for value in node.inputs if value is not None}
        if not self._work.is_standard(node) or node.op_type not in FOLDED or len(node.outputs) != 1 or not inputs:
            return False
        if node.outputs[0].name in self._work.protected:
            return False
        size = self._size(node.outputs[0])
        if size is None or not all(map(self._is_given, inputs)) or _may_trap(node, self._work):
            return False
        growth = size - self._replaced(node)
        if growth > max(min(GROWTH, self._left), 0) or not all(self._may_read(node, value, size) for value in inputs):
            return False
        return node.op_type in MOVED or not self._is_half(node)

    def _is_half(self, node: ir.Node) -> bool:
        """Whether a node computes with float16; it does not where it only widens it."""
        values = node.outputs if node.op_type == "Cast" else (*node.inputs, *node.outputs)
        return any(self._facts[value].dtype == onnx.TensorProto.FLOAT16 for value in values)

    def _may_read(self, node: ir.Node, value: ir.Value, size: int) -> bool:
        """Whether a result of ``size`` bytes is worth reading an input for."""
        own = self._given_size(value)
        replaced = node.op_type in LAID_OUT_ANEW and self._work.is_read_once(value)
        return own <= SMALL or size < own or (replaced and size == own)

    def _replaced(self, node: ir.Node) -> int:
        """Bytes of what nobody reads any more once ``node`` is computed."""
        inputs = {value for value in node.inputs if value is not None}
        return sum(self._given_size(value) for value in inputs if self._work.is_read_once(value))

    def _given_size(self, value: ir.Value) -> int:
        if value in self._sizes:
            return self._sizes[value]
        return count_bytes(self._constants[value]) or 0 if value in self._constants else 0

    def _is_given(self, value: ir.Value) -> bool:
        """Whether a value is a constant whose elements are there, or will be one of the region's."""
        tensor = self._constants.get(value)
        return value in self._sizes or (tensor is not None and tensor.data_type in NUMPY and _is_inside(tensor))

    def _size(self, value: ir.Value) -> int | None:
        """Bytes of a value by what is known of it."""
        fact = self._facts[value]
        return None if fact.dtype not in NUMPY or fact.literal is None else payload_size(fact.dtype, fact.literal)


def _is_inside(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor's elements are in the model, as far as can be told without reading them."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return False
    return not tensor.HasField("raw_data") or tensor.ByteSize() >= (count_bytes(tensor) or 0)


def _may_trap(node: ir.Node, work: Editor) -> bool:
    """Whether the processor may refuse to divide: integers by 0, or the least integer by -1."""
    if node.op_type not in ("Div", "Mod"):
        return False
    tensor = work.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if tensor is None:
        return True
    if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE):
        return False
    divisor = work.array(node.inputs[1])
    return divisor is None or bool(((divisor == 0) | (divisor == -1)).any())


Arrays = Mapping[str, np.ndarray]
Nodes = Sequence[onnx.NodeProto]


def evaluate(nodes: Nodes, given: Arrays, wanted: Iterable[str], opset: int) -> dict[str, np.ndarray]:
    """The values ``wanted`` of what ``nodes``, in an order that runs, compute of ``given``; without those that ONNX Runtime
    cannot compute.

    Its graph optimisations are off: every node is computed by its own kernel.
    """
    outputs = {name for node in nodes for name in node.output}
    asked = [name for name in wanted if name in outputs]
    if not asked:
        return {}
    try:
        return _run(nodes, given, asked, opset)
    except UnsupportedModelError:
        if len(nodes) == 1:
            return {}
    first, second = nodes[: len(nodes) // 2], nodes[len(nodes) // 2 :]  # one of them it cannot do: all that need not that one
    needed = {name for node in second for name in node.input}
    known = {**given, **evaluate(first, given, sorted(needed.union(asked)), opset)}
    known |= evaluate(_select_runnable(second, known), known, asked, opset)
    return {name: known[name] for name in asked if name in known}


def _select_runnable(nodes: Nodes, known: Iterable[str]) -> list[onnx.NodeProto]:
    """Those of ``nodes`` that need nothing but what is ``known`` and each other."""
    there, found = {"", *known}, []
    for node in nodes:
        if there.issuperset(node.input):
            found.append(node)
            there.update(node.output)
    return found


def _run(nodes: Nodes, given: Arrays, wanted: list[str], opset: int) -> dict[str, np.ndarray]:
    read = {name for node in nodes for name in node.input}
    feeds = {name: array for name, array in given.items() if name in read}
    opsets = [onnx.helper.make_opsetid("", opset)]
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    graph = onnx.helper.make_graph(nodes, "constants", inputs, [onnx.ValueInfoProto(name=name) for name in wanted])
    version = onnx.helper.find_min_ir_version_for(opsets, ignore_unknown=True)
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=version)
    return Session(model.SerializeToString(), threads=1, plain=True).run(feeds, wanted)
