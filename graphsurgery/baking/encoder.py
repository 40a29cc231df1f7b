"""The encoder of a model folder: its ONNX file, or one built from a table of embeddings, and the features that it makes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from graphsurgery.baking.error_places import name_place_in_errors
from graphsurgery.baking.features import SENTENCE, TOKENS
from graphsurgery.baking.inner_tokens import TokenEmbeddings, find_token_embeddings
from graphsurgery.encoder.hidden_state import find_hidden_state
from graphsurgery.encoder.roles import find_roles
from graphsurgery.errors import FolderError, NothingToPoolError, RequestError, UnsupportedModelError
from graphsurgery.exporting.export_folder import TRANSFORMERS, Exported
from graphsurgery.folders.classifier_head import has_head_weights
from graphsurgery.folders.files import DOWNLOAD, find_onnx, is_folder, is_there, list_onnx_files, open_file
from graphsurgery.folders.home import place_in_folder
from graphsurgery.folders.modules import Module
from graphsurgery.folders.transformer_config import TransformerSettings, read_encoder_config, read_transformer_settings
from graphsurgery.folders.weights import find_weights_file, read_weights, require_tensor
from graphsurgery.model.dtypes import FLOATS
from graphsurgery.model.loading import POINTER, load
from graphsurgery.model.model import Model
from graphsurgery.model.parsing import shorten
from graphsurgery.remarks import Warn
from graphsurgery.runtime.session import Session

TABLES = {"StaticEmbedding": ("embedding.weight", "embeddings"), "WordEmbeddings": ("emb_layer.weight",)}
"""Modules that are nothing but a table, and the names that versions gave its tensor."""
OPSET, IR_VERSION = 17, 8
TABLE = "embedding.weight"
MOST_ROWS = 1 << 12
"""The number of rows to look up at most to prove a table."""
LOGITS, CLASSIFICATION, CAUSAL_TASK = "logits", "sequence-classification", "text-generation"
CHOOSING = frozenset({"lora", "adapter", "adapters", "adaptation", "adaptations", "task", "tasks"})
"""Words in the names of settings that choose between several things that a model computes."""


def open_encoder(folder: Path, module: Module, name: str | None, exported: Exported | None) -> tuple[Model, str]:
    """Return the encoder of the first module, and a note on where it comes from."""
    if exported is not None:
        return place_in_folder(load(exported.path), folder), f"the encoder was exported by {exported.program}"
    if module.kind in TABLES:
        if name is not None:
            raise RequestError(f"a {module.kind} has no ONNX file", "leave out --onnx: its table is built from the weights")
        note = f"the encoder is built from the table of {module.name or module.kind}"
        return load(build_table_encoder(module), folder=module.path), note
    if module.kind not in TRANSFORMERS:
        known = ", ".join((*TRANSFORMERS, *TABLES))
        raise FolderError(f"{module.path}: the first module is a {module.kind}", f"the first module must be one of {known}")
    elsewhere = None if name is None else _find_elsewhere(folder, name)
    if elsewhere is not None:
        return place_in_folder(_load(elsewhere), folder), f"the encoder is {elsewhere}, from outside of the folder"
    own = module.path if name is None and list_onnx_files(module.path) else folder
    path, others = find_onnx(own, name)
    note = f"the encoder is {path.relative_to(folder)}" + (f"; there are also {', '.join(others)} (--onnx)" if others else "")
    return _load(path), note


def _find_elsewhere(folder: Path, name: str) -> Path | None:
    """Return the file outside of ``folder`` that the user names, or that lies in the folder of an export that the user names.

    The name is relative to the current folder, else to ``folder``. Return None for a file in ``folder``, and if there is none.
    Raise RequestError if the name can be one of two files.
    """
    places = dict.fromkeys(Path(os.path.normpath(base / name)) for base in (Path.cwd(), folder, folder / "onnx"))
    found = [one for one in places if is_there(one)]
    outside = [one for one in found if not one.is_relative_to(folder)]
    inside = [one for one in found if one not in outside]
    if not outside or any(os.path.realpath(one) == os.path.realpath(outside[0]) for one in inside):
        return None
    if inside:
        raise RequestError(f"--onnx {name} can be {outside[0]} or {inside[0]}", "give the whole path")
    return find_onnx(outside[0])[0] if is_folder(outside[0]) else outside[0]


def describe_own_class(module: Module, encoder: Model) -> list[str]:
    """Return notes on a first module whose class is defined in the folder. Its code is not read; only its ONNX file counts.

    The notes name the settings in its configs that change its values, and the file's inputs besides the usual ones.
    """
    if module.own_class is None:
        return []
    notes = [f"the first module is a {module.own_class}, a class of the model's own: the ONNX file is taken as that module"]
    config = read_encoder_config(module.path)
    settings = {**(config.raw if config is not None else {}), **module.config}
    choosing = [_show_choices(key, value) for key, value in settings.items() if CHOOSING & set(key.lower().split("_"))]
    choosing = [f"the argument {name}" for name in module.arguments] + [one for one in choosing if one]
    if choosing:
        notes.append(Warn(f"{', '.join(choosing)} can change its values; a file has one choice, or an input for it"))
    others = [str(value) for value in find_roles(encoder.interface).others]
    if others:
        notes.append(f"the file takes {', '.join(others)} as well, and the baked file does, too")
    return notes


def _show_choices(key: str, value: object) -> str:
    """Return a setting with the names that it offers, or nothing for a number, a flag or an empty one."""
    if isinstance(value, str) and value:
        return f"{key} {shorten(value)}"
    return f"{key} ({shorten(', '.join(map(str, value)))})" if isinstance(value, (list, dict)) and value else ""


def _find_embedding(encoder: Model) -> str | None:
    """Return the output that holds one vector per text: ``sentence_embedding``, else the only one ``[batch, dim]``."""
    vectors = [value.name for value in encoder.interface.outputs if value.rank == 2 and value.dtype in FLOATS]
    return SENTENCE if SENTENCE in vectors else vectors[0] if len(vectors) == 1 else None


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


def find_first_features(
    folder: Path, modules: Sequence[Module], encoder: Model
) -> tuple[dict[str, str], TokenEmbeddings | None]:
    """Return the first module's features with the values of the encoder that hold them, and its token embeddings, if any."""
    module = modules[0]
    if module.kind in TABLES:
        return {TOKENS: TOKENS}, TokenEmbeddings(TOKENS, find_hidden_state(encoder, TOKENS).width)
    embedding = _find_embedding(encoder) if module.own_class and all(one.kind != "Pooling" for one in modules) else None
    if embedding is not None:
        return {SENTENCE: embedding}, None
    settings = TransformerSettings() if module.own_class else read_transformer_settings(module)
    if settings.output_name == TOKENS and settings.task == "feature-extraction":
        return _find_tokens(folder, encoder)
    if settings.output_name == SENTENCE and settings.task == "feature-extraction":
        return {SENTENCE: _require_embedding(encoder)}, None
    if settings.task == "feature-extraction":
        raise FolderError(
            f"{module.path}: a Transformer that gives {settings.output_name} cannot be baked", "use another export"
        )
    if encoder.interface.output(LOGITS) is None and settings.task == CLASSIFICATION and has_head_weights(module.path):
        return _find_tokens(folder, encoder)
    if encoder.interface.output(LOGITS) is None:
        listed = ", ".join(map(str, encoder.interface.outputs))
        raise NothingToPoolError(
            f"{encoder.path}: a Transformer for the task {settings.task} needs the output {LOGITS}; this file has {listed}",
            _advise_head(settings.task),
        )
    return {settings.output_name: LOGITS}, None


def _find_tokens(folder: Path, encoder: Model) -> tuple[dict[str, str], TokenEmbeddings]:
    with name_place_in_errors(encoder.path, encoder.path):
        tokens = find_token_embeddings(encoder, folder)
    return {TOKENS: tokens.name}, tokens


def _require_embedding(encoder: Model) -> str:
    """Return the output that holds a tower's embedding. Raises NothingToPoolError if the file is not that of a text tower."""
    embedding = _find_embedding(encoder)
    if embedding is None or find_roles(encoder.interface).ids is None:
        values = (*encoder.interface.inputs, *encoder.interface.outputs)
        raise NothingToPoolError(
            f"{encoder.path} is not the file of a text tower; it has {', '.join(map(str, values))}",
            "export the text tower alone: graphsurgery export FOLDER --tower text",
        )
    return embedding


def _advise_head(task: str) -> str:
    """Return what to do about a file that lacks its head."""
    beside = ", or put the model's model.safetensors beside its config.json" if task == CLASSIFICATION else ""
    done = "" if task == CAUSAL_TASK else ", as graphsurgery export does for the folder"
    return f"export it with its head (task {task}){done}{beside}"
