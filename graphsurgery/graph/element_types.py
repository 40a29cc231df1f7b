"""The element type of every value of a graph, read off the operators' schemas, and which of them could be another one.

A schema gives each input and output a type *variable* ("T", "T1", ...) with the types that it admits, or one type for good
("tensor(float)", as Resize's scales). onnx has the standard operators' schemas, ONNX Runtime those of com.microsoft's. What no
schema tells (an unknown operator, a sequence) has no type here, and nothing that takes it is converted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any

import onnx

from graphsurgery.errors import MalformedModelError
from graphsurgery.graph.wiring import attribute_int
from graphsurgery.model.nodes import subgraphs, taken

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


def key_of(node: onnx.NodeProto) -> str:
    """What a node is called here: its first output that has a name. Nodes' own names may be missing or not unique."""
    return next((name for name in node.output if name), "")


def captured(node: onnx.NodeProto) -> set[str]:
    """Every name that the graphs within a node take from the graphs around them."""
    return set(taken([node]))


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

    def variables(self, names: Sequence[str], formals: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        """(value, type variable) of each of a node's inputs or outputs; what is left out, or too many, has the variable ""."""
        for place, name in enumerate(names):
            known = name and (place < len(formals) or (formals and self.repeats))
            yield name, formals[min(place, len(formals) - 1)] if known else ""

    def fixed(self, variable: str) -> int | None:
        """The one type that ``variable`` can be, if it is only one."""
        admitted = self.admitted.get(variable, frozenset({variable}))
        return TYPES.get(next(iter(admitted))) if len(admitted) == 1 else None

    def admits(self, variable: str, kind: int) -> bool:
        """Whether ``variable`` may be tensors of the type ``kind``."""
        return any(TYPES.get(name) == kind for name in self.admitted.get(variable, frozenset({variable})))


@dataclass(frozen=True)
class Typed:
    """The main graph of a model with its values' types. ``types`` lacks what has none or no known one."""

    graph: onnx.GraphProto
    opsets: Mapping[str, int]
    types: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Typed:
        opsets = {_domain(one.domain): one.version for one in model.opset_import}
        return cls(model.graph, opsets, element_types(model.graph, opsets, {}))

    def operator(self, node: onnx.NodeProto) -> Operator | None:
        return operator_of(node, self.opsets)

    @cached_property
    def ordered(self) -> list[onnx.NodeProto]:
        """The nodes, each after those it takes from."""
        return in_order(self.graph)

    @cached_property
    def producers(self) -> dict[str, onnx.NodeProto]:
        return {name: node for node in self.graph.node for name in node.output if name}

    @cached_property
    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """Who takes a value, the graphs within nodes counted in."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.graph.node:
            for name in {name for name in node.input if name} | captured(node):
                found.setdefault(name, []).append(node)
        return found

    def floats(self, names: Any) -> list[str]:
        """Those of the values that are float32."""
        return [name for name in names if self.types.get(name) == FLOAT]

    def changes(self, node: onnx.NodeProto, kind: int) -> frozenset[str]:
        """The type variables of ``node`` that are float32 and could be ``kind``; none where a type is not known."""
        operator = self.operator(node)
        if operator is None or operator.mixed or subgraphs(node) or any(name and name not in self.types for name in node.input):
            return frozenset()
        if any(one.name == "sparse_value" for one in node.attribute):
            return frozenset()
        both = (*operator.variables(node.input, operator.inputs), *operator.variables(node.output, operator.outputs))
        found = {variable for name, variable in both if self.types.get(name) == FLOAT and operator.admits(variable, kind)}
        return frozenset(found - _stashed(node, operator))


def element_types(graph: onnx.GraphProto, opsets: Mapping[str, int], outer: Mapping[str, int]) -> dict[str, int]:
    """The element types of a graph's tensors, and of the ``outer`` graph's. Nodes may come in any order."""
    types = dict(outer)
    types |= _declared(graph.input)
    types |= {one.name: one.data_type for one in graph.initializer}
    types |= {one.values.name: one.values.data_type for one in graph.sparse_initializer}
    told = _declared((*graph.value_info, *graph.output))
    for node in in_order(graph):
        found = _output_types(node, types, opsets)
        types |= {name: kind for name in node.output if name and (kind := found.get(name) or told.get(name))}
    return types


def in_order(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes so that each comes after those it takes from; ONNX Runtime runs files that are not sorted."""
    made = {name: place for place, node in enumerate(graph.node) for name in node.output if name}
    before = {
        place: {made[name] for name in (*node.input, *captured(node)) if name in made and made[name] != place}
        for place, node in enumerate(graph.node)
    }
    if all(max(earlier, default=-1) < place for place, earlier in before.items()):
        return list(graph.node)
    try:
        return [graph.node[place] for place in TopologicalSorter(before).static_order()]
    except CycleError as error:
        raise MalformedModelError("the graph's nodes form a circle", "export the model again") from error


def operator_of(node: onnx.NodeProto, opsets: Mapping[str, int]) -> Operator | None:
    """The schema of ``node``'s operator, or None."""
    domain = _domain(node.domain)
    return _operator(domain, node.op_type, opsets.get(domain, 1))


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


def _output_types(node: onnx.NodeProto, types: Mapping[str, int], opsets: Mapping[str, int]) -> dict[str, int]:
    """The types of a node's outputs as far as they are known."""
    operator = operator_of(node, opsets)
    if subgraphs(node):
        return _of_subgraph(node, types, opsets)
    if operator is None:
        return {}
    bound = {variable: types[name] for name, variable in operator.variables(node.input, operator.inputs) if name in types}
    found: dict[str, int] = {}
    for name, variable in operator.variables(node.output, operator.outputs):
        kind = operator.fixed(variable) or bound.get(variable) or _by_attribute(node, variable, operator, types)
        found |= {name: kind} if kind else {}
    return found


def _by_attribute(node: onnx.NodeProto, variable: str, operator: Operator, types: Mapping[str, int]) -> int | None:
    if node.op_type in ("Constant", "ConstantOfShape"):
        return _value_type(node)
    if variable in _stashed(node, operator):
        return attribute_int(node, STASHED, FLOAT)
    if node.op_type in TYPE_ATTRIBUTES:
        like = types.get(node.input[0]) if node.op_type.endswith("Like") or node.op_type == "Bernoulli" else FLOAT
        return attribute_int(node, TYPE_ATTRIBUTES[node.op_type], like or 0) or None
    return None


def _value_type(node: onnx.NodeProto) -> int | None:
    """The type of what a Constant or ConstantOfShape holds."""
    for one in node.attribute:
        if one.name == "value":
            return int(one.t.data_type)
        if one.name == "sparse_value":
            return int(one.sparse_tensor.values.data_type)
        if one.name.startswith("value_"):
            known = {"float": FLOAT, "int": onnx.TensorProto.INT64, "string": onnx.TensorProto.STRING}
            return known.get(one.name.removeprefix("value_").removesuffix("s"))
    return FLOAT if node.op_type == "ConstantOfShape" else None


def _stashed(node: onnx.NodeProto, operator: Operator) -> set[str]:
    """The variables of mean and variance, which a norm gives besides its result."""
    return {"U"} - set(operator.inputs) if "Normalization" in node.op_type else set()


def _of_subgraph(node: onnx.NodeProto, types: Mapping[str, int], opsets: Mapping[str, int]) -> dict[str, int]:
    """If gives what its branches give; Loop and Scan what their body gives, a Loop's condition left out."""
    body = subgraphs(node)[0]
    inner = element_types(body, opsets, types)
    given = [inner.get(value.name, 0) for value in body.output][node.op_type == "Loop" :]
    return {name: kind for name, kind in zip(node.output, given, strict=False) if name and kind}


def _declared(values: Any) -> dict[str, int]:
    return {one.name: one.type.tensor_type.elem_type for one in values if one.type.HasField("tensor_type")}


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name
