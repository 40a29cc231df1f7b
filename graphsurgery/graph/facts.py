"""Shape inference: the element type and dims of every value of a graph, and the integers that its shape subgraphs compute.

onnx infers types and dims node by node, starting from the inputs; `shape_rules`, `value_rules` and `vendor_shapes` add to that.
Of what the file declares, only the graph's inputs are used: dims of the same name there have the same size.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx.shape_inference import infer_node_outputs

from graphsurgery.deferred import ir
from graphsurgery.graph.attributes import list_subgraphs
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import get_operator
from graphsurgery.graph.schemas import find_schema
from graphsurgery.graph.shape_rules import SHAPE_RULES, Dims
from graphsurgery.graph.symbolic import UNKNOWN, Fact, InferenceContext, Size, Sizes, Symbols, read_literals
from graphsurgery.graph.value_rules import LIMITS, MOST_ELEMENTS, VALUE_RULES
from graphsurgery.graph.vendor_shapes import VENDOR_RULES

LOG = logging.getLogger(__name__)
DIM_NAME = re.compile(r"[A-Za-z_][\w.+ -]*")
PLACEHOLDER_NAMES = frozenset({"none", "unk", "unknown", "dynamic", "any", "dim", "undefined"})
"""Names of dims that only say that the dim is unknown."""
POOLING = frozenset({"AveragePool", "LpPool", "MaxPool"})
LONGEST_SHAPE = 1 << 16
"""onnx is asked about vectors of integers up to this length. Such a vector may be a shape with as many dims."""
Elements: TypeAlias = tuple[Any, ...]
"""The numbers in a vector or a scalar."""


class Facts:
    """What is known of the values of a graph. It stays true of a value for as long as that value exists."""

    def __init__(self, graph: Graph, inputs: Mapping[str, Sizes] = MappingProxyType({})) -> None:
        """Infer the facts about ``graph``. ``inputs`` are dims of graph inputs to take in place of those that it declares."""
        self._symbols = Symbols()
        self._given = inputs
        self._graph = graph
        self._facts: dict[str, Fact] = {}
        self._numbers: dict[str, Sizes] = {}
        self._read_inputs()
        for value, tensor in graph.constants.items():
            self._read_constant(value, tensor)
        for node in graph.nodes:
            if list_subgraphs(node) or not node.outputs or node.op_type == "Constant":
                continue
            if get_operator(node) in VENDOR_RULES and not graph.has_function(node):
                self._infer_vendor_node(node)
            elif graph.is_standard(node):
                self._infer_node(node)

    def __getitem__(self, value: ir.Value | None) -> Fact:
        """Return the fact about ``value``, which is `UNKNOWN` if nothing is known."""
        return UNKNOWN if value is None else self._facts.get(value.name or "", UNKNOWN)

    def numbers(self, value: ir.Value | None) -> Sizes | None:
        """The integers in ``value``, literal or symbolic, if it is a short vector or a scalar; None if they are unknown."""
        return None if value is None else self._numbers.get(value.name or "")

    def literals(self, value: ir.Value | None) -> list[int] | None:
        """The integers in ``value`` if all of them are literals, else None."""
        literals = read_literals(self.numbers(value))
        return None if literals is None else list(literals)

    def _read_inputs(self) -> None:
        """Note what is given or declared of the graph's inputs, including those with a default."""
        inputs = self._graph.source.graph.input
        symbols: dict[str, str] = {}
        ambiguous = _find_ambiguous_names(inputs)
        for info in inputs:
            if not info.type.HasField("tensor_type"):
                continue
            tensor, dims = info.type.tensor_type, None
            if info.name in self._given:
                dims = self._given[info.name]
            elif tensor.HasField("shape"):
                dims = tuple(self._read_dim(dim, symbols, ambiguous) for dim in tensor.shape.dim)
            self._facts[info.name] = Fact(tensor.elem_type, dims)

    def _read_dim(self, dim: onnx.TensorShapeProto.Dimension, symbols: dict[str, str], ambiguous: set[str]) -> Size:
        name = dim.dim_param
        if dim.dim_value > 0:
            return int(dim.dim_value)
        if not DIM_NAME.fullmatch(name) or name.lower() in PLACEHOLDER_NAMES or name in ambiguous:
            return self._symbols.new()
        if name not in symbols:
            symbols[name] = self._symbols.new()
        return symbols[name]

    def _read_constant(self, value: ir.Value, tensor: onnx.TensorProto) -> None:
        name = value.name or ""
        self._facts[name] = Fact(tensor.data_type, tuple(int(dim) for dim in tensor.dims))
        if tensor.data_type in LIMITS and len(tensor.dims) <= 1:
            array = self._graph.array(value)
            if array is not None:
                self._note_numbers(name, tensor.data_type, [int(number) for number in array.ravel()])

    def _infer_node(self, node: ir.Node) -> None:
        types = self._infer_types(node)
        if types is None:
            return
        facts = tuple(self[value] for value in node.inputs)
        context = InferenceContext(node, facts, self._list_numbers(node), self._symbols)
        for index, (value, inferred) in enumerate(zip(node.outputs, types, strict=True)):
            if not value.name or inferred is None or not inferred.HasField("tensor_type"):
                continue
            dims = _read_inferred_dims(inferred.tensor_type)
            dims = _refine_dims(context, dims) if index == 0 else dims
            if node.op_type in POOLING and "ceil_mode" in node.attributes and dims is not None:
                dims = (*dims[:2], *(None for _ in dims[2:]))  # onnx counts a last window that starts in the padding
            sizes = None if dims is None else tuple(self._symbols.new() if dim is None else dim for dim in dims)
            self._facts[value.name] = Fact(inferred.tensor_type.elem_type, sizes)
        self._compute_numbers(context)

    def _infer_vendor_node(self, node: ir.Node) -> None:
        context = InferenceContext(node, tuple(self[value] for value in node.inputs), self._list_numbers(node), self._symbols)
        found = VENDOR_RULES[get_operator(node)](context) if context.facts else ()
        self._facts |= {value.name: fact for value, fact in zip(node.outputs, found, strict=False) if value.name}

    def _list_numbers(self, node: ir.Node) -> tuple[Sizes | None, ...]:
        """Return the integers in each input of ``node``."""
        return tuple(map(self.numbers, node.inputs))

    def _compute_numbers(self, context: InferenceContext) -> None:
        """Compute the integers of a node's first output if there is a rule for them."""
        output = context.node.outputs[0]
        fact, rule = self[output], VALUE_RULES.get(context.node.op_type)
        if rule is None or fact.dtype not in LIMITS or fact.dims is None or len(fact.dims) > 1:
            return
        numbers = rule(context)
        if numbers is not None and fact.dims in ((), (len(numbers),)) and (fact.dims or len(numbers) == 1):
            self._note_numbers(output.name or "", fact.dtype, numbers)

    def _note_numbers(self, name: str, dtype: int, numbers: Sequence[Size]) -> None:
        limit = LIMITS[dtype]
        if len(numbers) <= MOST_ELEMENTS and all(isinstance(one, str) or -limit <= one < limit for one in numbers):
            self._numbers[name] = tuple(numbers)

    def _infer_types(self, node: ir.Node) -> tuple[onnx.TypeProto | None, ...] | None:
        """Return the types of a node's outputs as onnx infers them, or None if onnx refuses the node."""
        if not all(self._is_safe_to_infer(node, value) for value in node.inputs):
            return None
        try:
            return _ask_onnx(self._make_question(node))
        except Exception as error:  # onnx raises several types, a plain RuntimeError among them
            LOG.debug("onnx cannot infer the outputs of %s %s: %s", node.op_type, node.name, error)
            return None

    def _make_question(self, node: ir.Node) -> _Question:
        return _Question(
            node.op_type,
            self._graph.opset,
            self._graph.source.ir_version,
            tuple(map(_serialize_attribute, node.attributes.values())),
            tuple(None if value is None else (self[value], self._find_data(value)) for value in node.inputs),
            tuple(bool(value.name) for value in node.outputs),
        )

    def _is_safe_to_infer(self, node: ir.Node, value: ir.Value | None) -> bool:
        """Return whether onnx's inference survives this input.

        It ends the process for an empty input of a Slice. For a very long vector of integers, it may make a shape with as many
        dims, which does not fit into memory.
        """
        fact = self[value]
        sizes = [dim for dim in fact.dims or () if isinstance(dim, int)]
        if min(sizes, default=1) < (1 if node.op_type == "Slice" else 0):
            return False
        return fact.dtype not in LIMITS or len(fact.dims or ()) != 1 or max(sizes, default=0) <= LONGEST_SHAPE

    def _find_data(self, value: ir.Value) -> Elements | None:
        """Return the elements of a small value if all of them are known."""
        literals = read_literals(self.numbers(value))
        if literals is not None:
            return literals
        tensor = self._graph.constant(value)
        array = self._graph.array(value) if tensor is not None and not tensor.dims else None
        return None if array is None else (array.item(),)


