"""Writing a rewritten file: under a temporary name, proven and timed there, and only then given its name."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graphsurgery.compare.timing import timed
from graphsurgery.errors import GraphSurgeryError
from graphsurgery.model.certificate import certificate_of, with_certificate
from graphsurgery.model.loading import load
from graphsurgery.model.provenance import GOLDEN, since_edited
from graphsurgery.model.saving import plan_output
from graphsurgery.model.staging import Plan, Saved, Stage, staged
from graphsurgery.optimizer.job import Job
from graphsurgery.optimizer.outcome import Optimized
from graphsurgery.optimizer.proof import Proven, Prover
from graphsurgery.proof.golden import verify_itself
from graphsurgery.proof.verify import Progress
from graphsurgery.report import joined
from graphsurgery.runtime.session import Session, open_session


@dataclass(frozen=True)
class Writing:
    """Where to, and what is left out; as `optimize` takes them."""

    place: Path
    verify: bool = True
    time: bool = True
    force: bool = False
    dry_run: bool = False
    keep_failed: bool = False
    commit: bool = True
    """Whether the file is to get its name; else it goes once it is proven."""

    @property
    def for_trial(self) -> Writing:
        """The same, but that nothing is left or timed."""
        return replace(self, time=False, commit=False)


def written_as(outcome: Optimized, job: Job, prover: Prover, writing: Writing, progress: Progress) -> Optimized:
    """``outcome`` with its proof, its times and what was saved: nothing where the proof failed, or where everything was to fuse
    and did not."""
    with _stage(outcome, writing) as stage:
        if writing.verify:
            progress("proving the file")
            proven = prover.report(stage.path, job.parts)
            report = proven.report
            written = load(stage.path)
            has_goldens = any(step.edit == GOLDEN for step in since_edited(written.proto))
            outcome = replace(outcome, report=joined(report, verify_itself(written)) if report and has_goldens else report)
            outcome = replace(outcome, loss=_loss(outcome.loss, proven))
        if not outcome.is_right or job.misses(outcome):
            return outcome
        if writing.time:
            progress("timing both files")
            outcome = _timed(outcome, job, prover, stage.path)
        stays = writing.commit and not writing.dry_run
        return replace(outcome, saved=_committed(outcome, stage)) if stays else outcome


def kept_as(outcome: Optimized, writing: Writing) -> Optimized:
    """``outcome``, whose proof failed, saved for a look."""
    with _stage(outcome, writing) as stage:
        return replace(outcome, saved=_committed(outcome, stage))


def _committed(outcome: Optimized, stage: Stage) -> Saved:
    certificate = certificate_of(outcome.source)
    if certificate is not None:
        stage.extend(with_certificate(stage.plan.document, certificate.sources, outcome.report))
    return stage.commit()


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


def _timed(outcome: Optimized, job: Job, prover: Prover, path: Path) -> Optimized:
    """``outcome`` with how long source and file take, or with why that cannot be told."""
    elsewhere = job.half is not None or job.request.target != "cpu"
    try:
        timings = timed(open_session(prover.source), Session(path), prover.same.drawer, elsewhere)
    except GraphSurgeryError as error:
        return replace(outcome, notes=(*outcome.notes, f"not timed: {error.message}"))
    return replace(outcome, timings=timings)
