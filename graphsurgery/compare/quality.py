"""How much of a model's quality a lossy candidate keeps, by the vectors that both give to the same texts.

``r_i`` and ``c_i`` are the vectors of text ``i`` by the reference and by the candidate, ``cos(x, y) = x y / (|x| |y|)``:

    cosine of text i           cos(r_i, c_i)
    similarities               R_ij = cos(r_i, r_j),  C_ij = cos(c_i, c_j)   for every two texts i != j
    neighbours of text i       the top_k texts j with the largest R_ij; the candidate's by C_ij
    rank                       Spearman's correlation of R_ij and C_ij over all pairs i < j: Pearson's, of their ranks
                               (C. Spearman, "The Proof and Measurement of Association between Two Things", 1904)

Similarities are rounded to `DECIMALS`, because float32 vectors are no more exact, and equal ones are ties. Tied pairs share
their average rank. If texts tie for the last place among the reference's neighbours, each of them counts as a neighbour. If the
candidate's texts tie, each counts by its chance of getting one of the places that are left. So a candidate that gives all texts
the same vector keeps ``top_k / (texts - 1)`` of the neighbours, as many as by chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphsurgery.compare.tolerance import NARROW
from graphsurgery.compare.vectors import compute_cosines, compute_similarities
from graphsurgery.errors import RequestError
from graphsurgery.report import Check, Figure, Verdict

Array = np.ndarray
TOP_K = 10
"""The number of neighbours of each text, if no other is asked for."""
MOST_PAIRED = 1500
"""At most this many texts are compared with each other: 1,500 texts have 1.1 million pairs."""
DECIMALS = 6
"""Similarities that agree to this many decimals tie."""
EXACT = 12
"""Means of shares are rounded to this many decimals, so that the sum of three thirds is one."""
BEYOND = 2
"""The texts needed beyond ``top_k``: the text itself, and one that is not a neighbour, so that neighbours can be wrong."""


@dataclass(frozen=True)
class Quality:
    """How near the vectors of a candidate come to those of a reference, over all texts."""

    texts: int
    worst: float
    """The smallest cosine between a text's two vectors."""
    first_percentile: float
    """The cosine that one text in a hundred does not reach, interpolated between the two nearest."""
    mean: float
    """The mean cosine."""
    neighbours: float
    """The share of a text's ``top_k`` neighbours that reference and candidate have in common, the mean over all texts."""
    rank: float
    """Spearman's rank correlation of the similarities of all pairs. 0 if the candidate gives all pairs the same similarity."""
    worst_text: int
    """The index of the text with the smallest cosine."""
    top_k: int
    paired: int
    """The number of texts whose neighbours and ranks were compared: all, or `MOST_PAIRED` of them, evenly spaced."""
    not_finite: int = 0
    """The candidate's vectors that hold NaN or infinity. Their cosine counts as -1, and they resemble no other text."""

    def __str__(self) -> str:
        parts = [
            f"worst cosine {self.worst:.6f}, first percentile {self.first_percentile:.6f}, mean {self.mean:.6f}",
            f"{self.neighbours:.1%} of the {self.top_k} nearest neighbours kept", f"rank correlation {self.rank:.6f}",
        ]  # fmt: skip
        parts += [f"{self.not_finite} vectors are not finite"] if self.not_finite else []
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return {
            "texts": self.texts, "worst": self.worst, "first_percentile": self.first_percentile, "mean": self.mean,
            "neighbours": self.neighbours, "rank": self.rank, "worst_text": self.worst_text, "top_k": self.top_k,
            "paired": self.paired, "not_finite": self.not_finite,
        }  # fmt: skip


@dataclass(frozen=True)
class QualityBudget:
    """The lowest quality that a user accepts. A figure without a bound is shown but not judged."""

    min_cosine: float | None = None
    """The least `Quality.worst`."""
    min_overlap: float | None = None
    """The least `Quality.neighbours`."""
    rank: float | None = None
    """The least `Quality.rank`."""
    top_k: int = TOP_K

    def __post_init__(self) -> None:
        """Raise RequestError for bounds outside of what the figures can be: every candidate or none would meet them."""
        for option, value, lowest in (
            ("--min-cosine", self.min_cosine, -1), ("--min-overlap", self.min_overlap, 0), ("--rank", self.rank, -1),
        ):  # fmt: skip
            if value is not None and not lowest <= value <= 1:
                raise RequestError(
                    f"{option} must be between {lowest} and 1, got {value}", f"give a number such as {option} 0.99"
                )
        _require_top_k(self.top_k)


def measure_quality(reference: Array, candidate: Array, top_k: int = TOP_K) -> Quality:
    """Measure how near ``candidate`` comes to ``reference``. Both hold the vectors of the same texts, ``[texts, dim]`` numbers.

    The cosines cover all texts. Neighbours and rank cover all pairs of up to `MOST_PAIRED` texts; of more texts, that many,
    evenly spaced, are paired. A vector of the candidate that is zero has the cosine 0 to the reference's, and one that is not
    finite has the cosine -1.

    Raises RequestError if the shapes differ or are not ``[texts, dim]``, for vectors of one or two numbers (their
    direction says little), for fewer than ``top_k + 2`` texts (all other texts would be neighbours of each), if a vector of the
    reference is zero or not finite, and if the reference gives all pairs the same similarity.
    """
    _require_top_k(top_k)
    wanted, found = np.asarray(reference), np.asarray(candidate)
    _require_matrices(wanted, found, top_k)
    wanted, found = wanted.astype(np.float64), found.astype(np.float64)
    _require_directions(wanted)
    sound = np.isfinite(found).all(axis=1)
    found = np.where(sound[:, None], found, 0.0)
    cosines = np.where(sound, compute_cosines(wanted, found), -1.0)
    cosines[(wanted == found).all(axis=1)] = 1.0  # without rounding, so that a file meets every budget against itself
    paired = np.arange(len(wanted))
    if len(paired) > MOST_PAIRED:
        paired = np.rint(np.linspace(0, len(wanted) - 1, MOST_PAIRED)).astype(np.int64)
    before, after = (np.round(compute_similarities(side[paired], side[paired]), DECIMALS) for side in (wanted, found))
    return Quality(
        len(wanted), float(cosines.min()), float(np.percentile(cosines, 1)), float(cosines.mean()),
        _compare_neighbours(before, after, top_k), _correlate_ranks(before, after), int(cosines.argmin()), top_k, len(paired),
        int((~sound).sum()),
    )  # fmt: skip