@dataclass(frozen=True)
class _Question:
    """A node without its names, and what is known of its inputs. The same question comes back in every layer of an encoder."""

    operator: str
    opset: int
    ir_version: int
    attributes: tuple[bytes, ...]
    inputs: tuple[tuple[Fact, Elements | None] | None, ...]
    """The fact about each input and its elements if they are known; None for an input that is left out."""
    outputs: tuple[bool, ...]
    """Whether each output has a name."""


@lru_cache(maxsize=4096)
def _ask_onnx(question: _Question) -> tuple[onnx.TypeProto | None, ...] | None:
    """Return the types of the outputs as onnx infers them, each None if it is unknown. None if onnx does not know the operator.

    Raises what onnx raises if it refuses the node.
    """
    schema = find_schema(question.operator, question.opset)
    if schema is None:
        return None
    known = {f"input {place}": one for place, one in enumerate(question.inputs) if one is not None}
    inputs = [f"input {place}" if one is not None else "" for place, one in enumerate(question.inputs)]
    outputs = [f"output {place}" if named else "" for place, named in enumerate(question.outputs)]
    last = max((place for place, named in enumerate(question.outputs) if named), default=-1)
    node = onnx.helper.make_node(question.operator, inputs, outputs[: last + 1])
    node.attribute.extend(map(onnx.AttributeProto.FromString, question.attributes))
    types = infer_node_outputs(
        schema,
        node,
        {name: _make_type(fact) for name, (fact, _) in known.items()},
        input_data={name: _make_tensor(fact, data) for name, (fact, data) in known.items() if data is not None},
        opset_imports=[onnx.helper.make_opsetid("", question.opset)],
        ir_version=question.ir_version,
    )
    return tuple(types.get(name) for name in outputs)


