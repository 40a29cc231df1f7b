"""Run edits and rewrites: apply them, write a temporary file, prove it, give it its final name, and report."""

from __future__ import annotations

import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from graphsurgery.argument_types import check_argument_types
from graphsurgery.compare.tolerance import LOSSY, NO_LIMITS, Limits
from graphsurgery.edit_list import EDIT_LIST
from graphsurgery.edits.edit import Edit
from graphsurgery.errors import RequestError, require_value
from graphsurgery.folders.head_modules import renew_module_warning
from graphsurgery.folders.home import list_prompts, place_in_folder
from graphsurgery.model.certificate import add_certificate, read_certificate
from graphsurgery.model.hub_cache import check_outside_cache
from graphsurgery.model.loading import Loadable, load
from graphsurgery.model.model import Model, open_data
from graphsurgery.model.provenance import GOLDEN, HOUSEKEEPING, list_steps_since_edit, list_undoable_steps, undo_step
from graphsurgery.model.saving import LARGEST_PROTOBUF, plan_output
from graphsurgery.model.staging import Plan, Saved, Stage, stage_output
from graphsurgery.outcome import Outcome, Output, is_wanted, require_wanted
from graphsurgery.progress import Progress, ignore_progress
from graphsurgery.proof.difference import find_difference
from graphsurgery.proof.golden import copy_goldens, record_goldens, verify_itself
from graphsurgery.proof.intent import check_intent
from graphsurgery.proof.rewrite_proof import Claim, Proven, RewriteProof
from graphsurgery.proof.untouched import check_untouched
from graphsurgery.proof.verify import verify as verify_model
from graphsurgery.remarks import Warn
from graphsurgery.report import Check, Report, Verdict, join_reports
from graphsurgery.rewrites.apply import Applied, apply_rewrite
from graphsurgery.rewrites.convert_to_half import Half
from graphsurgery.rewrites.rewrite import Context, Rewrite

Step = Edit | Rewrite
NO_GOLDENS = Warn("no golden vectors are recorded, because ONNX Runtime cannot run the file on the CPU to check them")
ROOM = 1 << 20
"""Bytes that a protobuf keeps free for the certificate, which is added last."""


@check_argument_types(steps="give edits and rewrites, such as graphsurgery.AddPooling('mean'), or use graphsurgery.run_recipe")
def run(
    steps: Sequence[Step],
    source: Loadable,
    *,
    output: str | os.PathLike[str] | None = None,
    verify: bool = True,
    full: bool = False,
    force: bool = False,
    dry_run: bool = False,
    keep_failed: bool = False,
    strict: bool = False,
    hash_weights: bool = False,
    like: str | os.PathLike[str] | None = None,
    goldens: bool = False,
    sources: Mapping[str, str] | None = None,
    atol: float | None = None,
    min_cosine: float | None = None,
    progress: Progress = ignore_progress,
) -> Outcome:
    """Apply ``steps`` to ``source`` in order, prove the result and save it.

    Consecutive edits are proven together, and each rewrite on its own, against the model before it. The last of these proofs
    runs on the written file.

    Args:
        steps: edits and rewrites, in any order.
        source: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model.
        output: the file to write. If None, it is beside the source, with the last step in its name.
        verify: prove the written file before it gets its final name.
        full: run the whole proof and compare every byte of the weights, at any size.
        force: replace an existing output, but never the input.
        dry_run: do everything except writing. For edits, only the head is proven.
        keep_failed: keep an output whose proof failed, or that ``strict`` refuses.
        strict: raise StrictError if there is any warning.
        hash_weights: also record a sha256 of the weights in the file.
        like: the model's folder, if the file lies elsewhere: its pooling config, modules and tokenizer count as the file's own.
        atol, min_cosine: the limits of the proofs, as in `verify`. If a rewrite is lossy, they apply only to that one.
        goldens: record golden inputs and vectors for `verify --self`, and check the file against them. This runs the source
            once more. Also record a certificate: versions, the proof and ``sources``.
        sources: the sha256 (hex) of the files that the output is made from, by their paths in the model folder.
        progress: called with a few words on what is being done, and how many of how many parts are done.

    Raises:
        VerificationFailed if a proof does not pass (``error.outcome`` holds the report); StrictError;
        NothingToOptimizeError if a rewrite changes nothing; what `load`, the edits, the rewrites and `save` raise.
    """
    before = renew_module_warning(load(source))
    if like is not None:
        folder = Path(like).absolute()
        before = place_in_folder(before, folder)
        before = replace(before, remarks=(*before.remarks, *list_prompts(folder)))
    _check_request(steps, goldens)
    place = choose_output(before, steps[-1], output)
    writing, groups = Writing(place, force, dry_run, keep_failed, strict), list(_group_steps(steps))
    options = _Options(
        verify, full, hash_weights, Limits(atol, min_cosine), _is_lossy(steps), len(groups) > 1, goldens, progress
    )
    outcome = Outcome(before, (Output(before, place),))
    parts: list[_Part] = []
    for group in groups:
        if parts and verify:
            outcome = _prove_inner(outcome, parts[-1], writing)
            if not outcome.is_right:
                return require_wanted(_keep_failed(outcome, writing), strict=strict)
        parts.append(_apply(group, outcome.model, options))
        outcome = parts[-1].describe(outcome)
    if goldens:
        outcome = _record_goldens(outcome, steps, parts, progress)
    elif all(isinstance(part, _Rewritten) for part in parts):
        sources = find_sources(before)
    else:
        sources = None
    return _finish(outcome, parts[-1], writing, options, (sources or {}) if goldens else sources)


