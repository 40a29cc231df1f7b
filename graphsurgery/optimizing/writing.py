"""Writing a rewritten file: under a temporary name, proven and timed there, and only then given its name."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graphsurgery.errors import GraphSurgeryError, VerificationFailed
from graphsurgery.model.certificate import certificate_of, with_certificate
from graphsurgery.model.loading import load
from graphsurgery.model.provenance import GOLDEN, since_edited
from graphsurgery.model.saving import plan_output
from graphsurgery.model.staging import Plan, Stage, staged
from graphsurgery.optimizing.outcome import Optimized
from graphsurgery.optimizing.parts import Parts
from graphsurgery.optimizing.proof import Proven, Prover
from graphsurgery.optimizing.timing import Timings, timed
from graphsurgery.proof.golden import verify_itself
from graphsurgery.report import joined
from graphsurgery.runtime.session import Session, open_session

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Writing:
    """Where to, and what is left out; as `optimize` takes them."""

    place: Path
    verify: bool = True
    time: bool = True
    force: bool = False
    dry_run: bool = False
    keep_failed: bool = False


def written_as(
    outcome: Optimized, parts: Parts, prover: Prover, writing: Writing, strict: bool, progress: Progress
) -> Optimized:
    """``outcome`` with its proof, its times and what was saved; nothing is saved where the proof failed, unless it is kept.

    VerificationFailed with ``strict`` where anything that should have fused did not.
    """
    with _stage(outcome, writing) as stage:
        if writing.verify:
            progress("proving the file")
            proven = prover.report(stage.path, parts, outcome.model)
            report = proven.report
            written = load(stage.path)
            has_goldens = any(step.edit == GOLDEN for step in since_edited(written.proto))
            outcome = replace(outcome, report=joined(report, verify_itself(written)) if report and has_goldens else report)
            outcome = replace(outcome, loss=_loss(outcome.loss, proven))
        failed = outcome.report is not None and not outcome.report
        if not failed and strict and outcome.fusions is not None and outcome.fusions.missed:
            missed = len(outcome.fusions.missed)
            what = f"{missed} of what should have fused did not: {outcome.fusions.summary}"
            raise VerificationFailed(what, "see the table; or leave out --strict", outcome)
        if not failed and writing.time:
            progress("timing both files")
            outcome = replace(outcome, timings=_times(prover, stage.path))
        if writing.dry_run or (failed and not writing.keep_failed):
            return outcome
        certificate = certificate_of(outcome.source)
        if certificate is not None:
            stage.extend(with_certificate(stage.plan.document, certificate.sources, outcome.report))
        return replace(outcome, saved=stage.commit())


def _loss(kept: dict[str, Any] | None, proven: Proven) -> dict[str, Any] | None:
    """What half precision keeps in float32, and what it loses, JSON-ready."""
    if proven.opinions is None:
        return kept
    losses = [one.loss for one in proven.opinions if one.loss is not None]
    worst = {"min_cosine": min((one.min_cosine for one in losses), default=None)}
    return (kept or {}) | worst | {"opinions": [one.to_json() for one in proven.opinions]}


@contextmanager
def _stage(outcome: Optimized, writing: Writing) -> Iterator[Stage]:
    """The file under a temporary name: in its own folder, or for a dry run in one that goes."""
    plan = plan_output(outcome.model, writing.place, force=writing.force)
    if not writing.dry_run:
        with staged(plan, force=writing.force) as stage:
            yield stage
        return
    with tempfile.TemporaryDirectory(prefix="graphsurgery-") as folder:
        elsewhere: Plan = plan_output(outcome.model, Path(folder) / writing.place.name)
        with staged(elsewhere) as stage:
            yield stage


def _times(prover: Prover, path: Path) -> Timings | None:
    """How long source and file take, None where either cannot run here."""
    try:
        return timed(open_session(prover.source), Session(path), prover.drawer)
    except GraphSurgeryError:
        return None
