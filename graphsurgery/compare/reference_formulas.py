"""Formulas that reference operators share, in the type ``T`` of their inputs: see `reference_ops` for what is rounded when."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Array = np.ndarray


def product(x: Array, weights: Array) -> Array:
    """x W, summed in float32, rounded to T."""
    return (x.astype(np.float32) @ weights.astype(np.float32)).astype(x.dtype)


def gelu(x: Array) -> Array:
    """x / 2 (1 + erf(x / sqrt 2)), rounded to T at the end."""
    wide = x.astype(np.float64)
    errors = np.array([math.erf(one) for one in (wide / math.sqrt(2)).ravel()]).reshape(x.shape)
    return (wide / 2 * (1 + errors)).astype(x.dtype)


def layer_norm(x: Array, gamma: Array, beta: Array | None, epsilon: float) -> tuple[Array, Array, Array]:
    """Over the last axis, in float32; the result in T, mean and 1 / deviation in float32."""
    wide = x.astype(np.float32)
    mean = wide.mean(axis=-1, keepdims=True)
    inverse = 1 / np.sqrt(((wide - mean) ** 2).mean(axis=-1, keepdims=True) + np.float32(epsilon))
    normed = (wide - mean) * inverse * gamma.astype(np.float32)
    return (normed if beta is None else normed + beta.astype(np.float32)).astype(x.dtype), mean, inverse


def rms_norm(x: Array, scale: Array, epsilon: float, axes: Sequence[int] = (-1,)) -> tuple[Array, Array]:
    """Over ``axes``, in float32; the result in the scale's type, and 1 / the root of the mean square in float32."""
    wide = x.astype(np.float32)
    inverse = 1 / np.sqrt((wide * wide).mean(axis=tuple(axes), keepdims=True) + np.float32(epsilon))
    return (wide * inverse * scale.astype(np.float32)).astype(scale.dtype), inverse
