"""The element type of every value of a graph, read off the operators' schemas, and which values could have another type.

A schema gives each input and output a type *variable* ("T", "T1", ...) with the types that it allows, or one fixed type
("tensor(float)", such as the scales of Resize). A value has no known type here if no schema tells it, because its operator is
unknown or because it is a sequence. A node with such an input is never converted.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from graphsurgery.deferred import ir
from graphsurgery.graph.attributes import get_int, list_subgraphs
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import NORMS, get_operator
from graphsurgery.graph.schemas import OpSignature, find_signature, to_domain

FLOAT, FLOAT16, BFLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16
HALVES = (FLOAT16, BFLOAT16)
TYPE_ATTRIBUTES = {
    "Cast": "to", "RandomNormal": "dtype", "RandomUniform": "dtype", "RandomNormalLike": "dtype", "RandomUniformLike": "dtype",
    "EyeLike": "dtype", "Bernoulli": "dtype", "HannWindow": "output_datatype", "HammingWindow": "output_datatype",
    "BlackmanWindow": "output_datatype",
}  # fmt: skip
"""Operators whose output type is an attribute. Without it, the output has the input's type, or float32 if there is no input."""
STASH_TYPE = "stash_type"
"""The attribute of norms for the type in which they compute, and in which they give mean and variance. It is never changed."""


def get_node_key(node: ir.Node) -> str:
    """Return the name that identifies ``node`` here: its first named output. Node names may be missing or repeated."""
    return next((value.name for value in node.outputs if value.name), "")


class ElementTypes:
    """The element types of a graph's values, including those in subgraphs."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.opsets = {to_domain(one.domain): one.version for one in graph.source.opset_import}
        self._dtypes: dict[ir.Value, int] = {}
        sparse = {one.values.name: one.values.data_type for one in graph.source.graph.sparse_initializer}
        self._dtypes |= {value: dtype for name, dtype in sparse.items() if (value := graph.value(name)) is not None}
        self._infer(graph.main)

    def __getitem__(self, value: ir.Value | None) -> int:
        """Return the element type of ``value``, or 0 if it has none or if it is unknown."""
        return 0 if value is None else self._dtypes.get(value, 0)

    @property
    def present(self) -> set[int]:
        """The element types that occur in the main graph."""
        return {self[value] for value in self.graph.values} - {0}

    def signature(self, node: ir.Node) -> OpSignature | None:
        """Return the signature of ``node``'s operator, or None if the operator is unknown."""
        domain = to_domain(node.domain)
        return find_signature(domain, node.op_type, self.opsets.get(domain, 1))

    def select_float32(self, values: Iterable[ir.Value | None]) -> list[ir.Value]:
        """Return those of ``values`` that are float32."""
        return [value for value in values if value is not None and self[value] == FLOAT]

    def convertible(self, node: ir.Node, dtype: int) -> frozenset[str]:
        """Return the type variables of ``node`` that are float32 and could be ``dtype``.

        None if an input's type is unknown, and if the node makes or reads a sequence of tensors, whose type no Cast changes.
        """
        signature = self.signature(node)
        if signature is None or signature.is_mixed or list_subgraphs(node):
            return frozenset()
        if any(value is not None and not self[value] for value in node.inputs) or "sparse_value" in node.attributes:
            return frozenset()
        both = (*signature.variables(node.inputs, signature.inputs), *signature.variables(node.outputs, signature.outputs))
        if any(signature.is_container(variable) for _, variable in both):
            return frozenset()
        found = {variable for value, variable in both if self[value] == FLOAT and signature.allows(variable, dtype)}
        return frozenset(found - _find_stashed_variables(node, signature))

    def _infer(self, graph: ir.Graph) -> None:
        """Find the types of a graph's values."""
        for value in graph.inputs:
            self._dtypes[value] = _get_declared_dtype(value)
        for value in graph.initializers.values():
            if value.const_value is not None:
                self._dtypes[value] = int(value.const_value.dtype)
        for node in self.graph.sort_nodes(graph):
            dtypes = self._infer_outputs(node)
            for value in node.outputs:
                self._dtypes[value] = dtypes.get(value) or _get_declared_dtype(value)

    def _infer_outputs(self, node: ir.Node) -> dict[ir.Value, int]:
        """Return the types of a node's outputs, as far as they are known."""
        subgraphs = list_subgraphs(node)
        if subgraphs:
            for graph in subgraphs:
                self._infer(graph)
            return self._infer_from_subgraph(node, subgraphs[0])
        signature = self.signature(node)
        if signature is None:
            return {}
        bound = {variable: self[value] for value, variable in signature.variables(node.inputs, signature.inputs) if self[value]}
        found: dict[ir.Value, int] = {}
        for value, variable in signature.variables(node.outputs, signature.outputs):
            dtype = (
                signature.find_only_dtype(variable)
                or bound.get(variable)
                or self._infer_from_attribute(node, variable, signature)
            )
            found |= {value: dtype} if dtype and value is not None else {}
        return found

    def _infer_from_subgraph(self, node: ir.Node, graph: ir.Graph) -> dict[ir.Value, int]:
        """An If has the types of its branches' outputs; Loop and Scan those of their body's, without a Loop's condition."""
        # an output of a subgraph may be a value of the main graph
        dtypes = [self[value] or self[self.graph.value(value.name or "")] for value in graph.outputs]
        pairs = zip(node.outputs, dtypes[node.op_type == "Loop" :], strict=False)
        return {value: dtype for value, dtype in pairs if dtype}

    def _infer_from_attribute(self, node: ir.Node, variable: str, signature: OpSignature) -> int | None:
        if node.op_type in ("Constant", "ConstantOfShape"):
            return _find_constant_dtype(node)
        if variable in _find_stashed_variables(node, signature):
            return get_int(node, STASH_TYPE, FLOAT)
        if node.op_type in TYPE_ATTRIBUTES:
            default = self[node.inputs[0]] if node.op_type.endswith("Like") or node.op_type == "Bernoulli" else FLOAT
            return get_int(node, TYPE_ATTRIBUTES[node.op_type], default) or None
        return None


def _find_constant_dtype(node: ir.Node) -> int | None:
    """Return the element type of a Constant's or ConstantOfShape's value."""
    for name, attribute in node.attributes.items():
        if name == "value":
            return int(attribute.as_tensor().dtype)
        if name == "sparse_value":
            return int(attribute.as_string())  # see `importing`
        if name.startswith("value_"):
            known = {"float": FLOAT, "int": onnx.TensorProto.INT64, "string": onnx.TensorProto.STRING}
            return known.get(name.removeprefix("value_").removesuffix("s"))
    return FLOAT if node.op_type == "ConstantOfShape" else None


def _find_stashed_variables(node: ir.Node, signature: OpSignature) -> set[str]:
    """Return the type variable of mean and variance, which a norm gives besides its result."""
    return {"U"} - set(signature.inputs) if get_operator(node) in NORMS else set()


def _get_declared_dtype(value: ir.Value) -> int:
    """Return the element type that the file declares for ``value``; 0 if it declares none, or no tensor."""
    return int(value.type.dtype) if isinstance(value.type, ir.TensorType) else 0
