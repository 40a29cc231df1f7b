"""Find the values that ONNX Runtime's transformer optimizer needs in order to recognise an attention.

The optimizer looks for the very nodes that exporters write. Three of its patterns hold nodes that compute constants or known
sizes, which simplifying would fold. Without these nodes it would not fuse layers that it fused before.

    q * Sqrt(scale)                                           scaled dot products: BERT and its descendants
    x[..., : Shape(x)[-1] / 2], and Cos(...) * scale          rotary positions: Qwen3, Mistral, Llama
    Reshape(Transpose(Softmax(...) v), [Shape(x)[0], ...])    T5, where queries are made of x; and the slices of position
                                                              bias and mask, which cut nothing off

Casts between these nodes are skipped in the search, because casts to the same type are dropped. The optimizer removes the root
together with the layer that it fuses, so two layers must not share one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from graphsurgery.deferred import ir
from graphsurgery.graph.attributes import get_input
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import HALVING, TURNED, WAVES, Path, get_operator

HALVED: Path = ("Unsqueeze", "Div", "Gather", "Shape")
"""The nodes that compute half a width, from the last to the first."""
CONTEXT: Path = ("MatMul", "Transpose", "Reshape")
"""The nodes that follow the Softmax of an attention."""
QUERIES: Path = ("Add", "MatMul", "Transpose", "Reshape", "MatMul")
"""The nodes before that Softmax, from the last to the first, if queries have no bias."""
SHAPE: Path = ("Concat", "Unsqueeze", "Gather", "Shape")
"""The nodes that compute the shape of an attention's result, from the last to the first."""


def find_pattern_values(graph: Graph) -> Mapping[str, str]:
    """Return the names of the values that must be computed as they are.

    Each comes with the name of the product that it belongs to, or "". Equal values with different names there are not merged.
    """
    found: dict[str, str] = {}
    halves: list[str] = []
    for node in graph.nodes:
        if not node.inputs:
            continue
        if get_operator(node) == "Sqrt":
            found |= _find_root(graph, node)
        elif get_operator(node) == "Slice":
            halves += [name for place in (1, 2) for name in _find_half(graph, node, place)]
        elif get_operator(node) == "Softmax":
            found |= dict.fromkeys(_find_biased_context(graph, node), "")
    return found | dict.fromkeys([*halves, *(_find_scaled(graph) if halves else ())], "")


def _find_root(graph: Graph, node: ir.Node) -> dict[str, str]:
    """Return the root by which queries or keys are multiplied, with the product of queries and keys."""
    scaled = [reader for reader in graph.consumers(node.outputs[0]) if get_operator(reader) == "Mul"]
    readers = (reader for one in scaled for reader in graph.consumers(one.outputs[0]))
    product = next((reader.outputs[0].name or "" for reader in readers if get_operator(reader) == "MatMul"), None)
    return {} if product is None else {node.outputs[0].name or "": product}


def _find_half(graph: Graph, node: ir.Node, place: int) -> list[str]:
    """Return the values from which half the width of x is computed, if ``node`` cuts x there to swap its halves."""
    readers = {get_operator(reader) for reader in graph.consumers(node.outputs[0])}
    if not readers & HALVING or len(node.inputs) <= place or node.inputs[0] is None:
        return []
    found, made = _walk_back(node.inputs[place], HALVED), node.inputs[0].producer()
    fits = made is not None and get_operator(made) in TURNED
    return _list_names(found[:-1]) if fits and found[-1:] == [node.inputs[0]] else []


def _find_scaled(graph: Graph) -> Iterator[str]:
    """Yield sines and cosines times a constant, even if that is 1."""
    for node in graph.nodes:
        if get_operator(node) in WAVES:
            yield from _list_names(
                reader.outputs[0] for reader in graph.consumers(node.outputs[0]) if get_operator(reader) == "Mul"
            )


def _find_biased_context(graph: Graph, node: ir.Node) -> list[str]:
    """Return the values that a T5 attention with the Softmax ``node`` needs.

    These are the values from which the shape of its result is computed, if that is the shape of the queries' source, and the
    slices that are added to each other for its bias.
    """
    last = _find_last_behind(graph, node, CONTEXT)
    queries = _walk_back(node.inputs[0], QUERIES)
    shape = _walk_back(last.inputs[1], SHAPE) if last is not None and len(last.inputs) > 1 else []
    if not queries or not shape or queries[-1] is not shape[-1]:
        return []
    biases = [_walk_back(value, ("Add",), place) for value in _walk_back(node.inputs[0], ("Add",), 1)[-1:] for place in (0, 1)]
    cut = [values[-1] for values in biases if values and _walk_back(values[-1], ("Slice",))]
    return _list_names(shape[:-1] + cut)


def _find_last_behind(graph: Graph, node: ir.Node, kinds: Path) -> ir.Node | None:
    """Return the last of the nodes of these kinds that follow ``node``. Each reads the one before it as its first input."""
    for kind in kinds:
        while (follower := _find_follower(graph, node, (kind, "Cast"))) is not None and get_operator(follower) != kind:
            node = follower
        if follower is None:
            return None
        node = follower
    return node


def _find_follower(graph: Graph, node: ir.Node, kinds: Path) -> ir.Node | None:
    value = node.outputs[0]
    return next((one for one in graph.consumers(value) if get_operator(one) in kinds and one.inputs[0] is value), None)


def _walk_back(value: ir.Value | None, kinds: Path, place: int = 0) -> list[ir.Value]:
    """Return ``value`` and the values before it, each the input at ``place`` of the node that makes the next one.

    Returns [] if the nodes are of other kinds.
    """
    found = [] if value is None else [value]
    for kind in kinds if found else ():
        node = found[-1].producer()
        while node is not None and get_operator(node) == "Cast" and (source := get_input(node, 0)) is not None:
            found.append(source)
            node = source.producer()
        before = get_input(node, place) if node is not None and get_operator(node) == kind else None
        if before is None:
            return []
        found.append(before)
    return found


def _list_names(values: Iterable[ir.Value]) -> list[str]:
    return [value.name or "" for value in values]
