"""What is known of every value of a graph before it runs: element type, dims, and the integers of shape subgraphs.

Types and dims are onnx's own inference, node by node from the inputs on, with what `dims` and `numbers` add. Nothing that is
declared is believed but the graph's inputs: there, dims of the same name are the same size.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import onnx
import onnx_ir as ir
from onnx.shape_inference import infer_node_outputs

from graphsurgery.graph.attributes import graphs_of, schema_of
from graphsurgery.graph.call import UNKNOWN, Call, Fact
from graphsurgery.graph.dims import DIMS, Dims
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.numbers import LIMITS, MOST, RULES
from graphsurgery.graph.sizes import Size, Sizes, Symbols

NAMED = re.compile(r"[A-Za-z_][\w.+ -]*")
PLACE_HOLDERS = frozenset({"none", "unk", "unknown", "dynamic", "any", "dim", "undefined"})
"""Names of dims that say only that they are not known."""
POOLING = frozenset({"AveragePool", "LpPool", "MaxPool"})
LONGEST_SHAPE = 1 << 16
"""Elements of a vector of integers that inference is asked about at most: it may be a shape, with as many dims."""


class Facts:
    """What is known of the values of a graph, as it is now; true of them for as long as they are there."""

    def __init__(self, graph: Graph) -> None:
        self._symbols = Symbols()
        self._graph = graph
        self._known: dict[str, Fact] = {}
        self._numbers: dict[str, Sizes] = {}
        self._opsets = [onnx.helper.make_opsetid("", graph.opset)]
        self._declared()
        for value, tensor in graph.constants.items():
            self._constant(value, tensor)
        for node in graph.nodes:
            if graph.is_standard(node) and not graphs_of(node) and node.outputs and node.op_type != "Constant":
                self._visit(node)

    def __getitem__(self, value: ir.Value | None) -> Fact:
        return UNKNOWN if value is None else self._known.get(value.name or "", UNKNOWN)

    def numbers(self, value: ir.Value | None) -> Sizes | None:
        """The integers of a value, row by row, where they are followed."""
        return None if value is None else self._numbers.get(value.name or "")

    def literals(self, value: ir.Value | None) -> list[int] | None:
        """The integers of a value where all of them are literals."""
        values = self.numbers(value)
        found = [value for value in values or () if isinstance(value, int)]
        return found if values is not None and len(found) == len(values) else None

    def _declared(self) -> None:
        """The graph's inputs, initializers with a default among them."""
        shared: dict[str, str] = {}
        distrusted = _repeated_names(self._graph.source.graph.input)
        for info in self._graph.source.graph.input:
            if not info.type.HasField("tensor_type"):
                continue
            tensor, dims = info.type.tensor_type, None
            if tensor.HasField("shape"):
                dims = tuple(self._input_dim(dim, shared, distrusted) for dim in tensor.shape.dim)
            self._known[info.name] = Fact(tensor.elem_type, dims)

    def _input_dim(self, dim: onnx.TensorShapeProto.Dimension, shared: dict[str, str], distrusted: set[str]) -> Size:
        name = dim.dim_param
        if dim.dim_value > 0:
            return int(dim.dim_value)
        if not NAMED.fullmatch(name) or name.lower() in PLACE_HOLDERS or name in distrusted:
            return self._symbols.new()
        if name not in shared:
            shared[name] = self._symbols.new()
        return shared[name]

    def _constant(self, value: ir.Value, tensor: onnx.TensorProto) -> None:
        name = value.name or ""
        self._known[name] = Fact(tensor.data_type, tuple(int(dim) for dim in tensor.dims))
        if tensor.data_type in LIMITS and len(tensor.dims) <= 1:
            array = self._graph.array(value)
            if array is not None:
                self._note(name, tensor.data_type, [int(value) for value in array.ravel()])

    def _visit(self, node: ir.Node) -> None:
        schema = schema_of(node.op_type, self._graph.opset)
        types = None if schema is None else self._inferred(schema, node)
        if types is None:
            return
        numbers = tuple(map(self.numbers, node.inputs))
        call = Call(node, tuple(self[value] for value in node.inputs), numbers, self._symbols)
        for place, name in enumerate(value.name for value in node.outputs):
            if not name or name not in types or not types[name].HasField("tensor_type"):
                continue
            dims = _plain(types[name].tensor_type)
            dims = self._dims(call, dims) if place == 0 else dims
            if call.node.op_type in POOLING and "ceil_mode" in call.node.attributes and dims is not None:
                dims = (*dims[:2], *(None for _ in dims[2:]))  # onnx counts a last window that starts in the padding
            full = None if dims is None else tuple(self._symbols.new() if dim is None else dim for dim in dims)
            self._known[name] = Fact(types[name].tensor_type.elem_type, full)
        self._follow(call)

    def _dims(self, call: Call, found: Dims | None) -> Dims | None:
        """The dims of a first output: literals that onnx finds, and our own where it leaves them open."""
        rule = DIMS.get(call.node.op_type)
        own = rule(call) if rule is not None else None
        if call.node.op_type == "Einsum" and found is not None:  # a letter's size is its first operand's, be that broadcast
            return tuple(dim if isinstance(dim, int) else None for dim in found)
        if own is None or (found is not None and len(found) != len(own)):
            return found
        return tuple(
            theirs if isinstance(theirs, int) or ours is None else ours
            for theirs, ours in zip(found or (None,) * len(own), own, strict=True)
        )

    def _follow(self, call: Call) -> None:
        """The integers of a first output, where there is a rule for them."""
        output = call.node.outputs[0]
        fact, rule = self[output], RULES.get(call.node.op_type)
        if rule is None or fact.dtype not in LIMITS or fact.dims is None or len(fact.dims) > 1:
            return
        values = rule(call)
        if values is not None and fact.dims in ((), (len(values),)) and (fact.dims or len(values) == 1):
            self._note(output.name or "", fact.dtype, values)

    def _note(self, name: str, dtype: int, values: Sequence[Size]) -> None:
        limit = LIMITS[dtype]
        if len(values) <= MOST and all(isinstance(value, str) or -limit <= value < limit for value in values):
            self._numbers[name] = tuple(values)

    def _inferred(self, schema: onnx.defs.OpSchema, node: ir.Node) -> dict[str, onnx.TypeProto] | None:
        """The types of what a node gives, by onnx; None where it finds that the node cannot be."""
        if not all(self._can_be_asked_about(node, value) for value in node.inputs):
            return None
        read = {value.name or "": value for value in node.inputs if value is not None}
        types = {name: _type(self[value]) for name, value in read.items()}
        data = {name: tensor for name, value in read.items() if (tensor := self._data(value)) is not None}
        try:
            return infer_node_outputs(
                schema,
                ir.serde.serialize_node(node),
                types,
                input_data=data,
                opset_imports=self._opsets,
                ir_version=self._graph.source.ir_version,
            )
        except Exception:  # it has several types for what it refuses, a plain RuntimeError among them
            return None

    def _can_be_asked_about(self, node: ir.Node, value: ir.Value | None) -> bool:
        """Whether onnx's inference bears an input: not a vector so long that a tensor of as many dims does not fit into memory,
        nor, where slices are taken, an empty one, on which it ends the process."""
        fact = self[value]
        sizes = [dim for dim in fact.dims or () if isinstance(dim, int)]
        if min(sizes, default=1) < (1 if node.op_type == "Slice" else 0):
            return False
        return fact.dtype not in LIMITS or len(fact.dims or ()) != 1 or max(sizes, default=0) <= LONGEST_SHAPE

    def _data(self, value: ir.Value) -> onnx.TensorProto | None:
        """The elements of a small value, where all are known."""
        values, fact = self.literals(value), self[value]
        if values is not None:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(fact.dtype)
            return onnx.numpy_helper.from_array(np.array(values, dtype).reshape(fact.literal or ()), value.name)
        tensor = self._graph.constant(value)
        return tensor if tensor is not None and not tensor.dims and self._graph.array(value) is not None else None


def _plain(found: onnx.TypeProto.Tensor) -> Dims | None:
    """The dims as onnx infers them."""
    if not found.HasField("shape"):
        return None
    return tuple(
        int(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or None for dim in found.shape.dim
    )  # fmt: skip


def _repeated_names(inputs: Sequence[onnx.ValueInfoProto]) -> set[str]:
    """Names that say nothing: both dims of a matrix bear them, as where a tool calls every dim alike."""
    found = set()
    for info in inputs:
        names = Counter(dim.dim_param for dim in info.type.tensor_type.shape.dim if dim.dim_param)
        if len(info.type.tensor_type.shape.dim) == 2:
            found |= {name for name, times in names.items() if times > 1}
    return found


@lru_cache(maxsize=4096)
def _type(fact: Fact) -> onnx.TypeProto:
    """A fact as onnx's inference takes it."""
    if not fact.dtype:
        return onnx.TypeProto()
    return onnx.helper.make_tensor_type_proto(fact.dtype, fact.dims)
