"""Run edits under the contract: apply, write under a temporary name, prove that file, give it its name, report."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graphsurgery.consumers import Reading, readings
from graphsurgery.edit_list import LISTED
from graphsurgery.edits.edit import Edit
from graphsurgery.encoder.head import head_steps
from graphsurgery.errors import RequestError, VerificationFailed
from graphsurgery.interface import Interface
from graphsurgery.model.certificate import with_certificate
from graphsurgery.model.loading import Loadable, load
from graphsurgery.model.model import Model, open_data
from graphsurgery.model.provenance import HOUSEKEEPING, undoable, undone
from graphsurgery.model.saving import LARGEST_PROTOBUF, plan_output
from graphsurgery.model.staging import Plan, Saved, staged
from graphsurgery.proof.difference import difference
from graphsurgery.proof.golden import verify_itself, with_goldens
from graphsurgery.proof.intent import as_asked
from graphsurgery.proof.untouched import untouched
from graphsurgery.proof.verify import Progress
from graphsurgery.proof.verify import verify as verify_model
from graphsurgery.report import Check, Report, Verdict, joined
from graphsurgery.snippet import snippet

OPTIMIZED = "optimized"
"""What `optimize` puts into a file's name, as an edit puts its step."""
ROOM = 1 << 20
"""Bytes kept free in a protobuf for the certificate, which comes last."""


@dataclass(frozen=True)
class Outcome:
    """What `run` did. ``steps`` are the edits that the output records. ``report`` is None where no proof was asked for;
    ``saved`` is None for a dry run and a failed proof."""

    model: Model
    source: Model
    output: Path
    steps: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]
    report: Report | None
    saved: Saved | None
    snippet: str
    consumers: tuple[Reading, ...]

    @property
    def interface(self) -> Interface:
        """What the output takes and gives."""
        return self.model.interface

    def to_json(self) -> dict[str, Any]:
        """The outcome as JSON-ready data."""
        return {
            "source": str(self.source.path) if self.source.path else None,
            "output": str(self.output) if self.saved else None,
            "data": str(self.saved.data) if self.saved and self.saved.data else None,
            "steps": list(self.steps),
            "interface": {"before": self.source.interface.to_json(), "after": self.interface.to_json()},
            "notes": list(self.notes),
            "report": self.report.to_json() if self.report is not None else None,
            "snippet": self.snippet,
            "consumers": [reading.to_json() for reading in self.consumers],
        }


def run(
    steps: Sequence[Edit],
    source: Loadable,
    *,
    output: str | os.PathLike[str] | None = None,
    verify: bool = True,
    full: bool = False,
    force: bool = False,
    dry_run: bool = False,
    keep_failed: bool = False,
    hash_weights: bool = False,
    goldens: bool = False,
    sources: Mapping[str, str] | None = None,
    atol: float | None = None,
    min_cosine: float | None = None,
    progress: Progress = lambda _: None,
) -> Outcome:
    """Apply ``steps`` to ``source`` in order, prove the result and save it.

    Args:
        output: where to; beside the source with the last step in its name when None.
        verify: prove the written file before it gets its name.
        full: the whole proof and every byte of the weights, at any size.
        force: replace an existing output; never the input.
        dry_run: do everything but write; the proof is the head proof alone.
        keep_failed: keep an output whose proof failed.
        hash_weights: record a sha256 of the weights inside the file as well.
        atol, min_cosine: what the proofs must keep to, as in `verify`.
        goldens: record golden inputs and vectors, for `verify --self`, and hold the file against them; runs the source once
            more. A certificate is recorded, too: versions, what was proven, and ``sources``.
        sources: the files that the output is made from, as sha256 (hex) by their places in the model folder.

    Raises:
        VerificationFailed when the verdict is not PASSED (``error.outcome`` holds the report); what `load`, the edits and
        `save` raise.
    """
    before = load(source)
    _check_request(steps, goldens)
    target = Path(output) if output is not None else default_output(before, steps[-1])
    base, after = _applied(steps, before, hash_weights, goldens, progress)
    plan = plan_output(after, target, force=force, largest=LARGEST_PROTOBUF - ROOM)
    described = Outcome(
        after, before, target, tuple(step.to_json() for step in head_steps(after)),
        (*after.notes, *plan.notes), None, None, snippet(target, after.interface, before.path), readings(after.interface),
    )  # fmt: skip

    def prove(written: Model, *, full: bool, head_only: bool) -> Report:
        if steps[-1].restores:
            return _restored(after, written)
        report = verify_model(
            written, against=base, atol=atol, min_cosine=min_cosine, full=full, head_only=head_only, progress=progress
        )
        return joined(report, as_asked(base, written, _asked(steps)))

    if dry_run:
        report = prove(after, full=False, head_only=True) if verify else None
        return _judged(replace(described, report=report))
    with staged(plan, force=force, progress=_bytes_written(progress, plan)) as stage:
        if verify:
            written = load(stage.path)
            report = prove(written, full=full, head_only=False)
            report = joined(report, verify_itself(written)) if goldens else report
            described = replace(described, report=report)
            if not report and not keep_failed:
                return _judged(described)
        if goldens:
            stage.extend(with_certificate(stage.plan.document, sources or {}, described.report))
        return _judged(replace(described, saved=stage.commit()))


