"""The proof of a rewritten file: a run in a process of its own, the head's bytes, and its outputs against the source's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Value
from graphsurgery.model.changes import INITIALIZER, NODE
from graphsurgery.model.dtypes import FLOATS
from graphsurgery.model.loading import load
from graphsurgery.model.model import Model
from graphsurgery.model.records import Record
from graphsurgery.optimizing.comparing import NAME, Pair, compared
from graphsurgery.optimizing.parts import Parts
from graphsurgery.optimizing.trial import crash
from graphsurgery.proof.compare import Limits
from graphsurgery.report import Check, Report, Verdict
from graphsurgery.runtime.feeds import Drawer
from graphsurgery.runtime.session import Session, open_session
from graphsurgery.runtime.texts import Encoded

RUN, HEAD = "runs", "head untouched"


@dataclass
class Prover:
    """The source in ONNX Runtime, loaded once for every file that is held against it."""

    source: Model
    drawer: Drawer
    texts: Encoded | None
    why_no_text: str | None
    limits: Limits
    _sessions: tuple[Session, Session] | None = None

    @property
    def sessions(self) -> tuple[Session, Session]:
        """The source as ONNX Runtime runs it, and without its graph optimisations."""
        if self._sessions is None:
            self._sessions = open_session(self.source), open_session(self.source, plain=True)
        return self._sessions

    def report(self, path: Path, parts: Parts, made: Model) -> Report:
        """What the proof of the file at ``path``, which ``made`` is, comes to. UnsupportedModelError when ONNX Runtime cannot
        run the source."""
        not_checked = [self.why_no_text] if self.why_no_text else []
        died = crash(path, [self.drawer.feed(masks[0], seed=0) for _, masks in self.drawer.kinds()])
        if died is not None:
            return Report((Check(RUN, died, stated=Verdict.FAILED),), (), tuple(not_checked))
        checks = [Check(RUN, "every kind of feed, in a process of its own", stated=Verdict.PASSED), _head(load(path), parts)]
        try:
            pair = Pair(*self.sessions, Session(path))
            checks.append(compared(pair, shared_outputs(self.source, made), self.drawer, self.texts, self.limits))
        except UnsupportedModelError as error:
            checks.append(Check(NAME, str(error), stated=Verdict.FAILED))
        return Report(tuple(checks), (), tuple(not_checked))


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
    wanted = parts.head[-1].added
    there = {record.chunks[0]: record for record in written.document.graph if record.field in (NODE, INITIALIZER)}
    lost = [one for one in wanted if one.chunks[0] not in there or not _same(one, there[one.chunks[0]])]
    what = f"{len(wanted)} nodes and weights of {', '.join(layer.step.edit for layer in parts.head)}"
    verdict = Verdict.FAILED if lost else Verdict.PASSED
    return Check(HEAD, f"{what}: {f'{len(lost)} of them are missing or changed' if lost else 'as they were'}", stated=verdict)


def _same(one: Record, other: Record) -> bool:
    """Whether two fields are equal to the byte, the payloads of tensors in them, too."""
    read = ([chunk if isinstance(chunk, bytes) else chunk.read() for chunk in record.chunks] for record in (one, other))
    return next(read) == next(read)
