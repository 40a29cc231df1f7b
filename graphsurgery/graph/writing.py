"""Writing the nodes of an imported graph back.

An unchanged node is the source's own message. A changed one gets back what onnx-ir does not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import onnx

from graphsurgery.deferred import ir
from graphsurgery.graph.attributes import list_graphs, to_tensor_proto

STRING_FIELDS = ("name", "domain", "overload", "doc_string")
"""Fields of a node that may be present and empty."""
KNOWN_FIELDS = tuple(field.name for field in onnx.NodeProto.DESCRIPTOR.fields)


class NodeWriter:
    """Writes the nodes of a graph that was imported from ``source``."""

    def __init__(self, source: onnx.GraphProto, nodes: Iterable[ir.Node]) -> None:
        """Note the messages of the imported ``nodes``, which have the order of ``source`` and are not yet changed."""
        self._origins: dict[ir.Node, tuple[onnx.NodeProto, onnx.NodeProto]] = {}
        """For each imported node: the source's message, and what onnx-ir writes for the node while it is unchanged."""
        self.graphs: dict[ir.Graph, onnx.GraphProto] = {}
        """The source's message of each subgraph."""
        self._note_origins(source, nodes)

    def write(self, node: ir.Node) -> onnx.NodeProto:
        """Return the message of ``node``, which is the source's own if the node is unchanged."""
        written = ir.serde.serialize_node(node)
        if node not in self._origins:
            return written
        source, imported = self._origins[node]
        return source if written == imported else self._restore_source(node, written, source, imported)

    def _restore_source(
        self, node: ir.Node, written: onnx.NodeProto, source: onnx.NodeProto, imported: onnx.NodeProto
    ) -> onnx.NodeProto:
        """Return a changed node's message with what onnx-ir does not hold of the source's.

        These are unknown fields, empty strings, unchanged attributes as they were, and unnamed outputs at the end.
        """
        unknown_fields = onnx.NodeProto()
        unknown_fields.CopyFrom(source)
        for name in KNOWN_FIELDS:
            unknown_fields.ClearField(name)
        written.MergeFrom(unknown_fields)
        for name in STRING_FIELDS:
            if source.HasField(name) and not written.HasField(name) and not getattr(source, name):
                setattr(written, name, "")
        written.output.extend("" for _ in range(len(node.outputs) - len(written.output)))
        own, before = ({one.name: one for one in proto.attribute} for proto in (source, imported))
        for attribute in written.attribute:
            if attribute.name in before and before[attribute.name] == attribute:
                attribute.CopyFrom(own[attribute.name])
            elif attribute.name in own and list_graphs(node.attributes[attribute.name]):
                self._write_graphs(node, attribute, own[attribute.name])
        return written

    def _write_graphs(self, node: ir.Node, attribute: onnx.AttributeProto, source: onnx.AttributeProto) -> None:
        """Write the graphs of an attribute as the source has them, except for changed nodes, outputs and initializers."""
        graphs = []
        for graph, proto in zip(list_graphs(node.attributes[attribute.name]), _list_graph_protos(source), strict=True):
            copy = onnx.GraphProto()
            copy.CopyFrom(proto)
            del copy.node[:]
            copy.node.extend(map(self.write, graph))
            for info, value in zip(copy.output, graph.outputs, strict=True):
                info.name = value.name or ""
            for tensor in copy.initializer:
                current = graph.initializers[tensor.name].const_value if tensor.name in graph.initializers else None
                if current is not None:
                    tensor.CopyFrom(to_tensor_proto(current))
            graphs.append(copy)
        attribute.CopyFrom(source)
        if attribute.HasField("g"):
            attribute.g.CopyFrom(graphs[0])
        else:
            del attribute.graphs[:]
            attribute.graphs.extend(graphs)

    def _note_origins(self, source: onnx.GraphProto, nodes: Iterable[ir.Node]) -> None:
        for proto, node in zip(source.node, nodes, strict=True):
            self._origins[node] = proto, ir.serde.serialize_node(node)
            for attribute in proto.attribute:
                graphs = list_graphs(node.attributes[attribute.name])
                for inner, graph in zip(_list_graph_protos(attribute), graphs, strict=True):
                    self.graphs[graph] = inner
                    self._note_origins(inner, graph)


def _list_graph_protos(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    """Return the graphs that an attribute holds according to its type."""
    if attribute.ref_attr_name:
        return []
    if attribute.type == onnx.AttributeProto.GRAPH:
        return [attribute.g]
    return list(attribute.graphs) if attribute.type == onnx.AttributeProto.GRAPHS else []


def copy_without_weights(source: onnx.ModelProto, target: onnx.ModelProto) -> None:
    """Copy ``source`` into ``target``, except for the initializers of its graph."""
    for message, copy, left_out in ((source, target, "graph"), (source.graph, target.graph, "initializer")):
        for field, content in message.ListFields():
            if field.name == left_out:
                continue
            if field.is_repeated:
                getattr(copy, field.name).extend(content)
            elif field.message_type is not None:
                getattr(copy, field.name).CopyFrom(content)
            else:
                setattr(copy, field.name, content)


def filter_field(messages: Any, is_kept: Callable[[Any], bool]) -> None:
    """Remove the messages of a repeated field that are not kept."""
    for place in reversed([place for place, one in enumerate(messages) if not is_kept(one)]):
        del messages[place]
