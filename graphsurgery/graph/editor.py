"""A graph being rewritten, and how it is written back.

What a rewrite does not touch stays as it was to the last byte. `Editor.finish` writes every node that is unchanged as the
source's own message. Initializers, inputs, declared values, functions and metadata are the source's, except for what was added
and removed. So the model keeps what onnx-ir does not hold: unknown fields, sparse initializers, training graphs.

A name always means the same value for as long as there is one of that name, so that what is known of a value stays true while
nodes come and go. *Pinned* are the names that something other than the nodes of the main graph knows: outputs, what graphs in
nodes and training graphs read, what quantisation annotations name. They keep their names, whatever gives their values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from graphsurgery.graph.attributes import graphs_in, graphs_within, tensor_proto
from graphsurgery.graph.graph import Graph
from graphsurgery.model.namer import Namer
from graphsurgery.model.nodes import taken

INITIALIZERS_BY_THEMSELVES = 4
"""The IR version since which initializers need not be inputs."""
EMPTY_TEXTS = ("name", "domain", "overload", "doc_string")
"""Fields of a node that may be there and empty."""
KNOWN_FIELDS = tuple(field.name for field in onnx.NodeProto.DESCRIPTOR.fields)


class Editor(Graph):
    """A graph to change; `finish` gives the changed model."""

    def __init__(self, source: onnx.ModelProto) -> None:
        """Import ``source``, which stays as it is. Raises as `Graph` does."""
        super().__init__(source)
        self.namer = Namer.of(source)
        self._origins: dict[ir.Node, tuple[onnx.NodeProto, onnx.NodeProto]] = {}
        """The source's message of each imported node, and what onnx-ir writes for it as long as it is unchanged."""
        self._graphs: dict[ir.Graph, onnx.GraphProto] = {}
        """The source's message of each graph within a node."""
        self._unchanged = set(self.main.initializers.values())
        """The initializers that hold what the source has in them."""
        self._note_origins(self.source.graph, self._imported)
        self._before = self._names()
        self._inner_names = {value.name for graph in self._graphs for value in _defined_in(graph)}
        """The names that graphs within nodes define."""
        self._infos: list[onnx.ValueInfoProto] = []
        self._sparse = list(source.graph.sparse_initializer)
        self.pinned: frozenset[str] = frozenset()
        self.kept: Mapping[str, str] = {}
        """Names of values that the nodes which compute them now are to go on computing."""
        self.find_pinned()

    @property
    def holds_initializers(self) -> bool:
        """Whether a constant may be an initializer that is no input."""
        return self.source.ir_version >= INITIALIZERS_BY_THEMSELVES

    def find_pinned(self) -> None:
        """Look anew which names are pinned: graphs within nodes may have come or gone."""
        names = {value.name or "" for value in self.main.outputs} | set(_known_elsewhere(self.source))
        for node in self.main:
            names.update(value.name or "" for value in self.captured(node))
        self.pinned = frozenset(names - {""})

    def is_read(self, value: ir.Value) -> bool:
        """Return whether anything reads ``value``, or knows its name."""
        return value.name in self.pinned or bool(value.uses())

    def is_read_once(self, value: ir.Value) -> bool:
        """Return whether one node alone reads ``value``, in one place."""
        return value.name not in self.pinned and len(value.uses()) == 1

    def remove(self, node: ir.Node) -> None:
        """Take a node out that nobody reads, with the graphs in it."""
        for inner in graphs_within(node):
            for one in inner:
                for place in range(len(one.inputs)):
                    one.replace_input_with(place, None)
        self.main.remove(node, safe=True)
        for value in node.outputs:
            self._forget(value)

    def rewire(self, node: ir.Node, values: Sequence[ir.Value | None]) -> None:
        """Let a node read ``values``."""
        node.resize_inputs(len(values))
        for place, value in enumerate(values):
            node.replace_input_with(place, value)

    def reroute(self, old: ir.Value, new: ir.Value) -> None:
        """Let all that reads ``old`` read ``new``; graphs in nodes that have a value of their own of that name read a copy."""
        inner = [(node, place) for node, place in old.uses() if node.graph is not self.main]
        if inner and new.name != old.name and new.name in self._inner_names:
            copy = self.make_node("Identity", [new], [self.namer.new(f"{new.name}/copy")])
            self.insert(new.producer(), [copy])
            for node, place in inner:
                node.replace_input_with(place, copy.outputs[0])
        old.replace_all_uses_with(new, replace_graph_outputs=True)

    def substitute(self, node: ir.Node, values: Sequence[ir.Value]) -> bool:
        """Take ``node`` out. Its first outputs are the ``values``; nobody reads the others.

        Return False, and change nothing, where somebody does, or where a name has to stay that the other value cannot be given.
        """
        pairs = [(old, new) for old, new in zip(node.outputs, values, strict=False) if old.name and self.is_read(old)]
        renamed = {new: old.name for old, new in pairs if old.name in self.pinned}
        if any(value.name and self.is_read(value) for value in node.outputs[len(values) :]):
            return False
        if len(renamed) < sum(old.name in self.pinned for old, _ in pairs) or not all(map(self._can_be_renamed, renamed)):
            return False
        for old, new in pairs:
            self.reroute(old, new)
        self.remove(node)
        for new, name in renamed.items():
            self.rename(new, name)
        return True

    def rename(self, value: ir.Value, name: str | None) -> None:
        """Give ``value`` a name that no other value has."""
        if value.is_initializer():  # onnx-ir renames the tensor with it, and that is the source's own
            copy = onnx.TensorProto()
            copy.CopyFrom(self._tensors[value])
            copy.name = name or ""
            self.restore(value, copy)
        self._values.pop(value.name or "", None)
        value.name = name
        self._values[name or ""] = value

    def hold(self, value: ir.Value, tensor: onnx.TensorProto) -> None:
        """Make a constant of the only output of a node: an initializer where the format has such, else a Constant node."""
        node, held = value.producer(), onnx.TensorProto()
        held.CopyFrom(tensor)
        held.name = value.name or ""
        if node is None:
            return
        if self.holds_initializers and not value.is_graph_output():
            new = _constant_value(held)
            self.reroute(value, new)
            self.remove(node)
            self._add_initializer(new, held)
        else:
            self.rewire(node, ())
            node.op_type, node.domain, node.overload = "Constant", "", ""
            self._set_constant(node, held)

    def restore(self, value: ir.Value, tensor: onnx.TensorProto) -> None:
        """Let a constant be another ``tensor`` of its name."""
        node = value.producer()
        if node is not None:
            self._set_constant(node, tensor)
            return
        value.const_value = ir.serde.deserialize_tensor(tensor)
        self._tensors[value] = tensor
        self._unchanged.discard(value)

    def store(self, tensor: onnx.TensorProto, beside: ir.Node | None) -> ir.Value:
        """Add a constant under the name of ``tensor``: an initializer, or a Constant node behind the one that it stands
        ``beside``."""
        if beside is not None:
            return self._insert_constant(beside, tensor, self.namer.new(beside.name) if beside.name else "")
        value = _constant_value(tensor)
        self._add_initializer(value, tensor)
        return value

    def swap_output(self, value: ir.Value, other: ir.Value) -> None:
        """Let ``other`` be the output of the graph that ``value`` is, under its name; ``value`` gets the name of ``other``."""
        for place, output in enumerate(self.main.outputs):
            if output is value:
                self.main.outputs[place] = other
        name, spare = value.name, other.name
        self.rename(other, self.namer.new("swapped"))
        self.rename(value, spare)
        self.rename(other, name)

    def add_constant(self, wish: str, array: np.ndarray) -> ir.Value:
        """Add a constant, called ``wish`` or something like it."""
        name = self.namer.new(wish)
        tensor = onnx.numpy_helper.from_array(array, name)
        return self.store(tensor, None) if self.holds_initializers else self._insert_constant(None, tensor, name)

    def make_node(
        self, op_type: str, inputs: Sequence[ir.Value | None], outputs: Sequence[str],
        attributes: Mapping[str, Any] = MappingProxyType({}), name: str = "", domain: str = "",
    ) -> ir.Node:  # fmt: skip
        """Make a node, which is not in the graph yet. Its outputs get the names ``outputs``."""
        held = [ir.convenience.convert_attribute(key, value) for key, value in attributes.items()]
        return ir.Node(domain, op_type, inputs, held, outputs=[ir.Value(name=one) for one in outputs], name=name)

    def declared_in(self, graph: ir.Graph) -> Sequence[onnx.ValueInfoProto]:
        """Return what the source declares of the values of a graph within a node."""
        return self._graphs[graph].value_info if graph in self._graphs else ()

    def has_sparse(self, graph: ir.Graph) -> bool:
        """Return whether a graph within a node has sparse initializers, which onnx-ir does not hold."""
        return graph in self._graphs and bool(self._graphs[graph].sparse_initializer)

    def insert(self, place: ir.Node | None, nodes: Iterable[ir.Node], infos: Iterable[onnx.ValueInfoProto] = ()) -> None:
        """Put ``nodes`` behind the node ``place``, or before all others where that is None. ``infos`` declare new values."""
        new, first = list(nodes), next(iter(self.main), None)
        if place is not None:
            self.main.insert_after(place, new)
        elif first is not None:
            self.main.insert_before(first, new)
        else:
            self.main.extend(new)
        for node in new:
            self._enter(node)
            self._values |= {value.name: value for value in node.outputs if value.name}
        self._infos += infos

    def drop_unread(self) -> int:
        """Take initializers out that nobody reads and that are no inputs; return how many."""
        dead = [value for value in self.main.initializers.values() if not value.is_graph_input() and not self.is_read(value)]
        for value in dead:
            self.main.initializers.pop(value.name or "")
            self._forget(value)
        values = {one.values.name: self.value(one.values.name) for one in self._sparse}
        read = {name for name, value in values.items() if value is not None and self.is_read(value)} | self.pinned
        left = [one for one in self._sparse if one.values.name in read]
        dropped, self._sparse = len(self._sparse) - len(left), left
        return len(dead) + dropped

    def finish(self, *, weights: bool = True) -> onnx.ModelProto:
        """Return the model as it is now, without its `initializers` where ``weights`` is false.

        What the source declares of values that are gone is gone as well.
        """
        made = onnx.ModelProto()
        if weights:
            made.CopyFrom(self.source)
            self._write_initializers(made.graph)
        else:
            _copy_without_weights(self.source, made)
        nodes = list(map(self._write, self.main))
        if [id(node) for node in nodes] != [id(node) for node in self.source.graph.node]:
            made.graph.ClearField("node")
            made.graph.node.extend(nodes)
        left = {one.values.name for one in self._sparse}
        _keep(made.graph.sparse_initializer, lambda one: one.values.name in left)
        gone = self._before - self._names()
        _keep(made.graph.value_info, lambda info: info.name not in gone)
        made.graph.value_info.extend(self._infos)
        return made

    @property
    def initializers(self) -> list[onnx.TensorProto]:
        """The source's own initializers that are left, and the new ones behind them."""
        kept, new = self._sorted_initializers()
        return [*(self.source.graph.initializer[place] for place in kept), *new]

    def _sorted_initializers(self) -> tuple[list[int], list[onnx.TensorProto]]:
        """(the places of the source's initializers that are left, new initializers). Of several of one name the last counts."""
        held = self.main.initializers
        last = {one.name: place for place, one in enumerate(self.source.graph.initializer)}
        kept = {name: place for name, place in last.items() if name in held and held[name] in self._unchanged}
        return sorted(kept.values()), [self._tensors[value] for name, value in held.items() if name not in kept]

    def _write_initializers(self, graph: onnx.GraphProto) -> None:
        kept, new = self._sorted_initializers()
        for place in sorted(set(range(len(graph.initializer))) - set(kept), reverse=True):
            del graph.initializer[place]
        graph.initializer.extend(new)

    def _write(self, node: ir.Node) -> onnx.NodeProto:
        """Return the message of ``node``: the source's own where the node is what it was."""
        written = ir.serde.serialize_node(node)
        if node not in self._origins:
            return written
        source, imported = self._origins[node]
        return source if written == imported else self._with_rest(node, written, source, imported)

    def _with_rest(
        self, node: ir.Node, written: onnx.NodeProto, source: onnx.NodeProto, imported: onnx.NodeProto
    ) -> onnx.NodeProto:
        """Return a changed node with what onnx-ir does not hold of its source: unknown fields, texts that are no text or empty,
        attributes as they were, outputs without a name at its end."""
        rest = onnx.NodeProto()
        rest.CopyFrom(source)
        for name in KNOWN_FIELDS:
            rest.ClearField(name)
        written.MergeFrom(rest)
        for name in EMPTY_TEXTS:
            if source.HasField(name) and not written.HasField(name) and not getattr(source, name):
                setattr(written, name, "")
        written.output.extend("" for _ in range(len(node.outputs) - len(written.output)))
        own, before = ({one.name: one for one in proto.attribute} for proto in (source, imported))
        for attribute in written.attribute:
            if attribute.name in before and before[attribute.name] == attribute:
                attribute.CopyFrom(own[attribute.name])
            elif attribute.name in own and graphs_in(node.attributes[attribute.name]):
                self._write_graphs(node, attribute, own[attribute.name])
        return written

    def _write_graphs(self, node: ir.Node, attribute: onnx.AttributeProto, source: onnx.AttributeProto) -> None:
        """Write the graphs of an attribute as the source has them, but for nodes that changed."""
        held = graphs_in(node.attributes[attribute.name])
        new = []
        for graph, proto in zip(held, graph_protos(source), strict=True):
            copy = onnx.GraphProto()
            copy.CopyFrom(proto)
            del copy.node[:]
            copy.node.extend(map(self._write, graph))
            for info, value in zip(copy.output, graph.outputs, strict=True):
                info.name = value.name or ""
            for tensor in copy.initializer:
                held_tensor = graph.initializers[tensor.name].const_value if tensor.name in graph.initializers else None
                if held_tensor is not None and held_tensor is not tensor:
                    tensor.CopyFrom(tensor_proto(held_tensor))
            new.append(copy)
        attribute.CopyFrom(source)
        if attribute.HasField("g"):
            attribute.g.CopyFrom(new[0])
        else:
            del attribute.graphs[:]
            attribute.graphs.extend(new)

    def _note_origins(self, source: onnx.GraphProto, nodes: Iterable[ir.Node]) -> None:
        for proto, node in zip(source.node, nodes, strict=True):
            self._origins[node] = proto, ir.serde.serialize_node(node)
            for attribute in proto.attribute:
                for inner, graph in zip(graph_protos(attribute), graphs_in(node.attributes[attribute.name]), strict=True):
                    self._graphs[graph] = inner
                    self._note_origins(inner, graph)

    def _insert_constant(self, place: ir.Node | None, tensor: onnx.TensorProto, name: str) -> ir.Value:
        node = self.make_node("Constant", [], [tensor.name], {"value": ir.serde.deserialize_tensor(tensor)}, name)
        self.insert(place, [node])
        return node.outputs[0]

    def _set_constant(self, node: ir.Node, tensor: onnx.TensorProto) -> None:
        """Let a Constant node give ``tensor``."""
        node.attributes.clear()
        node.attributes["value"] = ir.AttrTensor("value", ir.serde.deserialize_tensor(tensor))
        self._enter(node)

    def _add_initializer(self, value: ir.Value, tensor: onnx.TensorProto) -> None:
        self.main.register_initializer(value)
        self._values[value.name or ""] = value
        self._tensors[value] = tensor

    def _forget(self, value: ir.Value) -> None:
        self._tensors.pop(value, None)
        if self._values.get(value.name or "") is value:
            del self._values[value.name or ""]

    def _can_be_renamed(self, value: ir.Value) -> bool:
        node = value.producer()
        return node is not None and node.graph is self.main and value.name not in self.pinned

    def _names(self) -> set[str]:
        """The names of all values of the main graph."""
        given = {value.name or "" for node in self.main for value in node.outputs}
        sparse = {one.values.name for one in self.source.graph.sparse_initializer}
        return given | sparse | {one.name or "" for one in (*self.main.inputs, *self.main.initializers.values())}


