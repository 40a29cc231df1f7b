"""Adjust a graph before and after the transformer optimizer, and find operators that a target has no kernel for."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import numpy_helper

from graphsurgery.deferred import ir
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.graph.attributes import get_input
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import (
    COPYING,
    JOINING_HEADS,
    NOT_ON_CPU,
    NOT_ON_CUDA,
    ROTATIONS,
    VENDOR,
    WEIGHT_PRODUCTS,
    AnyNode,
    Path,
    get_operator,
)

TARGETS = ("cpu", "cuda")
POSITION_BIAS = "RelativePositionBias"
BIAS_OPERATOR, ATTENTION, ROTATION = f"{VENDOR}.{POSITION_BIAS}", f"{VENDOR}.Attention", f"{VENDOR}.RotaryEmbedding"
BIASED_ATTENTION, BIASED_NORM = frozenset({ATTENTION}), frozenset({"LayerNormalization"})
"""Operators whose inputs begin with a value, its weight and a bias that may be left out."""
BIAS_STEPS: Path = ("Gather", "Transpose", "Unsqueeze")
"""The nodes between T5's table and its position bias."""
FURTHEST = 8
"""How many nodes back from a sum the search for the heads of its attention goes."""


def count_without_kernel(model: onnx.ModelProto, target: str) -> Counter[str]:
    """Count the operators of com.microsoft in ``model`` that ``target`` (cpu or cuda) cannot run.

    The answer comes from ONNX Runtime's published list of kernels (docs/OperatorKernels.md in its repository). If a build has
    fewer kernels, the first run of the file shows it. Operators without a CPU kernel count for cuda, too, because every file is
    proven on the CPU.
    """
    lacking = NOT_ON_CPU | (NOT_ON_CUDA if target == "cuda" else frozenset())
    return Counter(node.op_type for node in model.graph.node if get_operator(node) in lacking)


