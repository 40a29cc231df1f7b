"""The proof of a rewritten file: a run in a process of its own, the head's bytes, and its outputs against the source's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
from graphsurgery.optimizing.rebuilt import EVERY, with_weights
from graphsurgery.optimizing.trial import crash
from graphsurgery.proof.compare import LEAST_COSINE, Limits
from graphsurgery.proof.reference import computes_in_half
from graphsurgery.report import Check, Comparison, Report, Verdict
from graphsurgery.runtime.feeds import Drawer, text_feed
from graphsurgery.runtime.session import open_session
from graphsurgery.runtime.texts import Encoded

RUN, HEAD, SECOND = "runs", "head untouched", "second opinion"
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
    _wanted: dict[tuple[str, ...], tuple[Wanted, ...]] = field(default_factory=dict)

    def wanted(self, names: Sequence[str]) -> tuple[Wanted, ...]:
        """The values ``names`` of the source, on every kind of feed."""
        key = tuple(names)
        if key not in self._wanted:
            self._wanted[key] = wanted(
                lambda plain: open_session(self.source, extra_outputs=names, plain=plain), names, self.drawer, self.texts
            )
        return self._wanted[key]

    @property
    def feeds(self) -> list[Feed]:
        """What activations and losses are measured on: real text where there is some, and drawn ids."""
        drawn: list[Feed] = [self.drawer.feed(masks[0], seed=0) for kind, masks in self.drawer.kinds() if kind in MEASURED]
        batches = [] if self.texts is None else list(self.texts.batches())[:MOST_TEXTS]
        return [*(text_feed(self.drawer, batch) for batch in batches), *drawn]

    def report(self, path: Path, parts: Parts, made: Model) -> Proven:
        """What the proof of the file at ``path``, which ``made`` is, comes to. UnsupportedModelError when ONNX Runtime cannot
        run the source."""
        not_checked = [self.why_no_text] if self.why_no_text else []
        written = load(path)
        checks = [_head(written, parts)]
        if self.half == onnx.TensorProto.BFLOAT16:
            not_checked.append(f"{NAME}: ONNX Runtime's CPU has no kernels for bfloat16")
        else:
            checks = [*checks, *self._run(path, parts, made)]
        told = None
        if self.half is not None and checks[-1].verdict is not Verdict.FAILED:
            told = opinions(with_weights(self.source, EVERY), with_weights(written, EVERY), self.feeds)
            checks += [_second(told[1], self._limits)] if told[1].loss is not None else []
            not_checked += [] if told[1].loss is not None else [f"{SECOND}: {told[1].why}"]
        return Proven(Report(tuple(checks), (), tuple(not_checked)), told)

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

    def _run(self, path: Path, parts: Parts, made: Model) -> list[Check]:
        died = crash(path, [self.drawer.feed(masks[0], seed=0) for _, masks in self.drawer.kinds()])
        if died is not None:
            return [Check(RUN, died, stated=Verdict.FAILED)]
        ran = Check(RUN, "every kind of feed, in a process of its own", stated=Verdict.PASSED)
        names = shared_outputs(self.source, made)
        inside = [] if names else parts.reads  # where the outputs are bytes, what the head reads
        try:
            every = self.wanted(names or inside)
            output = open_session(load(path), extra_outputs=inside)
            return [ran, compared(every, output, self._limits, exact=self.exact)]
        except UnsupportedModelError as error:
            return [ran, Check(NAME, str(error), stated=Verdict.FAILED)]


def _second(opinion: Opinion, limits: Limits) -> Check:
    """The loss that onnx's reference evaluator finds, each operator in the type that the file says."""
    loss = opinion.loss
    assert loss is not None
    margin = loss.max_abs / limits.atol if limits.atol else 0.0
    one = Comparison("first rows", loss.vectors, loss.max_abs, margin, loss.min_cosine, loss.not_finite, limits.min_cosine)
    return Check(SECOND, f"by {opinion.engine} evaluator, on the first rows: {loss}", (one,))


def shared_outputs(source: Model, made: Model) -> list[str]:
    """The outputs of floats that both have, those of ``made`` first."""
    numeric = [value.name for value in made.interface.outputs if _is_float(value)]
    return [name for name in numeric if (one := source.interface.output(name)) is not None and _is_float(one)]


def _is_float(value: Value) -> bool:
    return value.dtype in FLOATS


def _head(written: Model, parts: Parts) -> Check:
    """Whether every node and weight of the head is in the file, to the byte."""
    if not parts.head:
        return Check(HEAD, "the file records no head of its own", stated=Verdict.PASSED)
    there = {record.chunks[0]: record for record in written.document.graph if record.field in (NODE, INITIALIZER)}
    lost = [one for one in parts.own if one.chunks[0] not in there or not _same(one, there[one.chunks[0]])]
    what = f"{len(parts.own)} nodes and weights of {', '.join(one.step.edit for one in parts.head)}"
    verdict = Verdict.FAILED if lost else Verdict.PASSED
    return Check(HEAD, f"{what}: {f'{len(lost)} of them are missing or changed' if lost else 'as they were'}", stated=verdict)


def _same(one: Record, other: Record) -> bool:
    """Whether two fields are equal to the byte, the payloads of tensors in them, too."""
    read = ([chunk if isinstance(chunk, bytes) else chunk.read() for chunk in record.chunks] for record in (one, other))
    return next(read) == next(read)
