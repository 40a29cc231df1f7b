"""The config of a WordWeights module: a weight for every word of the vocabulary, by the word's token id.

    {"vocab": ["[PAD]", "the", "Cat", ...], "word_weights": {"the": 0.1, "cat": 7.3, ...}, "unknown_word_weight": 1}

sentence-transformers builds the weights from this whenever it loads the module, and never from the weights file beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphsurgery.errors import FolderError
from graphsurgery.folders.files import DOWNLOAD, LARGEST_VOCABULARY, described, is_folder, read_json, setting
from graphsurgery.folders.module_config import module_config
from graphsurgery.model.parsing import shown

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
        path, config = module_config(place, NAME, LARGEST_VOCABULARY)
    else:
        path, config = place, read_json(place, largest=LARGEST_VOCABULARY)
    if config is None:
        raise FolderError(f"{place} has no {NAME}", DOWNLOAD)
    words, known = setting(config, "vocab", list, path), setting(config, "word_weights", dict, path)
    if not words or known is None or not all(isinstance(word, str) for word in words):
        raise FolderError(f"{path} has no list of words in vocab, or no word_weights", DOWNLOAD)
    unknown = _number(setting(config, "unknown_word_weight", (int, float), path, 1), "unknown_word_weight", path)
    found = [_weight(word, known, unknown, path) for word in words]
    return WordWeights(path, np.array(found, dtype=np.float32), unknown)


def _weight(word: str, known: dict[str, Any], unknown: float, path: Path) -> float:
    for form in (word, word.lower()):
        if form in known:
            return _number(known[form], form, path)
    return unknown


def _number(value: object, what: str, path: Path) -> float:
    """``value`` as a number that float32 holds; FolderError otherwise."""
    if isinstance(value, bool) or not isinstance(value, Number) or not abs(value) <= float(np.finfo(np.float32).max):
        shape = described(value) if not isinstance(value, float) or math.isfinite(value) else "not finite"
        raise FolderError(f"{path}: the weight of {shown(what)!r} is {shape}", "give numbers")
    return float(value)
