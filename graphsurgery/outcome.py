"""The outcome of edits and rewrites: the models that were made, their proof, and further findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graphsurgery.compare.choice import Choice
from graphsurgery.compare.timing import Timings
from graphsurgery.consumers import Compatibility, list_readers
from graphsurgery.encoder.architecture import Architecture
from graphsurgery.encoder.head import read_head_steps
from graphsurgery.errors import VerificationFailed
from graphsurgery.interface import Interface
from graphsurgery.model.model import Model
from graphsurgery.model.staging import Saved
from graphsurgery.remarks import HasRemarks, make_strict_error, select_warnings
from graphsurgery.report import Report, Verdict
from graphsurgery.rewrites.fuse.report import FusionReport
from graphsurgery.runtime.baked_sizes import declare_baked_sizes
from graphsurgery.shown import Shown
from graphsurgery.snippet import make_snippet, shorten_path

MOST_ATTEMPTS = 4
"""The most attempts with one reason, and the most reasons, that an error lists."""


@dataclass(frozen=True)
class Output:
    """A model that was made, and its file."""

    model: Model
    path: Path
    saved: Saved | None = None
    """None after a dry run and after a failed proof."""


@dataclass(frozen=True)
class Outcome(Shown, HasRemarks):
    """The result of `run` or `optimize`.

    The properties `model`, `output`, `saved`, `interface`, `steps` and `consumers` are those of the first output. Every verb
    makes one output today.
    """

    source: Model
    """The model that the edits or rewrites were applied to."""
    outputs: tuple[Output, ...]
    """The models that were made, each with its file."""
    remarks: tuple[str, ...] = ()
    """Notes and warnings, without those of the report."""
    report: Report | None = None
    """The proof. None if no proof was requested."""
    program: str | None = None
    """A program that runs the output, in place of the usual one. None for the usual one."""
    architecture: Architecture | None = None
    """The encoder's architecture, if a rewrite needed it."""
    fusions: FusionReport | None = None
    """The parts of the encoder that should fuse, and the results. None if the encoder was not fused."""
    attempts: tuple[str, ...] = ()
    """The attempts that `optimize` rejected before, each with the reason."""
    timings: Timings | None = None
    """The times of the source and the output. None if nothing was timed."""
    choice: Choice | None = None
    """For ``speed``: every candidate with its times. None if nothing was chosen by time."""
    loss: dict[str, Any] | None = None
    """For half precision: how far the vectors differ from those in float32, and which nodes stay float32."""

    def __repr__(self) -> str:
        """Return one line: the output, its verdict, and its interface."""
        verdict = "not proven" if self.report is None else self.report.verdict.value
        return f"<{type(self).__name__} {shorten_path(self.output)}: {verdict}; {self.interface}>"

    @property
    def model(self) -> Model:
        return self.outputs[0].model

    @property
    def output(self) -> Path:
        return self.outputs[0].path

    @property
    def saved(self) -> Saved | None:
        return self.outputs[0].saved

    @property
    def interface(self) -> Interface:
        return self.model.interface

    @property
    def warnings(self) -> tuple[str, ...]:
        """All warnings: about the source, the request, the output and its proof."""
        return select_warnings((*self.remarks, *(self.report.remarks if self.report is not None else ())))

    @property
    def steps(self) -> tuple[dict[str, Any], ...]:
        """The recorded edits of the output."""
        return tuple(step.to_json() for step in read_head_steps(self.model))

    @property
    def snippet(self) -> str:
        """A program that runs the output."""
        return self.program or make_snippet(self.model, self.output, self.source.place)

    @property
    def consumers(self) -> tuple[Compatibility, ...]:
        """For every known program whether it can read the output."""
        return list_readers(self.model, declare_baked_sizes(self.model, self.source)[0])

    @property
    def is_right(self) -> bool:
        """Whether the proof passed or none was requested."""
        return self.report is None or bool(self.report)

    def with_saved(self, saved: Saved | None) -> Outcome:
        """Return this outcome with its only output saved, or not saved for None."""
        return replace(self, outputs=(replace(self.outputs[0], saved=saved),))

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as JSON-ready data."""
        return {
            "source": str(self.source.path) if self.source.path else None,
            "output": str(self.output) if self.saved else None,
            "data": str(self.saved.data) if self.saved and self.saved.data else None,
            "steps": list(self.steps),
            "rewrites": [step.to_json() for step in self.model.rewrites],
            "interface": {"before": self.source.interface.to_json(), "after": self.interface.to_json()},
            "notes": list(self.notes),
            "warnings": list(self.warnings),
            "report": self.report.to_json() if self.report is not None else None,
            "snippet": self.snippet,
            "consumers": [reading.to_json() for reading in self.consumers],
            "architecture": self.architecture.to_json() if self.architecture is not None else None,
            "fusions": self.fusions.to_json() if self.fusions is not None else None,
            "attempts": list(self.attempts),
            "timings": self.timings.to_json() if self.timings is not None else None,
            "choice": self.choice.to_json() if self.choice is not None else None,
            "loss": self.loss,
        }


Optimized = Outcome
"""The outcome of `optimize`."""


def is_wanted(outcome: Outcome, *, strict: bool) -> bool:
    """Whether the proof did not fail, and there are no warnings if ``strict`` allows none."""
    return outcome.is_right and not (strict and outcome.warnings)


def require_wanted(outcome: Outcome, *, strict: bool) -> Outcome:
    """Return ``outcome``.

    Raises VerificationFailed if its proof did not pass, and StrictError for warnings if ``strict`` allows none.
    """
    if is_wanted(outcome, strict=strict):
        return outcome
    if outcome.is_right:
        raise make_strict_error(outcome.warnings, describe_output(outcome, outcome.output), outcome)
    advice = "see the report; --keep-failed keeps such an output for inspection, --no-verify skips the proof"
    if outcome.loss is not None:
        advice = f"half precision loses too much here; --min-cosine allows more. {advice}"
    if outcome.attempts:
        advice = f"tried: {list_attempts(outcome.attempts)}; {advice}"
    raise VerificationFailed(describe_failure(outcome, outcome.output), advice, outcome)


def describe_failure(outcome: Outcome, place: Path) -> str:
    """Return a message: the proof of the file or folder ``place`` did not pass, why, and where the output is now."""
    report = outcome.report
    why = "nothing was proven" if report is None else f"{report.verdict.value}: {explain_failure(report)}"
    return f"{place.name} did not pass its proof ({why}); {describe_output(outcome, place)}"


def describe_output(outcome: Outcome, place: Path) -> str:
    """Say whether a wrong output was kept."""
    return f"it was kept as {place}" if outcome.saved else "nothing was written"


def explain_failure(report: Report) -> str:
    """Say in one line why ``report`` did not pass."""
    for check in report.checks:
        if check.verdict is Verdict.FAILED:
            wrong = [one for one in check.comparisons if one.verdict is Verdict.FAILED]
            worst = max(wrong, key=lambda one: one.margin, default=None)
            missed = [str(one) for one in check.figures if one.verdict is Verdict.FAILED]
            return "; ".join(missed) or check.detail if worst is None else f"{worst.wrong} in {worst.kind!r}"
    unchecked = [f"{check.name}: {check.detail}" for check in report.checks if check.verdict is Verdict.NOT_CHECKED]
    return next(iter((*unchecked, *report.not_checked)), "nothing was compared")


def list_attempts(attempts: Sequence[str]) -> str:
    """List the first reasons for which attempts were rejected, and count the others."""
    return "; ".join(_list_some(group_attempts(attempts)))


def group_attempts(attempts: Sequence[str]) -> list[str]:
    """Return each reason once, after the first attempts that were rejected for it."""
    groups: dict[str, list[str]] = {}
    for attempt in attempts:
        label, _, why = attempt.partition(": ")
        groups.setdefault(why, []).append(label)
    return [f"{'; '.join(_list_some(labels))}: {why}" for why, labels in groups.items()]


def _list_some(entries: Sequence[str]) -> list[str]:
    more = len(entries) - MOST_ATTEMPTS
    return [*entries[:MOST_ATTEMPTS], *([f"and {more} more"] if more > 0 else [])]
