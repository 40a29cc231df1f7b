"""The schemas of operators: the types of their inputs and outputs, and whether the ONNX standard has them.

onnx has the schemas of the standard operators, ONNX Runtime those of the domain com.microsoft.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx

from graphsurgery.deferred import ir
from graphsurgery.model.names import list_subgraphs

DTYPES = {f"tensor({name.lower()})": number for name, number in onnx.TensorProto.DataType.items()}
"""Element types by their names in schemas."""


@dataclass(frozen=True)
class OpSignature:
    """The type variable ("T"), or the only type ("tensor(float)"), of each input and output of an operator."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    allowed: Mapping[str, frozenset[str]]
    """The types that each type variable allows."""
    is_variadic: bool
    """Whether the last input or output may occur any number of times."""
    is_mixed: bool
    """Whether the occurrences of a variadic input or output may differ in type."""

    def variables(self, values: Sequence[ir.Value | None], formals: tuple[str, ...]) -> Iterator[tuple[ir.Value | None, str]]:
        """Yield (value, type variable) for a node's inputs or outputs. The variable of an omitted or surplus value is ""."""
        for index, value in enumerate(values):
            is_known = value is not None and value.name and (index < len(formals) or (formals and self.is_variadic))
            yield value, formals[min(index, len(formals) - 1)] if is_known else ""

    def find_only_dtype(self, variable: str) -> int | None:
        """Return the element type of ``variable`` if it allows exactly one, else None."""
        names = self._allowed_names(variable)
        return DTYPES.get(next(iter(names))) if len(names) == 1 else None

    def allows(self, variable: str, dtype: int) -> bool:
        """Return whether ``variable`` may be a tensor of the element type ``dtype``."""
        return any(DTYPES.get(name) == dtype for name in self._allowed_names(variable))

    def is_container(self, variable: str) -> bool:
        """Return whether ``variable`` is a sequence, an optional or a map, and not a tensor."""
        names = self._allowed_names(variable) if variable else ()
        return bool(names) and not any(name.startswith(("tensor(", "sparse_tensor(")) for name in names)

    def _allowed_names(self, variable: str) -> frozenset[str]:
        return self.allowed.get(variable, frozenset({variable}))


@cache
def find_signature(domain: str, op_type: str, opset: int) -> OpSignature | None:
    """Return the signature of an operator, by onnx or else by ONNX Runtime. None if neither knows the operator."""
    schema = _get_schema(op_type, opset, domain)
    if schema is not None:
        return _make_signature(schema, "type_str", "is_homogeneous")
    versions = [one for one in _load_vendor_schemas().get((domain, op_type), []) if one.since_version <= opset]
    if not versions:
        return None
    return _make_signature(max(versions, key=lambda one: one.since_version), "typeStr", "isHomogeneous")


@cache
def find_schema(op_type: str, opset: int, domain: str = "") -> onnx.defs.OpSchema | None:
    """Return onnx's schema of an operator at ``opset``. None if there is no such operator, or if it is deprecated there."""
    schema = _get_schema(op_type, opset, domain)
    return None if schema is None or schema.deprecated else schema


def count_vendor_operators(model: onnx.ModelProto) -> dict[str, int]:
    """Count the operators that only some runtimes know, in the graph, its subgraphs and its functions.

    The keys are names like ``com.microsoft.Attention``, or ``SimplifiedLayerNormalization`` for an operator that claims to be
    standard. A function that the model defines is not counted, but the nodes in it may be.
    """
    local = {(to_domain(one.domain), one.name) for one in model.functions}
    counts = Counter(_find_vendor_operators(model.graph.node, _read_opsets(model.opset_import), local))
    for function in model.functions:
        counts.update(_find_vendor_operators(function.node, _read_opsets(function.opset_import), local))
    return dict(sorted(counts.items()))


def to_domain(name: str) -> str:
    """Return the domain ``name`` with the standard domain spelled ""; "ai.onnx" is its other spelling."""
    return "" if name == "ai.onnx" else name


def _get_schema(op_type: str, opset: int, domain: str) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        return None


@cache
def _load_vendor_schemas() -> dict[tuple[str, str], list[Any]]:
    """Return ONNX Runtime's schemas by domain and operator; empty if this build of it does not give them."""
    try:
        from onnxruntime.capi import onnxruntime_pybind11_state as runtime

        schemas = runtime.get_all_operator_schema()
    except (ImportError, AttributeError):
        return {}
    found: dict[tuple[str, str], list[Any]] = {}
    for schema in schemas:
        found.setdefault((schema.domain, schema.name), []).append(schema)
    return found


def _make_signature(schema: Any, type_name: str, homogeneous: str) -> OpSignature:
    """Return the signature in a schema of onnx or ONNX Runtime, which call some of their fields differently."""
    last = [formals[-1] for formals in (list(schema.inputs), list(schema.outputs)) if formals]
    variadic = [formal for formal in last if str(formal.option).endswith("Variadic")]
    return OpSignature(
        tuple(getattr(formal, type_name) for formal in schema.inputs),
        tuple(getattr(formal, type_name) for formal in schema.outputs),
        {one.type_param_str: frozenset(one.allowed_type_strs) for one in schema.type_constraints},
        bool(variadic), any(not getattr(formal, homogeneous) for formal in variadic),
    )  # fmt: skip


def _find_vendor_operators(
    nodes: Iterable[onnx.NodeProto], opsets: Mapping[str, int], local: set[tuple[str, str]]
) -> Iterator[str]:
    for node in nodes:
        domain = to_domain(node.domain)
        is_standard = domain in opsets and find_schema(node.op_type, opsets[domain], domain) is not None
        if (domain, node.op_type) not in local and not is_standard:
            yield f"{domain}.{node.op_type}" if domain else node.op_type
        for graph in list_subgraphs(node):
            yield from _find_vendor_operators(graph.node, opsets, local)


def _read_opsets(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    return {to_domain(one.domain): one.version for one in imports}
