"""Verdicts and reports as data. A check that compared nothing is NOT CHECKED, never PASSED."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from graphsurgery.remarks import HasRemarks
from graphsurgery.shown import Shown

SMALLEST_SHARE = 0.001
MANY = 10
"""A difference of this many limits or more is shown as a multiple of its limit. Smaller ones are shown in percent."""
FEW = 5
"""The number of names that a list in a report shows."""
NOTEWORTHY = 1.5
"""A tolerance that was widened by more than this factor is mentioned."""


class Verdict(Enum):
    """The result of a check: PASSED, FAILED, or NOT CHECKED if nothing could be compared."""

    PASSED = "PASSED"
    FAILED = "FAILED"
    NOT_CHECKED = "NOT CHECKED"


def combine_verdicts(verdicts: Iterable[Verdict]) -> Verdict:
    """Return FAILED if any verdict is FAILED, else PASSED if any is PASSED, else NOT CHECKED, also for no verdicts."""
    found = set(verdicts)
    for verdict in (Verdict.FAILED, Verdict.PASSED):
        if verdict in found:
            return verdict
    return Verdict.NOT_CHECKED


@dataclass(frozen=True)
class Comparison:
    """The comparison on one kind of feed: the number of cases (rows), and how far they differ.

    ``worst`` is the largest absolute difference, ``margin`` the largest difference in units of its tolerance (passed: at
    most 1), ``cosine`` the smallest cosine between a vector and its reference (None if neither has a length),
    ``not_finite`` the number of NaN and infinite values that the reference does not have.
    """

    kind: str
    cases: int
    worst: float
    margin: float
    cosine: float | None
    not_finite: int = 0
    least_cosine: float | None = None
    """The smallest cosine allowed. None: only the differences count."""
    skipped: int = 0
    """The number of rows that were not compared because the source itself is not finite there."""
    beyond: float = 1.0
    """The widest tolerance used, as a multiple of the promised one. It exceeds 1 if float32 allows no better in a chain."""
    stretch: float | None = None
    """The largest relative difference between the length of a vector and that of its reference."""
    most_stretch: float | None = None
    """The largest such difference allowed. None: only the differences of the numbers count."""
    too_loose: int = 0
    """The number of rows not checked because float32 errors there may exceed 100 times the promised tolerance."""

    @property
    def verdict(self) -> Verdict:
        if self.wrong is not None:
            return Verdict.FAILED
        return Verdict.PASSED if self.cases > 0 else Verdict.NOT_CHECKED

    @property
    def wrong(self) -> str | None:
        """What is wrong, in words; None if nothing is."""
        if self.not_finite:
            return f"{self.not_finite} numbers that are not finite"
        if not self.margin <= 1:
            return f"{self.worst:.1e} apart"
        if self.least_cosine is not None and self.cosine is not None and not self.cosine >= self.least_cosine:
            return f"cosine {self.cosine:.7f}"
        if self.most_stretch is not None and self.stretch is not None and not self.stretch <= self.most_stretch:
            return f"a vector's length {self.stretch:.1%} off"
        return None

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind, "verdict": self.verdict.value, "cases": self.cases, "max_abs_diff": _to_json_number(self.worst),
            "margin": _to_json_number(self.margin), "min_cosine": None if self.cosine is None else _to_json_number(self.cosine),
            "not_finite": self.not_finite, "skipped": self.skipped, "beyond_promised": _to_json_number(self.beyond),
            "max_relative_length_diff": None if self.stretch is None else _to_json_number(self.stretch),
            "too_loose": self.too_loose,
        }  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """One figure measured over a number of cases, and the least value that was asked for. Larger is better."""

    name: str
    value: float
    cases: int
    least: float | None = None
    """The least value allowed. None: the figure is shown and not judged."""

    @property
    def verdict(self) -> Verdict:
        if self.least is None or not self.cases:
            return Verdict.NOT_CHECKED
        return Verdict.PASSED if self.value >= self.least else Verdict.FAILED

    def __str__(self) -> str:
        asked = "" if self.least is None else f", at least {self.least:g} asked for"
        return f"{self.name} {self.value:.6f}{asked}"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name, "verdict": self.verdict.value, "value": _to_json_number(self.value), "least": self.least,
            "cases": self.cases,
        }  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One check of a model. Structural checks state their verdict; others have that of their comparisons and figures."""

    name: str
    detail: str
    comparisons: tuple[Comparison, ...] = ()
    stated: Verdict | None = None
    conclusive: bool = False
    """Whether the stated verdict needs no numbers, because every byte was compared."""
    figures: tuple[Figure, ...] = ()
    needed: bool = False
    """Whether a report in which this check compared nothing has not PASSED, whatever the other checks say."""

    @property
    def verdict(self) -> Verdict:
        compared = combine_verdicts([one.verdict for one in self.comparisons] + [one.verdict for one in self.figures])
        return compared if self.stated is None or compared is Verdict.FAILED else self.stated

    @property
    def cases(self) -> int:
        """The number of rows compared. Figures that were not judged add none."""
        judged = max((one.cases for one in self.figures if one.least is not None), default=0)
        return sum(one.cases for one in self.comparisons) + judged

    def __repr__(self) -> str:
        """Return one line. `to_json` gives everything."""
        return f"<{type(self).__name__} {self.name}: {self.verdict.value}, {self.cases} cases>"

    @property
    def not_finite(self) -> list[str]:
        """The rows where the source itself is not finite, in words."""
        rows = ((one.kind, one.skipped) for one in self.comparisons if one.skipped)
        return [f"the source itself is not finite in {count} row(s) of {kind!r}: not compared" for kind, count in rows]

    @property
    def left_out(self) -> list[str]:
        """The rows and kinds of feeds that the verdict does not cover, in words."""
        loose = [
            f"{self.name}: {one.too_loose} row(s) of {one.kind!r}, where float32 may be off by over 100 times the tolerance"
            for one in self.comparisons if one.too_loose
        ]  # fmt: skip
        empty = [one.kind for one in self.comparisons if not (one.cases or one.too_loose or one.skipped)]
        return loose + [f"{self.name}: nothing could be compared on {kind!r}" for kind in empty]

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name, "verdict": self.verdict.value, "detail": self.detail,
            "comparisons": [one.to_json() for one in self.comparisons], "figures": [one.to_json() for one in self.figures],
        }  # fmt: skip