def choose_output(model: Model, last: Step, wanted: str | os.PathLike[str] | None) -> Path:
    """Return the ``wanted`` path, or if it is None one beside ``model`` with the last step in its name: ``model.onnx`` ->
    ``model.pooled.onnx``. Half precision is ``model_fp16.onnx``, as transformers.js and model hubs call it.

    RequestError if a model from memory needs one, or if it lies in the Hugging Face cache.
    """
    place = Path(wanted) if wanted is not None else _choose_beside(model, last)
    check_outside_cache(place)
    return place


def _choose_beside(model: Model, last: Step) -> Path:
    if model.path is None:
        raise RequestError("a model from memory has no folder for the output", "give the output's path with output=...")
    stem = model.path.name.removesuffix(".onnx")
    for name in (*(listed.step for listed in EDIT_LIST.values()), Rewrite.step):
        stem = stem.removesuffix(f".{name}")
    ending = f"_{last.precision}" if isinstance(last, Half) else f".{last.step}"
    return model.path.with_name(f"{stem}{ending}.onnx")


@dataclass(frozen=True)
class Writing:
    """The place of the output, and how to write it."""

    place: Path
    force: bool = False
    dry_run: bool = False
    keep_failed: bool = False
    strict: bool = False
    """Whether a warning is a failure."""

    @contextmanager
    def stage(self, model: Model, progress: Progress | None = None) -> Iterator[Stage]:
        """Write ``model`` under a temporary name, into the output's folder, or for a dry run into a temporary one.

        The file is removed afterwards unless it is committed.
        """
        plan = plan_output(model, self.place, force=self.force, largest=LARGEST_PROTOBUF - ROOM)
        if not self.dry_run:
            tell = _make_byte_counter(progress, plan) if progress is not None else lambda _: None
            with stage_output(plan, force=self.force, progress=tell) as stage:
                yield stage
            return
        with (
            tempfile.TemporaryDirectory(prefix="graphsurgery-") as folder,
            stage_output(plan_output(model, Path(folder) / self.place.name)) as stage,
        ):
            yield stage


def commit(stage: Stage, sources: Mapping[str, str] | None, report: Report | None) -> Saved:
    """Give a staged file its final name, with a certificate of ``sources`` unless these are None."""
    if sources is not None:
        stage.extend(add_certificate(stage.plan.document, sources, report))
    return stage.commit()


