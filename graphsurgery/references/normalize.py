"""add-normalize: vectors of length one."""

from __future__ import annotations

import numpy as np

from graphsurgery.references.reference import UNIT, Array, Expected, Known, Parameters, Reference, float_target
from graphsurgery.references.rounding import EPSILON, allowed, total

OWN = 4 * EPSILON
"""The rounding of a float32 norm of many dims and of the division by it, as a share of a unit vector's values."""


def normalize(x: Array) -> Array:
    """x / max(norm2(x), 1e-12) over the last dim, float64. Source: torch.nn.functional.normalize."""
    x = np.asarray(x, dtype=np.float64)
    return x / np.maximum(np.sqrt(np.sum(np.square(x), axis=-1, keepdims=True)), 1e-12)


def unit(x: Array, rounding: Array) -> Expected:
    """x normalised, to be met to 1e-6, or to what ``rounding`` in x becomes when the vectors are brought to length one."""
    norm, y = np.sqrt(np.sum(np.square(x), axis=-1, keepdims=True)), normalize(x)
    errors = np.divide(rounding, norm, out=np.zeros(x.shape), where=(rounding > 0) & (norm > 0))
    own, grown = OWN * np.abs(y), errors + np.abs(y) * total(np.abs(y) * errors)
    return Expected(y, allowed(UNIT, own, grown), own + grown, promised=UNIT)


def _value(parameters: Parameters, known: Known) -> list[Expected]:
    return [unit(known[parameters["target"]], known.rounding(parameters["target"]))]


REFERENCE = Reference(lambda p: [p["target"]], lambda p: [p["target"]], _value, float_target)