def _serialize_attribute(one: ir.Attr) -> bytes:
    serialize = ir.serde.serialize_reference_attribute if one.is_ref() else ir.serde.serialize_attribute
    return serialize(one).SerializeToString()


def _make_tensor(fact: Fact, elements: Elements) -> onnx.TensorProto:
    array = np.array(elements, onnx.helper.tensor_dtype_to_np_dtype(fact.dtype))
    return onnx.numpy_helper.from_array(array.reshape(fact.literal or ()))


def _refine_dims(context: InferenceContext, inferred: Dims | None) -> Dims | None:
    """Return the dims of a first output: the integers that onnx inferred, and our own result for the other dims."""
    if context.node.op_type == "Einsum" and inferred is not None:
        inferred = (None,) * len(inferred)  # onnx takes a letter's size from its first operand, even if that is broadcast
    rule = SHAPE_RULES.get(context.node.op_type)
    own = rule(context) if rule is not None else None
    if own is None or (inferred is not None and len(inferred) != len(own)):
        return inferred
    pairs = zip(inferred or (None,) * len(own), own, strict=True)
    return tuple(theirs if isinstance(theirs, int) or ours is None else ours for theirs, ours in pairs)


def _read_inferred_dims(inferred: onnx.TypeProto.Tensor) -> Dims | None:
    if not inferred.HasField("shape"):
        return None
    dims = inferred.shape.dim
    return tuple(int(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or None for dim in dims)


def _find_ambiguous_names(inputs: Sequence[onnx.ValueInfoProto]) -> set[str]:
    """Return the dim names that both dims of a matrix have: some tools give every dim the same name."""
    names = set()
    for info in inputs:
        counts = Counter(dim.dim_param for dim in info.type.tensor_type.shape.dim if dim.dim_param)
        if len(info.type.tensor_type.shape.dim) == 2:
            names |= {name for name, count in counts.items() if count > 1}
    return names


@lru_cache(maxsize=4096)
def _make_type(fact: Fact) -> onnx.TypeProto:
    """Return ``fact`` as onnx's inference takes it."""
    if not fact.dtype:
        return onnx.TypeProto()
    return onnx.helper.make_tensor_type_proto(fact.dtype, fact.dims)
