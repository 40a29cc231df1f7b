"""add-normalize: vectors of length one."""

from __future__ import annotations

import numpy as np

from graphsurgery.proof.meaning import UNIT, Array, Expected, Known, Meaning, Parameters, float_target
from graphsurgery.proof.rounding import EPSILON, beside, largest


def normalize(x: Array) -> Array:
    """x / max(norm2(x), 1e-12) over the last dim, float64. Source: torch.nn.functional.normalize."""
    x = np.asarray(x, dtype=np.float64)
    return x / np.maximum(np.sqrt(np.sum(np.square(x), axis=-1, keepdims=True)), 1e-12)


def unit(x: Array, rounding: Array) -> Expected:
    """x normalised, to be met to 1e-6 and what ``rounding [batch]`` becomes when the vectors are brought to length one."""
    norm = np.sqrt(np.sum(np.square(x), axis=-1, keepdims=True))
    rows = beside(rounding, x)
    grown = np.divide(rows, norm, out=np.zeros_like(norm), where=(rows > 0) & (norm > 0))
    return Expected(normalize(x), UNIT + grown, largest(grown) + EPSILON)


def _value(parameters: Parameters, known: Known) -> list[Expected]:
    return [unit(known[parameters["target"]], known.rounding(parameters["target"]))]


MEANING = Meaning({"target": str}, lambda p: [p["target"]], lambda p: [p["target"]], _value, float_target)
