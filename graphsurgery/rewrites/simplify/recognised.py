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

from collections.abc import Iterator, Mapping, Sequence

import onnx

from graphsurgery.graph.editor import Workspace

HALVED = ("Unsqueeze", "Div", "Gather", "Shape")
"""How half a width is computed, from its end."""
CONTEXT = ("MatMul", "Transpose", "Reshape")
"""What follows on attention's Softmax."""
QUERIES = ("Add", "MatMul", "Transpose", "Reshape", "MatMul")
"""What comes before it, from its end, where queries have no bias."""
SHAPE = ("Concat", "Unsqueeze", "Gather", "Shape")
"""How the shape of a context is computed, from its end."""


def recognised(work: Workspace) -> Mapping[str, str]:
    """The values that are to be computed as they are, each with what shares it: equal ones of another layer do not."""
    found: dict[str, str] = {}
    halves: list[str] = []
    for node in work.nodes:
        if not node.input:
            continue
        if node.op_type == "Sqrt":
            found |= _root(work, node)
        elif node.op_type == "Slice":
            halves += [name for place in (1, 2) for name in _half(work, node, place)]
        elif node.op_type == "Softmax":
            found |= dict.fromkeys(_with_bias(work, node), "")
    return found | dict.fromkeys([*halves, *(_scaled(work) if halves else ())], "")


def _root(work: Workspace, node: onnx.NodeProto) -> dict[str, str]:
    """The root that queries or keys are multiplied with, and the product of the two."""
    scaled = [reader for reader in work.readers(node.output[0]) if reader.op_type == "Mul"]
    products = [reader.output[0] for one in scaled for reader in work.readers(one.output[0]) if reader.op_type == "MatMul"]
    return {node.output[0]: products[0]} if products else {}


def _half(work: Workspace, node: onnx.NodeProto, place: int) -> list[str]:
    """How half the width of x is computed, where ``node`` cuts x there to turn the halves."""
    readers = {reader.op_type for reader in work.readers(node.output[0])}
    if not readers & {"Neg", "Concat"} or len(node.input) <= place:
        return []
    found, made = _before(work, node.input[place], HALVED), work.producer(node.input[0])
    fits = made is not None and made.op_type in ("Transpose", "Slice")
    return found[:-1] if fits and found[-1:] == [node.input[0]] else []


def _scaled(work: Workspace) -> Iterator[str]:
    """Sines and cosines times a constant, be it 1."""
    for node in work.nodes:
        if node.op_type in ("Cos", "Sin"):
            yield from (reader.output[0] for reader in work.readers(node.output[0]) if reader.op_type == "Mul")


def _with_bias(work: Workspace, node: onnx.NodeProto) -> list[str]:
    """How the shape that ``node``'s attention ends in is computed, where it is of what the queries are made of; and slices
    that are added to each other for the attention's bias."""
    last = _behind(work, node, CONTEXT)
    queries = _before(work, node.input[0], QUERIES)
    shape = _before(work, last.input[1], SHAPE) if last is not None and len(last.input) > 1 else []
    if not queries or not shape or queries[-1] != shape[-1]:
        return []
    biases = [
        _before(work, name, ("Add",), place) for name in _before(work, node.input[0], ("Add",), 1)[-1:] for place in (0, 1)
    ]
    cut = [names[-1] for names in biases if names and _before(work, names[-1], ("Slice",))]
    return shape[:-1] + cut


def _behind(work: Workspace, node: onnx.NodeProto, kinds: Sequence[str]) -> onnx.NodeProto | None:
    """The last of nodes of these kinds that follow on ``node``, each reading the one before it first."""
    for kind in kinds:
        while (follower := _follower(work, node, (kind, "Cast"))) is not None and follower.op_type != kind:
            node = follower
        if follower is None:
            return None
        node = follower
    return node


def _follower(work: Workspace, node: onnx.NodeProto, kinds: Sequence[str]) -> onnx.NodeProto | None:
    name = node.output[0]
    return next((one for one in work.readers(name) if one.op_type in kinds and one.input[0] == name), None)


def _before(work: Workspace, name: str, kinds: Sequence[str], place: int = 0) -> list[str]:
    """``name`` and the values before it, each the input at ``place`` of what gives the one behind it; [] where kinds differ."""
    found = [name]
    for kind in kinds:
        while (made := work.producer(found[-1])) is not None and made.op_type == "Cast" and made.input:
            found.append(made.input[0])
        if made is None or made.op_type != kind or len(made.input) <= place:
            return []
        found.append(made.input[place])
    return found
