"""The attempts at a file that is right: from the boldest rewrite to the safest, until one gives what the source gives.

Half precision is taken of a graph that is right in float32. What it loses is no fault of any fusion, so nothing is tried again
after it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from graphsurgery.contracts import present
from graphsurgery.errors import NothingToOptimizeError, UnsupportedModelError, VerificationFailed
from graphsurgery.optimizer.job import Job
from graphsurgery.optimizer.outcome import Optimized
from graphsurgery.optimizer.proof import Prover
from graphsurgery.optimizer.writing import Writing, kept_as, written_as
from graphsurgery.proof.verify import Progress
from graphsurgery.report import Report, Verdict
from graphsurgery.rewrites.encoder_rewrites import Rewritten, halved
from graphsurgery.rewrites.fuse.runner import Fusing

TOLD = 4
"""Attempts that an error tells of."""


def first_right(job: Job, prover: Prover, writing: Writing, progress: Progress) -> Optimized:
    """The first of the rewrites that gives the source's vectors.

    Raises VerificationFailed where none does, or where with ``strict`` not everything fused; NothingToOptimizeError where the
    first one changes nothing; UnsupportedModelError where none can be made.
    """
    attempts: list[str] = []
    seen: set[bytes] = set()
    last = None
    for fusing in job.variants():
        made = _made(job, fusing, attempts, progress)
        if made is None or (graph := _digest(made)) in seen:
            continue
        seen.add(graph)
        last = _proven(job, made, attempts, prover, writing, progress)
        if last.report is None or last.report.verdict is not Verdict.FAILED:
            break
        attempts.append(f"{fusing or 'standard operators'}: {_wrong(last.report)}")
        if last.loss is not None:  # right in float32, and wrong in half precision
            break
    if last is None:
        what = f"no rewrite of this graph could be made: {_tried(attempts)}"
        raise UnsupportedModelError(what, "optimize it with --portable")
    if not last.is_right:
        raise _failed(attempts, _kept(last, writing))
    if job.misses(last):
        raise _missed(_kept(last, writing))
    return last


def _digest(made: Rewritten) -> bytes:
    """Tells one graph from another: switching a fusion off often changes nothing."""
    found = hashlib.sha256()
    for part in (*made.graph.graph.node, *made.graph.graph.initializer):
        found.update(part.SerializeToString(deterministic=True))
    return found.digest()


def _made(job: Job, fusing: Fusing | None, attempts: list[str], progress: Progress) -> Rewritten | None:
    """The rewritten encoder; None, and why among ``attempts``, where it cannot be made and another way can be tried."""
    progress("simplifying the graph" if fusing is None else "running the transformer optimizer")
    try:
        made = job.rewritten(fusing)
    except UnsupportedModelError as error:
        if fusing is None:
            raise
        attempts.append(f"{fusing}: {error}")
        return None
    if not job.does_nothing(made):
        return made
    if job.half is not None:  # in half precision all the same, as it is
        return replace(made, graph=job.given)
    if attempts:
        return None
    raise _nothing(job, made)


def _nothing(job: Job, made: Rewritten) -> NothingToOptimizeError:
    if job.request.portable:
        what = "simplifying changes nothing in this graph"
        return NothingToOptimizeError(what, "use it as it is; see `graphsurgery inspect`")
    what = "the optimizer fuses nothing in this graph"
    advice = "see `graphsurgery inspect`; for half precision ask with --fp16"
    functions = ", ".join(function.name for function in job.given.functions)
    if functions:
        return NothingToOptimizeError(
            f"{what}, which has functions of its own ({functions}): it does not look into them",
            "inline them first with onnx.inliner.inline_local_functions",
        )
    report = job.fusions(made, ())
    if not report.fusions:
        return NothingToOptimizeError(f"{what}: it is optimized already, or it holds no transformer", advice)
    reasons = "; ".join(f"{kind}: {reason}" for _, kind, reason in report.misses())
    missed = f" ({report.summary}; {reasons})" if reasons else f": it is optimized already ({report.summary})"
    return NothingToOptimizeError(f"{what}{missed}", advice)


def _proven(
    job: Job, made: Rewritten, attempts: Sequence[str], prover: Prover, writing: Writing, progress: Progress
) -> Optimized:
    """What was ``made``, proven and written; where it is to be in half precision: proven in float32 first, and no more than
    that where it is wrong so."""
    tried = job.outcome(made, attempts, writing.place)
    half = job.half
    if half is None:
        return written_as(tried, job, prover, writing, progress)
    if writing.verify:
        exact = written_as(tried, job, prover.in_float32(), writing.for_trial, progress)
        if exact.report is not None and exact.report.verdict is Verdict.FAILED:
            return exact
    progress("measuring activations")
    job, made = job.with_every_weight(made)
    tried = job.outcome(halved(made, half, prover.feeds, job.request.half_io), attempts, writing.place)
    return written_as(tried, job, prover, writing, progress)


def _missed(outcome: Optimized) -> VerificationFailed:
    """The error where everything was to fuse and did not."""
    fusions = present(outcome.fusions, "what fused")
    missed = len(fusions.missed)
    what = f"{missed} parts that should have fused did not: {fusions.summary}" if missed else fusions.summary
    return VerificationFailed(f"{what}{_where(outcome)}", "see the table; or leave out --strict", outcome)


def _kept(outcome: Optimized, writing: Writing) -> Optimized:
    """``outcome``, written where failed files are to be kept."""
    return kept_as(outcome, writing) if writing.keep_failed and not writing.dry_run else outcome


def _where(outcome: Optimized) -> str:
    return f"; it was kept as {outcome.output}" if outcome.saved else "; nothing was left behind"


def _wrong(report: Report) -> str:
    """What was wrong with a file, in words."""
    for check in report.checks:
        if check.verdict is Verdict.FAILED:
            wrong = [one for one in check.comparisons if one.verdict is Verdict.FAILED]
            worst = max(wrong, key=lambda one: one.margin, default=None)
            if worst is None:
                return check.detail
            return f"{worst.wrong} in {worst.kind!r}"
    return "its proof did not pass"


def _tried(attempts: Sequence[str]) -> str:
    return "; ".join([*attempts[:TOLD], *([f"and {len(attempts) - TOLD} more"] if len(attempts) > TOLD else [])])


def _failed(attempts: Sequence[str], outcome: Optimized) -> VerificationFailed:
    report = outcome.report
    verdict = (report.verdict if report is not None else Verdict.NOT_CHECKED).value
    what = f"the proof of {outcome.output.name} came to {verdict}{_where(outcome)}"
    advice = "see the report; --keep-failed keeps such an output for a look, --no-verify leaves the proof out"
    if outcome.loss is not None:
        advice = f"half precision loses too much here; --min-cosine allows more. {advice}"
    advice = f"tried: {_tried(attempts)}; {advice}" if attempts else advice
    return VerificationFailed(what, advice, replace(outcome, attempts=tuple(attempts)))
