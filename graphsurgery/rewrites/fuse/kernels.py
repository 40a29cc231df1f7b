"""Find operators that a target has no kernel for, and mend what the optimizer makes of T5 and of rotary positions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.graph.ancestors import upstream
from graphsurgery.model.namer import Namer
from graphsurgery.rewrites.fuse.runner import VENDOR

TARGETS = ("cpu", "cuda")
POSITION_BIAS = "RelativePositionBias"
NOT_ON_CUDA = frozenset({"DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QEmbedLayerNormalization"})
"""The operators of com.microsoft that have a CPU kernel and no CUDA kernel in ONNX Runtime's list of kernels."""


NOT_ON_CPU = frozenset({
    POSITION_BIAS, "BiasAdd", "BiasSplitGelu", "DecoderMaskedSelfAttention", "GatedRelativePositionBias", "GemmFastGelu",
    "GroupNorm", "NhwcConv", "PackedAttention", "PackedMultiHeadAttention", "PagedAttention", "QOrderedAttention",
    "QOrderedGelu", "QOrderedLayerNormalization", "QOrderedMatMul", "RemovePadding", "RestorePadding", "SkipGroupNorm",
})  # fmt: skip
"""The operators of com.microsoft that the optimizer can make and that have no CPU kernel in ONNX Runtime's list of kernels."""


def count_without_kernel(model: onnx.ModelProto, target: str) -> Counter[str]:
    """Count the operators of com.microsoft in ``model`` that ``target`` (cpu or cuda) cannot run.

    The answer comes from ONNX Runtime's published list of kernels (docs/OperatorKernels.md in its repository). If a build has
    fewer kernels, the first run of the file shows it. Operators without a CPU kernel count for cuda, too, because every file is
    proven on the CPU.
    """
    lacking = NOT_ON_CPU | (NOT_ON_CUDA if target == "cuda" else frozenset())
    return Counter(node.op_type for node in model.graph.node if node.domain == VENDOR and node.op_type in lacking)


def restore_position_bias(made: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``made`` with each RelativePositionBias replaced by the nodes of ``source`` that compute T5's position bias.

    The operator's table is the transpose of the source's, stored under the source's dims. The source gathers rows from its
    table, moves the heads to the front and adds a batch dim: ``[1, heads, seq, seq]``, which is what the operator gives.

    Raises UnsupportedModelError if the source does not compute the bias so.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(made)
    tables = {tensor.name: tensor for tensor in copy.graph.initializer}
    for node in [node for node in copy.graph.node if node.op_type == POSITION_BIAS and node.domain == VENDOR]:
        table = numpy_helper.to_array(tables[node.input[0]])
        bias = _gathered(source, table.reshape(table.shape[::-1]).T)
        if bias is None:
            what = "the optimizer made a RelativePositionBias, which the CPU cannot run, and the source has no such bias"
            raise UnsupportedModelError(what, "optimize it with --model-type bert")
        place = list(copy.graph.node).index(node)
        nodes = list(copy.graph.node)
        for other in nodes:
            other.input[:] = [bias if name == node.output[0] else name for name in other.input]
        nodes[place : place + 1] = _taken_back(bias, copy, source)
        del copy.graph.node[:]
        copy.graph.node.extend(nodes)
        for tensor in [tensor for tensor in copy.graph.initializer if tensor.name == node.input[0]]:
            copy.graph.initializer.remove(tensor)
    return copy


def add_missing_biases(made: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``made`` with a bias of zeros in every Attention that has none, as in T5.

    Without a bias the CPU kernel of ONNX Runtime before 1.32 reads through a null pointer and crashes.
    """
    if not any(_lacks_bias(node) for node in made.graph.node):
        return made
    copy = onnx.ModelProto()
    copy.CopyFrom(made)
    tensors = {tensor.name: tensor for tensor in copy.graph.initializer}
    for node in copy.graph.node:
        weight = tensors.get(node.input[1]) if _lacks_bias(node) else None
        if weight is None:
            continue
        bias = f"{weight.name}/no_bias"
        if bias not in tensors:
            zeros = np.zeros(weight.dims[1], onnx.helper.tensor_dtype_to_np_dtype(weight.data_type))
            copy.graph.initializer.append(numpy_helper.from_array(zeros, bias))
            tensors[bias] = copy.graph.initializer[-1]
        node.input[:] = [*node.input[:2], bias, *node.input[3:]]
    return copy


def _lacks_bias(node: onnx.NodeProto) -> bool:
    return node.op_type == "Attention" and node.domain == VENDOR and not (len(node.input) > 2 and node.input[2])


def replace_negative_positions(made: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``made`` with 0 in place of negative positions for each RotaryEmbedding that ``source`` does not have.

    ``cumsum(mask) - 1`` is -1 at padding on the left. The nodes of the source take such a position, the operator refuses it.
    The value at padding does not matter.
    """
    old = {node.name for node in source.graph.node if node.op_type == "RotaryEmbedding"}

    def is_new(node: onnx.NodeProto) -> bool:
        return node.op_type == "RotaryEmbedding" and node.domain == VENDOR and node.name not in old

    if not any(map(is_new, made.graph.node)):
        return made
    copy = onnx.ModelProto()
    copy.CopyFrom(made)
    constant = {tensor.name for tensor in copy.graph.initializer}
    readers = list(filter(is_new, copy.graph.node))
    positions = list(dict.fromkeys(node.input[1] for node in readers if node.input[1] not in constant))
    namer, nodes = Namer.of(copy), list(copy.graph.node)
    for name in positions:
        zero, below, within = (namer.new(f"{name}/{what}") for what in ("zero", "below_zero", "from_zero"))
        copy.graph.initializer.append(numpy_helper.from_array(np.zeros((), np.int64), zero))
        new = [
            onnx.helper.make_node("Less", [name, zero], [below], below),
            onnx.helper.make_node("Where", [below, zero, name], [within], within),
        ]
        made_at = next((place for place, node in enumerate(nodes) if name in node.output), -1)
        nodes[made_at + 1 : made_at + 1] = new
        for node in readers:
            node.input[1] = within if node.input[1] == name else node.input[1]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def _gathered(source: onnx.ModelProto, table: np.ndarray) -> str | None:
    """Return the value that ``source`` gathers from ``table [buckets, heads]``, transposes and gives a batch dim, or None."""
    names = {tensor.name for tensor in source.graph.initializer if _equals(tensor, table)}
    for operator in ("Gather", "Transpose", "Unsqueeze"):
        readers = (node for node in source.graph.node if node.op_type == operator and node.input[0] in names)
        names = {node.output[0] for node in readers}
    return next(iter(sorted(names)), None)


def _equals(tensor: onnx.TensorProto, table: np.ndarray) -> bool:
    return list(tensor.dims) == list(table.shape) and np.array_equal(numpy_helper.to_array(tensor), table)


def _taken_back(value: str, made: onnx.ModelProto, source: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Return the nodes of ``source`` that compute ``value`` from values that ``made`` still has, in order. Put the initializers
    that they read back into ``made``."""
    there = {name for node in made.graph.node for name in node.output if node.op_type != POSITION_BIAS}
    there |= {info.name for info in made.graph.input} | {tensor.name for tensor in made.graph.initializer}
    needed = upstream(source.graph.node, value, there)
    made.graph.initializer.extend(tensor for tensor in source.graph.initializer if tensor.name in needed)
    return (node for node in source.graph.node if needed & set(node.output))
