"""The proof of a rewritten file: a run in a process of its own, the head's bytes, and its outputs against the source's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.halving.loss import Opinion, opinions
from graphsurgery.halving.probes import Feed
from graphsurgery.interface import Value
from graphsurgery.model.changes import INITIALIZER, NODE
from graphsurgery.model.dtypes import FLOATS
from graphsurgery.model.loading import load
from graphsurgery.model.model import Model
from graphsurgery.model.records import Record
from graphsurgery.optimizing.comparing import NAME, Wanted, compared, wanted
from graphsurgery.optimizing.parts import Parts
from graphsurgery.optimizing.rebuilt import filled
from graphsurgery.optimizing.trial import crash
from graphsurgery.proof.compare import LEAST_COSINE, NO_LIMITS, Limits, longest_apart
from graphsurgery.proof.reference import computes_in_half
from graphsurgery.report import Check, Comparison, Report, Verdict
from graphsurgery.runtime.feeds import Drawer, text_feed
from graphsurgery.runtime.session import open_session
from graphsurgery.runtime.texts import Encoded

INTERFACE, RUN, HEAD, SECOND = "same interface", "runs", "head untouched", "second opinion"
MEASURED = ("right padding", "left padding", "long")
MOST_TEXTS = 4
"""Batches of real text that losses are measured on."""


@dataclass(frozen=True)
class Proven:
    """What a proof came to, and what half precision loses in the opinion of two engines."""

    report: Report
    opinions: tuple[Opinion, Opinion] | None


@dataclass
class Prover:
    """What the source gives, run once for every file that is held against it."""

    source: Model
    drawer: Drawer
    texts: Encoded | None
    why_no_text: str | None
    limits: Limits
    half: int | None = None
    """The half type that the file is to compute in."""
    reheaded: bool = False
    """Whether the file has another head than the source: its outputs may be in another order, and rows without any token give
    zeros where that of the source may not."""
    half_io: bool = False
    """Whether floats go in and out in the half type, too."""
    _wanted: dict[tuple[bool | str, ...], tuple[Wanted, ...]] = field(default_factory=dict)

    def wanted(self, names: Sequence[str], empty_rows: bool) -> tuple[Wanted, ...]:
        """The values ``names`` of the source, on every kind of feed."""
        key: tuple[bool | str, ...] = (empty_rows, *names)
        if key not in self._wanted:
            self._wanted[key] = wanted(
                lambda plain: open_session(self.source, extra_outputs=names, plain=plain),
                names, self.drawer, self.texts, empty_rows=empty_rows,
            )  # fmt: skip
        return self._wanted[key]

    @property
    def feeds(self) -> list[Feed]:
        """What activations and losses are measured on: real text where there is some, and drawn ids."""
        drawn: list[Feed] = [self.drawer.feed(masks[0], seed=0) for kind, masks in self.drawer.kinds() if kind in MEASURED]
        batches = [] if self.texts is None else list(self.texts.batches())[:MOST_TEXTS]
        return [*(text_feed(self.drawer, batch) for batch in batches), *drawn]

    def report(self, path: Path, parts: Parts, made: Model) -> Proven:
        """What the proof of the file at ``path``, which ``made`` is, comes to."""
        not_checked = self._left_out(parts, made)
        written = load(path)
        checks = [self._interface(written), *_head(written, parts)]
        if self.half == onnx.TensorProto.BFLOAT16:
            not_checked.append(f"{NAME}: ONNX Runtime's CPU has no kernels for bfloat16")
        else:
            checks += self._run(path, written, parts, made, not_checked)
        told = None
        if self.half is not None and all(check.verdict is not Verdict.FAILED for check in checks):
            cannot_run = crash(path, []) if self.half == onnx.TensorProto.BFLOAT16 else None  # it was not tried yet
            source, candidate = (filled(model.proto, model) for model in (self.source, written))
            told = opinions(source, candidate, self.feeds, cannot_run=cannot_run)
            checks += [_second(told[1], self._limits)] if told[1].loss is not None else []
            not_checked += [] if told[1].loss is not None else [f"{SECOND}: {told[1].why}"]
        return Proven(Report(tuple(checks), (), tuple(not_checked)), told)

    def _left_out(self, parts: Parts, made: Model) -> list[str]:
        """What is not checked, and why, whatever comes out."""
        found = [self.why_no_text] if self.why_no_text else []
        others = [value for value in made.interface.outputs if not _is_float(value)]
        found += [f"output {value}: only floats are compared" for value in others if shared_outputs(self.source, made)]
        if self.drawer.roles.mask is None and self.drawer.roles.others:
            names = ", ".join(value.name for value in self.drawer.roles.others)
            found.append(f"padding: no attention mask was recognised among the inputs (of unknown use: {names})")
        if self.reheaded:
            found.append("rows without a token: our head gives zeros there, the source's may give anything")
        elif not self._empty_rows(parts):
            found.append("rows without a token: half precision masks with another number, so that they come to something else")
        return found

    def _empty_rows(self, parts: Parts) -> bool:
        """Whether the vectors of rows without a token can be compared: where a head makes them zero, or nothing rounds."""
        return not self.reheaded and (self.exact or bool(parts.head))

    def in_float32(self) -> Prover:
        """For the same graph before it computes in half precision: the proof's own limits."""
        return replace(self, half=None, limits=NO_LIMITS, half_io=False)

    @property
    def exact(self) -> bool:
        """Whether both files compute in float32."""
        return self.half is None and not computes_in_half(self.source)

    @property
    def _limits(self) -> Limits:
        """In half precision, the file's or the source's own, the angle counts besides a difference that is asked for."""
        if self.exact:
            return self.limits
        return Limits(self.limits.atol, self.limits.min_cosine if self.limits.min_cosine is not None else LEAST_COSINE)

    def _run(self, path: Path, written: Model, parts: Parts, made: Model, not_checked: list[str]) -> list[Check]:
        names = shared_outputs(self.source, made)
        inside = [] if names else parts.reads  # where the outputs are bytes, what the head reads
        try:
            every = self.wanted(names or inside, self._empty_rows(parts))
        except UnsupportedModelError as error:
            not_checked.append(f"{NAME}: of the source, {error}")
            return []
        died = crash(path, [self.drawer.feed(masks[0], seed=0) for _, masks in self.drawer.kinds()])
        if died is not None:
            return [Check(RUN, died, stated=Verdict.FAILED)]
        ran = Check(RUN, "every kind of feed, in a process of its own", stated=Verdict.PASSED)
        try:
            output = open_session(written, extra_outputs=inside)
            return [ran, compared(every, output, self._limits, exact=self.exact)]
        except UnsupportedModelError as error:
            return [ran, Check(NAME, str(error), stated=Verdict.FAILED)]

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


def _second(opinion: Opinion, limits: Limits) -> Check:
    """The loss that onnx's reference evaluator finds, each operator in the type that the file says."""
    loss = opinion.loss
    assert loss is not None and limits.min_cosine is not None
    asked = loss.max_abs / limits.atol if limits.atol else 0.0
    margin = max(asked, loss.relative / longest_apart(limits.min_cosine))
    one = Comparison("first rows", loss.vectors, loss.max_abs, margin, loss.min_cosine, loss.not_finite, limits.min_cosine)
    return Check(SECOND, f"by {opinion.engine} evaluator, on the first rows: {loss}", (one,))


def shared_outputs(source: Model, made: Model) -> list[str]:
    """The outputs of floats that both have, those of ``made`` first."""
    numeric = [value.name for value in made.interface.outputs if _is_float(value)]
    return [name for name in numeric if (one := source.interface.output(name)) is not None and _is_float(one)]


def _is_float(value: Value) -> bool:
    return value.dtype in FLOATS


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
