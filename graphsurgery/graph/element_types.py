"""The element type of every value of a graph, read off the operators' schemas, and which of them could be another one.

A schema gives each input and output a type *variable* ("T", "T1", ...) with the types that it admits, or one type for good
("tensor(float)", as Resize's scales). onnx has the standard operators' schemas, ONNX Runtime those of com.microsoft's. What no
schema tells (an unknown operator, a sequence) has no type here, and nothing that takes it is converted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx
import onnx_ir as ir

from graphsurgery.graph.attributes import graphs_of, integer
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import NORMS
from graphsurgery.graph.operators import operator as operator_name

FLOAT, FLOAT16, BFLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16
HALVES = (FLOAT16, BFLOAT16)
TYPES = {f"tensor({name.lower()})": number for name, number in onnx.TensorProto.DataType.items()}
"""A schema's word for a type to its number."""
TYPE_ATTRIBUTES = {
    "Cast": "to", "RandomNormal": "dtype", "RandomUniform": "dtype", "RandomNormalLike": "dtype", "RandomUniformLike": "dtype",
    "EyeLike": "dtype", "Bernoulli": "dtype", "HannWindow": "output_datatype", "HammingWindow": "output_datatype",
    "BlackmanWindow": "output_datatype",
}  # fmt: skip
"""Operators whose output's type is an attribute; where that is left out, it is the input's type, or float32 without one."""
STASHED = "stash_type"
"""The attribute of norms that says in what type they compute inside and give mean and variance; it stays as it is."""


def key_of(node: ir.Node) -> str:
    """Return what a node is called here: its first output that has a name. Nodes' own names may be missing or not unique."""
    return next((value.name for value in node.outputs if value.name), "")


@dataclass(frozen=True)
class Operator:
    """A schema: the type variable (or the one type) of each input and output, and the types that each variable admits."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    admitted: Mapping[str, frozenset[str]]
    repeats: bool
    """Whether the last input or output may come any number of times."""
    mixed: bool
    """Whether those that repeat may be of different types each."""

    def variables(self, values: Sequence[ir.Value | None], formals: tuple[str, ...]) -> Iterator[tuple[ir.Value | None, str]]:
        """(value, type variable) of each of a node's inputs or outputs; what is left out, or too many, has the variable ""."""
        for place, value in enumerate(values):
            known = value is not None and value.name and (place < len(formals) or (formals and self.repeats))
            yield value, formals[min(place, len(formals) - 1)] if known else ""

    def fixed(self, variable: str) -> int | None:
        """The one type that ``variable`` can be, if it is only one."""
        admitted = self.admitted.get(variable, frozenset({variable}))
        return TYPES.get(next(iter(admitted))) if len(admitted) == 1 else None

    def admits(self, variable: str, kind: int) -> bool:
        """Whether ``variable`` may be tensors of the type ``kind``."""
        return any(TYPES.get(name) == kind for name in self.admitted.get(variable, frozenset({variable})))


