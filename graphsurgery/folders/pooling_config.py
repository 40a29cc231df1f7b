"""The ``1_Pooling/config.json`` of a sentence-transformers folder, in both of its forms.

Up to sentence-transformers 5.3 it has one boolean per mode (``pooling_mode_mean_tokens``, ...) and
``word_embedding_dimension``; from 5.4 on it has ``pooling_mode``, a name or a list, and ``embedding_dimension``. Several
booleans concatenate the modes in the module's own order, not in the file's. A config with a dimension and no mode means the
mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphsurgery.errors import FolderError, RequestError
from graphsurgery.folders.files import describe_value, find_model_folder, read_json, read_setting, resolve_inside

BOOLEANS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""The older form's keys, in the order in which sentence-transformers concatenates them."""
DIMENSIONS = ("embedding_dimension", "word_embedding_dimension")
KNOWN_KEYS = frozenset({*BOOLEANS, *DIMENSIONS, "pooling_mode", "include_prompt"})
NAME = "1_Pooling/config.json"


@dataclass(frozen=True)
class PoolingConfig:
    """The pooling modes of a folder, and the path of the config."""

    path: Path
    modes: tuple[str, ...]
    include_prompt: bool = True
    """Whether the tokens of a prompt are pooled, too."""
    dimension: int | None = None
    """The width of the token embeddings, if stated."""
    unknown: tuple[str, ...] = ()
    """Keys that sentence-transformers does not know and would refuse to load."""


def find_pooling_config(model: Path) -> PoolingConfig | None:
    """Return the pooling config beside ``model`` or one folder above it (``onnx/model.onnx``), or None. Raise RequestError if
    it is broken."""
    folder = find_model_folder(model, NAME)
    if folder is None:
        return None
    try:
        path = resolve_inside(folder, NAME, str(folder))
        return parse_pooling(read_json(path), path)
    except FolderError as error:
        raise RequestError(str(error), "give the pooling mode with --mode") from error


def parse_pooling(config: dict[str, Any], path: Path) -> PoolingConfig:
    """Return the content of a pooling config in either form. Raise FolderError if it names no known mode. ``path`` is for
    messages."""
    named = read_setting(config, "pooling_mode", (str, list), path)
    dimension = next((found for key in DIMENSIONS if (found := read_setting(config, key, int, path)) is not None), None)
    if named is None:
        modes = [mode for key, mode in BOOLEANS.items() if read_setting(config, key, bool, path, False)]
        modes = modes or (["mean"] if dimension is not None else [])
    else:
        modes = [named] if isinstance(named, str) else named
    if not modes or not all(mode in BOOLEANS.values() for mode in modes):
        what = ", ".join(describe_value(one) for one in modes or sorted(config))
        raise FolderError(f"{path} names no known pooling mode: {what}", f"known are {', '.join(BOOLEANS.values())}")
    if dimension is not None and dimension < 1:
        raise FolderError(f"{path} states a width of {dimension} for the token embeddings", "replace it with the model's own")
    unknown = tuple(sorted(set(config) - KNOWN_KEYS))
    return PoolingConfig(path, tuple(modes), read_setting(config, "include_prompt", bool, path, True), dimension, unknown)
