"""What the optimizer's matchers are blind to, put in their way of seeing before it runs. Exact: sums keep their operands."""

from __future__ import annotations

import onnx

PASSING = frozenset({"Add", "Cast", "Dropout", "Identity"})
MIXING = frozenset({"MatMul", "Einsum", "Gemm"})


def prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model``, or where there are sums to turn a copy in which a residual sum, ``x + attention(x)``, has the attention's
    branch first.

    The attention matcher follows the first operand of a sum that is a sum with a bias itself. In ALBERT that of the first layer
    is the mapping of the embeddings, and the layer is missed.
    """
    producers = {output: node for node in model.graph.node for output in node.output if output}
    turned = [place for place, node in enumerate(model.graph.node) if _is_to_be_turned(node, producers)]
    if not turned:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for place in turned:
        node = copy.graph.node[place]
        node.input[:] = reversed(node.input)
    return copy


def _is_to_be_turned(node: onnx.NodeProto, producers: dict[str, onnx.NodeProto]) -> bool:
    if node.op_type != "Add" or len(node.input) != 2:
        return False
    first, second = (producers.get(name) for name in node.input)
    return _is_linear(first, producers) and not _attends(first, producers) and _attends(second, producers)


def _is_linear(node: onnx.NodeProto | None, producers: dict[str, onnx.NodeProto]) -> bool:
    """Whether a value is a matrix product with a bias added."""
    if node is None or node.op_type != "Add":
        return False
    return any((made := producers.get(name)) is not None and made.op_type in MIXING for name in node.input)


def _attends(node: onnx.NodeProto | None, producers: dict[str, onnx.NodeProto]) -> bool:
    """Whether a value is an attention's output projection: a bias, a matrix product, heads joined, and a product of scores."""
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