def restore_position_bias(made: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``made`` with each RelativePositionBias replaced by the nodes of ``source`` that compute T5's position bias.

    The operator's table is the transpose of the source's, stored under the source's dims. The source gathers rows from its
    table, moves the heads to the front and adds a batch dim: ``[1, heads, seq, seq]``, which is what the operator gives.

    Raises UnsupportedModelError if the source does not compute the bias in this way.
    """
    editor, graph = Editor(made), Graph(source)
    for node in [node for node in editor.nodes if get_operator(node) == BIAS_OPERATOR]:
        table = editor.tensor(node.inputs[0])
        bias = None if table is None else _find_gathered(graph, numpy_helper.to_array(table))
        if bias is None:
            what = "the optimizer made a RelativePositionBias, which the CPU cannot run, and the source has no such bias"
            raise UnsupportedModelError(what, "optimize it with --model-type bert")
        editor.replace_uses(node.outputs[0], _copy_from(graph, bias, editor, node))
        editor.remove(node)
    editor.remove_unused_initializers()
    return editor.finish()


def add_missing_biases(model: onnx.ModelProto, operators: frozenset[str]) -> onnx.ModelProto:
    """Return ``model`` with a bias of zeros in every node of ``operators`` (`BIASED_ATTENTION`, `BIASED_NORM`) that has none.

    Without a bias, the CPU kernel of Attention (as in T5) crashes before ONNX Runtime 1.32, because it reads through a null
    pointer. The optimizer fails on a LayerNormalization without one (as PyTorch writes ModernBERT's).
    """

    def lacks_bias(node: onnx.NodeProto) -> bool:
        return get_operator(node) in operators and not (len(node.input) > 2 and node.input[2])

    if not any(map(lacks_bias, model.graph.node)):
        return model
    editor = Editor(model)
    for node in editor.nodes:
        if get_operator(node) not in operators or get_input(node, 2) is not None:
            continue
        weight = editor.tensor(node.inputs[1])
        if weight is None:
            continue
        name = f"{weight.name}/no_bias"
        zeros = np.zeros(weight.dims[-1], onnx.helper.tensor_dtype_to_np_dtype(weight.data_type))
        bias = editor.value(name) or editor.add_tensor(numpy_helper.from_array(zeros, name), None)
        editor.set_inputs(node, [*node.inputs[:2], bias, *node.inputs[3:]])
    return editor.finish()


def replace_negative_positions(made: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``made`` with 0 in place of negative positions for each RotaryEmbedding that ``source`` does not have.

    ``cumsum(mask) - 1`` is -1 at padding on the left. The nodes of the source take such a position, the operator refuses it.
    The value at padding does not matter.
    """
    old = {node.name for node in source.graph.node if get_operator(node) in ROTATIONS}

    def is_new(node: AnyNode) -> bool:
        return get_operator(node) == ROTATION and node.name not in old

    if not any(map(is_new, made.graph.node)):
        return made
    editor = Editor(made)
    rotations = list(filter(is_new, editor.nodes))
    computed = dict.fromkeys(node.inputs[1] for node in rotations)
    for positions in [value for value in computed if value is not None and editor.tensor(value) is None]:
        zero = editor.add_constant(f"{positions.name}/zero", np.zeros((), np.int64))
        below, within = (editor.namer.new(f"{positions.name}/{what}") for what in ("below_zero", "from_zero"))
        less = editor.make_node("Less", [positions, zero], [below], name=below)
        chosen = editor.make_node("Where", [less.outputs[0], zero, positions], [within], name=within)
        editor.insert(positions.producer(), [less, chosen])
        for node in rotations:
            if node.inputs[1] is positions:
                node.replace_input_with(1, chosen.outputs[0])
    return editor.finish()


def _find_gathered(source: Graph, table: np.ndarray) -> ir.Value | None:
    """Return the value that ``source`` gathers from its table, transposes and gives a batch dim, or None if there is none.

    Args:
        table: the numbers of the source's table ``[buckets, heads]``, transposed, under the dims of the source.
    """
    wanted = table.reshape(table.shape[::-1]).T
    values = [value for value, tensor in source.constants.items() if _is_equal(tensor, wanted)]
    for step in BIAS_STEPS:
        readers = (node for value in values for node in source.consumers(value) if node.inputs[0] is value)
        values = [node.outputs[0] for node in readers if get_operator(node) == step]
    return next(iter(values), None)


def _is_equal(tensor: onnx.TensorProto, table: np.ndarray) -> bool:
    return list(tensor.dims) == list(table.shape) and np.array_equal(numpy_helper.to_array(tensor), table)


def _copy_from(source: Graph, value: ir.Value, editor: Editor, place: ir.Node) -> ir.Value:
    """Copy the nodes from which ``source`` computes ``value`` to after ``place``, unless they are there. Return its copy."""
    there = [one for one in source.values if editor.value(one.name or "") is not None]
    needed = source.ancestors([value], there)
    nodes = []
    copies = {one: known for one in there if (known := editor.value(one.name or "")) is not None}
    for one in source.values:
        tensor = source.tensor(one) if one in needed else None
        if tensor is not None and one.producer() is None:
            copies[one] = editor.add_tensor(tensor, None)
    for node in source.nodes:
        if needed.isdisjoint(node.outputs):
            continue
        inputs = [None if one is None else copies[one] for one in node.inputs]
        names = [one.name or "" for one in node.outputs]
        nodes.append(editor.make_node(node.op_type, inputs, names, {}, node.name or "", node.domain))
        nodes[-1].attributes.update(node.attributes)
        copies |= dict(zip(node.outputs, nodes[-1].outputs, strict=True))
    editor.insert(place, nodes)
    return copies[value]


def swap_sum_operands(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``model`` with the operands of ``x + attention(x)`` swapped where ``x`` adds a bias itself.

    If the first operand of a sum adds a bias, the optimizer looks for an attention there and nowhere else. In ALBERT the first
    layer adds its attention to the mapped embeddings, and the optimizer misses the layer. Returns ``model`` itself if there is
    no such sum.
    """
    if not any(map(_must_be_swapped, Graph(model).nodes)):
        return model
    editor = Editor(model)
    for node in [node for node in editor.nodes if _must_be_swapped(node)]:
        editor.set_inputs(node, node.inputs[::-1])
    return editor.finish()


def _must_be_swapped(node: ir.Node) -> bool:
    if get_operator(node) != "Add" or len(node.inputs) != 2:
        return False
    first, second = map(_find_maker, node.inputs)
    return _is_linear(first) and not _ends_attention(first) and _ends_attention(second)


def _find_maker(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _is_linear(node: ir.Node | None) -> bool:
    """Return whether a node adds a bias to a matrix product."""
    if node is None or get_operator(node) != "Add":
        return False
    return any((made := _find_maker(value)) is not None and get_operator(made) in WEIGHT_PRODUCTS for value in node.inputs)


def _ends_attention(node: ir.Node | None) -> bool:
    """Return whether a node ends an attention: a bias and a product of heads that were joined by Transpose and Reshape."""
    passing = COPYING | {"Add"}
    for _ in range(FURTHEST):
        if node is None:
            return False
        if get_operator(node) in JOINING_HEADS:
            return True
        if get_operator(node) in passing:
            makers = [made for value in node.inputs if (made := _find_maker(value)) is not None]
            node = next((one for one in makers if get_operator(one) in WEIGHT_PRODUCTS | passing), None)
        elif get_operator(node) in WEIGHT_PRODUCTS:
            node = _find_maker(node.inputs[0])
        else:
            return False
    return False
