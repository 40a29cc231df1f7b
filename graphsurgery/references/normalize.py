"""add-normalize: vectors of length one."""

from __future__ import annotations

import numpy as np

from graphsurgery.references.reference import UNIT, Array, Expected, Known, Parameters, Reference, declare_float_target
from graphsurgery.references.rounding import EPSILON, propagate_through_sum, widen_tolerance

OWN = 4 * EPSILON
"""The rounding of a float32 norm of many dims and of the division by it, as a share of a unit vector's values."""


def normalize(x: Array) -> Array:
    """x / max(norm2(x), 1e-12) over the last dim, float64. Source: torch.nn.functional.normalize."""
    x = np.asarray(x, dtype=np.float64)
    return x / np.maximum(np.sqrt(np.sum(np.square(x), axis=-1, keepdims=True)), 1e-12)


def expect_unit_vectors(x: Array, rounding: Array) -> Expected:
    """x normalised, to be met to 1e-6, or to what ``rounding`` in x becomes when the vectors are brought to length one."""
    norm, y = np.sqrt(np.sum(np.square(x), axis=-1, keepdims=True)), normalize(x)
    errors = np.divide(rounding, norm, out=np.zeros(x.shape), where=(rounding > 0) & (norm > 0))
    own, grown = OWN * np.abs(y), errors + np.abs(y) * propagate_through_sum(np.abs(y) * errors)
    return Expected(y, widen_tolerance(UNIT, own, grown), own + grown, promised=UNIT)


def _compute(parameters: Parameters, known: Known) -> list[Expected]:
    return [expect_unit_vectors(known[parameters["target"]], known.get_rounding(parameters["target"]))]


REFERENCE = Reference(lambda p: [p["target"]], lambda p: [p["target"]], _compute, declare_float_target)
