"""Split a model into two parts: the encoder, which is rewritten, and the head that graphsurgery put on it, which stays.

An encoder fuses the most without its head. Afterwards the head is put on again edit by edit, and each edit is recorded anew. An
edit that only added to the graph is put on node by node, from the same bytes. An edit of the interface changes what stands
around it, so it is applied again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import takewhile

import onnx

from graphsurgery.edits.edit import EDITS, Edit
from graphsurgery.edits.parameters import make_edit
from graphsurgery.edits.strip_head import redo_move, undo_steps
from graphsurgery.encoder.head import read_head_steps
from graphsurgery.errors import GraphSurgeryError, NoHeadError
from graphsurgery.model.changes import INITIALIZER, INPUT, NODE, OUTPUT
from graphsurgery.model.model import Model
from graphsurgery.model.names import list_read_names
from graphsurgery.model.provenance import (
    EXTERNALIZE,
    HOUSEKEEPING,
    MOVE,
    OPTIMIZED,
    Step,
    list_undoable_steps,
    record_edit,
    remove_entries,
    undo_step,
)
from graphsurgery.model.records import Document, Record, splice_records
from graphsurgery.model.scan import make_record


@dataclass(frozen=True)
class History:
    """The edits that a file records, and the documents between them. In all documents the weights lie where they do now."""

    documents: tuple[Document, ...]
    """The document before each step, and after the last one."""
    steps: tuple[Step, ...]
    """The edits, oldest first. Moves of weights and other housekeeping are left out."""


def read_history(model: Model) -> History:
    """Return the history of ``model``.

    Raises NoHeadError if another program changed the file, so that its records do not fit it.
    """
    document, outside = model.document, False
    documents, steps = [document], list[Step]()
    for step, before in undo_steps(model):
        outside = outside or step.edit == EXTERNALIZE
        document = undo_step(document, step) if outside else before  # weights that were moved out stay there
        if step.edit in HOUSEKEEPING:
            documents[0] = document
        else:
            documents.insert(0, document)
            steps.insert(0, step)
    moves = [step for step in list_undoable_steps(model.proto) if step.edit == MOVE]
    return History(tuple(reduce(redo_move, moves, one) for one in documents), tuple(steps))


OWNED = (NODE, INITIALIZER)
Key = tuple[int, str]
"""A record's field (node or tensor) and its name. A later edit may change what the node reads, and then its bytes differ."""


@dataclass(frozen=True)
class AddedEdit:
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
        return frozenset(map(_read_key, self.head))

    def put_on(self, model: Model) -> Model:
        """Put the head of this edit on ``model``, and record the edit."""
        document = model.document
        graph = document.graph
        for number in OWNED:
            own = [record for record in graph if record.field == number and not _belongs_to(self.over, record)]
            graph = splice_records(graph, number, own + [record for record in self.head if record.field == number])
        graph = splice_records(splice_records(graph, INPUT, self.inputs), OUTPUT, self.outputs)
        after = replace(document, graph=graph)
        return replace(model, document=record_edit(document, after, self.step.edit, self.step.parameters, self.step.weights))


@dataclass(frozen=True)
class RepeatedEdit:
    """A recorded edit of the interface, which has to be applied again."""

    step: Step
    edit: Edit

    def put_on(self, model: Model) -> Model:
        """Apply the edit to ``model``. Raises what `Edit.apply` raises."""
        return replace(self.edit.apply(model, hash_weights=self.step.weights is not None), remarks=model.remarks)


@dataclass(frozen=True)
class Parts:
    """An encoder, and the edits of the head that was taken off it."""

    encoder: Model
    """It gives the values that the head reads, and the encoder's values that stay outputs."""
    head: tuple[AddedEdit | RepeatedEdit, ...] = ()
    """Empty if the file records no head that can be taken off whole."""
    own: tuple[Record, ...] = ()
    """The head's nodes and weights, as they are in the whole model."""
    lost: tuple[str, ...] = ()
    """Edits of a head that cannot be taken off. They are rewritten with the encoder, and their record is lost."""
    before: tuple[Step, ...] = ()
    """Recorded edits that belong to the encoder. Their record is lost, too."""

    def join(self, encoder: Model) -> Model:
        """Put the head on another ``encoder`` with the same outputs, and record each edit."""
        return reduce(lambda model, one: one.put_on(model), self.head, encoder)

    def join_first(self) -> Model:
        """Put on the encoder its edits up to the first that changes its interface. All values keep their names."""
        first = takewhile(lambda one: isinstance(one, AddedEdit), self.head)
        return reduce(lambda model, one: one.put_on(model), first, self.encoder)