def _asked(steps: Sequence[Edit]) -> list[dict[str, Any]]:
    """The parameters, as asked for, of the edits that are proven: those behind the last one that restores a file."""
    start = max((place for place, edit in enumerate(steps) if edit.restores), default=-1)
    return [edit.parameters() for edit in steps[start + 1 :]]


def _check_request(steps: Sequence[Edit], goldens: bool) -> None:
    if not steps:
        raise RequestError("there is no step to run", "give at least one edit")
    if goldens and steps[-1].restores:
        raise RequestError(
            f"{steps[-1].verb} gives the source back, to the byte: no golden vectors can be recorded in it", "leave them out"
        )


def default_output(model: Model, last: Edit) -> Path:
    """Beside the source, named after the last step: ``model.onnx`` -> ``model.pooled.onnx``."""
    return default_place(model, last.step)


def default_place(model: Model, step: str) -> Path:
    """As `default_output`, of a step by that name."""
    if model.path is None:
        raise RequestError("a model from memory has no folder to write beside", "say where to with output=...")
    stem = model.path.name.removesuffix(".onnx")
    for name in (*(listed.step for listed in LISTED.values()), OPTIMIZED):
        stem = stem.removesuffix(f".{name}")
    return model.path.with_name(f"{stem}.{step}.onnx")


def _bytes_written(progress: Progress, plan: Plan) -> Callable[[int], None]:
    """Tells how much of the output is written."""
    total = max(plan.size, 1)
    done = told = 0

    def tell(count: int) -> None:
        nonlocal done, told
        done += count
        percent = 100 * done // total
        if percent > told:
            told = percent
            progress(f"writing {percent} % of {total / 2**20:.0f} MiB")

    return tell


def _applied(
    steps: Sequence[Edit], source: Model, hash_weights: bool, goldens: bool, progress: Progress
) -> tuple[Model, Model]:
    """(the model that the proof starts from, the edited model)."""
    progress("editing the graph")
    base = current = source
    for step in steps:
        current = step.apply(current, hash_weights=hash_weights)
        if step.restores:
            base = current
    if goldens:
        progress("making golden vectors")
        current = with_goldens(base, current)
    return base, current


def _restored(wanted: Model, written: Model) -> Report:
    """A restored file is proven by its fingerprint: that of the recorded source, but for where copied data now lie."""
    document = written.document
    moves = [step for step in undoable(written.proto) if step.edit in HOUSEKEEPING]
    for step in reversed(moves):
        document = undone(document, step, lambda location: open_data(written.files[location]))
    same = document.fingerprint == wanted.fingerprint
    detail = "the fingerprint is that of the source which the file records"
    detail += ", but for where its weights lie now" if moves else ""
    check = Check("source restored", detail, stated=Verdict.PASSED if same else Verdict.FAILED, conclusive=True)
    if not moves:
        return Report((check,))
    weights, unchecked = untouched(wanted, written, difference(wanted, written), [], every_byte=True)
    return Report((check, weights), (), unchecked)


def _judged(outcome: Outcome) -> Outcome:
    if outcome.report is None or outcome.report:
        return outcome
    kept = f"it was kept as {outcome.output}" if outcome.saved else "the output was not left behind"
    raise VerificationFailed(
        f"the proof of {outcome.output.name} came to {outcome.report.verdict.value}; {kept}",
        "see the report; --keep-failed keeps such an output for a look, --no-verify leaves the proof out",
        outcome,
    )
