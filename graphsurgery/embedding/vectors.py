"""Convert vectors: fewer dims, length one, smaller numbers. Compute the similarities of vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from graphsurgery.compare.vectors import compute_similarities
from graphsurgery.errors import RequestError

Array = np.ndarray
HALF, SIGNED, UNSIGNED, BITS, SIGNED_BITS = "float16", "int8", "uint8", "ubinary", "binary"
PRECISIONS: Mapping[str, type[np.generic]] = {
    "float32": np.float32, HALF: np.float16, SIGNED: np.int8, UNSIGNED: np.uint8, SIGNED_BITS: np.int8, BITS: np.uint8,
}  # fmt: skip
"""The type of the numbers of each precision, by its name in sentence-transformers' ``quantize_embeddings``."""
BY_RANGES = (SIGNED, UNSIGNED)
"""The precisions that need the ranges of the dims."""
LEVELS = 255
MORE_DIMS = "leave dims out, or give a smaller number"
SMALLEST = 1e-12
"""The least length that a vector is divided by, as in ``torch.nn.functional.normalize``."""


def normalize(vectors: Array) -> Array:
    """Return ``vectors [n, dim]`` scaled to length one, in their own type: ``x / max(norm2(x), 1e-12)``."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, SMALLEST)).astype(vectors.dtype)


def cut_dims(vectors: Array, dims: int, is_normalized: bool, output: str) -> Array:
    """Return the first ``dims`` of each of ``vectors [n, dim]`` (Matryoshka), ``[n, dims]``.

    If ``is_normalized``, they are scaled to length one again. Raises RequestError, which names ``output``, if ``dims`` is not
    between 1 and ``dim``, or if the vectors are not floats.
    """
    if not 1 <= dims <= vectors.shape[1] or vectors.dtype.kind != "f":
        raise RequestError(f"{dims} dims were asked for, and {output} has {vectors.shape[1]} ({vectors.dtype})", MORE_DIMS)
    kept = np.ascontiguousarray(vectors[:, :dims])
    return normalize(kept) if dims < vectors.shape[1] and is_normalized else kept


def convert(vectors: Array, precision: str, ranges: Array | None = None) -> Array:
    """Return ``vectors [n, dim]`` float32 in a precision of `PRECISIONS`. Bits are packed, eight dims to a byte.

    For int8 and uint8, ``ranges [2, dim]`` are the least and the greatest value of each dim. A number becomes
    ``floor((x - least) / step)`` with ``step = (greatest - least) / 255``, less 128 if the type is signed. For bits, a bit is
    ``x > 0``; the first of eight dims is the highest bit of its byte; a signed byte is less by 128. This is what
    sentence-transformers' ``quantize_embeddings`` computes.

    Raises RequestError if the precision is unknown, or if ``ranges`` are missing, have another width, or are given for a
    precision that takes none.
    """
    if precision not in PRECISIONS:
        raise RequestError(f"there is no precision {precision!r}", f"choose from {', '.join(PRECISIONS)}")
    if (ranges is not None) != (precision in BY_RANGES):
        what = "needs the range of each dim" if ranges is None else "takes no ranges"
        raise RequestError(
            f"the precision {precision} {what}", "ranges are numpy.vstack((x.min(0), x.max(0))) of embeddings x of your own"
        )
    if precision in BY_RANGES:
        levels = _find_levels(vectors, np.asarray(ranges, dtype=np.float32))
    elif precision in (BITS, SIGNED_BITS):
        levels = np.packbits(vectors > 0, axis=-1).astype(np.int16)
    else:
        return vectors.astype(PRECISIONS[precision])
    return (levels - (128 if precision in (SIGNED, SIGNED_BITS) else 0)).astype(PRECISIONS[precision])


def _find_levels(vectors: Array, ranges: Array) -> Array:
    if ranges.shape != (2, vectors.shape[1]) or not np.all(np.isfinite(ranges)):
        raise RequestError(
            f"the ranges are {list(ranges.shape)}, and the vectors have {vectors.shape[1]} dims", "give finite ranges [2, dims]"
        )
    least, greatest = ranges
    step = (greatest - least) / LEVELS
    step[step == 0] = 1
    return np.clip(np.floor((vectors - least) / step), 0, LEVELS).astype(np.int16)


def compute_cosine(one: Array, other: Array) -> Array:
    """Return the cosines, ``[n, dim], [m, dim] -> [n, m]``. Computed in float64, so that a vector's with itself is 1."""
    cosines = compute_similarities(one.astype(np.float64), other.astype(np.float64))
    return cosines.astype(np.result_type(one, other, np.float16))


def compute_dot(one: Array, other: Array) -> Array:
    """Return the dot products, ``[n, dim], [m, dim] -> [n, m]``."""
    return one @ other.T


def compute_euclidean(one: Array, other: Array) -> Array:
    """Return the negated Euclidean distances, ``[n, dim], [m, dim] -> [n, m]``: a larger number is more similar."""
    squares = (one.astype(np.float64) ** 2).sum(1)[:, None] + (other.astype(np.float64) ** 2).sum(1)
    return -np.sqrt(np.maximum(squares - 2 * one.astype(np.float64) @ other.T.astype(np.float64), 0)).astype(one.dtype)


def compute_manhattan(one: Array, other: Array) -> Array:
    """Return the negated sums of absolute differences, ``[n, dim], [m, dim] -> [n, m]``: a larger number is more similar."""
    return -np.stack([np.abs(row - other).sum(1) for row in one]) if len(one) else np.zeros((0, len(other)), one.dtype)


SIMILARITIES: Mapping[str, Callable[[Array, Array], Array]] = {
    "cosine": compute_cosine, "dot": compute_dot, "euclidean": compute_euclidean, "manhattan": compute_manhattan,
}  # fmt: skip
"""Similarities ``[n, dim], [m, dim] -> [n, m]``, by their names in sentence-transformers' configs."""
