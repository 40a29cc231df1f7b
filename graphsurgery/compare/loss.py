"""How much a model in half precision loses against the float32 one, measured by two engines.

ONNX Runtime's CPU provider computes some operators of a float16 file in float32, and has no kernels for most operators in
bfloat16. So onnx's reference evaluator computes a few rows as well, as a second reference. It computes each operator in the
type that the file says (see `reference_ops`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from graphsurgery.compare.vectors import compute_cosines, select_vectors
from graphsurgery.encoder.roles import find_roles
from graphsurgery.errors import GraphSurgeryError, RequestError, UnsupportedModelError
from graphsurgery.graph.element_types import HALVES
from graphsurgery.interface import Value, read_interface
from graphsurgery.runtime.session import open_in_memory, summarize_error

Array = np.ndarray
Feed = Mapping[str, Array]
Outputs = Mapping[str, Array]
Run = Callable[[onnx.ModelProto, Sequence[Feed], Sequence[str]], list[Outputs]]
RUNTIME, REFERENCE = "ONNX Runtime", "onnx's reference"
SUSPECT = 0.05
"""From this relative loss on, the evaluator also runs the float32 model, to see whether the evaluator itself is at fault."""
FEW = 8
"""The number of rows that the reference evaluator computes. It is slow."""


@dataclass(frozen=True)
class Loss:
    """How far the vectors of two models are apart, over all vectors.

    ``not_finite`` counts the candidate's numbers that are not finite although the float32 model's are. If there are any, the
    distances are infinite and the cosines -1, so that no limit lets them pass.
    """

    vectors: int
    max_abs: float
    relative: float
    """The square root of the sum of all squared distances over the sum of all squared lengths."""
    min_cosine: float
    mean_cosine: float
    not_finite: int = 0
    skipped: int = 0
    """Vectors that are not finite in the float32 model either."""

    def __str__(self) -> str:
        if self.not_finite:
            return f"{self.not_finite} numbers are not finite"
        return f"max|x - x'| {self.max_abs:.2g}, cosine {self.min_cosine:.7f} at least, {self.mean_cosine:.7f} on average"

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready data. Infinite distances are None."""
        return {
            "vectors": self.vectors, "max_abs_diff": self.max_abs if np.isfinite(self.max_abs) else None,
            "relative": self.relative if np.isfinite(self.relative) else None, "min_cosine": self.min_cosine,
            "mean_cosine": self.mean_cosine, "not_finite": self.not_finite, "skipped": self.skipped,
        }  # fmt: skip


@dataclass(frozen=True)
class EngineLoss:
    """The loss at one output, as one engine measures it."""

    engine: str
    output: str
    loss: Loss | None
    """None if the engine cannot measure it."""
    why: str = ""
    """Why the engine cannot measure it."""

    def __str__(self) -> str:
        return f"{self.engine}, {self.output}: {self.loss if self.loss is not None else f'not measured ({self.why})'}"

    def to_json(self) -> dict[str, Any]:
        loss = self.loss.to_json() if self.loss else None
        return {"engine": self.engine, "output": self.output, "loss": loss, "why": self.why or None}


def measure_loss(
    wanted: Sequence[Array], found: Sequence[Array], tokens: Sequence[Array | None] | None = None, center: float | None = None
) -> Loss:
    """Measure the loss of ``found`` against ``wanted``, one array ``[..., dim]`` for each feed.

    Vectors lie along the last axis. A single score, ``[..., 1]``, has no direction, so all scores, less ``center`` (their mean
    if None), count as one vector. ``tokens`` says for each feed which vectors count, as a bool array such as ``[batch, seq]``;
    None counts all of them.

    Raises RequestError if shapes differ, or if there is nothing to compare.
    """
    if any(one.shape != other.shape for one, other in zip(wanted, found, strict=True)):
        raise RequestError(f"shapes differ: {[one.shape for one in found]} instead of {[one.shape for one in wanted]}")
    chosen = list(tokens) if tokens is not None else [None] * len(wanted)
    expected, given = _gather_vectors(wanted, chosen), _gather_vectors(found, chosen)
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
    angles = np.nan_to_num(compute_cosines(expected, given), nan=1.0)
    squares, distance = float(np.square(expected).sum()), float(np.square(apart).sum())
    relative = float(np.sqrt(distance / squares)) if squares else np.inf if distance else 0.0
    return Loss(len(expected), float(np.abs(apart).max()), relative, float(angles.min()), float(angles.mean()), skipped=skipped)


