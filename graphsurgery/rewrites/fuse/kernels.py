"""Operators that a target has no kernel for, and how the one that the optimizer makes so is taken back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache

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
"""Operators of com.microsoft that ONNX Runtime's list of kernels has for the CPU alone."""


@cache
def _on_cpu() -> frozenset[tuple[str, str]]:
    """(domain, operator) of every kernel of the CPU in this build."""
    from onnxruntime.capi import _pybind_state

    kernels = _pybind_state.get_all_opkernel_def()
    return frozenset((kernel.domain, kernel.op_name) for kernel in kernels if kernel.provider == "CPUExecutionProvider")


def without_kernel(model: onnx.ModelProto, target: str) -> Counter[str]:
    """The operators of com.microsoft in ``model`` that ``target`` (cpu or cuda) cannot run, by their number.

    Of the CPU it is known from this very build; of CUDA from ONNX Runtime's published list. RelativePositionBias, which the CPU
    lacks, counts for both: what is made for one target is proven on the other.
    """
    found = Counter(node.op_type for node in model.graph.node if node.domain == VENDOR)
    known = {name for domain, name in _on_cpu() if domain == VENDOR}
    lacking = {POSITION_BIAS} | (set(NOT_ON_CUDA) if target == "cuda" else set()) | (set(found) - known)
    return Counter({name: count for name, count in found.items() if name in lacking})


def with_own_bias(made: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    """``made`` with the position bias of T5 computed by the nodes of ``source`` again, in place of each RelativePositionBias.

    The operator's table has the source's dims and, transposed, its numbers; the source gathers from its own, moves the heads to
    the front and adds a batch: ``[1, heads, seq, seq]``, the very value. UnsupportedModelError where it does not.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(made)
    tables = {tensor.name: tensor for tensor in copy.graph.initializer}
    for node in [node for node in copy.graph.node if node.op_type == POSITION_BIAS and node.domain == VENDOR]:
        table = numpy_helper.to_array(tables[node.input[0]])
        bias = _gathered(source, table.reshape(table.shape[::-1]).T)
        if bias is None:
            what = "the optimizer made a RelativePositionBias, which the CPU cannot run, of a bias that the source has not"
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


def with_biases(made: onnx.ModelProto) -> onnx.ModelProto:
    """``made`` with a bias of zeros in every Attention that has none: without it ONNX Runtime's CPU kernel reads through a null
    pointer and takes the process down (T5; mended in 1.32)."""
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


def with_positions_from_zero(made: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    """``made`` with 0 in place of negative positions wherever a RotaryEmbedding reads them that ``source`` had not.

    ``cumsum(mask) - 1`` is -1 at padding on the left. The rotation that the operator stands for took that as it came; the
    operator refuses it. What is computed at padding counts for nothing.
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
    """The value of ``source`` that is gathered from ``table [buckets, heads]``, transposed, with a batch dim in front."""
    names = {tensor.name for tensor in source.graph.initializer if _equals(tensor, table)}
    for operator in ("Gather", "Transpose", "Unsqueeze"):
        readers = (node for node in source.graph.node if node.op_type == operator and node.input[0] in names)
        names = {node.output[0] for node in readers}
    return next(iter(sorted(names)), None)


def _equals(tensor: onnx.TensorProto, table: np.ndarray) -> bool:
    return list(tensor.dims) == list(table.shape) and np.array_equal(numpy_helper.to_array(tensor), table)


def _taken_back(value: str, made: onnx.ModelProto, source: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """The nodes of ``source`` that make ``value`` of what ``made`` still has, in order; initializers they read are put back."""
    there = {name for node in made.graph.node for name in node.output if node.op_type != POSITION_BIAS}
    there |= {info.name for info in made.graph.input} | {tensor.name for tensor in made.graph.initializer}
    needed = upstream(source.graph.node, value, there)
    made.graph.initializer.extend(tensor for tensor in source.graph.initializer if tensor.name in needed)
    return (node for node in source.graph.node if needed & set(node.output))