def split_head(model: Model) -> Parts:
    """Split ``model`` into its encoder and the head on it. The encoder keeps the records of earlier rewrites alone."""
    try:
        history = read_history(model)
    except NoHeadError:  # another program changed the file: the records are not worth keeping
        return Parts(
            _replace_document(model, _drop_edit_records(model.document)),
            lost=tuple(step.edit for step in read_head_steps(model)),
        )
    recorded = read_head_steps(model)
    dropping = tuple(recorded[: len(recorded) - len(history.steps)])  # up to the last edit that cannot be undone
    head, base, lost = _find_head(history)
    if not head:
        return Parts(
            _replace_document(model, _drop_edit_records(model.document)), lost=lost, before=(*dropping, *history.steps)
        )
    encoder = history.documents[base]
    bare = _set_outputs(_drop_edit_records(encoder), _list_read_values(head, encoder))
    last = history.documents[-1]
    names = next(one.names for one in reversed(head) if isinstance(one, AddedEdit))
    own = tuple(record for record in last.graph if _belongs_to(names, record))
    parts = Parts(_replace_document(model, bare), head, own, lost, (*dropping, *history.steps[:base]))
    if _is_whole(parts, last):
        return parts
    return Parts(
        _replace_document(model, _drop_edit_records(model.document)),
        lost=tuple(step.edit for step in history.steps),
        before=(*dropping, *history.steps),
    )


def _replace_document(model: Model, document: Document) -> Model:
    return replace(model, document=document, loaded=None)


def _drop_edit_records(document: Document) -> Document:
    """Return ``document`` without its records of edits."""
    return replace(document, model=remove_entries(document.model, keep=(OPTIMIZED,)))


def _find_head(history: History) -> tuple[tuple[AddedEdit | RepeatedEdit, ...], int, tuple[str, ...]]:
    """Return the newest edits that can all be put on anew, the place of the document before them, and the edits that are lost.

    The first of the newest edits adds to the graph. The lost edits are those from the start of an earlier head on.
    """
    found: list[AddedEdit | RepeatedEdit] = []
    names: frozenset[Key] = frozenset()
    base = 0
    lost: list[str] = []
    for place, step in enumerate(history.steps):
        made = _read_edit(step, history.documents[place], history.documents[place + 1], names)
        if made is None or (isinstance(made, RepeatedEdit) and not found):
            lost += [one.step.edit for one in found] + ([step.edit] if found or lost else [])
            found, names, base = [], frozenset(), place + 1
            continue
        found.append(made)
        names = made.names if isinstance(made, AddedEdit) else names
    return tuple(found), base, tuple(lost)


def _read_edit(step: Step, before: Document, after: Document, head: frozenset[Key]) -> AddedEdit | RepeatedEdit | None:
    """Return how ``step`` can be put on anew over the ``head`` before it.

    None if it cannot, because it changed the encoder or because its record cannot be read.
    """
    if step.unreadable is not None:
        return None
    rest = {record.skeleton for record in before.graph if record.field != OUTPUT and not _belongs_to(head, record)}
    if rest <= {record.skeleton for record in after.graph}:
        made = tuple(record for record in after.graph if record.field in OWNED and record.skeleton not in rest)
        return AddedEdit(step, made, head, _select_records(after, INPUT), _select_records(after, OUTPUT))
    if not _is_repeatable(step):
        return None
    try:
        return RepeatedEdit(step, make_edit(step.edit, step.parameters, "the file's record"))
    except GraphSurgeryError:
        return None


def _is_repeatable(step: Step) -> bool:
    return step.edit in EDITS and EDITS[step.edit].repeatable


def _select_records(document: Document, field: int) -> tuple[Record, ...]:
    return tuple(record for record in document.graph if record.field == field)


def _read_key(record: Record) -> Key:
    kind = onnx.NodeProto if record.field == NODE else onnx.TensorProto
    return record.field, str(kind.FromString(record.content).name)


def _belongs_to(names: frozenset[Key], record: Record) -> bool:
    return bool(names) and record.field in OWNED and _read_key(record) in names


def _list_read_values(head: Sequence[AddedEdit | RepeatedEdit], encoder: Document) -> list[str]:
    """List the encoder's values that the head reads or leaves as outputs: first those that the encoder has as outputs."""
    layers = [one for one in head if isinstance(one, AddedEdit)]
    nodes = [onnx.NodeProto.FromString(record.content) for one in layers for record in one.head if record.field == NODE]
    outputs = [onnx.ValueInfoProto.FromString(record.content) for one in layers for record in one.outputs]
    taken = {info.name for info in outputs}.union(*map(list_read_names, nodes))
    made = {name for node in encoder.proto.graph.node for name in node.output}
    given = [value.name for value in encoder.proto.graph.output if value.name in taken]
    return given + sorted(name for name in taken & made if name not in given)


def _set_outputs(document: Document, names: Sequence[str]) -> Document:
    """Return ``document`` with the values ``names`` as its outputs."""
    declared = {info.name: info for info in (*document.proto.graph.value_info, *document.proto.graph.output)}
    old = {onnx.ValueInfoProto.FromString(record.content).name: record for record in document.graph if record.field == OUTPUT}
    new = [
        old.get(name)
        or make_record(
            OUTPUT, declared.get(name, onnx.ValueInfoProto(name=name)).SerializeToString(), onnx.ValueInfoProto.DESCRIPTOR,
            document.payloads,
        )
        for name in names
    ]  # fmt: skip
    return replace(document, graph=splice_records(document.graph, OUTPUT, new))


def _is_whole(parts: Parts, wanted: Document) -> bool:
    """Return whether the head, put back on the unchanged encoder, gives the model that was split."""
    try:
        made = parts.join(parts.encoder).document
    except GraphSurgeryError:
        return False
    kept = (*OWNED, INPUT, OUTPUT)
    one, other = ({record.skeleton for record in document.graph if record.field in kept} for document in (made, wanted))
    return one == other
