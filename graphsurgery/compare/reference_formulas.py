"""Formulas that the reference operators share, in the type ``T`` of their inputs. `reference_ops` says what is rounded when.

Shapes in attention: queries ``[batch, heads, seq, size]``, keys and values ``[batch, heads, total, size]``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphsurgery.errors import UnsupportedModelError

Array = np.ndarray


def multiply(x: Array, weights: Array) -> Array:
    """Return x W, summed in float32 and rounded to T."""
    return (x.astype(np.float32) @ weights.astype(np.float32)).astype(x.dtype)


def gelu(x: Array) -> Array:
    """Return x / 2 (1 + erf(x / sqrt 2)), rounded to T at the end."""
    wide = x.astype(np.float64)
    errors = np.array([math.erf(one) for one in (wide / math.sqrt(2)).ravel()]).reshape(x.shape)
    return (wide / 2 * (1 + errors)).astype(x.dtype)


def layer_norm(x: Array, gamma: Array, beta: Array | None, epsilon: float) -> tuple[Array, Array, Array]:
    """Normalise over the last axis in float32. Return the result in T, the mean and 1 / deviation in float32."""
    wide = x.astype(np.float32)
    mean = wide.mean(axis=-1, keepdims=True)
    inverse = 1 / np.sqrt(((wide - mean) ** 2).mean(axis=-1, keepdims=True) + np.float32(epsilon))
    normed = (wide - mean) * inverse * gamma.astype(np.float32)
    return (normed if beta is None else normed + beta.astype(np.float32)).astype(x.dtype), mean, inverse


def rms_norm(x: Array, scale: Array, epsilon: float, axes: Sequence[int] = (-1,)) -> tuple[Array, Array]:
    """Normalise over ``axes`` in float32. Return the result in the scale's type, and 1 / root mean square in float32."""
    wide = x.astype(np.float32)
    inverse = 1 / np.sqrt((wide * wide).mean(axis=tuple(axes), keepdims=True) + np.float32(epsilon))
    return (wide * inverse * scale.astype(np.float32)).astype(scale.dtype), inverse


FILL = -10000.0
"""The number that is added to masked scores if the attribute mask_filter_value is left out."""


def split_heads(x: Array, heads: int) -> Array:
    """Return ``[batch, seq, heads * size]`` as ``[batch, heads, seq, size]``."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def apply_attention(weights: Array, values: Array) -> Array:
    """Return ``weights [batch, heads, seq, total]`` times values, summed in float32, as ``[batch, seq, heads * size]``."""
    mixed = (weights.astype(np.float32) @ values.astype(np.float32)).astype(values.dtype)
    return mixed.transpose(0, 2, 1, 3).reshape(mixed.shape[0], mixed.shape[2], -1)


def make_attention_mask(mask: Array | None, length: int, total: int, options: Mapping[str, Any]) -> Array:
    """Return the numbers that are added to the scores, float32, broadcasting to ``[batch, heads, seq, total]``.

    ``mask``: int, ``[batch, total]`` or ``[batch, seq, total]``, or ``[batch]`` numbers of tokens at the start of each row.
    """
    fill = np.float32(options.get("mask_filter_value", FILL))
    added = np.zeros((1, 1, length, total), dtype=np.float32)
    if mask is not None:
        added = added + np.where(_find_tokens(mask, total), np.float32(0), fill)
    if options.get("unidirectional", 0):
        later = np.arange(total)[None, :] > np.arange(length)[:, None] + (total - length)
        added = np.where(later, np.finfo(np.float32).min, added)
    return added


def compute_attention_weights(query: Array, key: Array, added: Array, bias: Array | None, options: Mapping[str, Any]) -> Array:
    """Return softmax(q kT scale + added + bias), ``[batch, heads, seq, total]``.

    Scores and weights are rounded to T; the softmax is computed in float32.
    """
    scale = np.float32(options.get("scale", 0) or 1 / math.sqrt(query.shape[-1]))
    scores = (query.astype(np.float32) @ key.astype(np.float32).swapaxes(-1, -2) * scale).astype(query.dtype)
    masked = scores.astype(np.float32) + (added if bias is None else added + bias.astype(np.float32))
    powers = np.exp(masked - masked.max(axis=-1, keepdims=True))
    return (powers / powers.sum(axis=-1, keepdims=True)).astype(query.dtype)


def rotate(x: Array, cosines: Array, sines: Array, interleaved: bool) -> Array:
    """Rotate the first ``2 * cosines.shape[-1]`` numbers of each head and keep the rest. Each product and sum is in T."""
    size = 2 * cosines.shape[-1]
    turning, rest = x[..., :size], x[..., size:]
    pairs = (turning[..., 0::2], turning[..., 1::2]) if interleaved else np.split(turning, 2, axis=-1)
    first, second = pairs[0] * cosines - pairs[1] * sines, pairs[1] * cosines + pairs[0] * sines
    if interleaved:
        turned = np.stack((first, second), axis=-1).reshape(turning.shape)
    else:
        turned = np.concatenate((first, second), axis=-1)
    return np.concatenate((turned, rest), axis=-1)


def _find_tokens(mask: Array, total: int) -> Array:
    """Return where tokens are, bool, broadcasting to ``[batch, heads, seq, total]``."""
    if mask.ndim == 1:
        return (np.arange(total)[None, :] < mask[:, None])[:, None, None, :]
    if mask.ndim == 2 and mask.shape[1] == total:
        return (mask > 0)[:, None, None, :]
    if mask.ndim == 3:
        return (mask > 0)[:, None]
    raise UnsupportedModelError(f"the reference attention takes no mask of shape {list(mask.shape)}")
