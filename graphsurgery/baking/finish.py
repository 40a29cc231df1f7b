"""The edits after a folder's modules: those that its configs say, and those that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from graphsurgery.baking.features import SCORES, SENTENCE, TOKENS, Features
from graphsurgery.edits.add_activation import AddActivation
from graphsurgery.edits.add_normalize import AddNormalize
from graphsurgery.edits.edit import Edit
from graphsurgery.edits.truncate import Truncate
from graphsurgery.errors import FolderError
from graphsurgery.folders.modules import Module
from graphsurgery.folders.transformer_config import FOLDER_CONFIG, FolderConfig, read_encoder_config, score_activation

Planned = tuple[Edit, Path | None]
"""An edit, and what in the folder it comes from; None where it was asked for."""


def finished(folder: Path, config: FolderConfig, modules: Sequence[Module], features: Features) -> list[Planned]:
    """Scores of a cross-encoder, unit vectors of a late-interaction model."""
    steps: list[Planned] = []
    if SCORES in features.made:
        encoder = read_encoder_config(modules[0].path)
        if encoder is not None:
            activation = score_activation(config, encoder, encoder.num_labels)
            place = folder / FOLDER_CONFIG if config.activation else modules[0].path / "config.json"
            steps.append((AddActivation(activation, features.made[SCORES], SCORES), place))
    elif SENTENCE not in features.made:
        if TOKENS not in features.made or (config.model_type != "ColBERT" and not _ends_at_tokens(modules)):
            raise FolderError(
                f"{folder}: no module of it pools", "a plain transformer folder: pool its ONNX file with add-pooling"
            )
        features.notes.append("no module pools: the file gives a vector per token, normalised, as late interaction takes them")
        steps.append((AddNormalize(features.made[TOKENS]), folder))
    return steps


def cut(folder: Path, config: FolderConfig, features: Features, dims: str | None) -> list[Planned]:
    """Return the cut to ``dims``, if it was asked for; else the folder's own, if it is one."""
    if dims is not None:
        return [(Truncate(dims), None)]
    if config.truncate_dim is None:
        return []
    if config.truncate_dim == features.embedding:
        features.notes.append(f"the folder's truncate_dim, {config.truncate_dim}, is all that there is: nothing is cut off")
        return []
    return [(Truncate(str(config.truncate_dim), keep_length=True), folder / FOLDER_CONFIG)]


def _ends_at_tokens(modules: Sequence[Module]) -> bool:
    """Whether the last module is a Dense over tokens: the mark of a late-interaction model."""
    last = modules[-1]
    return last.kind == "Dense" and last.config.get("module_input_name") == TOKENS
