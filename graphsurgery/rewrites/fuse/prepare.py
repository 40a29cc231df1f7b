"""Prepare a graph so that the optimizer's patterns match. Nothing changes in what the graph computes."""

from __future__ import annotations

import onnx

PASSING = frozenset({"Add", "Cast", "Dropout", "Identity"})
MIXING = frozenset({"MatMul", "Einsum", "Gemm"})


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``model`` with the operands of ``x + attention(x)`` swapped where ``x`` adds a bias itself.

    If the first operand of a sum adds a bias, the optimizer looks for an attention there and nowhere else. In ALBERT the first
    layer adds its attention to the mapped embeddings, and the optimizer misses the layer. Returns ``model`` itself if there is
    no such sum.
    """
    producers = {output: node for node in model.graph.node for output in node.output if output}
    swapped = [place for place, node in enumerate(model.graph.node) if _must_be_swapped(node, producers)]
    if not swapped:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for place in swapped:
        node = copy.graph.node[place]
        node.input[:] = reversed(node.input)
    return copy


def _must_be_swapped(node: onnx.NodeProto, producers: dict[str, onnx.NodeProto]) -> bool:
    if node.op_type != "Add" or len(node.input) != 2:
        return False
    first, second = (producers.get(name) for name in node.input)
    return _is_linear(first, producers) and not _attends(first, producers) and _attends(second, producers)


def _is_linear(node: onnx.NodeProto | None, producers: dict[str, onnx.NodeProto]) -> bool:
    """Whether a node adds a bias to a matrix product."""
    if node is None or node.op_type != "Add":
        return False
    return any((made := producers.get(name)) is not None and made.op_type in MIXING for name in node.input)


def _attends(node: onnx.NodeProto | None, producers: dict[str, onnx.NodeProto]) -> bool:
    """Whether a node ends an attention: a bias and a matrix product of heads that were joined by Transpose and Reshape."""
    for _ in range(8):
        if node is None:
            return False
        if node.op_type in ("Transpose", "Reshape"):
            return True
        made = [producers[name] for name in node.input if name in producers]
        if node.op_type in PASSING:
            node = next((one for one in made if one.op_type in MIXING or one.op_type in PASSING), None)
        elif node.op_type in MIXING:
            node = producers.get(node.input[0])
        else:
            return False
    return False
