"""optimize: run the ONNX Runtime transformer optimizer, say what it did and what it did not, and prove that the result is
right."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from graphsurgery.anatomy.architecture import Architecture
from graphsurgery.errors import NothingToOptimizeError, RequestError, UnsupportedModelError, VerificationFailed
from graphsurgery.model.loading import Loadable, load
from graphsurgery.model.model import Model
from graphsurgery.optimizing.bare import Fusing, is_there
from graphsurgery.optimizing.build import assembled
from graphsurgery.optimizing.detected import detected
from graphsurgery.optimizing.fusion_report import ACTIVATION, ATTENTION, EMBEDDINGS, NORM, ROTARY, SKIP_NORM, Fusable
from graphsurgery.optimizing.fusions import compared as fusions_compared
from graphsurgery.optimizing.fusions import expected
from graphsurgery.optimizing.outcome import Optimized
from graphsurgery.optimizing.parts import Parts, parts_of
from graphsurgery.optimizing.proof import Prover
from graphsurgery.optimizing.rebuilt import EVERY, LARGEST_INLINE, tables_of, with_weights
from graphsurgery.optimizing.rehead import hidden_behind, reheaded
from graphsurgery.optimizing.request import PRECISIONS, Request
from graphsurgery.optimizing.rewrites import Rewritten, fused_encoder, halved, safer, simplified_encoder
from graphsurgery.optimizing.writing import Writing, written_as
from graphsurgery.proof.compare import Limits
from graphsurgery.proof.drawing import drawer_of
from graphsurgery.proof.golden import with_goldens_of
from graphsurgery.proof.golden_making import HALF
from graphsurgery.proof.real_text import real_texts
from graphsurgery.report import Report, Verdict
from graphsurgery.runner import OPTIMIZED, default_place

NOT_TAKEN_OFF = (
    "cannot be taken off, because the encoder below was changed since: the graph is optimized as it is, and its record of "
    "them is lost"
)
TOLD = 4
"""Attempts that an error tells of."""
KINDS = {
    "attention": ATTENTION, "embedding norm": EMBEDDINGS, "rotary": ROTARY, "skip norm": SKIP_NORM,
    "bias skip norm": SKIP_NORM, "bias gelu": ACTIVATION, "gelu": ACTIVATION, "layer norm": NORM,
}  # fmt: skip
"""What the optimizer's switches are about, as the report calls it."""
NOT_GIVEN = "an embedding table was not given to the optimizer: it is too large to be in memory beside the rest"
Progress = Callable[[str], None]


def optimize(
    source: Loadable,
    *,
    output: str | os.PathLike[str] | None = None,
    target: str = "cpu",
    model_type: str | None = None,
    heads: int | None = None,
    hidden_size: int | None = None,
    fp16: bool = False,
    bf16: bool = False,
    portable: bool = False,
    rehead: bool = False,
    strict: bool = False,
    texts: str | os.PathLike[str] | None = None,
    atol: float | None = None,
    min_cosine: float | None = None,
    verify: bool = True,
    time: bool = True,
    force: bool = False,
    dry_run: bool = False,
    keep_failed: bool = False,
    progress: Progress = lambda _: None,
) -> Optimized:
    """Fuse an encoder for ONNX Runtime, with its head as it was, prove the result against ``source`` and save it.

    Args:
        output: where to; beside the source with ``optimized`` in its name when None.
        target: ``cpu`` or ``cuda``: what has no kernel there is avoided.
        model_type, heads, hidden_size: of the optimizer, in place of what is found in the graph.
        fp16, bf16: compute the encoder in half precision, but for nodes that overflow or lose most; the head stays float32.
        portable: no fusions: what can be simplified with standard operators only.
        rehead: give a pooled export of another program our head in place of its own.
        strict: fail where anything that should fuse did not.
        texts, atol, min_cosine: as in `verify`.
        time: time both files on the CPU.
        verify, force, dry_run, keep_failed: as in `run`.

    Raises:
        VerificationFailed when no fused graph gives the source's vectors, or with ``strict``; NothingToOptimizeError where the
        optimizer changes nothing; what `load` and `save` raise. Nothing is left behind.
    """
    if fp16 and bf16:
        raise RequestError("an encoder computes in float16 or in bfloat16, and both were asked for", "ask for one of them")
    precision = "fp16" if fp16 else "bf16" if bf16 else None
    request = Request(target, model_type, heads, hidden_size, precision, portable, rehead, strict)
    before = load(source)
    before.require_data("optimizing")
    place = Path(output) if output is not None else default_place(before, OPTIMIZED)
    progress("reading the graph")
    job = _Job.of(before, request)
    drawer = drawer_of(before, [])
    half = PRECISIONS.get(precision or "")
    prover = Prover(before, drawer, *real_texts(before, before, drawer, texts), Limits(atol, min_cosine), half)
    return _first_right(job, prover, Writing(place, verify, time, force, dry_run, keep_failed), progress)