@dataclass(frozen=True)
class Report(Shown, HasRemarks):
    """All checks of a model, observations, and what was not checked. A report is true if it PASSED."""

    checks: tuple[Check, ...]
    """The checks, in the order in which they were made."""
    remarks: tuple[str, ...] = ()
    """Observations and warnings about what the edit does not cause: a dependence on batch neighbours or on padding, and NaN of
    the encoder itself."""
    not_checked: tuple[str, ...] = field(default=())
    """What was left out, and why."""

    @property
    def observations(self) -> tuple[str, ...]:
        """The remarks that are not warnings."""
        return self.notes

    @property
    def verdict(self) -> Verdict:
        """FAILED if any check failed, PASSED if at least one compared numbers (or every byte) and they agreed.

        If a check is missing that a proof without every byte needs, such as a run of the whole model, it is NOT CHECKED.
        """
        verdict = combine_verdicts(check.verdict for check in self.checks)
        is_conclusive = any(check.conclusive for check in self.checks)
        lacks = any(check.needed and check.verdict is Verdict.NOT_CHECKED for check in self.checks)
        compared = is_conclusive or (not lacks and any(check.cases for check in self.checks))
        return verdict if compared or verdict is Verdict.FAILED else Verdict.NOT_CHECKED

    def __bool__(self) -> bool:
        return self.verdict is Verdict.PASSED

    def __repr__(self) -> str:
        """Return one line: the verdict, and the worst difference."""
        return f"<{type(self).__name__} {self.verdict.value}: {summarize_report(self)}>"

    def __str__(self) -> str:
        checks = [f"{check.verdict.value} {check.name}" for check in self.checks]
        return "; ".join([f"{self.verdict.value}, {self.cases} cases compared", *checks])

    @property
    def cases(self) -> int:
        """The number of rows compared."""
        return sum(check.cases for check in self.checks)

    @property
    def worst(self) -> float:
        """The difference that is largest relative to its tolerance."""
        compared = [one for check in self.checks for one in check.comparisons if one.cases]
        return max(compared, key=lambda one: one.margin).worst if compared else math.nan

    @property
    def margin(self) -> float:
        """That difference in units of its tolerance; at most 1 if it passed."""
        return max((one.margin for check in self.checks for one in check.comparisons if one.cases), default=math.nan)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON-ready data, with NaN and infinities as strings."""
        return {
            "verdict": self.verdict.value, "cases": self.cases, "max_abs_diff": _to_json_number(self.worst),
            "margin": _to_json_number(self.margin),
            "checks": [check.to_json() for check in self.checks], "observations": list(self.observations),
            "warnings": list(self.warnings),            "not_checked": list(self.not_checked),
        }  # fmt: skip


def list_few(names: Iterable[str], between: str = ", ") -> str:
    """Return up to `FEW` of ``names``, with ``between`` between them, and how many more there are."""
    listed = list(names)
    return between.join(listed[:FEW]) + (f" and {len(listed) - FEW} more" if len(listed) > FEW else "")


def join_reports(one: Report, other: Report) -> Report:
    """Return a report with the checks of both, and each remark and omission once."""
    return Report(
        (*one.checks, *other.checks),
        tuple(dict.fromkeys((*one.remarks, *other.remarks))),
        tuple(dict.fromkeys((*one.not_checked, *other.not_checked))),
    )


def summarize_figures(check: Check) -> str:
    """Return the number of cases, the difference that comes nearest to its limit, and the kinds of feeds that failed.

    For a check of figures, return these. Empty for a check without numbers.
    """
    if not check.comparisons:
        return "; ".join(map(str, check.figures))
    cases = sum(one.cases for one in check.comparisons)
    nearest = max(check.comparisons, key=lambda one: one.margin)
    parts = [f"{cases} cases", f"largest difference {nearest.worst:.1e} ({describe_share(nearest.margin)}, {nearest.kind})"]
    limited = [one for one in check.comparisons if one.least_cosine is not None and one.cosine is not None]
    if limited:
        least = min(limited, key=lambda one: one.cosine or 0)
        parts[1] = f"smallest cosine {least.cosine:.6f} (limit {least.least_cosine}), largest difference {nearest.worst:.1e}"
    widest = max(check.comparisons, key=lambda one: one.beyond)
    if widest.beyond > NOTEWORTHY:
        parts.append(f"tolerance widened up to {widest.beyond:.0f} times ({widest.kind}), because float32 rounds that much")
    failed = [f"{one.kind} ({one.wrong})" for one in check.comparisons if one.wrong is not None]
    return "; ".join(parts) + (f"; failed: {', '.join(failed)}" if failed else "")


def summarize_report(report: Report) -> str:
    """Return the number of cases, the difference of all checks that comes nearest to its limit, and the judged figures."""
    compared = [one for check in report.checks for one in check.comparisons if one.cases]
    figures = [str(one) for check in report.checks for one in check.figures if one.least is not None]
    if not compared and not figures:
        return "; ".join(check.detail for check in report.checks)
    parts = [f"{report.cases} cases"]
    if compared:
        nearest = max(compared, key=lambda one: one.margin)
        parts.append(f"largest difference {nearest.worst:.1e} ({describe_share(nearest.margin)}, {nearest.kind})")
    return "; ".join([*parts, *figures])


def format_share(margin: float) -> str:
    """Return a difference in units of its limit as text, in percent, or as a multiple where it is large."""
    if 0 < margin < SMALLEST_SHARE:
        return f"<{SMALLEST_SHARE:.1%}"
    return f"{margin:.1%}" if margin < MANY else f"{margin:,.0f} times"


def describe_share(margin: float) -> str:
    """Return `format_share` with what it is a share of."""
    return f"{format_share(margin)} {'of its' if margin < MANY else 'its'} limit"


def _to_json_number(value: float) -> float | str:
    return float(value) if math.isfinite(value) else str(value)
