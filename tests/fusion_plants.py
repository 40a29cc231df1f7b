"""What the transformer optimizer has no pattern for, planted in the fixture `bert`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def makers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def times_one(model: onnx.ModelProto, name: str) -> None:
    """Multiply a value by 1 where it is made: nothing changes but the structure."""
    node = makers(model)[name]
    node.output[0] = f"{name}.before"
    model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), f"{name}.one"))
    planted = helper.make_node("Mul", [f"{name}.before", f"{name}.one"], [name], f"planted in {name}")
    model.graph.node.insert(list(model.graph.node).index(node) + 1, planted)


def in_layer_1(name: str) -> Callable[[onnx.ModelProto], None]:
    return lambda model: times_one(model, f"/encoder/layer.1/{name}_output_0")


def without_bias(model: onnx.ModelProto) -> None:
    made, path = makers(model), "/encoder/layer.1/attention/self/value"
    for node in model.graph.node:
        node.input[:] = [f"{path}/MatMul_output_0" if one == f"{path}/Add_output_0" else one for one in node.input]
    model.graph.node.remove(made[f"{path}/Add_output_0"])


def keys_of_another_value(model: onnx.ModelProto) -> None:
    times_one(model, "/encoder/layer.0/output/LayerNorm/LayerNormalization_output_0")
    key = makers(model)["/encoder/layer.1/attention/self/key/MatMul_output_0"]
    key.input[0] = "/encoder/layer.0/output/LayerNorm/LayerNormalization_output_0.before"


def position_bias(model: onnx.ModelProto) -> None:
    table = np.random.default_rng(0).standard_normal((1, 4, 1, 1)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(table, "slopes"))
    scores = makers(model)["/encoder/layer.1/attention/self/Add_output_0"]
    added = helper.make_node("Add", [scores.input[0], "slopes"], ["biased"], "planted")
    scores.input[0] = "biased"
    model.graph.node.insert(list(model.graph.node).index(scores), added)


def mapped_embeddings(model: onnx.ModelProto, branch_first: bool) -> None:
    """Embeddings mapped before layer 0, as in ALBERT, by the identity; its attention's branch is first or second in the sum."""
    stream, graph = "/embeddings/LayerNorm/LayerNormalization_output_0", model.graph
    graph.initializer.append(numpy_helper.from_array(np.eye(32, dtype=np.float32), "mapping"))
    graph.initializer.append(numpy_helper.from_array(np.zeros(32, np.float32), "shift"))
    mapped = [
        helper.make_node("MatMul", [stream, "mapping"], ["mapped"], "mapping"),
        helper.make_node("Add", ["shift", "mapped"], ["mapped.shifted"], "shift"),
    ]
    for node in graph.node:
        node.input[:] = ["mapped.shifted" if one == stream else one for one in node.input]
    place = list(graph.node).index(makers(model)[stream]) + 1
    for node in reversed(mapped):
        graph.node.insert(place, node)
    added = makers(model)["/encoder/layer.0/attention/output/Add_output_0"]
    if not branch_first:
        added.input[:] = reversed(added.input)


def norm_by_reduce_l2(model: onnx.ModelProto) -> None:
    """A head of an operator that symbolic shape inference cannot read."""
    graph = model.graph
    graph.initializer.append(helper.make_tensor("axes", TensorProto.INT64, [1], [1]))
    graph.node.append(helper.make_node("ReduceL2", ["last_hidden_state", "axes"], ["reduced"], "head/norm", keepdims=0))
    graph.node.append(helper.make_node("Add", ["reduced", "reduced"], ["embedding"], "head/sum"))
    graph.output[0].CopyFrom(helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch_size", 32]))