def measure_by_both_engines(
    source: onnx.ModelProto,
    candidate: onnx.ModelProto,
    feeds: Sequence[Feed],
    *,
    per_token: Collection[str] = (),
    cannot_run: str | None = None,
) -> list[EngineLoss]:
    """Measure the loss of ``candidate`` at every output of ``source``, at tokens.

    The candidate is compared with what ONNX Runtime computes of ``source`` in float32. ONNX Runtime runs it on all feeds, the
    reference evaluator on the first `FEW` rows of the first feed. The evaluator interprets a few operators
    differently. If it is just as far off on the float32 model at some output, it gives no loss for that output.

    Args:
        per_token: the outputs ``[batch, seq]``, which hold one number per token.
        cannot_run: why ONNX Runtime must not run the candidate; None if it may.

    Returns:
        The losses by ONNX Runtime, one for each output, and then those by the evaluator. An engine that cannot run the
        candidate, gives other shapes, or leaves nothing to compare gives no loss, so the caller has to check that there is one.

    Raises RequestError if there are no feeds, UnsupportedModelError if ``source`` cannot be run or has no output.
    """
    if not feeds:
        raise RequestError("there is nothing to measure a loss on", "give one feed or more")
    outputs = [one.name for one in source.graph.output]
    if not outputs:
        raise UnsupportedModelError("the model has no output to measure a loss at")
    few = [_take_first_rows(feeds[0], FEW)]
    wanted = _run_by_runtime(source, [*feeds, *few], outputs)
    measuring = _Measuring(find_roles(read_interface(source.graph)).mask, frozenset(per_token), _compute_means(wanted))
    second = measuring.losses(REFERENCE, few, wanted[-1:], _run_by_reference, candidate)
    if any(one.loss is not None and one.loss.relative > SUSPECT for one in second):
        itself = measuring.losses(REFERENCE, few, wanted[-1:], _run_by_reference, source)
        second = [_distrust(one, other) for one, other in zip(second, itself, strict=True)]
    if cannot_run is not None:
        return [*(EngineLoss(RUNTIME, name, None, cannot_run) for name in outputs), *second]
    return [*measuring.losses(RUNTIME, feeds, wanted[:-1], _run_by_runtime, candidate), *second]


@dataclass(frozen=True)
class _Measuring:
    """Measures what engines give against the float32 values of a source."""

    mask: Value | None
    per_token: frozenset[str]
    means: Outputs
    """The mean of each output, which is subtracted from scores."""

    def losses(
        self, engine: str, feeds: Sequence[Feed], wanted: Sequence[Outputs], run: Run, model: onnx.ModelProto
    ) -> list[EngineLoss]:
        """Return the loss at each output of ``model``, as ``run`` runs it."""
        names = list(wanted[0])
        try:
            found = run(model, feeds, names)
        except GraphSurgeryError as error:
            return [EngineLoss(engine, name, None, str(error)) for name in names]
        return [self._loss(engine, name, feeds, wanted, found) for name in names]

    def _loss(
        self, engine: str, name: str, feeds: Sequence[Feed], wanted: Sequence[Outputs], found: Sequence[Outputs]
    ) -> EngineLoss:
        tokens = [find_tokens(feed, self.mask) for feed in feeds]
        sides = [[one[name][..., None] if name in self.per_token else one[name] for one in side] for side in (wanted, found)]
        try:
            return EngineLoss(engine, name, measure_loss(sides[0], sides[1], tokens, float(self.means[name])))
        except GraphSurgeryError as error:
            return EngineLoss(engine, name, None, str(error))


