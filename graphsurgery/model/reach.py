"""The records of a graph that its outputs need, for edits that drop a part of a model together with its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx

from graphsurgery.model.changes import INITIALIZER, INPUT, NODE, OUTPUT, VALUE_INFO
from graphsurgery.model.model import Model
from graphsurgery.model.names import list_read_names
from graphsurgery.model.records import Record, splice_records
from graphsurgery.model.schema import GRAPH

SPARSE = GRAPH.fields_by_name["sparse_initializer"].number


def list_reached_values(nodes: Sequence[onnx.NodeProto], names: Sequence[str]) -> set[str]:
    """Return ``names`` and the values that they are computed from, through ``nodes`` and the graphs within these."""
    maker = {made: node for node in nodes for made in node.output if made}
    found, todo = set[str](), list(names)
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        if name in maker:
            todo += list_read_names(maker[name])
    return found


def drop_unreached(graph: Sequence[Record]) -> tuple[Record, ...]:
    """Return the records of ``graph`` without the nodes, weights and declared values that no output needs.

    Inputs stay, with their default values, and so do outputs. The bytes of a record that stays do not change.
    """
    nodes = {id(one): onnx.NodeProto.FromString(one.content) for one in graph if one.field == NODE}
    outputs = [onnx.ValueInfoProto.FromString(one.content).name for one in graph if one.field == OUTPUT]
    reached = list_reached_values(list(nodes.values()), outputs)
    stored = reached | {onnx.ValueInfoProto.FromString(one.content).name for one in graph if one.field == INPUT}
    declared = reached | {name for one in nodes.values() if not reached.isdisjoint(one.output) for name in one.output}

    def stays(record: Record) -> bool:
        if record.field == NODE:
            return not reached.isdisjoint(nodes[id(record)].output)
        if record.field == INITIALIZER:
            return onnx.TensorProto.FromString(record.content).name in stored
        if record.field == SPARSE:
            return onnx.SparseTensorProto.FromString(record.content).values.name in reached
        if record.field == VALUE_INFO:
            return onnx.ValueInfoProto.FromString(record.content).name in declared
        return True

    return tuple(record for record in graph if stays(record))


def cut_model(model: Model, names: Sequence[str]) -> Model:
    """Return ``model`` with the values ``names`` as its only outputs, and nothing that these do not need.

    The new outputs have no declared type, unless they were outputs before. Inputs that they do not need are gone, too.
    """
    declared = {info.name: info for info in (*model.proto.graph.output, *model.proto.graph.value_info)}
    outputs = [declared.get(name, onnx.ValueInfoProto(name=name)) for name in names]
    graph = splice_records(model.document.graph, OUTPUT, [Record.literal(OUTPUT, info.SerializeToString()) for info in outputs])
    graph = drop_unreached(graph)
    read = list_reached_values([onnx.NodeProto.FromString(one.content) for one in graph if one.field == NODE], names)
    graph = tuple(one for one in graph if one.field != INPUT or onnx.ValueInfoProto.FromString(one.content).name in read)
    return replace(model, document=replace(model.document, graph=graph))