def find_sources(source: Model) -> Mapping[str, str] | None:
    """Return the sources in the certificate of ``source``, which a rewritten file inherits. None without a certificate."""
    certificate = read_certificate(source)
    return None if certificate is None else certificate.sources


def check_goldens(report: Report, written: Model) -> Report:
    """Join ``report`` with the check of a file against its recorded golden values, if it has any and the report passed."""
    return join_reports(report, verify_itself(written)) if report and _has_goldens(written) else report


def _has_goldens(model: Model) -> bool:
    return any(step.edit == GOLDEN for step in list_steps_since_edit(model.proto))


def make_claim(chain: Sequence[Applied], limits: Limits) -> Claim:
    """Return what the last model of ``chain`` has to preserve of the first one."""
    interface = chain[0].before.interface
    for one in chain:
        interface = one.rewrite.interface(interface)
    parts = next((one.parts for one in chain if one.parts.head), chain[0].parts)
    exactness = next((one.rewrite.exactness for one in chain if one.rewrite.exactness == LOSSY), chain[0].rewrite.exactness)
    least = [one.rewrite.least_cosine for one in chain if one.rewrite.least_cosine is not None]
    limits = replace(limits, min_cosine=min(least)) if least and limits.min_cosine is None else limits
    checks = [check for one in chain for check in one.rewrite.list_checks(one.before)]
    return Claim(exactness, interface, [one.step.edit for one in parts.head], parts.own, limits, checks)


@dataclass(frozen=True)
class _Options:
    verify: bool
    full: bool
    hash_weights: bool
    asked: Limits
    lossy: bool
    """Whether a rewrite is lossy. ``asked`` then applies only to that one."""
    has_several: bool
    """Whether there are several parts. The checks of a rewrite then have its name before their own."""
    goldens: bool
    progress: Progress

    def limits(self, exactness: str | None = None) -> Limits:
        """Return the limits of a proof."""
        return self.asked if not self.lossy or exactness == LOSSY else NO_LIMITS


@dataclass
class _Part(ABC):
    """Steps that are applied and proven together."""

    after: Model
    options: _Options

    def describe(self, outcome: Outcome) -> Outcome:
        """Return ``outcome`` with the model of this part."""
        return replace(outcome, outputs=(replace(outcome.outputs[0], model=self.after),), remarks=self.after.remarks)

    @abstractmethod
    def prove(self, written: Model | None, *, dry_run: bool) -> Proven:
        """Prove the ``written`` file, or the model in memory if there is none."""


@dataclass
class _Edited(_Part):
    """Consecutive edits."""

    edits: Sequence[Edit]
    base: Model
    """The model that the proof starts from."""

    def prove(self, written: Model | None, *, dry_run: bool) -> Proven:
        written = written or self.after
        if self.edits[-1].restores:
            return Proven(_compare_restored(self.after, written))
        limits, full = self.options.limits(), self.options.full and not dry_run
        report = verify_model(
            written, against=self.base, atol=limits.atol, min_cosine=limits.min_cosine, full=full, head_only=dry_run,
            progress=self.options.progress,
        )  # fmt: skip
        return Proven(join_reports(report, check_intent(self.base, written, _asked_parameters(self.edits))))


@dataclass
class _Rewritten(_Part):
    """One rewrite."""

    applied: Applied
    proof: RewriteProof

    def describe(self, outcome: Outcome) -> Outcome:
        result = self.applied.result
        return replace(
            super().describe(outcome),
            architecture=result.architecture or outcome.architecture,
            fusions=result.fusions or outcome.fusions,
            loss=result.loss or outcome.loss,
        )

    def prove(self, written: Model | None, *, dry_run: bool) -> Proven:
        rewrite = self.applied.rewrite
        self.options.progress(f"proving the rewrite {rewrite.name}")
        claim = make_claim([self.applied], self.options.limits(rewrite.exactness))
        proven = self.proof.compare(require_value(written, "a written file"), claim)
        if not self.options.has_several:
            return proven
        checks = tuple(replace(check, name=f"{rewrite.name}: {check.name}") for check in proven.report.checks)
        return replace(proven, report=replace(proven.report, checks=checks))


