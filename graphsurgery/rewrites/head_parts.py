"""A model as two parts: the encoder, which is optimized, and the head that graphsurgery put on it, which survives as it is.

Alone, an encoder fuses as much as it can. Its head is put on again edit by edit, each recorded anew: node by node from the same
bytes where an edit only added to the graph; edits of the interface, which change what stands around them, are made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import onnx

from graphsurgery.edits.edit import Edit
from graphsurgery.edits.registry import EDITS
from graphsurgery.encoder.head import head_steps
from graphsurgery.errors import GraphSurgeryError, NoHeadError
from graphsurgery.model.changes import INITIALIZER, INPUT, NODE, OUTPUT
from graphsurgery.model.model import Model
from graphsurgery.model.nodes import reads
from graphsurgery.model.provenance import Step, recorded, without_entries
from graphsurgery.model.records import Document, Record
from graphsurgery.model.scan import record_of
from graphsurgery.model.splice import spliced
from graphsurgery.recipe import parsed
from graphsurgery.rewrites.history import History, history_of

OWNED = (NODE, INITIALIZER)
Key = tuple[int, str]
"""Whether a node or a tensor, and its name: a later edit may give what it reads another one."""


@dataclass(frozen=True)
class Layer:
    """One recorded edit of a head that left all else alone: the whole head after it, in place of that of the names ``over``,
    and the inputs and outputs then."""

    step: Step
    head: tuple[Record, ...]
    over: frozenset[Key]
    inputs: tuple[Record, ...]
    outputs: tuple[Record, ...]

    @property
    def names(self) -> frozenset[Key]:
        """What belongs to the head."""
        return frozenset(map(_key, self.head))

    def onto(self, model: Model) -> Model:
        """``model`` with the head of this edit, and a record of it."""
        document = model.document
        graph = document.graph
        for number in OWNED:
            own = [record for record in graph if record.field == number and not _is_of(self.over, record)]
            graph = spliced(graph, number, own + [record for record in self.head if record.field == number])
        graph = spliced(spliced(graph, INPUT, self.inputs), OUTPUT, self.outputs)
        after = replace(document, graph=graph)
        return replace(model, document=recorded(document, after, self.step.edit, self.step.parameters, self.step.weights))


@dataclass(frozen=True)
class Again:
    """One recorded edit of the interface, to be made again."""

    step: Step
    edit: Edit

    def onto(self, model: Model) -> Model:
        """``model`` after the edit. Raises what `Edit.apply` raises."""
        return replace(self.edit.apply(model, hash_weights=self.step.weights is not None), notes=model.notes)


@dataclass(frozen=True)
class Parts:
    """``encoder`` gives what the ``head`` reads, and what stays an output; ``head`` is empty where none is recorded that could
    be taken off whole."""

    encoder: Model
    head: tuple[Layer | Again, ...] = ()
    own: tuple[Record, ...] = ()
    """The head's nodes and weights, as they are in the whole model."""
    lost: tuple[str, ...] = ()
    """Edits of a head that cannot be taken off: they are optimized with the encoder, and their record goes."""

    @property
    def reads(self) -> list[str]:
        """The values that the encoder gives to the head."""
        return [value.name for value in self.encoder.interface.outputs]

    def joined(self, encoder: Model) -> Model:
        """The head on another ``encoder`` with the same outputs, each edit recorded."""
        return reduce(lambda model, one: one.onto(model), self.head, encoder)


def parts_of(model: Model) -> Parts:
    """The encoder of ``model``, without any record of how it was made, and the head on it."""
    try:
        history = history_of(model)
    except NoHeadError:
        return Parts(_with(model, _bare(model.document)), lost=tuple(step.edit for step in head_steps(model)))
    head, base, lost = _head(history)
    if not head:
        return Parts(_with(model, _bare(model.document)), lost=lost)
    encoder = history.documents[base]
    bare = _giving(_bare(encoder), _read(head, encoder))
    last = history.documents[-1]
    names = next(one.names for one in reversed(head) if isinstance(one, Layer))
    parts = Parts(_with(model, bare), head, tuple(record for record in last.graph if _is_of(names, record)), lost)
    if _is_whole(parts, last):
        return parts
    return Parts(_with(model, _bare(model.document)), lost=tuple(step.edit for step in history.steps))


