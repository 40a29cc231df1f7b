"""The appended subgraph as a model of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Value
from graphsurgery.model.model import Model
from graphsurgery.proof.difference import Difference
from graphsurgery.proof.inference import value_in
from graphsurgery.references.chain import Chain
from graphsurgery.references.nested import every_node


@dataclass(frozen=True)
class Head:
    """``proto`` computes ``outputs`` from ``inputs``: inputs or inner values of the whole model, whose weights stay behind."""

    proto: onnx.ModelProto
    inputs: tuple[Value, ...]
    outputs: tuple[str, ...]


def extract_head(source: Model, output: Model, changed: Difference, also: Sequence[Value] = ()) -> Head:
    """Extract the nodes that were added to ``output``. The model gives the values ``also`` as well.

    Raise UnsupportedModelError if nothing was added, or if it leads to no output.
    """
    given = [info for info in output.proto.graph.output if info.name in changed.made]
    given += [onnx.helper.make_tensor_value_info(value.name, value.dtype, None) for value in also]
    names = [info.name for info in given]
    if not names:
        raise UnsupportedModelError("no output is computed by nodes that were added", "compare the outputs themselves")
    renamed = {new: old for old, new in changed.renamed.items()}
    taken = [name for name in changed.taken if name not in output.initializers]
    inputs = [replace(_typed(source, renamed[name]), name=name) if name in renamed else _typed(output, name) for name in taken]
    weights = [_complete(output, output.initializers[name]) for name in changed.taken if name in output.initializers]
    graph = onnx.helper.make_graph(
        _complete_nodes(output, changed.added),
        "head",
        [onnx.helper.make_tensor_value_info(value.name, value.dtype, None) for value in inputs],
        given,
        weights,
    )
    proto = onnx.helper.make_model(graph, opset_imports=output.proto.opset_import, ir_version=max(output.proto.ir_version, 4))
    return Head(proto, tuple(inputs), tuple(names))


def _typed(model: Model, name: str) -> Value:
    """Return a value that the head takes, with its type; float32 if nothing tells it.

    Behind operators that onnx does not know, the dims are those that the model declares.
    """
    value = value_in(model, name) or Value(name, onnx.TensorProto.FLOAT, None)
    declared = model.interface.output(name)
    return value if value.dims is not None or declared is None else replace(value, dims=declared.dims)


def _complete(model: Model, tensor: onnx.TensorProto) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(model.values(tensor), tensor.name)


def _complete_nodes(model: Model, nodes: tuple[onnx.NodeProto, ...]) -> list[onnx.NodeProto]:
    """Return the nodes with the large tensors in their attributes read in."""
    done = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for attribute in copy.attribute:
            if attribute.HasField("t") and model.document.payloads.find(attribute.t) is not None:
                attribute.t.CopyFrom(_complete(model, attribute.t))
        done.append(copy)
    return done


def added_values(output: Model, chain: Chain, changed: Difference) -> frozenset[str]:
    """Return the values that added nodes have to make: outputs, and values that nodes of the source take instead of inputs."""
    taken = {name for node in every_node(output.proto.graph) for name in node.input}
    return chain.made | {name for name in chain.inside if name in taken or name in changed.made}
