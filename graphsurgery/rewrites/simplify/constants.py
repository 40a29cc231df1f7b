"""Fold constants: compute the nodes that read only constants, and store their results.

A result is computed only if its size is known from dims and the file grows by at most `GROWTH` bytes for it. A weight is read
only if a smaller one, or one of the same size, takes its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx

from graphsurgery.deferred import ir
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.graph.attributes import count_bytes, get_constant_tensor, read_array
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.graph import SMALL
from graphsurgery.graph.operators import DIVIDING, FOLDABLE, FOLDABLE_IN_HALF, LAID_OUT_ANEW, get_operator
from graphsurgery.model.dtypes import compute_payload_size
from graphsurgery.runtime.session import Session

GROWTH = 64 << 10
"""The number of bytes by which a result may be larger than the constants that it replaces."""
MOST_GROWTH = 16 << 20
"""Upper limit, in bytes, on all constants of up to `GROWTH` bytes each. A model that has more gets no new ones."""
NUMPY = frozenset(
    getattr(onnx.TensorProto, name)
    for name in ("FLOAT", "FLOAT16", "DOUBLE", "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
)
"""Element types that ONNX Runtime returns as numpy arrays without a conversion."""


def fold_constants(work: Editor, facts: Facts) -> int:
    """Replace nodes that read only constants by their results, and return how many constants that makes."""
    moved = _move_constant_nodes(work)
    results = _Region(work, facts).compute()
    for value, array in results.items():
        work.replace_with_constant(value, onnx.numpy_helper.from_array(array))
    return moved + len(results)


def _move_constant_nodes(work: Editor) -> int:
    """Turn Constant nodes into initializers, if the IR version has these apart from inputs, and return how many there were."""
    moved = 0
    for node in list(work.nodes) if work.supports_initializers else ():
        tensor = get_constant_tensor(node)
        if tensor is not None and not node.outputs[0].is_graph_output():
            work.replace_with_constant(node.outputs[0], tensor)
            moved += 1
    return moved


class _Region:
    """The nodes that can be computed now."""

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
        """Return the results that are read outside the region, by value."""
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
        found = evaluate(nodes, self._read_constants(), [value.name or "" for value in wanted], self._work.opset)
        arrays = {value: found[value.name or ""] for value in wanted if value.name in found}
        return {value: array for value, array in arrays.items() if self._is_expected(value, array)}

    def _read_constants(self) -> dict[str, np.ndarray]:
        """Return the constants that the region reads, by name."""
        values = {value.name or "": value for node in self._nodes for value in node.inputs if value is not None}
        held = {name: self._constants[values[name]] for name in sorted(values) if values[name] not in self._sizes}
        arrays = {name: read_array(tensor) for name, tensor in held.items()}
        return {name: array for name, array in arrays.items() if array is not None}

    def _is_expected(self, value: ir.Value, array: np.ndarray) -> bool:
        """Return whether a result has the dims and the element type that were inferred for it."""
        fact = self._facts[value]
        return array.shape == fact.literal and onnx.helper.np_dtype_to_tensor_dtype(array.dtype) == fact.dtype

    def _add(self, node: ir.Node) -> None:
        self._nodes.append(node)
        self._sizes[node.outputs[0]] = self._infer_size(node.outputs[0]) or 0
        self._left -= max(self._sizes[node.outputs[0]] - self._count_replaced_bytes(node), 0)

    def _can_be_computed(self, node: ir.Node) -> bool:
        """Return whether ``node`` reads only constants and its result has a size that is known and allowed."""
        inputs = {value for value in node.inputs if value is not None}
        if not self._work.is_standard(node) or get_operator(node) not in FOLDABLE or len(node.outputs) != 1 or not inputs:
            return False
        if node.outputs[0].name in self._work.protected:
            return False
        size = self._infer_size(node.outputs[0])
        if size is None or not all(map(self._is_known, inputs)) or _may_trap(node, self._work):
            return False
        growth = size - self._count_replaced_bytes(node)
        if growth > max(min(GROWTH, self._left), 0) or not all(self._is_worth_reading(node, value, size) for value in inputs):
            return False
        return get_operator(node) in FOLDABLE_IN_HALF or not self._is_half(node)

    def _is_half(self, node: ir.Node) -> bool:
        """Return whether a node computes with float16. A Cast from float16 to a wider type does not."""
        values = node.outputs if get_operator(node) == "Cast" else (*node.inputs, *node.outputs)
        return any(self._facts[value].dtype == onnx.TensorProto.FLOAT16 for value in values)

    def _is_worth_reading(self, node: ir.Node, value: ir.Value, size: int) -> bool:
        """Return whether an input may be read for a result of ``size`` bytes."""
        own = self._count_own_bytes(value)
        replaced = get_operator(node) in LAID_OUT_ANEW and self._work.is_read_once(value)
        return own <= SMALL or size < own or (replaced and size == own)

    def _count_replaced_bytes(self, node: ir.Node) -> int:
        """Return the number of bytes of the inputs that nothing reads any more once ``node`` is computed."""
        inputs = {value for value in node.inputs if value is not None}
        return sum(self._count_own_bytes(value) for value in inputs if self._work.is_read_once(value))

    def _count_own_bytes(self, value: ir.Value) -> int:
        if value in self._sizes:
            return self._sizes[value]
        return count_bytes(self._constants[value]) or 0 if value in self._constants else 0

    def _is_known(self, value: ir.Value) -> bool:
        """Return whether a value is a result of the region, or a constant that holds its elements."""
        tensor = self._constants.get(value)
        return value in self._sizes or (tensor is not None and tensor.data_type in NUMPY and is_inside(tensor))

    def _infer_size(self, value: ir.Value) -> int | None:
        """Return the number of bytes of a value, or None if its type or dims are not known."""
        fact = self._facts[value]
        return None if fact.dtype not in NUMPY or fact.literal is None else compute_payload_size(fact.dtype, fact.literal)


def is_inside(tensor: onnx.TensorProto) -> bool:
    """Return whether a tensor holds its own elements. They are not read for this."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return False
    return not tensor.HasField("raw_data") or tensor.ByteSize() >= (count_bytes(tensor) or 0)


def _may_trap(node: ir.Node, work: Editor) -> bool:
    """Return whether a division may crash the process: of an integer by 0, or of the least integer by -1."""
    if get_operator(node) not in DIVIDING:
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
    """Compute the values ``wanted`` with ONNX Runtime, and return them by name, without those that it cannot compute.

    Its graph optimisations are off, so that every node is computed by its own kernel.

    Args:
        nodes: in an order in which they can run.
        given: the constants that they read.
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
    # It cannot compute one of the nodes. Compute each half by itself, and of the second half what does not need that node.
    first, second = nodes[: len(nodes) // 2], nodes[len(nodes) // 2 :]
    needed = {name for node in second for name in node.input}
    known = {**given, **evaluate(first, given, sorted(needed.union(asked)), opset)}
    known |= evaluate(_select_runnable(second, known), known, asked, opset)
    return {name: known[name] for name in asked if name in known}


def _select_runnable(nodes: Nodes, known: Iterable[str]) -> list[onnx.NodeProto]:
    """Return those of ``nodes`` that read only ``known`` values and each other's results."""
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
