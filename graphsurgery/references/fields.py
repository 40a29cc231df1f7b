"""The changes that an edit of the interface makes to the fields of its source, on plain protobuf. No code is shared with edits.

An edit of the head leaves the source's fields alone. An edit of the interface changes a few: it drops an input, renames a
value or changes a dim. `apply_fields` makes these changes to the source once more, so that the output can be compared with it
field by field. Any other difference was not declared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import onnx

from graphsurgery.model.model import Model
from graphsurgery.model.records import Document, Record
from graphsurgery.model.schema import GRAPH
from graphsurgery.references.nested import find_needed, find_subgraphs

NODE, INPUT, OUTPUT, VALUE_INFO, INITIALIZER, SPARSE_INITIALIZER = (
    GRAPH.fields_by_name[name].number for name in ("node", "input", "output", "value_info", "initializer", "sparse_initializer")
)
INFOS = {INPUT: "input", OUTPUT: "output", VALUE_INFO: "value_info"}
Info = onnx.ValueInfoProto
ChangeInfo: TypeAlias = Callable[[str, Info], Info | None]


@dataclass(frozen=True)
class Fields:
    """The changes of an edit. Each is a function of the recorded parameters, and some also of the source's graph."""

    names: Callable[[Mapping[str, Any]], dict[str, str]] = lambda _: {}
    """Returns the new names of values, by the old ones."""
    infos: Callable[[Mapping[str, Any], onnx.GraphProto], ChangeInfo] = lambda _p, _graph: lambda _kind, info: info
    """Returns a function that changes an ``input``, ``output`` or ``value_info``, and returns None if it is dropped."""
    inputs: Callable[[Mapping[str, Any]], list[Info]] = lambda _: []
    """Returns new inputs, which come after all others."""
    outputs: Callable[[Mapping[str, Any]], list[str]] | None = None
    """Returns the names of the outputs that stay, in their new order. None: all stay as they are."""
    initializers: Callable[[Mapping[str, Any], onnx.GraphProto], list[onnx.TensorProto]] = lambda _p, _graph: []
    """Returns new initializers, which come after all others."""
    node: Callable[[Mapping[str, Any], onnx.NodeProto], None] = lambda _p, _node: None
    """Changes a node, except for its names."""
    keeps: Callable[[Mapping[str, Any]], list[str] | None] = lambda _: None
    """Returns the source's values that are kept with all that they are computed from. Other nodes, weights and declared values
    are dropped; inputs, with their default values, and outputs are not. None: everything stays."""


def apply_fields(model: Model, fields: Fields, parameters: Mapping[str, Any], made: set[str]) -> Model:
    """Return ``model`` with its fields changed. The values ``made`` by edits keep their names."""
    graph, payloads = model.proto.graph, model.document.payloads
    names = {old: new for old, new in fields.names(parameters).items() if old not in made}
    change_info = fields.infos(parameters, graph)
    records: list[Record] = []
    kept = fields.keeps(parameters)
    needed = None if kept is None else find_needed(graph, kept) | _list_kept_inputs(graph, change_info)
    for record in model.document.graph:
        if needed is not None and not _is_needed(record, needed):
            continue
        if record.field == NODE:
            node = onnx.NodeProto.FromString(record.content)
            _rename_values(node, names)
            fields.node(parameters, node)
            records.append(_update_record(record, onnx.NodeProto.FromString(record.content), node))
        elif record.field in INFOS:
            source = Info.FromString(record.content)
            if record.field != INPUT and source.name in made:
                records.append(record)
                continue
            info = Info.FromString(record.content)
            changed = change_info(INFOS[record.field], info)
            records += [] if changed is None else [_update_record(record, source, changed)]
        else:
            records.append(record)
    if fields.outputs is not None:
        records = _choose_outputs(records, fields.outputs(parameters))
    records += [Record.literal(INPUT, info.SerializeToString()) for info in fields.inputs(parameters)]
    records += [Record.literal(INITIALIZER, one.SerializeToString()) for one in fields.initializers(parameters, graph)]
    return replace(model, document=Document(model.document.model, tuple(records), payloads))


def _list_kept_inputs(graph: onnx.GraphProto, change_info: ChangeInfo) -> set[str]:
    return {one.name for one in graph.input if change_info("input", Info.FromString(one.SerializeToString())) is not None}


def _is_needed(record: Record, needed: set[str]) -> bool:
    """Return whether one of the values in a node, a weight or the declaration of an inner value is ``needed``."""
    if record.field == NODE:
        return not needed.isdisjoint(onnx.NodeProto.FromString(record.content).output)
    if record.field == INITIALIZER:
        return onnx.TensorProto.FromString(record.content).name in needed
    if record.field == SPARSE_INITIALIZER:
        return onnx.SparseTensorProto.FromString(record.content).values.name in needed
    return record.field != VALUE_INFO or Info.FromString(record.content).name in needed


def _choose_outputs(records: Sequence[Record], names: Sequence[str]) -> list[Record]:
    """Return the records with the outputs of those ``names`` alone, in that order."""
    outputs = {Info.FromString(record.content).name: record for record in records if record.field == OUTPUT}
    return [record for record in records if record.field != OUTPUT] + [outputs[name] for name in names if name in outputs]


def _update_record(record: Record, before: Any, after: Any) -> Record:
    """Return ``record`` with the content of ``after``; the very same record if nothing changed.

    A changed record is only compared with an output's and never written. It has the new content, followed by the old payloads.
    """
    if before == after:
        return record
    changed = Record.literal(record.field, after.SerializeToString())
    return replace(changed, chunks=(*changed.chunks, *record.spans))


def _rename_values(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Rename the values of a node, also in the graphs within it."""
    inner = list(find_subgraphs(node))
    for one in (node, *(one for graph in inner for one in graph.node)):
        for side in (one.input, one.output):
            side[:] = [names.get(name, name) for name in side]
    for info in (info for graph in inner for info in (*graph.output, *graph.value_info)):
        info.name = names.get(info.name, info.name)
