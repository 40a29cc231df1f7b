"""Tiny encoders as ModelProto, at any opset and IR version: what the tests pool where a real export would be too rigid.

    token = word[input_ids] + position[0..seq) (+ type[token_type_ids])        [batch, seq, hidden]
    last_hidden_state = Softmax(token W + b) + token

The mask is an input that the encoder itself does not look at, so a token's value does not depend on its padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, FLOAT16, BFLOAT16, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT64
VOCABULARY, POSITIONS, TYPES = 50, 64, 2
IDS, MASK, POSITION_IDS, TYPE_IDS = "input_ids", "attention_mask", "position_ids", "token_type_ids"
HIDDEN, POOLER = "last_hidden_state", "pooler_output"


def tiny_encoder(
    *,
    opset: int = 17,
    ir_version: int | None = None,
    dtype: int = FLOAT,
    hidden: int = 8,
    mask_dtype: int | None = INT64,
    ids_dtype: int = INT64,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    dims: tuple[int | str, int | str] = ("batch", "sequence"),
    names: Mapping[str, str] | None = None,
    seed: int = 0,
) -> onnx.ModelProto:
    """An encoder ``input_ids, attention_mask -> last_hidden_state [*dims, hidden]``.

    Args:
        ir_version: the oldest that the opset admits when None; below 4 initializers are inputs as well.
        dtype: of weights and hidden state: FLOAT, FLOAT16 or BFLOAT16 (which ONNX Runtime cannot run on the CPU).
        mask_dtype: None leaves the mask out.
        inputs: any of token_type_ids, position_ids.
        outputs: ``pooler_output`` for one more, tanh of the first token.
        names: other names for inputs and outputs, by the usual ones.
    """
    given = {IDS: ids_dtype} | ({} if mask_dtype is None else {MASK: mask_dtype}) | dict.fromkeys(inputs, INT64)
    weights = _weights(dtype, hidden, TYPE_IDS in given, seed)
    graph = helper.make_graph(
        [*_positions(POSITION_IDS in given), *_embeddings(TYPE_IDS in given), *_layer(), *_pooler(POOLER in outputs)],
        "tiny",
        [helper.make_tensor_value_info(name, kind, dims) for name, kind in given.items()],
        [helper.make_tensor_value_info(HIDDEN, dtype, [*dims, hidden])],
        weights,
    )
    if POOLER in outputs:
        graph.output.append(helper.make_tensor_value_info(POOLER, dtype, [dims[0], hidden]))
    opsets = [helper.make_opsetid("", opset)]
    version = ir_version if ir_version is not None else helper.find_min_ir_version_for(opsets)
    if version < 4:
        graph.input.extend(helper.make_tensor_value_info(one.name, one.data_type, one.dims) for one in weights)
    return _renamed(helper.make_model(graph, opset_imports=opsets, ir_version=version, producer_name="tests"), names or {})


def _weights(dtype: int, hidden: int, types: bool, seed: int) -> list[onnx.TensorProto]:
    rng = np.random.default_rng(seed)
    shapes = {"word": (VOCABULARY, hidden), "position": (POSITIONS, hidden), "weight": (hidden, hidden), "bias": (hidden,)}
    shapes |= {"type": (TYPES, hidden)} if types else {}
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    return [numpy_helper.from_array(rng.standard_normal(shape).astype(kind), name) for name, shape in shapes.items()]


def _positions(given: bool) -> list[onnx.NodeProto]:
    """``where``: position_ids as they are, or 0, 1, ..., seq - 1."""
    if given:
        return [helper.make_node("Identity", [POSITION_IDS], ["where"], "where")]
    return [
        helper.make_node("Shape", [IDS], ["shape"], "shape"),
        *(_constant(name, value) for name, value in (("zero", 0), ("one", 1))),
        helper.make_node("Gather", ["shape", "one"], ["length"], "length", axis=0),
        helper.make_node("Range", ["zero", "length", "one"], ["where"], "where"),
    ]


def _embeddings(types: bool) -> list[onnx.NodeProto]:
    nodes = [
        helper.make_node("Gather", ["word", IDS], ["words"], "words"),
        helper.make_node("Gather", ["position", "where"], ["positions"], "positions"),
        helper.make_node("Add", ["words", "positions"], ["placed" if types else "token"], "placed"),
    ]
    if types:
        nodes.append(helper.make_node("Gather", ["type", TYPE_IDS], ["types"], "types"))
        nodes.append(helper.make_node("Add", ["placed", "types"], ["token"], "token"))
    return nodes


def _layer() -> list[onnx.NodeProto]:
    return [
        helper.make_node("MatMul", ["token", "weight"], ["mixed"], "mixed"),
        helper.make_node("Add", ["mixed", "bias"], ["biased"], "biased"),
        helper.make_node("Softmax", ["biased"], ["bent"], "bent", axis=2),
        helper.make_node("Add", ["bent", "token"], [HIDDEN], "residual"),
    ]


def _pooler(wanted: bool) -> list[onnx.NodeProto]:
    if not wanted:
        return []
    return [
        _constant("first", 0),
        helper.make_node("Gather", [HIDDEN, "first"], ["first_token"], "first_token", axis=1),
        helper.make_node("Tanh", ["first_token"], [POOLER], "pooler"),
    ]


def _constant(name: str, value: int) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], name, value=numpy_helper.from_array(np.array(value, dtype=np.int64), name))


def _renamed(model: onnx.ModelProto, names: Mapping[str, str]) -> onnx.ModelProto:
    for info in (*model.graph.input, *model.graph.output):
        info.name = names.get(info.name, info.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    return model
