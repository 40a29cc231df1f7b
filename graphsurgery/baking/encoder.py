"""The encoder of a model folder: its ONNX file, or one built from a table of embeddings, and the features that it makes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from graphsurgery.baking.error_places import name_place_in_errors
from graphsurgery.baking.features import TOKENS
from graphsurgery.encoder.hidden_state import find_hidden_state
from graphsurgery.errors import FolderError, NothingToPoolError, RequestError, UnsupportedModelError
from graphsurgery.exporting.export_folder import Exported
from graphsurgery.folders.files import DOWNLOAD, find_onnx, list_onnx_files, open_file
from graphsurgery.folders.modules import Module
from graphsurgery.folders.transformer_config import read_transformer_settings
from graphsurgery.folders.weights import find_weights_file, read_weights, require_tensor
from graphsurgery.model.loading import POINTER, load
from graphsurgery.model.model import Model
from graphsurgery.runtime.session import Session

TABLES = {"StaticEmbedding": ("embedding.weight", "embeddings"), "WordEmbeddings": ("emb_layer.weight",)}
"""Modules that are nothing but a table, and the names that versions gave its tensor."""
OPSET, IR_VERSION = 17, 8
TABLE = "embedding.weight"
MOST_ROWS = 1 << 12
"""The number of rows to look up at most to prove a table."""
LOGITS = "logits"


def open_encoder(folder: Path, module: Module, name: str | None, exported: Exported | None) -> tuple[Model, str]:
    """Return the encoder that the first module is, and a note on where it comes from."""
    if exported is not None:
        return replace(load(exported.path), home=folder / "onnx"), f"the encoder was exported by {exported.program}"
    if module.kind in TABLES:
        if name is not None:
            raise RequestError(f"a {module.kind} has no ONNX file", "leave out --onnx: its table is built from the weights")
        note = f"the encoder is built from the table of {module.name or module.kind}"
        return load(build_table_encoder(module), folder=module.path), note
    if module.kind != "Transformer":
        known = ", ".join(("Transformer", *TABLES))
        raise FolderError(f"{module.path}: the first module is a {module.kind}", f"the first module must be one of {known}")
    own = module.path if name is None and list_onnx_files(module.path) else folder
    path, others = find_onnx(own, name)
    note = f"the encoder is {path.relative_to(folder)}" + (f"; there are also {', '.join(others)} (--onnx)" if others else "")
    return _load(path), note


def _load(path: Path) -> Model:
    """Load the encoder and require its weights. Errors name the file."""
    file = open_file(path)
    if file.read(0, min(file.size, len(POINTER))) == POINTER:
        raise FolderError(f"{path} is a Git LFS pointer, not the model itself", "git lfs pull, or " + DOWNLOAD)
    with name_place_in_errors(path):
        model = load(path)
        model.require_data("baking")
    return model


def build_table_encoder(module: Module) -> onnx.ModelProto:
    """Build an encoder that looks up a row of the module's table for each id.

    ``input_ids, attention_mask [batch, sequence]`` int64 -> ``token_embeddings [batch, sequence, dim]`` float32. The mask is an
    input for the pooling that follows. Raises WeightsError if the table is missing or has another rank.
    """
    weights = read_weights(module.path)
    name = next((one for one in TABLES[module.kind] if one in weights), TABLES[module.kind][0])
    table = np.asarray(require_tensor(weights, name, (None, None)), dtype=np.float32)
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
    _prove_table(proto, table, module)
    return proto


def _prove_table(proto: onnx.ModelProto, table: np.ndarray, module: Module) -> None:
    """Check that ONNX Runtime looks up the rows of the weights file, bit for bit."""
    ids = np.unique(np.linspace(0, len(table) - 1, min(len(table), MOST_ROWS)).astype(np.int64))[None, :]
    session = Session(proto.SerializeToString(), threads=1)
    rows = session.run({"input_ids": ids, "attention_mask": np.ones_like(ids)})[TOKENS]
    if not np.array_equal(rows[0], table[ids[0]]):
        raise UnsupportedModelError(
            f"ONNX Runtime looks up other rows than those in {find_weights_file(module.path)}", "report this as a bug"
        )


def find_first_features(module: Module, encoder: Model) -> tuple[dict[str, str], int | None]:
    """Return the first module's features with the encoder's outputs that hold them, and the width of its token embeddings."""
    if module.kind in TABLES:
        return {TOKENS: TOKENS}, find_hidden_state(encoder, TOKENS).width
    settings = read_transformer_settings(module)
    if settings.output_name == TOKENS and settings.task == "feature-extraction":
        with name_place_in_errors(encoder.path, encoder.path):
            hidden = find_hidden_state(encoder)
        return {TOKENS: hidden.name}, hidden.width
    if settings.task not in ("fill-mask", "sequence-classification"):
        raise FolderError(f"{module.path}: a Transformer for the task {settings.task} cannot be baked", "use another export")
    if encoder.interface.output(LOGITS) is None:
        listed = ", ".join(map(str, encoder.interface.outputs))
        raise NothingToPoolError(
            f"{encoder.path}: a Transformer for the task {settings.task} needs the output {LOGITS}; this file has {listed}",
            "export it with its head, as graphsurgery export does for the folder",
        )
    return {settings.output_name: LOGITS}, None