def _check_request(steps: Sequence[Step], goldens: bool) -> None:
    if not steps:
        raise RequestError("there is no step to run", "give at least one edit or rewrite")
    restores = [isinstance(step, Edit) and step.restores for step in steps]
    rewrites = [isinstance(step, Rewrite) for step in steps]
    if any(rewrites) and any(restores[rewrites.index(True) :]):
        raise RequestError(
            "strip-head cannot follow a rewrite in the same run: it would remove the head that the rewrite was proven with",
            "run strip-head first, or in a separate run",
        )
    if goldens and restores[-1]:
        raise RequestError(
            "strip-head restores the source byte for byte, so golden vectors cannot be recorded", "run without golden vectors"
        )


def _is_lossy(steps: Sequence[Step]) -> bool:
    return any(isinstance(step, Rewrite) and step.exactness == LOSSY for step in steps)


def _group_steps(steps: Sequence[Step]) -> Iterator[list[Edit] | Rewrite]:
    """Yield consecutive edits together, and each rewrite on its own."""
    for is_rewrite, group in groupby(steps, key=lambda step: isinstance(step, Rewrite)):
        if is_rewrite:
            yield from (step for step in group if isinstance(step, Rewrite))
        else:
            yield [step for step in group if isinstance(step, Edit)]


def _apply(group: list[Edit] | Rewrite, model: Model, options: _Options) -> _Part:
    if isinstance(group, Rewrite):
        group.check(model)
        proof = RewriteProof.of(model, full=options.full, progress=options.progress)
        applied = apply_rewrite(group, model, Context(proof.feeds, options.progress))
        if applied.result.unchanged is not None:
            raise applied.result.unchanged
        return _Rewritten(applied.after, options, applied, proof)
    options.progress("editing the graph")
    base = current = model
    for edit in group:
        current = edit.apply(current, hash_weights=options.hash_weights)
        if edit.restores:
            base = current
    return _Edited(current, options, group, base)


def _asked_parameters(edits: Sequence[Edit]) -> list[dict[str, Any]]:
    """Return the requested parameters of the proven edits: those after the last edit that restores a file."""
    start = max((place for place, edit in enumerate(edits) if edit.restores), default=-1)
    return [edit.parameters() for edit in edits[start + 1 :]]


def _record_goldens(outcome: Outcome, steps: Sequence[Step], parts: Sequence[_Part], progress: Progress) -> Outcome:
    """Record golden vectors in the last model.

    Only the edits determine them. A rewrite changes only their tolerance.
    """
    progress("making golden vectors")
    last = parts[-1]
    if isinstance(last, _Edited) and len(parts) == 1:
        last.after = record_goldens(last.base, last.after)
        return last.describe(outcome)
    results = [part.applied.result for part in parts if isinstance(part, _Rewritten)]
    if all(one.keeps_goldens for one in results):
        limits = next((one.golden_limits for one in results if one.golden_limits is not None), None)
        recorded, remarks = _apply_edits(steps, outcome.source)
        after = copy_goldens(recorded, last.after, limits)
        after = replace(after, remarks=(*after.remarks, *remarks))
    else:
        after = replace(last.after, remarks=(*last.after.remarks, NO_GOLDENS))
    last.after = after
    return last.describe(outcome)


def _apply_edits(steps: Sequence[Step], source: Model) -> tuple[Model, tuple[str, ...]]:
    """Apply only the edits among ``steps``, and record golden vectors. Return the model and the remarks on these vectors."""
    base = current = source
    for step in steps:
        if isinstance(step, Edit):
            current = step.apply(current)
            base = current if step.restores else base
    recorded = record_goldens(base, current)
    return recorded, recorded.remarks[len(current.remarks) :]


