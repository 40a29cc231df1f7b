"""Encoders that are nothing but a table, built from their weights: StaticEmbedding and WordEmbeddings."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from graphsurgery.baking.features import TOKENS
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.folders.modules import Module
from graphsurgery.folders.weights import Weights, read_weights, tensor_of, weights_file
from graphsurgery.runtime.session import Session

TABLES = {"StaticEmbedding": ("embedding.weight", "embeddings"), "WordEmbeddings": ("emb_layer.weight",)}
"""The tensor that holds a module's table, by the names that versions gave it."""
OPSET, IR_VERSION = 17, 8
TABLE = "embedding.weight"
SOME = 1 << 12
"""Rows that are looked up to prove a table, at most."""


def build_encoder(module: Module) -> onnx.ModelProto:
    """``input_ids, attention_mask [batch, sequence]`` int64 -> ``token_embeddings [batch, sequence, dim]`` float32: a row
    of the table for each id. The mask is for what pools. Raises WeightsError for a table that is missing or misshapen."""
    weights = read_weights(module.path)
    table = np.asarray(tensor_of(weights, _table_name(module, weights), (None, None)), dtype=np.float32)
    dims = ["batch", "sequence"]
    inputs = [helper.make_tensor_value_info(name, onnx.TensorProto.INT64, dims) for name in ("input_ids", "attention_mask")]
    graph = helper.make_graph(
        [helper.make_node("Gather", [TABLE, "input_ids"], [TOKENS], "token_embeddings", axis=0)],
        module.kind,
        inputs,
        [helper.make_tensor_value_info(TOKENS, onnx.TensorProto.FLOAT, [*dims, table.shape[1]])],
        [onnx.numpy_helper.from_array(table, TABLE)],
    )
    proto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="graphsurgery"
    )
    _prove(proto, table, module)
    return proto


def _table_name(module: Module, weights: Weights) -> str:
    names = TABLES[module.kind]
    return next((name for name in names if name in weights), names[0])


def _prove(proto: onnx.ModelProto, table: np.ndarray, module: Module) -> None:
    """What ONNX Runtime looks up is, bit for bit, what the weights file holds."""
    rows = np.unique(np.linspace(0, len(table) - 1, min(len(table), SOME)).astype(np.int64))[None, :]
    found = Session(proto.SerializeToString(), threads=1).run({"input_ids": rows, "attention_mask": np.ones_like(rows)})[TOKENS]
    if not np.array_equal(found[0], table[rows[0]]):
        raise UnsupportedModelError(
            f"{weights_file(module.path)}: ONNX Runtime looks up other rows than the file's", "report this"
        )