class ElementTypes:
    """The element types of a graph's values, those of graphs within nodes among them."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.opsets = {_domain(one.domain): one.version for one in graph.source.opset_import}
        self._known: dict[ir.Value, int] = {}
        sparse = {one.values.name: one.values.data_type for one in graph.source.graph.sparse_initializer}
        self._known |= {value: kind for name, kind in sparse.items() if (value := graph.value(name)) is not None}
        self._enter(graph.main)

    def __getitem__(self, value: ir.Value | None) -> int:
        """The element type of ``value``; 0 where it has none, or where nothing tells."""
        return 0 if value is None else self._known.get(value, 0)

    @property
    def present(self) -> set[int]:
        """The types that there are in the main graph."""
        return {self[value] for value in self.graph.values} - {0}

    def operator(self, node: ir.Node) -> Operator | None:
        """Return the schema of ``node``'s operator; None where nobody knows it."""
        domain = _domain(node.domain)
        return _operator(domain, node.op_type, self.opsets.get(domain, 1))

    def floats(self, values: Iterable[ir.Value | None]) -> list[ir.Value]:
        """Return those of the values that are float32."""
        return [value for value in values if value is not None and self[value] == FLOAT]

    def changes(self, node: ir.Node, kind: int) -> frozenset[str]:
        """Return the type variables of ``node`` that are float32 and could be ``kind``; none where a type is not known."""
        operator = self.operator(node)
        if operator is None or operator.mixed or graphs_of(node):
            return frozenset()
        if any(value is not None and not self[value] for value in node.inputs) or "sparse_value" in node.attributes:
            return frozenset()
        both = (*operator.variables(node.inputs, operator.inputs), *operator.variables(node.outputs, operator.outputs))
        found = {variable for value, variable in both if self[value] == FLOAT and operator.admits(variable, kind)}
        return frozenset(found - _stashed(node, operator))

    def _enter(self, graph: ir.Graph) -> None:
        """Find the types of a graph's values."""
        for value in graph.inputs:
            self._known[value] = _declared(value)
        for value in graph.initializers.values():
            if value.const_value is not None:
                self._known[value] = int(value.const_value.dtype)
        for node in self.graph.in_order(graph):
            found = self._output_types(node)
            for value in node.outputs:
                self._known[value] = found.get(value) or _declared(value)

    def _output_types(self, node: ir.Node) -> dict[ir.Value, int]:
        """Return the types of a node's outputs as far as they are known."""
        for graph in graphs_of(node):
            self._enter(graph)
        if graphs_of(node):
            return self._of_graph_within(node)
        operator = self.operator(node)
        if operator is None:
            return {}
        bound = {variable: self[value] for value, variable in operator.variables(node.inputs, operator.inputs) if self[value]}
        found: dict[ir.Value, int] = {}
        for value, variable in operator.variables(node.outputs, operator.outputs):
            kind = operator.fixed(variable) or bound.get(variable) or self._by_attribute(node, variable, operator)
            found |= {value: kind} if kind and value is not None else {}
        return found

    def _of_graph_within(self, node: ir.Node) -> dict[ir.Value, int]:
        """If gives what its branches give. Loop and Scan give what their body gives, a Loop's condition left out."""
        given = [self._end(value) for value in graphs_of(node)[0].outputs][node.op_type == "Loop" :]
        return {value: kind for value, kind in zip(node.outputs, given, strict=False) if kind}

    def _end(self, value: ir.Value) -> int:
        """Return the type of an output of a graph within a node, which may be a value of the main graph."""
        return self[value] or self[self.graph.value(value.name or "")]

    def _by_attribute(self, node: ir.Node, variable: str, operator: Operator) -> int | None:
        if node.op_type in ("Constant", "ConstantOfShape"):
            return _value_type(node)
        if variable in _stashed(node, operator):
            return integer(node, STASHED, FLOAT)
        if node.op_type in TYPE_ATTRIBUTES:
            like = self[node.inputs[0]] if node.op_type.endswith("Like") or node.op_type == "Bernoulli" else FLOAT
            return integer(node, TYPE_ATTRIBUTES[node.op_type], like) or None
        return None


@cache
def _operator(domain: str, name: str, version: int) -> Operator | None:
    try:
        schema = onnx.defs.get_schema(name, version, domain)
    except onnx.defs.SchemaError:
        return _vendors(domain, name, version)
    return _read(schema, "type_str", "is_homogeneous")


@cache
def _vendor_schemas() -> dict[tuple[str, str], list[Any]]:
    """ONNX Runtime's schemas by domain and name. None where this build of it does not give them."""
    try:
        from onnxruntime.capi import onnxruntime_pybind11_state as runtime

        known = runtime.get_all_operator_schema()
    except (ImportError, AttributeError):
        return {}
    found: dict[tuple[str, str], list[Any]] = {}
    for schema in known:
        found.setdefault((schema.domain, schema.name), []).append(schema)
    return found


def _vendors(domain: str, name: str, version: int) -> Operator | None:
    known = [schema for schema in _vendor_schemas().get((domain, name), []) if schema.since_version <= version]
    return _read(max(known, key=lambda schema: schema.since_version), "typeStr", "isHomogeneous") if known else None


def _read(schema: Any, type_name: str, homogeneous: str) -> Operator:
    last = [formals[-1] for formals in (list(schema.inputs), list(schema.outputs)) if formals]
    repeated = [formal for formal in last if str(formal.option).endswith("Variadic")]
    return Operator(
        tuple(getattr(formal, type_name) for formal in schema.inputs),
        tuple(getattr(formal, type_name) for formal in schema.outputs),
        {one.type_param_str: frozenset(one.allowed_type_strs) for one in schema.type_constraints},
        bool(repeated), any(not getattr(formal, homogeneous) for formal in repeated),
    )  # fmt: skip


def _value_type(node: ir.Node) -> int | None:
    """Return the type of what a Constant or ConstantOfShape holds."""
    for name, one in node.attributes.items():
        if name == "value":
            return int(one.as_tensor().dtype)
        if name == "sparse_value":
            return one.as_int()  # see `graph._importable`
        if name.startswith("value_"):
            known = {"float": FLOAT, "int": onnx.TensorProto.INT64, "string": onnx.TensorProto.STRING}
            return known.get(name.removeprefix("value_").removesuffix("s"))
    return FLOAT if node.op_type == "ConstantOfShape" else None


def _stashed(node: ir.Node, operator: Operator) -> set[str]:
    """The variables of mean and variance, which a norm gives besides its result."""
    return {"U"} - set(operator.inputs) if operator_name(node) in NORMS else set()


def _declared(value: ir.Value) -> int:
    """Return the element type that the source declares of ``value``; 0 where it declares none, or no tensor."""
    return int(value.type.dtype) if isinstance(value.type, ir.TensorType) else 0


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name
