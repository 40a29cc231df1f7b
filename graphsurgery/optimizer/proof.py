"""The proof of a rewritten file: a run in a process of its own, the head's bytes, and its outputs against the source's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from graphsurgery.compare.limits import NO_LIMITS, Limits
from graphsurgery.compare.loss import Opinion
from graphsurgery.interface import Value
from graphsurgery.model.changes import INITIALIZER, NODE
from graphsurgery.model.loading import load
from graphsurgery.model.model import Model
from graphsurgery.model.records import Record
from graphsurgery.proof.relation import Relation
from graphsurgery.proof.same_outputs import SameOutputs
from graphsurgery.report import Check, Report, Verdict
from graphsurgery.rewrites.head_parts import Parts
from graphsurgery.runtime.isolated import crash

INTERFACE, RUN, HEAD = "same interface", "runs", "head untouched"


@dataclass(frozen=True)
class Proven:
    """What a proof came to, and what half precision loses in the opinion of two engines."""

    report: Report
    opinions: tuple[Opinion, Opinion] | None


@dataclass
class Prover:
    """Holds files that were rewritten against their source."""

    same: SameOutputs
    why_no_text: str | None
    limits: Limits
    half: int | None = None
    """The half type that the file is to compute in."""
    reheaded: bool = False
    """Whether the file has another head than the source: its outputs may be in another order."""
    half_io: bool = False
    """Whether floats go in and out in the half type, too."""

    @property
    def source(self) -> Model:
        return self.same.source

    @property
    def feeds(self) -> list[dict[str, np.ndarray]]:
        """What activations and losses are measured on: real text where there is some, and drawn ids."""
        return self.same.measured

    def report(self, path: Path, parts: Parts) -> Proven:
        """What the proof of the file at ``path`` comes to."""
        written = load(path)
        relation = Relation.of(self.source, written, self.limits)
        not_checked = [*([self.why_no_text] if self.why_no_text else []), *relation.not_checked]
        checks = [self._interface(written), *_head(written, parts)]
        if relation.half != onnx.TensorProto.BFLOAT16 and self.same.runs(relation):
            died = crash(path, [self.same.drawer.feed(masks[0], seed=0) for _, masks in self.same.drawer.every_kind()])
            if died is not None:
                return Proven(Report((*checks, Check(RUN, died, stated=Verdict.FAILED)), (), tuple(not_checked)), None)
            checks.append(Check(RUN, "every kind of feed, in a process of its own", stated=Verdict.PASSED))
        if any(check.verdict is Verdict.FAILED for check in checks):
            relation = replace(relation, half=None)  # there is nothing to ask a second engine about
        compared, opinions, left_out = self.same.checks(written, relation, self.limits)
        report = Report((*checks, *compared), self.same.observed(compared), (*not_checked, *left_out))
        return Proven(report, opinions)

    def in_float32(self) -> Prover:
        """For the same graph before it computes in half precision: the proof's own limits."""
        return replace(self, half=None, limits=NO_LIMITS, half_io=False)

    def _interface(self, written: Model) -> Check:
        """Whether the file takes and gives what its source does, under the same names and of the same types, but for what was
        asked for."""
        order = sorted if self.reheaded else list
        one, other = (
            [order(map(self._shown, side)) for side in (model.interface.inputs, model.interface.outputs)]
            for model in (self.source, written)
        )
        if one == other:
            sides = {"input": written.interface.inputs, "output": written.interface.outputs}
            counted = " and ".join(f"{len(side)} {name}{'s' * (len(side) != 1)}" for name, side in sides.items())
            return Check(INTERFACE, f"{counted}, as the source has them", stated=Verdict.PASSED)
        has, should = (
            ", ".join(map(str, (*side.inputs, *side.outputs))) for side in (written.interface, self.source.interface)
        )
        return Check(INTERFACE, f"{has} in place of {should}", stated=Verdict.FAILED)

    def _shown(self, value: Value) -> tuple[str, int]:
        """Name and type; floats count as of the half type where they are to go in and out so."""
        wanted = self.half if self.half_io and value.dtype == onnx.TensorProto.FLOAT and self.half is not None else value.dtype
        return value.name, wanted


def _head(written: Model, parts: Parts) -> list[Check]:
    """Whether every node and weight of the head is in the file, to the byte; nothing where there is none."""
    if not parts.head:
        return []
    there = {record.chunks[0]: record for record in written.document.graph if record.field in (NODE, INITIALIZER)}
    lost = [one for one in parts.own if one.chunks[0] not in there or not _same(one, there[one.chunks[0]])]
    what = f"{len(parts.own)} nodes and weights of {', '.join(one.step.edit for one in parts.head)}"
    verdict = Verdict.FAILED if lost else Verdict.PASSED
    return [Check(HEAD, f"{what}: {f'{len(lost)} of them are missing or changed' if lost else 'as they were'}", stated=verdict)]


def _same(one: Record, other: Record) -> bool:
    """Whether two fields are equal to the byte, the payloads of tensors in them, too."""
    read = ([chunk if isinstance(chunk, bytes) else chunk.read() for chunk in record.chunks] for record in (one, other))
    return next(read) == next(read)