def _prove_inner(outcome: Outcome, part: _Part, writing: Writing) -> Outcome:
    """Prove a part that is not the last one. A rewrite needs a temporary file, because its proof runs in another process."""
    if isinstance(part, _Edited):
        return _prove(outcome, part, None, writing.dry_run)
    with writing.stage(part.after) as stage:
        return _prove(outcome, part, stage, writing.dry_run)


def _prove(outcome: Outcome, part: _Part, stage: Stage | None, dry_run: bool) -> Outcome:
    """Prove ``part`` and add its checks to the report. If they did not pass, the report has only these."""
    written = None if stage is None else load(stage.path)
    proven = part.prove(written, dry_run=dry_run)
    report = proven.report if written is None else check_goldens(proven.report, written)
    if report and outcome.report is not None:
        report = join_reports(outcome.report, report)
    return replace(outcome, report=report, loss=(outcome.loss or {}) | proven.loss or None)


def _finish(outcome: Outcome, part: _Part, writing: Writing, options: _Options, sources: Mapping[str, str] | None) -> Outcome:
    """Write the last model, prove the written file, and give it its final name."""
    if writing.dry_run and isinstance(part, _Edited):
        plan = plan_output(outcome.model, writing.place, force=writing.force)
        outcome = replace(outcome, remarks=(*outcome.remarks, *plan.remarks))
        outcome = _prove(outcome, part, None, dry_run=True) if options.verify else outcome
        return require_wanted(outcome, strict=writing.strict)
    with writing.stage(outcome.model, options.progress) as stage:
        outcome = replace(outcome, remarks=(*outcome.remarks, *stage.plan.remarks))
        if options.verify:
            outcome = _prove(outcome, part, stage, writing.dry_run)
            if options.goldens and outcome.report and not _has_goldens(outcome.model):
                outcome = replace(outcome, report=join_reports(outcome.report, verify_itself(outcome.model)))
        if not writing.dry_run and (is_wanted(outcome, strict=writing.strict) or writing.keep_failed):
            outcome = outcome.with_saved(commit(stage, sources, outcome.report))
        return require_wanted(outcome, strict=writing.strict)


def _keep_failed(outcome: Outcome, writing: Writing) -> Outcome:
    """Save a wrong model if ``keep_failed`` asks for it."""
    if writing.dry_run or not writing.keep_failed:
        return outcome
    with writing.stage(outcome.model) as stage:
        return outcome.with_saved(stage.commit())


def _compare_restored(wanted: Model, written: Model) -> Report:
    """Prove a restored file: its fingerprint is that of the recorded source, apart from the new location of copied data."""
    document = written.document
    moves = [step for step in list_undoable_steps(written.proto) if step.edit in HOUSEKEEPING]
    for step in reversed(moves):
        document = undo_step(document, step, lambda location: open_data(written.files[location]))
    same = document.fingerprint == wanted.fingerprint
    detail = "the fingerprint equals that of the recorded source"
    detail += ", apart from the location of its weights" if moves else ""
    check = Check("source restored", detail, stated=Verdict.PASSED if same else Verdict.FAILED, conclusive=True)
    if not moves:
        return Report((check,))
    weights, unchecked = check_untouched(wanted, written, find_difference(wanted, written), [], every_byte=True)
    return Report((check, weights), (), unchecked)


def _make_byte_counter(progress: Progress, plan: Plan) -> Callable[[int], None]:
    """Return a function that reports how much of the output is written."""
    total = max(plan.size, 1)
    mebibytes = total >> 20
    done = reported = 0

    def tell(count: int) -> None:
        nonlocal done, reported
        done += count
        percent = 100 * done // total
        if percent > reported:
            reported = percent
            progress("writing MiB", done >> 20, mebibytes)

    return tell