def _distrust(one: EngineLoss, itself: EngineLoss) -> EngineLoss:
    """Drop the figure of a loss by the evaluator if the evaluator loses about as much on the float32 model ``itself``."""
    if one.loss is None or one.loss.relative <= SUSPECT:
        return one
    if itself.loss is not None and itself.loss.relative <= one.loss.relative / 2:
        return one
    why = "the evaluator does not give what ONNX Runtime gives in float32 already"
    return EngineLoss(one.engine, one.output, None, why)


def _compute_means(values: Sequence[Outputs]) -> dict[str, Array]:
    """Return the mean of all finite numbers of each output, 0 if there are none."""
    means = {}
    for name in values[0]:
        numbers = np.concatenate([one[name][np.isfinite(one[name])].ravel().astype(np.float64) for one in values])
        means[name] = numbers.mean() if numbers.size else np.zeros(())
    return means


def _run_by_runtime(model: onnx.ModelProto, feeds: Sequence[Feed], outputs: Sequence[str]) -> list[Outputs]:
    """Run ``model`` on every feed by ONNX Runtime on the CPU. Raises UnsupportedModelError if it cannot."""
    session = open_in_memory(model)
    return [session.run(feed, outputs) for feed in feeds]


def _run_by_reference(model: onnx.ModelProto, feeds: Sequence[Feed], outputs: Sequence[str]) -> list[Outputs]:
    """Run ``model`` on every feed by onnx's reference evaluator. Raises UnsupportedModelError if it cannot."""
    from graphsurgery.compare.reference_ops import make_evaluator  # onnx's evaluator takes long to import

    try:
        known = make_evaluator(model)
        every = [known.run(list(outputs), _round_feed(model, feed)) for feed in feeds]
        return [dict(zip(outputs, map(np.asarray, values), strict=True)) for values in every]
    except GraphSurgeryError:
        raise
    except Exception as error:  # operators may raise errors of any type
        raise UnsupportedModelError(f"onnx's reference evaluator cannot run the model: {summarize_error(error)}") from error


def _round_feed(model: onnx.ModelProto, feed: Feed) -> dict[str, Array]:
    """Return ``feed``, with its float32 arrays rounded where ``model`` takes a half type."""
    kinds = {info.name: info.type.tensor_type.elem_type for info in model.graph.input}
    halves = {name: onnx.helper.tensor_dtype_to_np_dtype(kind) for name, kind in kinds.items() if kind in HALVES}
    return {name: array.astype(halves[name]) if name in halves else array for name, array in feed.items()}


def _gather_vectors(arrays: Sequence[Array], tokens: Sequence[Array | None]) -> Array:
    """Return the vectors that count, of all feeds: ``[vectors, dim]`` float64."""
    some = [select_vectors(one, chosen) for one, chosen in zip(arrays, tokens, strict=True)]
    rows = [one.astype(np.float64) for one in some if one.size]
    return np.concatenate(rows) if rows else np.zeros((0, 0))


def _take_first_rows(feed: Feed, rows: int) -> dict[str, Array]:
    """Return the first rows of every input; all of ``feed`` if its inputs have different numbers of rows."""
    sizes = {array.shape[:1] for array in feed.values()}
    return {name: array[:rows] if len(sizes) == 1 and sizes != {()} else array for name, array in feed.items()}


def find_tokens(feed: Feed, mask: Value | None) -> Array | None:
    """Return where ``feed`` has tokens, ``[batch, seq]`` bool, as the input ``mask`` says; None if there is no such input."""
    if mask is None or mask.name not in feed or feed[mask.name].ndim != 2:
        return None
    return feed[mask.name] != 0
