"""The configs of modules that have weights. Each config lies beside the weights of its module."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphsurgery.errors import FolderError
from graphsurgery.folders.files import (
    DOWNLOAD,
    LARGEST_CONFIG,
    LARGEST_VOCABULARY,
    describe_value,
    is_folder,
    is_there,
    read_json,
    read_setting,
    resolve_inside,
)
from graphsurgery.model.parsing import shorten


def read_module_config(place: Path, name: str, largest: int = LARGEST_CONFIG) -> tuple[Path, dict[str, Any] | None]:
    """Return (the path of the config ``name`` beside ``place``, its content or None if there is none). ``place`` is a module
    folder or a file in it. Raise FolderError if the config cannot be read."""
    folder = place if is_folder(place) else place.parent
    if not is_there(folder / name):
        return folder / name, None
    path = resolve_inside(folder, name, str(folder))
    return path, read_json(path, largest=largest)


def check_setting(config: dict[str, Any] | None, key: str, found: object, path: Path) -> None:
    """Check that the config's ``key`` agrees with the weights, which have ``found``. Raise FolderError otherwise; the key may
    be absent."""
    said = (config or {}).get(key)
    if said is not None and said != found:
        what = f"{path} says {key}: {shorten(str(said))}, but the weights beside it have {found}"
        raise FolderError(what, DOWNLOAD)


IDENTITY, TANH = "identity", "tanh"
CONFIG, RESIDUAL = "config.json", "use_residual"


@dataclass(frozen=True)
class DenseConfig:
    """The config of a Dense module: the name of its activation, whether the input is added to the result, and whether there is
    a config (``named``)."""

    activation: str = IDENTITY
    residual: bool = False
    named: bool = False


def read_dense_config(weights: Path) -> DenseConfig:
    """Return the config beside ``weights``, a module folder or a file in it. Without a config: identity, no residual.

    If the config names no activation, the default is that of the class that reads it: Tanh in sentence-transformers' Dense,
    Identity in PyLate's (which alone writes ``use_residual``). A config without any key of a Dense module, such as the
    transformer's own, does not count. Raises FolderError if it cannot be read.
    """
    path, config = read_module_config(weights, CONFIG)
    if config is None or not {"in_features", "activation_function", RESIDUAL} & config.keys():
        return DenseConfig()
    default = IDENTITY if RESIDUAL in config else TANH
    activation = read_setting(config, "activation_function", str, path, default)
    return DenseConfig(activation, read_setting(config, RESIDUAL, bool, path, False), named=True)


NAME = "config.json"
Number = int | float


@dataclass(frozen=True)
class WordWeights:
    """``weights [vocabulary]`` float32 by token id, the weight of an ``unknown`` word, and the path of the config."""

    path: Path
    weights: np.ndarray
    unknown: float


def read_word_weights(place: Path) -> WordWeights:
    """Return the weights in ``place``, a module folder or its config.json. Raise FolderError if they cannot be read.

    The config gives a weight for every word of the vocabulary. A word's token id is its position in ``vocab``:

    {"vocab": ["[PAD]", "the", "Cat", ...], "word_weights": {"the": 0.1, "cat": 7.3, ...}, "unknown_word_weight": 1}

    A word's weight is ``word_weights[word]``, else ``word_weights[word.lower()]``, else ``unknown_word_weight``.
    sentence-transformers builds the weights from this config whenever it loads the module, never from the weights file beside
    it.
    """
    if is_folder(place):
        path, config = read_module_config(place, NAME, LARGEST_VOCABULARY)
    else:
        path, config = place, read_json(place, largest=LARGEST_VOCABULARY)
    if config is None:
        raise FolderError(f"{place} has no {NAME}", DOWNLOAD)
    words, known = read_setting(config, "vocab", list, path), read_setting(config, "word_weights", dict, path)
    if not words or known is None or not all(isinstance(word, str) for word in words):
        raise FolderError(f"{path} has no list of words in vocab, or no word_weights", DOWNLOAD)
    unknown = _require_number(read_setting(config, "unknown_word_weight", (int, float), path, 1), "unknown_word_weight", path)
    found = [_find_weight(word, known, unknown, path) for word in words]
    return WordWeights(path, np.array(found, dtype=np.float32), unknown)


def _find_weight(word: str, known: dict[str, Any], unknown: float, path: Path) -> float:
    for form in (word, word.lower()):
        if form in known:
            return _require_number(known[form], form, path)
    return unknown


def _require_number(value: object, what: str, path: Path) -> float:
    """Return ``value`` as a number that float32 can hold. Raise FolderError otherwise."""
    if isinstance(value, bool) or not isinstance(value, Number) or not abs(value) <= float(np.finfo(np.float32).max):
        shape = describe_value(value) if not isinstance(value, float) or math.isfinite(value) else "not finite"
        raise FolderError(f"{path}: the weight of {shorten(what)!r} is {shape}", "give numbers")
    return float(value)