def _with(model: Model, document: Document) -> Model:
    return replace(model, document=document, loaded=None)


def _bare(document: Document) -> Document:
    """``document`` without any record of how it was made."""
    return replace(document, model=without_entries(document.model))


def _head(history: History) -> tuple[tuple[Layer | Again, ...], int, tuple[str, ...]]:
    """The newest edits that can all be put on anew, from the first that adds to the graph on, and the place of the document
    before them; edits from the first of a head on that cannot."""
    found: list[Layer | Again] = []
    names: frozenset[Key] = frozenset()
    base = 0
    lost: list[str] = []
    for place, step in enumerate(history.steps):
        made = _as_made(step, history.documents[place], history.documents[place + 1], names)
        if made is None or (isinstance(made, Again) and not found):
            lost += [one.step.edit for one in found] + ([step.edit] if found or lost else [])
            found, names, base = [], frozenset(), place + 1
            continue
        found.append(made)
        names = made.names if isinstance(made, Layer) else names
    return tuple(found), base, tuple(lost)


def _as_made(step: Step, before: Document, after: Document, head: frozenset[Key]) -> Layer | Again | None:
    """How ``step`` can be made anew on the ``head`` before it; None where it cannot: it changed the encoder, or nobody can read
    what is recorded of it."""
    if step.unreadable is not None:
        return None
    rest = {record.skeleton for record in before.graph if record.field != OUTPUT and not _is_of(head, record)}
    if rest <= {record.skeleton for record in after.graph}:
        made = tuple(record for record in after.graph if record.field in OWNED and record.skeleton not in rest)
        return Layer(step, made, head, _of(after, INPUT), _of(after, OUTPUT))
    if not _is_repeatable(step):
        return None
    try:
        entry = {"edit": step.edit, **step.parameters}
        return Again(step, parsed({"steps": [entry]}, "the file's record").steps[0])
    except GraphSurgeryError:
        return None


def _is_repeatable(step: Step) -> bool:
    return step.edit in EDITS and EDITS[step.edit].repeatable


def _of(document: Document, field: int) -> tuple[Record, ...]:
    return tuple(record for record in document.graph if record.field == field)


def _key(record: Record) -> Key:
    kind = onnx.NodeProto if record.field == NODE else onnx.TensorProto
    return record.field, str(kind.FromString(record.content).name)


def _is_of(names: frozenset[Key], record: Record) -> bool:
    return bool(names) and record.field in OWNED and _key(record) in names


def _read(head: Sequence[Layer | Again], encoder: Document) -> list[str]:
    """The values of the encoder that the head reads or leaves as outputs, its own outputs first."""
    layers = [one for one in head if isinstance(one, Layer)]
    nodes = [onnx.NodeProto.FromString(record.content) for one in layers for record in one.head if record.field == NODE]
    outputs = [onnx.ValueInfoProto.FromString(record.content) for one in layers for record in one.outputs]
    taken = {info.name for info in outputs}.union(*map(reads, nodes))
    made = {name for node in encoder.proto.graph.node for name in node.output}
    given = [value.name for value in encoder.proto.graph.output if value.name in taken]
    return given + sorted(name for name in taken & made if name not in given)


def _giving(document: Document, names: Sequence[str]) -> Document:
    """``document`` with the values ``names`` as its outputs."""
    declared = {info.name: info for info in (*document.proto.graph.value_info, *document.proto.graph.output)}
    old = {onnx.ValueInfoProto.FromString(record.content).name: record for record in document.graph if record.field == OUTPUT}
    new = [
        old.get(name)
        or record_of(
            OUTPUT, declared.get(name, onnx.ValueInfoProto(name=name)).SerializeToString(), onnx.ValueInfoProto.DESCRIPTOR,
            document.payloads,
        )
        for name in names
    ]  # fmt: skip
    return replace(document, graph=spliced(document.graph, OUTPUT, new))


def _is_whole(parts: Parts, wanted: Document) -> bool:
    """Whether the head, put on the encoder as it is, gives the model that was taken apart."""
    try:
        made = parts.joined(parts.encoder).document
    except GraphSurgeryError:
        return False
    kept = (*OWNED, INPUT, OUTPUT)
    one, other = ({record.skeleton for record in document.graph if record.field in kept} for document in (made, wanted))
    return one == other