def judge_quality(quality: Quality, budget: QualityBudget, name: str, detail: str) -> Check:
    """Return the check ``name`` of ``quality`` against ``budget``. It has FAILED, too, if a vector is not finite."""
    texts = quality.texts
    figures = (
        Figure("worst cosine", quality.worst, texts, budget.min_cosine),
        Figure("first percentile of the cosines", quality.first_percentile, texts),
        Figure("mean cosine", quality.mean, texts),
        Figure(f"share of the {quality.top_k} nearest texts in common", quality.neighbours, quality.paired, budget.min_overlap),
        Figure("rank correlation of the similarities", quality.rank, quality.paired, budget.rank),
    )
    if quality.not_finite:
        what = f"{detail}; {quality.not_finite} of {texts} vectors are not finite, and the source's are"
        return Check(name, what, stated=Verdict.FAILED, figures=figures)
    return Check(name, detail, figures=figures)


def _require_top_k(top_k: int) -> None:
    if isinstance(top_k, bool) or not isinstance(top_k, int | np.integer) or top_k < 1:
        raise RequestError(f"--top-k must be a whole number of 1 or more, got {top_k!r}", f"give a number such as {TOP_K}")


def _require_matrices(wanted: Array, found: Array, top_k: int) -> None:
    """Raise RequestError unless both arrays have one shape ``[texts, dim]``, with more than two dims, and enough texts."""
    if wanted.shape != found.shape:
        raise RequestError(
            f"the reference's vectors are {list(wanted.shape)} and the candidate's {list(found.shape)}",
            "compare the vectors of the same texts, of the same width",
        )
    if wanted.ndim != 2 or wanted.dtype.kind not in "iuf" or found.dtype.kind not in "iuf":
        raise RequestError(f"{wanted.dtype} {list(wanted.shape)} are not vectors of texts", "give numbers [texts, dim]")
    if wanted.shape[1] <= NARROW:
        raise RequestError(
            f"the vectors have {wanted.shape[1]} number(s) each, and so few have no telling direction",
            "compare scores number by number: verify --atol",
        )
    if len(wanted) < top_k + BEYOND:
        raise RequestError(
            f"{len(wanted)} text(s) are too few: with {top_k} neighbours each, every other text would be a neighbour of each",
            f"give {top_k + BEYOND} texts or more, or a smaller --top-k",
        )


def _require_directions(wanted: Array) -> None:
    """Raise RequestError if a vector of the reference is not finite or zero, because nothing can be compared with it."""
    for what, wrong in (("not finite", ~np.isfinite(wanted).all(axis=1)), ("zero", ~wanted.any(axis=1))):
        if wrong.any():
            raise RequestError(
                f"{int(wrong.sum())} of the reference's {len(wanted)} vectors are {what}; the first is that of text "
                f"{int(wrong.argmax())}, counted from 0",
                "leave these texts out, or look at the reference first",
            )


def _compare_neighbours(before: Array, after: Array, top_k: int) -> float:
    """Return the mean share of neighbours that two matrices of similarities ``[n, n]`` have in common."""
    near, tied, places = _find_neighbours(before, top_k)
    theirs, shared, left = _find_neighbours(after, top_k)
    chance = theirs + shared * (left / shared.sum(axis=1))[:, None]  # of each text to be among the candidate's neighbours
    common = (chance * near).sum(axis=1) + np.minimum(places, (chance * tied).sum(axis=1))
    return float(np.round(common.mean() / top_k, EXACT))


def _find_neighbours(similarities: Array, top_k: int) -> tuple[Array, Array, Array]:
    """Return the texts nearer to each text than its ``top_k``-th neighbour, and those as near as it, each ``[n, n]`` bool, and
    how many neighbours there are among the latter, ``[n]``."""
    others = similarities.copy()
    np.fill_diagonal(others, -np.inf)
    last = np.partition(others, -top_k, axis=1)[:, -top_k][:, None]
    near = others > last
    return near, others == last, top_k - near.sum(axis=1)


def _correlate_ranks(before: Array, after: Array) -> float:
    """Return Spearman's rank correlation of two matrices of similarities ``[n, n]`` above their diagonals.

    It is 0 if all of ``after`` tie. Raises RequestError if all of ``before`` do.
    """
    above = np.triu_indices(len(before), 1)
    one, other = (_rank(side[above]) for side in (before, after))
    one, other = one - one.mean(), other - other.mean()
    if not one.any():
        raise RequestError(
            "the reference gives all pairs of texts the same similarity, so there is no order to keep",
            "give texts that differ",
        )
    lengths = np.sqrt((one @ one) * (other @ other))
    return float(np.clip(one @ other / lengths, -1, 1)) if lengths else 0.0


def _rank(values: Array) -> Array:
    """Return the rank of each of ``values [n]``, from 1. Equal values share the average of their ranks."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]
