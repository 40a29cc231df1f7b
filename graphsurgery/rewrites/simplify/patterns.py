"""What ONNX Runtime's transformer optimizer knows attention by, although less would do.

It looks for the nodes that exporters write, one by one. Three of its patterns hold nodes that compute constants, or sizes that
are known: without these, layers that it fused before would stay as they are.

    q * Sqrt(scale)                                           scaled dot products: BERT and all that came of it
    x[..., : Shape(x)[-1] / 2], and Cos(...) * scale          rotary positions: Qwen3, Mistral, Llama
    Reshape(Transpose(Softmax(...) v), [Shape(x)[0], ...])    T5, where x is what queries are made of, and the slices of
                                                              position bias and mask, which cut nothing off

Casts between them are looked through, for those to the same type go. The optimizer takes the root out of the graph together
with the layer that it fuses, so that layers must not share one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import onnx_ir as ir

from graphsurgery.graph.attributes import get_input
from graphsurgery.graph.graph import Graph

HALVED = ("Unsqueeze", "Div", "Gather", "Shape")
"""How half a width is computed, from its end."""
CONTEXT = ("MatMul", "Transpose", "Reshape")
"""What follows on attention's Softmax."""
QUERIES = ("Add", "MatMul", "Transpose", "Reshape", "MatMul")
"""What comes before it, from its end, where queries have no bias."""
SHAPE = ("Concat", "Unsqueeze", "Gather", "Shape")
"""How the shape of a context is computed, from its end."""


def find_pattern_values(graph: Graph) -> Mapping[str, str]:
    """The values that are to be computed as they are, each with what shares it: equal ones of another layer do not."""
    found: dict[str, str] = {}
    halves: list[str] = []
    for node in graph.nodes:
        if not node.inputs:
            continue
        if node.op_type == "Sqrt":
            found |= _find_root(graph, node)
        elif node.op_type == "Slice":
            halves += [name for place in (1, 2) for name in _find_half(graph, node, place)]
        elif node.op_type == "Softmax":
            found |= dict.fromkeys(_find_biased_context(graph, node), "")
    return found | dict.fromkeys([*halves, *(_find_scaled(graph) if halves else ())], "")


def _find_root(graph: Graph, node: ir.Node) -> dict[str, str]:
    """The root that queries or keys are multiplied with, and the product of the two."""
    scaled = [reader for reader in graph.consumers(node.outputs[0]) if reader.op_type == "Mul"]
    products = [
        reader.outputs[0].name or ""
        for one in scaled
        for reader in graph.consumers(one.outputs[0])
        if reader.op_type == "MatMul"
    ]
    return {node.outputs[0].name or "": products[0]} if products else {}


def _find_half(graph: Graph, node: ir.Node, place: int) -> list[str]:
    """How half the width of x is computed, where ``node`` cuts x there to turn the halves."""
    readers = {reader.op_type for reader in graph.consumers(node.outputs[0])}
    if not readers & {"Neg", "Concat"} or len(node.inputs) <= place or node.inputs[0] is None:
        return []
    found, made = _walk_back(node.inputs[place], HALVED), node.inputs[0].producer()
    fits = made is not None and made.op_type in ("Transpose", "Slice")
    return _list_names(found[:-1]) if fits and found[-1:] == [node.inputs[0]] else []


def _find_scaled(graph: Graph) -> Iterator[str]:
    """Sines and cosines times a constant, be it 1."""
    for node in graph.nodes:
        if node.op_type in ("Cos", "Sin"):
            yield from _list_names(reader.outputs[0] for reader in graph.consumers(node.outputs[0]) if reader.op_type == "Mul")


def _find_biased_context(graph: Graph, node: ir.Node) -> list[str]:
    """How the shape that ``node``'s attention ends in is computed, where it is of what the queries are made of; and slices
    that are added to each other for the attention's bias."""
    last = _find_last_behind(graph, node, CONTEXT)
    queries = _walk_back(node.inputs[0], QUERIES)
    shape = _walk_back(last.inputs[1], SHAPE) if last is not None and len(last.inputs) > 1 else []
    if not queries or not shape or queries[-1] is not shape[-1]:
        return []
    biases = [_walk_back(value, ("Add",), place) for value in _walk_back(node.inputs[0], ("Add",), 1)[-1:] for place in (0, 1)]
    cut = [values[-1] for values in biases if values and _walk_back(values[-1], ("Slice",))]
    return _list_names(shape[:-1] + cut)


def _find_last_behind(graph: Graph, node: ir.Node, kinds: Sequence[str]) -> ir.Node | None:
    """The last of nodes of these kinds that follow on ``node``, each reading the one before it first."""
    for kind in kinds:
        while (follower := _find_follower(graph, node, (kind, "Cast"))) is not None and follower.op_type != kind:
            node = follower
        if follower is None:
            return None
        node = follower
    return node


def _find_follower(graph: Graph, node: ir.Node, kinds: Sequence[str]) -> ir.Node | None:
    value = node.outputs[0]
    return next((one for one in graph.consumers(value) if one.op_type in kinds and one.inputs[0] is value), None)


def _walk_back(value: ir.Value | None, kinds: Sequence[str], place: int = 0) -> list[ir.Value]:
    """``value`` and those before it, each the input at ``place`` of what gives the one behind it; [] where kinds differ."""
    found = [] if value is None else [value]
    for kind in kinds if found else ():
        node = found[-1].producer()
        while node is not None and node.op_type == "Cast" and (source := get_input(node, 0)) is not None:
            found.append(source)
            node = source.producer()
        before = get_input(node, place) if node is not None and node.op_type == kind else None
        if before is None:
            return []
        found.append(before)
    return found


def _list_names(values: Iterable[ir.Value]) -> list[str]:
    return [value.name or "" for value in values]
