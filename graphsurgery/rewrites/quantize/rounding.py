"""Rounding a weight matrix to integers, one scale for each column.

    W [inner, outer] ~ Q * scale,  |Q| <= largest,  scale [outer]

Plain rounding takes the nearest integer. Compensated rounding goes through the rows of ``W`` one by one and corrects the rows
that are left, so that ``x Q scale`` is closest to ``x W`` on calibration data (Frantar et al. 2022, "GPTQ: Accurate
Post-Training Quantization for Generative Pre-trained Transformers", arXiv 2210.17323, with its order by activation).
"""

from __future__ import annotations

import numpy as np

DAMPING = 0.01
"""The share of the mean square of a channel that is added to every channel's, so that the moments can be inverted."""
BLOCK = 128
"""The rows that are corrected one by one before the rest is corrected at once."""


def compute_scales(weights: np.ndarray, largest: int) -> np.ndarray:
    """Return the scale of each column of ``weights [inner, outer]``, float32: its largest element becomes ``largest``."""
    most = np.abs(weights).max(axis=0)
    return np.where(most > 0, most / largest, 1.0).astype(np.float32)


def round_weights(weights: np.ndarray, largest: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest integers, ``[inner, outer]`` int8, and the scales, ``[outer]`` float32."""
    scales = compute_scales(weights, largest)
    return _round(weights, scales, largest).astype(np.int8), scales


def compensate_weights(weights: np.ndarray, moments: np.ndarray, largest: int) -> tuple[np.ndarray, np.ndarray]:
    """Return integers and scales as `round_weights` does, rounded with compensation for the ``moments [inner, inner]`` of x.

    Falls back to plain rounding where the moments cannot be inverted even with damping.
    """
    scales = compute_scales(weights, largest)
    order = np.argsort(-np.diag(moments), kind="stable")
    factor = _factorise(moments[np.ix_(order, order)])
    if factor is None:
        return round_weights(weights, largest)
    left = weights[order].astype(np.float64)
    made = np.empty_like(left)
    for start in range(0, len(left), BLOCK):
        end = min(start + BLOCK, len(left))
        errors = np.empty_like(left[start:end])
        for row in range(start, end):
            made[row] = _round(left[row], scales, largest)
            errors[row - start] = (left[row] - made[row] * scales) / factor[row, row]
            left[row + 1 : end] -= np.outer(factor[row, row + 1 : end], errors[row - start])
        left[end:] -= factor[start:end, end:].T @ errors
    integers = np.empty_like(made)
    integers[order] = made
    return integers.astype(np.int8), scales


def round_blocks(weights: np.ndarray, bits: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ``weights [inner, outer]`` in blocks of ``block`` rows with a scale each, as MatMulNBits stores them.

    Returns:
        The unsigned integers, ``[outer, blocks, block * bits / 8]`` uint8, with the middle as zero point and two of 4 bits in a
        byte, the first one low; and the scales, ``[outer, blocks]`` float32. Missing rows of the last block are zeros.
    """
    inner, outer = weights.shape
    blocks = -(-inner // block)
    rows = np.zeros((blocks * block, outer), np.float32)
    rows[:inner] = weights
    pieces = rows.T.reshape(outer, blocks, block)
    middle = 1 << (bits - 1)
    most = np.abs(pieces).max(axis=2)
    scales = np.where(most > 0, most / (middle - 1), 1.0).astype(np.float32)
    integers = (np.clip(np.rint(pieces / scales[..., None]), 1 - middle, middle - 1) + middle).astype(np.uint8)
    packed = integers if bits == 8 else (integers[..., ::2] | (integers[..., 1::2] << 4)).astype(np.uint8)
    return packed, scales


def _round(weights: np.ndarray, scales: np.ndarray, largest: int) -> np.ndarray:
    return np.clip(np.rint(weights / scales), -largest, largest)


def _factorise(moments: np.ndarray) -> np.ndarray | None:
    """Return the upper triangular ``U`` with ``U' U`` the inverse of the damped moments, or None if there is none."""
    mean = float(np.diag(moments).mean())
    damped = moments + max(DAMPING * mean, float(np.finfo(np.float32).tiny)) * np.eye(len(moments))
    try:
        inverse = np.linalg.inv(damped)
        factor = np.linalg.cholesky((inverse + inverse.T) / 2).T
    except np.linalg.LinAlgError:
        return None
    return factor if np.isfinite(factor).all() else None
