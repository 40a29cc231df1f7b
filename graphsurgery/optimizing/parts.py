"""A model as two parts: the encoder, which is optimized, and the head that graphsurgery put on it, which survives as it is.

Alone, an encoder fuses as much as it can. Its head is put on again node by node, from the same bytes, and recorded anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import onnx

from graphsurgery.edits.strip_head import moved_again
from graphsurgery.model.changes import INITIALIZER, INPUT, NODE, OUTPUT
from graphsurgery.model.model import Model, open_data
from graphsurgery.model.provenance import HOUSEKEEPING, MOVE, OUTWARD, Step, recorded, undoable, undone, without_entries
from graphsurgery.model.records import Document, Record
from graphsurgery.model.scan import record_of
from graphsurgery.model.splice import spliced

OWNED = (NODE, INITIALIZER)


@dataclass(frozen=True)
class Layer:
    """One recorded edit of a head: all that the graph holds beyond the encoder after it, and the inputs and outputs
    then."""

    step: Step
    added: tuple[Record, ...]
    inputs: tuple[Record, ...]
    outputs: tuple[Record, ...]


@dataclass(frozen=True)
class Parts:
    """``encoder`` gives what the ``head`` reads, and what stays an output; ``head`` is empty where none is recorded that could
    be taken off whole."""

    encoder: Model
    head: tuple[Layer, ...]

    @property
    def reads(self) -> list[str]:
        """The values that the encoder gives to the head."""
        return [value.name for value in self.encoder.interface.outputs]

    def joined(self, encoder: Model) -> Model:
        """The head on another ``encoder`` with the same outputs, each edit recorded."""
        document = encoder.document
        bare = document
        for layer in self.head:
            graph = bare.graph
            for number in OWNED:
                own = [record for record in graph if record.field == number]
                graph = spliced(graph, number, own + [record for record in layer.added if record.field == number])
            graph = spliced(spliced(graph, INPUT, layer.inputs), OUTPUT, layer.outputs)
            after = replace(document, graph=graph)
            document = recorded(document, after, layer.step.edit, layer.step.parameters, layer.step.weights)
        return replace(encoder, document=document)


def parts_of(model: Model) -> Parts:
    """The encoder of ``model``, without any record of how it was made, and the head on it."""
    recorded_so_far = undoable(model.proto)
    if any(step.edit == OUTWARD for step in recorded_so_far):
        return Parts(replace(model, document=_bare(model.document)), ())
    documents, steps = _history(model, recorded_so_far)
    base = _base(documents)
    encoder, layers = documents[base], documents[base + 1 :]
    bare = _bare(encoder)
    if not layers:
        return Parts(replace(model, document=bare), ())
    own = {record.skeleton for record in encoder.graph if record.field in OWNED}
    head = tuple(
        Layer(step, _beyond(after, own), _of(after, INPUT), _of(after, OUTPUT))
        for step, after in zip(steps[base:], layers, strict=True)
    )
    return Parts(replace(model, document=_giving(bare, _read(head, encoder, layers[-1]))), head)


def _bare(document: Document) -> Document:
    """``document`` without any record of how it was made."""
    return replace(document, model=without_entries(document.model))


def _history(model: Model, recorded_so_far: Sequence[Step]) -> tuple[list[Document], list[Step]]:
    """The document before each recorded edit and after the last one, and the edits; weights that were moved lie where they do
    now."""
    document = model.document
    found: list[Document] = [document]
    steps: list[Step] = []
    for step in reversed(recorded_so_far):
        document = undone(document, step, lambda location: open_data(model.files[location]))
        if step.edit in HOUSEKEEPING:
            found[0] = document
        else:
            found.insert(0, document)
            steps.insert(0, step)
    moves = [step for step in recorded_so_far if step.edit == MOVE]
    return [reduce(moved_again, moves, one) for one in found], steps


def _base(documents: Sequence[Document]) -> int:
    """The first document all of whose nodes, inputs and weights the last one still has: what came after it is a head."""
    last = _but_outputs(documents[-1])
    return next(place for place, one in enumerate(documents) if _but_outputs(one) <= last)


def _but_outputs(document: Document) -> set[bytes]:
    return {record.skeleton for record in document.graph if record.field != OUTPUT}


def _of(document: Document, field: int) -> tuple[Record, ...]:
    return tuple(record for record in document.graph if record.field == field)


def _beyond(document: Document, own: set[bytes]) -> tuple[Record, ...]:
    return tuple(record for record in document.graph if record.field in OWNED and record.skeleton not in own)


def _read(head: Sequence[Layer], encoder: Document, last: Document) -> list[str]:
    """The values of the encoder that the head reads or leaves as outputs, its own outputs first."""
    nodes = [onnx.NodeProto.FromString(record.content) for layer in head for record in layer.added if record.field == NODE]
    taken = {name for node in nodes for name in node.input} | {value.name for value in last.proto.graph.output}
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
