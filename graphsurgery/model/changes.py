"""Changes that an edit makes to fields of the source that onnx-graphsurgeon does not hold.

Inputs, value_info and the value names in nodes are changed on the protobuf itself. Doc strings, denotations, subgraphs and
fields of a later ONNX therefore survive. A field that no change concerns is kept byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import onnx

from graphsurgery.model.names import list_subgraphs
from graphsurgery.model.records import Payloads, Record
from graphsurgery.model.scan import make_record
from graphsurgery.model.schema import GRAPH

NODE, INPUT, OUTPUT, VALUE_INFO, INITIALIZER = (
    GRAPH.fields_by_name[name].number for name in ("node", "input", "output", "value_info", "initializer")
)
KINDS = {INPUT: "input", OUTPUT: "output", VALUE_INFO: "value_info"}
InfoChange = Callable[[str, onnx.ValueInfoProto], bool]
"""Called with ``input``, ``output`` or ``value_info`` and a copy to change. Returns whether the value stays declared."""
NodeChange = Callable[[onnx.NodeProto], None]
"""Called with a copy of a node, which it changes."""


@dataclass
class Changes:
    """The changes that an edit collects. They are applied when the draft is finished."""

    names: dict[str, str] = field(default_factory=dict)
    """New names of values, by the name that the source's nodes use."""
    infos: list[InfoChange] = field(default_factory=list)
    nodes: list[NodeChange] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    """New inputs, appended to the existing ones."""
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    """New initializers, appended to the existing ones."""

    def change_node(self, record: Record, payloads: Payloads) -> Record:
        """Return a node of the source with the changes applied to it."""
        if not self.names and not self.nodes:
            return record
        node = onnx.NodeProto.FromString(record.content)
        before = onnx.NodeProto.FromString(record.content)
        self._rename(node)
        for change in self.nodes:
            change(node)
        return record if node == before else _rebuild_record(record, node, payloads)

    def change_infos(self, number: int, records: list[Record], payloads: Payloads) -> list[Record]:
        """Return the declared values of one field (a ``number`` of `KINDS`) with the changes applied, and the new ones."""
        found = []
        for record in records:
            info = onnx.ValueInfoProto.FromString(record.content)
            before = onnx.ValueInfoProto.FromString(record.content)
            if all(change(KINDS[number], info) for change in self.infos):
                found.append(record if info == before else _rebuild_record(record, info, payloads))
        if number == INPUT:
            found += [Record.literal(INPUT, info.SerializeToString()) for info in self.inputs]
        return found

    def _rename(self, node: onnx.NodeProto) -> None:
        node.input[:] = [self.names.get(name, name) for name in node.input]
        node.output[:] = [self.names.get(name, name) for name in node.output]
        for graph in list_subgraphs(node):
            for inner in graph.node:
                self._rename(inner)
            for info in (*graph.output, *graph.value_info):
                info.name = self.names.get(info.name, info.name)


def _rebuild_record(record: Record, message: Any, payloads: Payloads) -> Record:
    return make_record(record.field, message.SerializeToString(), message.DESCRIPTOR, payloads)
