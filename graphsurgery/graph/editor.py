"""A graph that can be changed.

Whatever is not changed stays the same byte for byte: `Editor.finish` writes unchanged nodes as the source's own messages, and
takes initializers, inputs, declared values, functions and metadata from the source, except for those added or removed. This
keeps what onnx-ir does not hold: unknown fields, sparse initializers, training graphs.

A name means the same value for as long as a value has that name, so that facts about a value stay true while nodes come and go.
*Pinned* names are known to something other than the nodes of the main graph: graph outputs, values that subgraphs or training
graphs read, tensors in quantization annotations. A pinned name stays, whichever node computes its value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx

from graphsurgery.deferred import ir
from graphsurgery.graph.attributes import walk_subgraphs
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.writing import NodeWriter, copy_without_weights, filter_field
from graphsurgery.model.names import Namer, walk_captured_names

FIRST_IR_WITH_INITIALIZERS = 4
"""The first IR version in which an initializer need not be an input."""
FIRST_OPSET_WITH_AXES = 13
"""The first opset in which the axes of Squeeze and Unsqueeze are an input."""


class Editor(Graph):
    """A graph that can be changed. `finish` returns the changed model."""

    def __init__(self, source: onnx.ModelProto) -> None:
        """Import ``source``, which is not changed. Raises what `Graph` raises."""
        super().__init__(source)
        self.namer = Namer.of(source)
        self._writer = NodeWriter(source.graph, self._imported)
        self._unchanged = set(self.main.initializers.values())
        """The initializers whose tensors are still the source's."""
        self._names_before = self._list_names()
        self._inner_names = {value.name for graph in self._writer.graphs for value in _list_defined(graph)}
        """The names of values that subgraphs define."""
        self._infos: list[onnx.ValueInfoProto] = []
        self._sparse = list(source.graph.sparse_initializer)
        self.pinned: frozenset[str] = frozenset()
        self.protected: Mapping[str, str] = {}
        """Names of values that must still be computed by the nodes that compute them now."""
        self.update_pinned()

    @property
    def supports_initializers(self) -> bool:
        """Whether a constant may be an initializer without being an input."""
        return self.source.ir_version >= FIRST_IR_WITH_INITIALIZERS

    @property
    def initializers(self) -> list[onnx.TensorProto]:
        """The initializers: those of the source's that are left, then the new ones."""
        kept, new = self._sort_initializers()
        return [*(self.source.graph.initializer[place] for place in kept), *new]

    def update_pinned(self) -> None:
        """Find the pinned names again after subgraphs were added or removed."""
        names = {value.name or "" for value in self.main.outputs} | set(_list_external_names(self.source))
        for node in self.main:
            names.update(value.name or "" for value in self.implicit_inputs(node))
        self.pinned = frozenset(names - {""})

    def is_read(self, value: ir.Value) -> bool:
        """Return whether a node reads ``value``, or whether its name is pinned."""
        return value.name in self.pinned or bool(value.uses())

    def is_read_once(self, value: ir.Value) -> bool:
        """Return whether a single input of a single node reads ``value``, and its name is not pinned."""
        return value.name not in self.pinned and len(value.uses()) == 1

    def make_node(
        self, op_type: str, inputs: Sequence[ir.Value | None], outputs: Sequence[str],
        attributes: Mapping[str, Any] = MappingProxyType({}), name: str = "", domain: str = "",
    ) -> ir.Node:  # fmt: skip
        """Return a new node whose outputs have the names ``outputs``. It is not in the graph until it is inserted."""
        converted = [ir.convenience.convert_attribute(key, value) for key, value in attributes.items()]
        return ir.Node(domain, op_type, inputs, converted, outputs=[ir.Value(name=one) for one in outputs], name=name)

    def make_value(
        self, op_type: str, inputs: Sequence[ir.Value | None], name: str,
        attributes: Mapping[str, Any] = MappingProxyType({}), domain: str = "",
    ) -> ir.Node:  # fmt: skip
        """Return a new node with one output. Both are called ``name``, or the next free name like it."""
        free = self.namer.new(name)
        return self.make_node(op_type, inputs, [free], attributes, free, domain)

    def make_with_axes(self, op_type: str, value: ir.Value | None, axes: Sequence[int], name: str) -> ir.Node:
        """Return a new Squeeze or Unsqueeze of ``axes``, in the form of the graph's opset. Named as by `make_value`."""
        if self.opset < FIRST_OPSET_WITH_AXES:
            return self.make_value(op_type, [value], name, {"axes": list(axes)})
        return self.make_value(op_type, [value, self.add_constant(f"{name}/axes", np.array(axes, np.int64))], name)

    def insert(self, after: ir.Node | None, nodes: Iterable[ir.Node], infos: Iterable[onnx.ValueInfoProto] = ()) -> None:
        """Insert ``nodes`` after the node ``after``, or at the beginning if that is None. ``infos`` declare new values."""
        new, first = list(nodes), next(iter(self.main), None)
        if after is not None:
            self.main.insert_after(after, new)
        elif first is not None:
            self.main.insert_before(first, new)
        else:
            self.main.extend(new)
        for node in new:
            self._register(node)
            self._values |= {value.name: value for value in node.outputs if value.name}
        self._infos += infos

    def remove(self, node: ir.Node) -> None:
        """Remove a node whose outputs nothing reads, with its subgraphs."""
        for inner in walk_subgraphs(node):
            for one in inner:
                self.set_inputs(one, [None] * len(one.inputs))
        self.main.remove(node, safe=True)
        for value in node.outputs:
            self._forget(value)

    def replace_node(self, node: ir.Node, values: Sequence[ir.Value]) -> bool:
        """Remove ``node`` and let ``values`` replace its first outputs.

        Returns False and changes nothing if another output is read, or if an output's name is pinned and the value that
        replaces it cannot be renamed.
        """
        pairs = [(old, new) for old, new in zip(node.outputs, values, strict=False) if old.name and self.is_read(old)]
        renamed = {new: old.name for old, new in pairs if old.name in self.pinned}
        if any(value.name and self.is_read(value) for value in node.outputs[len(values) :]):
            return False
        if len(renamed) < sum(old.name in self.pinned for old, _ in pairs) or not all(map(self._is_renamable, renamed)):
            return False
        for old, new in pairs:
            self.replace_uses(old, new)
        self.remove(node)
        for new, name in renamed.items():
            self.rename(new, name)
        return True

    def replace_uses(self, old: ir.Value, new: ir.Value) -> None:
        """Let everything that reads ``old`` read ``new``.

        If a subgraph defines another value with the name of ``new``, nodes in subgraphs read a copy of ``new`` instead.
        """
        inner = [(node, place) for node, place in old.uses() if node.graph is not self.main]
        if inner and new.name != old.name and new.name in self._inner_names:
            copy = self.make_node("Identity", [new], [self.namer.new(f"{new.name}/copy")])
            self.insert(new.producer(), [copy])
            for node, place in inner:
                node.replace_input_with(place, copy.outputs[0])
        old.replace_all_uses_with(new, replace_graph_outputs=True)

    def set_inputs(self, node: ir.Node, values: Sequence[ir.Value | None]) -> None:
        """Let ``values`` be the inputs of ``node``."""
        node.resize_inputs(len(values))
        for place, value in enumerate(values):
            node.replace_input_with(place, value)

    def rename(self, value: ir.Value, name: str | None) -> None:
        """Give ``value`` a name that no other value has."""
        if value.is_initializer():  # onnx-ir renames the tensor too, and that is the source's own
            self.replace_tensor(value, _copy_tensor(self._tensors[value], name))
        self._values.pop(value.name or "", None)
        value.name = name
        self._values[name or ""] = value

    def replace_value(self, old: ir.Value, new: ir.Value) -> None:
        """Put ``new`` in the place of ``old``, under the name of ``old``. ``old`` gets another name, and nothing reads it any
        more."""
        name = old.name
        self.replace_uses(old, new)
        if name:
            self.rename(old, self.namer.new(name))
            self.rename(new, name)

    def swap_output(self, value: ir.Value, other: ir.Value) -> None:
        """Make ``other`` the graph output in place of ``value``, under the same name. ``value`` gets the name of ``other``."""
        for place, output in enumerate(self.main.outputs):
            if output is value:
                self.main.outputs[place] = other
        name, spare = value.name, other.name
        self.rename(other, self.namer.new("swapped"))
        self.rename(value, spare)
        self.rename(other, name)

    def add_constant(self, name: str, array: np.ndarray) -> ir.Value:
        """Add a constant and return its value, called ``name`` or a variation of it that is free."""
        name = self.namer.new(name)
        tensor = onnx.numpy_helper.from_array(array, name)
        return self.add_tensor(tensor, None) if self.supports_initializers else self._insert_constant(None, tensor, name)

    def add_tensor(self, tensor: onnx.TensorProto, after: ir.Node | None) -> ir.Value:
        """Add a constant with the name of ``tensor``: an initializer, or a Constant node after the node ``after`` if given."""
        if after is not None:
            return self._insert_constant(after, tensor, self.namer.new(after.name) if after.name else "")
        value = _make_constant_value(tensor)
        self._add_initializer(value, tensor)
        return value

    def replace_with_constant(self, value: ir.Value, tensor: onnx.TensorProto) -> None:
        """Turn ``value``, the only output of its node, into a constant with the elements of ``tensor``.

        It becomes an initializer if the IR version allows that and ``value`` is not a graph output, else a Constant node.
        """
        node, renamed = value.producer(), _copy_tensor(tensor, value.name)
        if node is None:
            return
        if self.supports_initializers and not value.is_graph_output():
            new = _make_constant_value(renamed)
            self.replace_uses(value, new)
            self.remove(node)
            self._add_initializer(new, renamed)
        else:
            self.set_inputs(node, ())
            node.op_type, node.domain, node.overload = "Constant", "", ""
            self._set_constant(node, renamed)

    def replace_tensor(self, value: ir.Value, tensor: onnx.TensorProto) -> None:
        """Let the constant ``value`` be ``tensor``, which has the same name."""
        node = value.producer()
        if node is not None:
            self._set_constant(node, tensor)
            return
        value.const_value = ir.serde.deserialize_tensor(tensor)
        self._tensors[value] = tensor
        self._unchanged.discard(value)

    def remove_unread(self) -> int:
        """Remove nodes and initializers that nothing reads, starting at the end, and return their number."""
        dead = 0
        for node in reversed(list(self.nodes)):
            if not any(self.is_read(value) for value in node.outputs if value.name):
                self.remove(node)
                dead += 1
        return dead + self.remove_unused_initializers()

    def remove_unused_initializers(self) -> int:
        """Remove initializers that are neither read nor inputs, and return their number."""
        dead = [value for value in self.main.initializers.values() if not value.is_graph_input() and not self.is_read(value)]
        for value in dead:
            self.main.initializers.pop(value.name or "")
            self._forget(value)
        values = {one.values.name: self.value(one.values.name) for one in self._sparse}
        read = {name for name, value in values.items() if value is not None and self.is_read(value)} | self.pinned
        kept = [one for one in self._sparse if one.values.name in read]
        removed, self._sparse = len(self._sparse) - len(kept), kept
        return len(dead) + removed

    def declared_values(self, graph: ir.Graph) -> Sequence[onnx.ValueInfoProto]:
        """Return what the source declares of the values of a subgraph."""
        return self._writer.graphs[graph].value_info if graph in self._writer.graphs else ()

    def has_sparse_initializers(self, graph: ir.Graph) -> bool:
        """Return whether a subgraph has sparse initializers, which onnx-ir does not hold."""
        return graph in self._writer.graphs and bool(self._writer.graphs[graph].sparse_initializer)

    def finish(self, *, weights: bool = True) -> onnx.ModelProto:
        """Return the changed model, without its `initializers` if ``weights`` is false.

        Declarations of values that no longer exist are removed.
        """
        model = onnx.ModelProto()
        if weights:
            model.CopyFrom(self.source)
            self._write_initializers(model.graph)
        else:
            copy_without_weights(self.source, model)
        nodes = list(map(self._writer.write, self.main))
        if [id(node) for node in nodes] != [id(node) for node in self.source.graph.node]:
            model.graph.ClearField("node")
            model.graph.node.extend(nodes)
        sparse = {one.values.name for one in self._sparse}
        filter_field(model.graph.sparse_initializer, lambda one: one.values.name in sparse)
        removed = self._names_before - self._list_names()
        filter_field(model.graph.value_info, lambda info: info.name not in removed)
        model.graph.value_info.extend(self._infos)
        return model

    def _sort_initializers(self) -> tuple[list[int], list[onnx.TensorProto]]:
        """Return (the indices of the source's initializers that are left, the new initializers).

        If several of the source's have the same name, the last one counts.
        """
        current = self.main.initializers
        last = {one.name: place for place, one in enumerate(self.source.graph.initializer)}
        kept = {name: place for name, place in last.items() if name in current and current[name] in self._unchanged}
        return sorted(kept.values()), [self._tensors[value] for name, value in current.items() if name not in kept]

    def _write_initializers(self, graph: onnx.GraphProto) -> None:
        kept, new = self._sort_initializers()
        for place in sorted(set(range(len(graph.initializer))) - set(kept), reverse=True):
            del graph.initializer[place]
        graph.initializer.extend(new)

    def _insert_constant(self, after: ir.Node | None, tensor: onnx.TensorProto, name: str) -> ir.Value:
        node = self.make_node("Constant", [], [tensor.name], {"value": ir.serde.deserialize_tensor(tensor)}, name)
        self.insert(after, [node])
        return node.outputs[0]

    def _set_constant(self, node: ir.Node, tensor: onnx.TensorProto) -> None:
        """Let ``tensor`` be the value of a Constant node."""
        node.attributes.clear()
        node.attributes["value"] = ir.AttrTensor("value", ir.serde.deserialize_tensor(tensor))
        self._register(node)

    def _add_initializer(self, value: ir.Value, tensor: onnx.TensorProto) -> None:
        self.main.register_initializer(value)
        self._values[value.name or ""] = value
        self._tensors[value] = tensor

    def _forget(self, value: ir.Value) -> None:
        self._tensors.pop(value, None)
        if self._values.get(value.name or "") is value:
            del self._values[value.name or ""]

    def _is_renamable(self, value: ir.Value) -> bool:
        node = value.producer()
        return node is not None and node.graph is self.main and value.name not in self.pinned

    def _list_names(self) -> set[str]:
        """Return the names of all values that the main graph defines."""
        sparse = {one.values.name for one in self.source.graph.sparse_initializer}
        return sparse | {value.name or "" for value in _list_defined(self.main)}


def _make_constant_value(tensor: onnx.TensorProto) -> ir.Value:
    return ir.Value(name=tensor.name, const_value=ir.serde.deserialize_tensor(tensor))


def _copy_tensor(tensor: onnx.TensorProto, name: str | None) -> onnx.TensorProto:
    """Return a copy of ``tensor`` called ``name``."""
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    copy.name = name or ""
    return copy


def _list_defined(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield the values that ``graph`` itself defines."""
    yield from (*graph.inputs, *graph.initializers.values())
    yield from (value for node in graph for value in node.outputs)


def _list_external_names(model: onnx.ModelProto) -> Iterator[str]:
    """Yield the names of the main graph that quantization annotations and training graphs may use."""
    for annotation in model.graph.quantization_annotation:
        yield annotation.tensor_name
        yield from (entry.value for entry in annotation.quant_parameter_tensor_names)
    for training in model.training_info:
        for binding in (*training.initialization_binding, *training.update_binding):
            yield from (binding.key, binding.value)
        for graph in (training.initialization, training.algorithm):
            yield from walk_captured_names(graph.node)
            yield from (info.name for info in graph.output)
            yield from (name for node in graph.node for name in node.input)
