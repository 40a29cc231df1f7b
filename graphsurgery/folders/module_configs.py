"""The configs of modules, each found beside the module's weights."""

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
    """(the path of ``name`` beside ``place``, a module folder or a file in it; the config at it, None where there is none).

    FolderError when it cannot be read.
    """
    folder = place if is_folder(place) else place.parent
    if not is_there(folder / name):
        return folder / name, None
    path = resolve_inside(folder, name, str(folder))
    return path, read_json(path, largest=largest)


def check_setting(config: dict[str, Any] | None, key: str, found: object, path: Path) -> None:
    """FolderError where the config says another ``key`` than the weights, which have ``found``; it may leave it out."""
    said = (config or {}).get(key)
    if said is not None and said != found:
        what = f"{path} says {key}: {shorten(str(said))}, and the weights beside it have {found}"
        raise FolderError(what, DOWNLOAD)


IDENTITY, TANH = "identity", "tanh"
CONFIG, RESIDUAL = "config.json", "use_residual"


@dataclass(frozen=True)
class DenseConfig:
    """``activation`` as the config names it; ``residual``: whether the input is added to the result; ``named``: whether there
    is a config."""

    activation: str = IDENTITY
    residual: bool = False
    named: bool = False


def read_dense_config(weights: Path) -> DenseConfig:
    """The config.json beside ``weights``, a module folder or a file in it; identity without residual where there is none.

    A config without activation means what it means to the class that reads it: Tanh to sentence-transformers' Dense, Identity
    to PyLate's (it alone writes ``use_residual``). A config that says nothing of a Dense module, such as the transformer's own,
    is none. FolderError when it cannot be read.
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
    """``weights [vocabulary]`` float32 by token id, ``unknown`` that of a word without one, and the file that says so."""

    path: Path
    weights: np.ndarray
    unknown: float


def read_word_weights(place: Path) -> WordWeights:
    """The weights in ``place``, a module folder or its config.json; FolderError when they cannot be read.

    A word's weight is ``word_weights[word]``, else ``word_weights[word.lower()]``, else ``unknown_word_weight``.
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
    """``value`` as a number that float32 holds; FolderError otherwise."""
    if isinstance(value, bool) or not isinstance(value, Number) or not abs(value) <= float(np.finfo(np.float32).max):
        shape = describe_value(value) if not isinstance(value, float) or math.isfinite(value) else "not finite"
        raise FolderError(f"{path}: the weight of {shorten(what)!r} is {shape}", "give numbers")
    return float(value)
