"""Split a model into two parts: the encoder, which is rewritten, and the head that graphsurgery put on it, which stays.

An encoder fuses the most without its head. Afterwards the head is put on again edit by edit, and each edit is recorded anew. An
edit that only added to the graph is put on node by node, from the same bytes. An edit of the interface changes what stands
around it, so it is applied again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import onnx

from graphsurgery.edits.edit import Edit
from graphsurgery.edits.from_parameters import edit_from
from graphsurgery.edits.registry import EDITS
from graphsurgery.encoder.head import head_steps
from graphsurgery.errors import GraphSurgeryError, NoHeadError
from graphsurgery.model.changes import INITIALIZER, INPUT, NODE, OUTPUT
from graphsurgery.model.model import Model
from graphsurgery.model.nodes import reads
from graphsurgery.model.provenance import OPTIMIZED, Step, recorded, without_entries
from graphsurgery.model.records import Document, Record
from graphsurgery.model.scan import record_of
from graphsurgery.model.splice import spliced
from graphsurgery.rewrites.history import History, history_of

OWNED = (NODE, INITIALIZER)
Key = tuple[int, str]
"""A record's field (node or tensor) and its name. A later edit may change what the node reads, and then its bytes differ."""


@dataclass(frozen=True)
class Layer:
    """A recorded edit of a head that only added to the graph."""

    step: Step
    head: tuple[Record, ...]
    """The whole head after the edit."""
    over: frozenset[Key]
    """The records of the head before it, which ``head`` replaces."""
    inputs: tuple[Record, ...]
    outputs: tuple[Record, ...]

    @property
    def names(self) -> frozenset[Key]:
        """The records that belong to the head."""
        return frozenset(map(_key, self.head))

    def onto(self, model: Model) -> Model:
        """Put the head of this edit on ``model``, and record the edit."""
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
    """A recorded edit of the interface, which has to be applied again."""

    step: Step
    edit: Edit

    def onto(self, model: Model) -> Model:
        """Apply the edit to ``model``. Raises what `Edit.apply` raises."""
        return replace(self.edit.apply(model, hash_weights=self.step.weights is not None), notes=model.notes)


@dataclass(frozen=True)
class Parts:
    """An encoder, and the edits of the head that was taken off it."""

    encoder: Model
    """It gives the values that the head reads, and the encoder's values that stay outputs."""
    head: tuple[Layer | Again, ...] = ()
    """Empty if the file records no head that can be taken off whole."""
    own: tuple[Record, ...] = ()
    """The head's nodes and weights, as they are in the whole model."""
    lost: tuple[str, ...] = ()
    """Edits of a head that cannot be taken off. They are rewritten with the encoder, and their record is lost."""
    before: tuple[Step, ...] = ()
    """Recorded edits that belong to the encoder. Their record is lost, too."""

    def joined(self, encoder: Model) -> Model:
        """Put the head on another ``encoder`` with the same outputs, and record each edit."""
        return reduce(lambda model, one: one.onto(model), self.head, encoder)


def parts_of(model: Model) -> Parts:
    """Split ``model`` into its encoder and the head on it. The encoder keeps the records of earlier rewrites alone."""
    try:
        history = history_of(model)
    except NoHeadError:  # another program changed the file: the records are not worth keeping
        return Parts(_with(model, _bare(model.document)), lost=tuple(step.edit for step in head_steps(model)))
    head, base, lost = _head(history)
    if not head:
        return Parts(_with(model, _bare(model.document)), lost=lost, before=history.steps)
    encoder = history.documents[base]
    bare = _giving(_bare(encoder), _read(head, encoder))
    last = history.documents[-1]
    names = next(one.names for one in reversed(head) if isinstance(one, Layer))
    own = tuple(record for record in last.graph if _is_of(names, record))
    parts = Parts(_with(model, bare), head, own, lost, history.steps[:base])
    if _is_whole(parts, last):
        return parts
    return Parts(_with(model, _bare(model.document)), lost=tuple(step.edit for step in history.steps), before=history.steps)


def _with(model: Model, document: Document) -> Model:
    return replace(model, document=document, loaded=None)


def _bare(document: Document) -> Document:
    """``document`` without its records of edits."""
    return replace(document, model=without_entries(document.model, keep=(OPTIMIZED,)))


def _head(history: History) -> tuple[tuple[Layer | Again, ...], int, tuple[str, ...]]:
    """Return the newest edits that can all be put on anew, the place of the document before them, and the edits that are lost.

    The first of the newest edits adds to the graph. The lost edits are those from the start of an earlier head on.
    """
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
    """Return how ``step`` can be put on anew over the ``head`` before it.

    None if it cannot, because it changed the encoder or because its record cannot be read.
    """
    if step.unreadable is not None:
        return None
    rest = {record.skeleton for record in before.graph if record.field != OUTPUT and not _is_of(head, record)}
    if rest <= {record.skeleton for record in after.graph}:
        made = tuple(record for record in after.graph if record.field in OWNED and record.skeleton not in rest)
        return Layer(step, made, head, _of(after, INPUT), _of(after, OUTPUT))
    if not _is_repeatable(step):
        return None
    try:
        return Again(step, edit_from(step.edit, step.parameters, "the file's record"))
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
    """List the encoder's values that the head reads or leaves as outputs: first those that the encoder has as outputs."""
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
    """Whether the head, put back on the unchanged encoder, gives the model that was split."""
    try:
        made = parts.joined(parts.encoder).document
    except GraphSurgeryError:
        return False
    kept = (*OWNED, INPUT, OUTPUT)
    one, other = ({record.skeleton for record in document.graph if record.field in kept} for document in (made, wanted))
    return one == other
