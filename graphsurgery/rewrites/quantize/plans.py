"""How each group of products is quantised: centre, divisors, range, and the integers of its matrices.

    x W + b  =  ((x - c) / s) (s W) + (c W + b)

The centre ``c`` and the divisors ``s``, one of each per channel, make the channels alike before rows are quantised. Divisors
move the outlying channels into the weights (Xiao et al. 2023, "SmoothQuant", arXiv 2211.10438, with the exponent 0.5), and a
centre takes out what is the same for all tokens (Wei et al. 2023, "Outlier Suppression+", arXiv 2304.09145).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphsurgery.rewrites.quantize.calibration import Sample
from graphsurgery.rewrites.quantize.rounding import compensate_weights, round_weights

EXPONENT = 0.5
"""How much of the spread of channels goes into the weights."""
LEAST = 1e-5
"""No divisor is smaller than this share of the largest, so that channels that are always zero stay harmless."""


@dataclass(frozen=True)
class Matrix:
    """One quantised matrix: ``s W ~ integers * scales``."""

    integers: np.ndarray
    """``[inner, outer]`` int8."""
    scales: np.ndarray
    """``[outer]`` float32."""
    bias: np.ndarray | None
    """``c W + b``, ``[outer]`` float32; None if there is neither."""


@dataclass(frozen=True)
class Plan:
    """How the products of one value are quantised."""

    center: np.ndarray | None
    """``c [inner]`` float32; None for zeros."""
    divisors: np.ndarray | None
    """``s [inner]`` float32; None for ones."""
    range: tuple[float, float] | None
    """The least and the largest element of ``(x - c) / s`` on calibration texts; None without calibration."""
    matrices: tuple[Matrix, ...]


def make_plan(
    weights: Sequence[np.ndarray], biases: Sequence[np.ndarray | None], sample: Sample | None, largest: int, *, equalise: bool
) -> Plan:
    """Return the plan for matrices ``[inner, outer]`` that multiply one value, with integers up to ``largest``.

    Args:
        sample: statistics of the value on calibration texts. Without them, weights are rounded to the nearest.
        equalise: whether to make the channels alike with a centre and divisors.
    """
    if sample is None:
        rounded = (round_weights(one, largest) for one in weights)
        return Plan(None, None, None, tuple(Matrix(*pair, bias) for pair, bias in zip(rounded, biases, strict=True)))
    inner = len(sample.low)
    center = ((sample.low + sample.high) / 2).astype(np.float32) if equalise else np.zeros(inner, np.float32)
    divisors = _choose_divisors(weights, sample.high - sample.low) if equalise else np.ones(inner, np.float32)
    wide = divisors.astype(np.float64)
    moments = sample.center_moments(center.astype(np.float64)) / np.outer(wide, wide)
    matrices = []
    for one, bias in zip(weights, biases, strict=True):
        integers, scales = compensate_weights(one * divisors[:, None], moments, largest)
        shift = (center.astype(np.float64) @ one.astype(np.float64)).astype(np.float32) if equalise else None
        matrices.append(Matrix(integers, scales, _add(bias, shift)))
    low, high = ((side - center) / divisors for side in (sample.low, sample.high))
    span = (float(low.min()), float(high.max()))
    return Plan(center if equalise else None, divisors if equalise else None, span, tuple(matrices))


def _choose_divisors(weights: Sequence[np.ndarray], spread: np.ndarray) -> np.ndarray:
    """Return ``s [inner]``: the root of how far each channel spreads over how large its weights are."""
    most = np.max([np.abs(one).max(axis=1) for one in weights], axis=0)
    known = np.where((most > 0) & (spread > 0), spread, 0.0) ** EXPONENT / np.where(most > 0, most, 1.0) ** EXPONENT
    floor = LEAST * float(known.max(initial=0.0))
    return np.maximum(known, floor if floor > 0 else 1.0).astype(np.float32)


def _add(bias: np.ndarray | None, shift: np.ndarray | None) -> np.ndarray | None:
    if bias is None or shift is None:
        return bias if shift is None else shift
    return (bias + shift).astype(np.float32)
