"""What a model in half precision loses against the float32 one, in two opinions.

ONNX Runtime's CPU provider computes some operators of a float16 file in float32, and has none for most of bfloat16's. So a few
rows are computed by onnx's reference evaluator besides, each operator in the type that the file says (see `reference_ops`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from graphsurgery.compare.reference_ops import evaluator
from graphsurgery.compare.vectors import cosines, vectors_at_tokens
from graphsurgery.encoder.roles import roles_of
from graphsurgery.errors import GraphSurgeryError, RequestError, UnsupportedModelError
from graphsurgery.graph.element_types import FLOAT, HALVES
from graphsurgery.interface import Value, interface_of
from graphsurgery.runtime.lent_session import opened
from graphsurgery.runtime.session import first_line

Array = np.ndarray
Feed = Mapping[str, Array]
RUNTIME, REFERENCE = "ONNX Runtime", "onnx's reference"
SUSPECT = 0.05
"""A relative loss from which it is asked whether the evaluator itself is at fault."""
FEW = 8
"""Rows that the reference evaluator computes, which is slow."""


@dataclass(frozen=True)
class Loss:
    """How far apart vectors are, over all of them.

    Where the candidate has a number that is not finite where the float32 model's is, ``not_finite`` counts them, the distances
    are infinite and the cosines -1: no limit lets that pass.
    """

    vectors: int
    max_abs: float
    relative: float
    """Square root of the squared distances' sum over the squared lengths' sum."""
    min_cosine: float
    mean_cosine: float
    not_finite: int = 0
    skipped: int = 0
    """Vectors that are not finite in float32 already."""

    def __str__(self) -> str:
        if self.not_finite:
            return f"{self.not_finite} numbers are not finite"
        return f"max|x - x'| {self.max_abs:.2g}, cosine {self.min_cosine:.7f} at least, {self.mean_cosine:.7f} on average"

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data; infinite distances are None."""
        return {
            "vectors": self.vectors, "max_abs_diff": self.max_abs if np.isfinite(self.max_abs) else None,
            "relative": self.relative if np.isfinite(self.relative) else None, "min_cosine": self.min_cosine,
            "mean_cosine": self.mean_cosine, "not_finite": self.not_finite, "skipped": self.skipped,
        }  # fmt: skip


@dataclass(frozen=True)
class Opinion:
    """What one engine says; ``loss`` is None where it could not say anything, and ``why`` tells why."""

    engine: str
    loss: Loss | None
    why: str = ""

    def __str__(self) -> str:
        return f"{self.engine}: {self.loss if self.loss is not None else f'not measured ({self.why})'}"

    def to_json(self) -> dict[str, Any]:
        return {"engine": self.engine, "loss": self.loss.to_json() if self.loss else None, "why": self.why or None}


def measured(
    wanted: Sequence[Array], found: Sequence[Array], tokens: Sequence[Array | None] | None = None, center: float | None = None
) -> Loss:
    """The loss of ``found`` against ``wanted``, one array ``[..., dim]`` for each feed; vectors lie along the last axis.
    Scores, ``[..., 1]``, have no direction: all of them, less ``center`` (their mean when None), are one vector.

    ``tokens``: bool, for each feed the vectors that count (``[batch, seq]``, say), or None for all.
    RequestError where shapes differ, or where there is nothing to compare.
    """
    if any(one.shape != other.shape for one, other in zip(wanted, found, strict=True)):
        raise RequestError(f"shapes differ: {[one.shape for one in found]} instead of {[one.shape for one in wanted]}")
    chosen = list(tokens) if tokens is not None else [None] * len(wanted)
    expected, given = _vectors(wanted, chosen), _vectors(found, chosen)
    sound = np.isfinite(expected).all(axis=-1)
    expected, given, skipped = expected[sound], given[sound], int((~sound).sum())
    if expected.shape[-1] == 1:
        middle = float(expected.mean()) if center is None else center
        expected, given = ((one - (middle if (expected != middle).any() else 0.0)).T for one in (expected, given))
    if not expected.size:
        raise RequestError("there is nothing to compare", "give feeds with tokens on which the float32 model is finite")
    broken = int((~np.isfinite(given)).sum())
    if broken:
        return Loss(len(expected), np.inf, np.inf, -1.0, -1.0, broken, skipped)
    apart = given - expected
    angles = np.nan_to_num(cosines(expected, given), nan=1.0)
    squares, distance = float(np.square(expected).sum()), float(np.square(apart).sum())
    relative = float(np.sqrt(distance / squares)) if squares else np.inf if distance else 0.0
    return Loss(len(expected), float(np.abs(apart).max()), relative, float(angles.min()), float(angles.mean()), skipped=skipped)


