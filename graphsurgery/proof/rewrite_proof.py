"""The proof of a rewritten file: an isolated run, the interface, the bytes of the head, and the outputs of both files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx

from graphsurgery.compare.tolerance import LOSSY, NO_LIMITS, Limits
from graphsurgery.errors import require_value
from graphsurgery.interface import Interface
from graphsurgery.model.model import Model
from graphsurgery.model.records import Record
from graphsurgery.model.schema import GRAPH
from graphsurgery.progress import Progress, ignore_progress
from graphsurgery.proof.expected import has_half_weights
from graphsurgery.proof.relation import Relation
from graphsurgery.proof.same_outputs import SameOutputs
from graphsurgery.proof.source_feeds import find_texts, make_feed_generator
from graphsurgery.report import Check, Report, Verdict
from graphsurgery.runtime.own_process import find_crash

INTERFACE, RUN, HEAD = "same interface", "runs", "head untouched"
OWNED = tuple(GRAPH.fields_by_name[name].number for name in ("node", "initializer"))
"""The fields of a graph that belong to a head."""


@dataclass(frozen=True)
class Claim:
    """What a rewritten file must keep, besides its outputs."""

    exactness: str
    """How far its outputs may be off: `FLOAT32` or `LOSSY`."""
    interface: Interface
    """The inputs that it must take and the outputs that it must give."""
    edits: Sequence[str] = ()
    """The edits of its head."""
    head: Sequence[Record] = ()
    """The nodes and weights of its head, which must be the source's own bytes."""
    limits: Limits = NO_LIMITS
    checks: Sequence[Callable[[Model], Iterable[Check]]] = ()
    """Further checks, which its rewrites ask for."""


@dataclass(frozen=True)
class Proven:
    """The report of a proof, and for half precision the loss as JSON-ready data."""

    report: Report
    loss: dict[str, Any] = field(default_factory=dict)


@dataclass
class RewriteProof:
    """Compares rewritten files with their source. The source is run once for all of them."""

    same: SameOutputs
    why_no_text: str | None

    @classmethod
    def of(
        cls,
        source: Model,
        texts: str | os.PathLike[str] | None = None,
        *,
        full: bool = False,
        progress: Progress = ignore_progress,
    ) -> RewriteProof:
        """Prepare the proofs. Raise RequestError if ``texts`` cannot be used."""
        generator = make_feed_generator(source)
        encoded, why_no_text = find_texts(source, source, generator, texts)
        return cls(SameOutputs(source, generator, encoded, full, progress), why_no_text)

    @property
    def source(self) -> Model:
        return self.same.source

    def feeds(self, encoder: Model) -> list[dict[str, np.ndarray]]:
        """Return the feeds on which to measure the source's ``encoder``: real text if there is a tokenizer, and drawn ids."""
        inputs = {value.name: value.dtype for value in encoder.interface.inputs}
        given = {value.name: value.dtype for value in self.source.interface.inputs}
        if not inputs.items() <= given.items():  # an edit above the encoder changed names or types
            return RewriteProof.of(encoder).same.measured
        return [{name: array for name, array in feed.items() if name in inputs} for feed in self.same.measured]

    def compare(self, written: Model, claim: Claim) -> Proven:
        """Prove a file that was written and loaded again."""
        relation = self._relation(written, claim)
        not_checked = [*([self.why_no_text] if self.why_no_text else []), *relation.not_checked]
        checks = [_check_interface(written, claim.interface), *_check_head(written, claim)]
        if relation.half != onnx.TensorProto.BFLOAT16 and self.same.can_run_source(relation):
            self.same.progress("running the new file in a process of its own")
            died = find_crash(
                require_value(written.path, "a written file"),
                [
                    self.same.generator.generate(masks[0], seed=0)
                    for _, masks in self.same.generator.generate_masks(longest=True)
                ],
            )
            if died is not None:
                return Proven(Report((*checks, Check(RUN, died, stated=Verdict.FAILED)), (), tuple(not_checked)))
            checks.append(Check(RUN, "every kind of feed, in a process of its own", stated=Verdict.PASSED))
        if any(check.verdict is Verdict.FAILED for check in checks):
            relation = replace(relation, half=None)  # there is nothing to ask a second engine about
        compared, losses, left_out = self.same.make_checks(written, relation, claim.limits)
        if relation.half is None and all(check.verdict is not Verdict.FAILED for check in checks):
            checks += [check for ask in claim.checks for check in ask(written)]
        report = Report((*checks, *compared), self.same.list_remarks(compared), (*not_checked, *left_out))
        if not losses:
            return Proven(report)
        worst = min((one.loss.min_cosine for one in losses if one.loss is not None), default=None)
        return Proven(report, {"min_cosine": worst, "opinions": [one.to_json() for one in losses]})

    def _relation(self, written: Model, claim: Claim) -> Relation:
        """Return the file's relation. A rewrite that claims to be exact is held to float32, whatever half type is recorded."""
        relation = Relation.of(self.source, written, claim.limits)
        if claim.exactness == LOSSY or relation.half is None:
            return relation
        return replace(relation, half=None, is_exact=not has_half_weights(self.source))


def _check_interface(written: Model, wanted: Interface) -> Check:
    """Check that inputs and outputs have the right names and types, in the right order."""
    interface = written.interface
    if _list_names(interface) == _list_names(wanted):
        sides = {"input": interface.inputs, "output": interface.outputs}
        counted = " and ".join(f"{len(side)} {name}{'s' * (len(side) != 1)}" for name, side in sides.items())
        return Check(INTERFACE, f"{counted}, as the source has them", stated=Verdict.PASSED)
    has, should = (", ".join(map(str, (*side.inputs, *side.outputs))) for side in (interface, wanted))
    return Check(INTERFACE, f"the file has {has} instead of {should}", stated=Verdict.FAILED)


def _list_names(interface: Interface) -> list[list[tuple[str, int]]]:
    return [[(value.name, value.dtype) for value in side] for side in (interface.inputs, interface.outputs)]


def _check_head(written: Model, claim: Claim) -> list[Check]:
    """Check that every node and weight of the head is in the file, byte for byte. Return no check if there is no head."""
    if not claim.head:
        return []
    there = {record.chunks[0]: record for record in written.document.graph if record.field in OWNED}
    lost = [one for one in claim.head if one.chunks[0] not in there or not _is_same(one, there[one.chunks[0]])]
    what = f"{len(claim.head)} nodes and weights of {', '.join(claim.edits)}"
    verdict = Verdict.FAILED if lost else Verdict.PASSED
    return [Check(HEAD, f"{what}: {f'{len(lost)} of them are missing or changed' if lost else 'as they were'}", stated=verdict)]


def _is_same(one: Record, other: Record) -> bool:
    """Return whether two fields are equal byte for byte, including the payloads of their tensors."""
    read = ([chunk if isinstance(chunk, bytes) else chunk.read() for chunk in record.chunks] for record in (one, other))
    return next(read) == next(read)
