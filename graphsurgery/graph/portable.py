"""Which operators of a model are a vendor's: not in the standard, at the opset that the model asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import onnx

from graphsurgery.model.nodes import subgraphs


def vendor_operators(model: onnx.ModelProto) -> dict[str, int]:
    """The operators that only some runtimes know, by how often there are: in the graph, its subgraphs and its functions.

    ``com.microsoft.Attention``, or ``SimplifiedLayerNormalization`` for one that claims to be standard. A function that the
    model brings along is none; what it is made of may be.
    """
    own = {(_domain(one.domain), one.name) for one in model.functions}
    found = Counter(_vendors(model.graph.node, _opsets(model.opset_import), own))
    for function in model.functions:
        found.update(_vendors(function.node, _opsets(function.opset_import), own))
    return dict(sorted(found.items()))


def _vendors(nodes: Iterable[onnx.NodeProto], opsets: Mapping[str, int], own: set[tuple[str, str]]) -> Iterator[str]:
    for node in nodes:
        domain = _domain(node.domain)
        if (domain, node.op_type) not in own and not _is_in_standard(node.op_type, opsets.get(domain), domain):
            yield f"{domain}.{node.op_type}" if domain else node.op_type
        for graph in subgraphs(node):
            yield from _vendors(graph.node, opsets, own)


def _is_in_standard(op_type: str, opset: int | None, domain: str) -> bool:
    if opset is None:
        return False
    try:
        return not onnx.defs.get_schema(op_type, opset, domain).deprecated
    except onnx.defs.SchemaError:
        return False


def _opsets(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    return {_domain(one.domain): one.version for one in imports}


def _domain(name: str) -> str:
    """The standard domain has two spellings."""
    return "" if name == "ai.onnx" else name