def opinions(
    source: onnx.ModelProto, candidate: onnx.ModelProto, feeds: Sequence[Feed], rows: int = FEW, cannot_run: str | None = None
) -> tuple[Opinion, Opinion]:
    """The loss of ``candidate`` against ``source`` (in float32, by ONNX Runtime), by ONNX Runtime on all feeds and by the
    reference evaluator on the first ``rows`` of the first: over the first float32 output, at tokens.

    ``cannot_run``: why ONNX Runtime is not to run the candidate. The evaluator has no opinion where it is as far off in float32
    already, as for a few operators that it reads otherwise.

    Raises RequestError without feeds, UnsupportedModelError where ``source`` cannot be run or has no float32 output. Where an
    engine cannot run the candidate, gives other shapes, or leaves nothing to compare, its opinion has no loss: whoever judges
    needs one that has.
    """
    if not feeds:
        raise RequestError("there is nothing to measure a loss on", "give one feed or more")
    output = next((one.name for one in source.graph.output if one.type.tensor_type.elem_type == FLOAT), None)
    if output is None:
        raise UnsupportedModelError("the model has no float32 output to measure a loss at")
    mask = roles_of(interface_of(source.graph)).mask
    few = [_first_rows(feeds[0], rows)]
    session = opened(source)
    wanted = [session.run(feed, [output])[output] for feed in (*feeds, *few)]
    del session

    center = _mean(wanted)

    def opinion(engine: str, some: Sequence[Feed], expected: Sequence[Array], run: Callable[[], list[Array]]) -> Opinion:
        masks = [tokens_of(feed, mask) for feed in some]
        try:
            return Opinion(engine, measured(expected, run(), masks, center))
        except GraphSurgeryError as error:
            return Opinion(engine, None, str(error))

    told = opinion(REFERENCE, few, wanted[-1:], lambda: by_reference(candidate, few, output))
    if told.loss is not None and told.loss.relative > SUSPECT:
        itself = opinion(REFERENCE, few, wanted[-1:], lambda: by_reference(source, few, output))
        if itself.loss is None or itself.loss.relative > told.loss.relative / 2:
            told = Opinion(REFERENCE, None, "the evaluator does not give what ONNX Runtime gives in float32 already")
    if cannot_run is not None:
        return Opinion(RUNTIME, None, cannot_run), told
    return opinion(RUNTIME, feeds, wanted[:-1], lambda: by_runtime(candidate, feeds, output)), told


def _mean(arrays: Sequence[Array]) -> float:
    """Of all finite numbers."""
    numbers = np.concatenate([one[np.isfinite(one)].ravel().astype(np.float64) for one in arrays])
    return float(numbers.mean()) if numbers.size else 0.0


def by_runtime(model: onnx.ModelProto, feeds: Sequence[Feed], output: str) -> list[Array]:
    """An output on every feed, by ONNX Runtime on the CPU. UnsupportedModelError where it cannot."""
    session = opened(model)
    return [session.run(feed, [output])[output] for feed in feeds]


def by_reference(model: onnx.ModelProto, feeds: Sequence[Feed], output: str) -> list[Array]:
    """An output on every feed, by onnx's reference evaluator. UnsupportedModelError where it cannot."""
    try:
        known = evaluator(model)
        return [np.asarray(known.run([output], _as_declared(model, feed))[0]) for feed in feeds]
    except GraphSurgeryError:
        raise
    except Exception as error:  # operators raise what they like
        raise UnsupportedModelError(f"onnx's reference evaluator cannot run the model: {first_line(error)}") from error


def _as_declared(model: onnx.ModelProto, feed: Feed) -> dict[str, Array]:
    """``feed``, its float32 arrays rounded where ``model`` takes a half type."""
    kinds = {info.name: info.type.tensor_type.elem_type for info in model.graph.input}
    halves = {name: onnx.helper.tensor_dtype_to_np_dtype(kind) for name, kind in kinds.items() if kind in HALVES}
    return {name: array.astype(halves[name]) if name in halves else array for name, array in feed.items()}


def _vectors(arrays: Sequence[Array], tokens: Sequence[Array | None]) -> Array:
    """Those that count, of all feeds: ``[vectors, dim]`` float64."""
    some = [vectors_at_tokens(one, chosen) for one, chosen in zip(arrays, tokens, strict=True)]
    rows = [one.astype(np.float64) for one in some if one.size]
    return np.concatenate(rows) if rows else np.zeros((0, 0))


def _first_rows(feed: Feed, rows: int) -> dict[str, Array]:
    """The first rows of every input, where all inputs have as many in all."""
    sizes = {array.shape[:1] for array in feed.values()}
    return {name: array[:rows] if len(sizes) == 1 and sizes != {()} else array for name, array in feed.items()}


def tokens_of(feed: Feed, mask: Value | None) -> Array | None:
    """Return where ``feed`` has tokens, ``[batch, seq]`` bool, as the input ``mask`` says; None where nothing says it."""
    given = feed[mask.name] != 0 if mask is not None and mask.name in feed else None
    return given if given is not None and given.ndim == 2 else None