@dataclass(frozen=True)
class _Job:
    """What is rewritten: ``given``, the encoder of ``parts``, for a file that ``source`` is."""

    source: Model
    request: Request
    parts: Parts
    given: onnx.ModelProto
    architecture: Architecture | None
    expected: tuple[Fusable, ...]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, source: Model, request: Request) -> _Job:
        notes: list[str] = []
        base = source
        if request.rehead:
            base, head = reheaded(source)
            notes.append(f"its own head, {head}, was taken off and ours put in its place")
        parts = parts_of(base)
        if not parts.head and hidden_behind(source) is not None:
            notes.append("warning: a pooled export of another program may hide its encoder from the optimizer: try --rehead")
        if parts.lost:
            notes.append(f"warning: {', '.join(parts.lost)} {NOT_TAKEN_OFF}")
        architecture = detected(parts.encoder)
        notes += architecture.notes if architecture is not None else ()
        model_type = request.model_type or (architecture.model_type if architecture is not None else None)
        wanted = () if request.portable else expected(parts.encoder, model_type)
        largest = LARGEST_INLINE if request.precision is None else EVERY  # to convert weights is to read them all
        given = with_weights(parts.encoder, largest)
        return cls(source, request, parts, given, architecture, wanted, tuple(notes))

    @property
    def fusing(self) -> Fusing:
        """How the optimizer is run at first."""
        found, asked = self.architecture, self.request
        model_type = asked.model_type or (found.model_type if found is not None else "bert")
        heads = asked.heads or (found.heads if found is not None else 0)
        hidden = asked.hidden_size or (found.hidden if found is not None else 0)
        fits = found is None or found.head_size is None or found.heads * found.head_size == found.hidden
        known = heads and hidden and hidden % heads == 0 and (fits or asked.heads is not None)
        return Fusing(model_type, heads if known else 0, hidden if known else 0)


def _first_right(job: _Job, prover: Prover, writing: Writing, progress: Progress) -> Optimized:
    """The first of the rewrites, from the boldest to the safest, that gives the source's vectors."""
    attempts: list[str] = []
    outcome = None
    for fusing in (None,) if job.request.portable else (job.fusing, *safer(job.fusing)):
        try:
            made = _rewritten(job, fusing, progress)
        except UnsupportedModelError as error:
            if fusing is None:
                raise
            attempts.append(f"{fusing}: {error}")
            continue
        made = _halved(job, made, prover, progress)
        outcome = _outcome(job, made, tuple(attempts), writing)
        outcome = written_as(outcome, job.parts, prover, writing, job.request.strict, progress)
        if outcome.report is None or outcome.report or outcome.saved is not None:
            return outcome
        if outcome.report.verdict is not Verdict.FAILED:
            break
        attempts.append(f"{fusing or 'standard operators'}: {_wrong(outcome.report)}")
    raise _failed(attempts, outcome)


def _rewritten(job: _Job, fusing: Fusing | None, progress: Progress) -> Rewritten:
    """The encoder fused, or simplified where there is no ``fusing``."""
    if fusing is None:
        progress("simplifying the graph")
        return simplified_encoder(job.given)
    progress("running the transformer optimizer")
    return fused_encoder(job.given, fusing, job.request.target)


def _halved(job: _Job, made: Rewritten, prover: Prover, progress: Progress) -> Rewritten:
    """``made`` in half precision where that was asked for. NothingToOptimizeError where nothing changed."""
    kind = PRECISIONS.get(job.request.precision or "")
    if kind is None:
        _refuse_unchanged(job, made)
        return made
    progress("measuring activations")
    return halved(made, kind, prover.feeds)


def _outcome(job: _Job, made: Rewritten, attempts: tuple[str, ...], writing: Writing) -> Optimized:
    model = assembled(job.parts, job.given, made, job.source)
    if job.request.precision != "bf16":  # which could not be held against them here
        model = with_goldens_of(job.source, model, None if job.request.precision is None else HALF)
    because = {} if _has_tables(job.given.graph) else {EMBEDDINGS: NOT_GIVEN}
    because |= {KINDS[name]: "switched off: with it the vectors were not the source's" for name in made.recorded.get("off", ())}
    fusions = fusions_compared(job.expected, job.given, made.exact or made.graph, because) if job.expected else None
    notes = (*job.notes, *made.notes)
    return Optimized(model, job.source, writing.place, job.architecture, fusions, attempts, notes, None, None, None, made.kept)


def _has_tables(graph: onnx.GraphProto) -> bool:
    """Whether the values of all embedding tables are there."""
    tables = tables_of(graph)
    return all(is_there(tensor) for tensor in graph.initializer if tensor.name in tables)


def _refuse_unchanged(job: _Job, made: Rewritten) -> None:
    """NothingToOptimizeError where not one node is another."""
    before, after = ([node.SerializeToString(deterministic=True) for node in one.graph.node] for one in (job.given, made.graph))
    if sorted(before) == sorted(after) and not job.request.rehead:
        raise NothingToOptimizeError(
            f"{'simplifying' if job.request.portable else 'the optimizer'} changes nothing in this graph: it is optimized "
            "already, or it holds no transformer",
            "see `graphsurgery inspect`; for half precision ask with --fp16",
        )


def _wrong(report: Report) -> str:
    """What was wrong with a file, in words."""
    for check in report.checks:
        if check.verdict is Verdict.FAILED:
            wrong = [one for one in check.comparisons if one.verdict is Verdict.FAILED]
            worst = max(wrong, key=lambda one: one.margin, default=None)
            return check.detail if worst is None else f"{worst.worst:.1e} apart in {worst.kind!r}"
    return "its proof did not pass"


def _failed(attempts: list[str], outcome: Optimized | None) -> VerificationFailed | UnsupportedModelError:
    tried = "; ".join([*attempts[:TOLD], *([f"and {len(attempts) - TOLD} more"] if len(attempts) > TOLD else [])])
    if outcome is None:
        return UnsupportedModelError(f"no rewrite of this graph could be made: {tried}", "optimize it with --portable")
    report = outcome.report
    verdict = report.verdict.value if report is not None else Verdict.NOT_CHECKED.value
    what = f"the proof of {outcome.output.name} came to {verdict}; nothing was left behind"
    outcome = replace(outcome, attempts=tuple(attempts))
    return VerificationFailed(what, f"tried: {tried}" if tried else "see the report", outcome)