def _constant_value(tensor: onnx.TensorProto) -> ir.Value:
    return ir.Value(name=tensor.name, const_value=ir.serde.deserialize_tensor(tensor))


def _defined_in(graph: ir.Graph) -> Iterator[ir.Value]:
    """The values that a graph within a node defines."""
    yield from (*graph.inputs, *graph.initializers.values())
    yield from (value for node in graph for value in node.outputs)


def graph_protos(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    """Return the graphs that an attribute says it holds."""
    if attribute.type == onnx.AttributeProto.GRAPH and not attribute.ref_attr_name:
        return [attribute.g]
    return list(attribute.graphs) if attribute.type == onnx.AttributeProto.GRAPHS and not attribute.ref_attr_name else []


def _copy_without_weights(source: onnx.ModelProto, made: onnx.ModelProto) -> None:
    """Copy all that is known of ``source`` into ``made``, except for the initializers of its graph."""
    for one, other, left_out in ((source, made, "graph"), (source.graph, made.graph, "initializer")):
        for field, content in one.ListFields():
            if field.name == left_out:
                continue
            if field.is_repeated:
                getattr(other, field.name).extend(content)
            elif field.message_type is not None:
                getattr(other, field.name).CopyFrom(content)
            else:
                setattr(other, field.name, content)


def _keep(messages: Any, is_kept: Callable[[Any], bool]) -> None:
    """Take those out of a repeated field that are not kept."""
    for place in reversed([place for place, one in enumerate(messages) if not is_kept(one)]):
        del messages[place]


def _known_elsewhere(model: onnx.ModelProto) -> Iterator[str]:
    """The names of the main graph that annotations and training graphs may use."""
    for annotation in model.graph.quantization_annotation:
        yield annotation.tensor_name
        yield from (entry.value for entry in annotation.quant_parameter_tensor_names)
    for training in model.training_info:
        for binding in (*training.initialization_binding, *training.update_binding):
            yield from (binding.key, binding.value)
        for graph in (training.initialization, training.algorithm):
            yield from taken(graph.node)
            yield from (info.name for info in graph.output)
            yield from (name for node in graph.node for name in node.input)
