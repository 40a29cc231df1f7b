"""A model that is being edited: an onnx-graphsurgeon graph, and beside it the parts of the source that this graph cannot hold.

Edits match and change the onnx-graphsurgeon graph, but it never writes the file. Each of its nodes is traced to the node it was
imported from, and `finish` writes an unchanged node back from its source bytes. Everything else of the source (initializers,
inputs, value_info, functions, metadata, every unknown field) stays unless the draft says otherwise.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import onnx

from graphsurgery.deferred import gs
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.model.changes import INITIALIZER, INPUT, NODE, OUTPUT, VALUE_INFO, Changes
from graphsurgery.model.model import Model
from graphsurgery.model.names import Namer, list_subgraphs
from graphsurgery.model.records import Document, Record, splice_records
from graphsurgery.model.scan import make_record

LOST_BY_IMPORT = ("doc_string", "overload", "metadata_props", "device_configurations")
IMPORTING = threading.Lock()
"""Held while onnx-graphsurgeon imports a graph. Its logger belongs to the whole process and is silenced meanwhile."""


class Draft:
    """The workspace of one edit: change nodes and outputs of ``graph``, an onnx-graphsurgeon graph, then call `finish`.

    Other changes, above all to names and inputs of the source, go into ``changes``.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.changes = Changes()
        self.namer = Namer.of(model.proto)
        self.graph = _import_graph(model.proto)
        self._imported_nodes = list(self.graph.nodes)
        self._imported_outputs = list(self.graph.outputs)
        self._signatures = [make_node_signature(node) for node in self._imported_nodes]
        self._held = list(_list_elements(self.graph))

    @property
    def opset(self) -> int:
        """The model's ai.onnx opset."""
        return self.model.opset

    def tensor(self, name: str) -> gs.Tensor:
        """Return the graph's tensor of that name. Raise KeyError if there is none."""
        found = self.graph.tensors().get(name)
        if found is None:
            found = next((tensor for tensor in (*self.graph.inputs, *self.graph.outputs) if tensor.name == name), None)
        if found is None:
            raise KeyError(name)
        return found

    def add(
        self, op: str, inputs: Sequence[gs.Tensor], name: str, attrs: dict[str, Any] | None = None, output: str | None = None
    ) -> gs.Variable:
        """Append a node with one output and return that output. It is named after the node unless ``output`` gives its name."""
        node_name = self.namer.new(name)
        value = gs.Variable(output if output is not None else self.namer.new(f"{name}:0"))
        self.graph.nodes.append(gs.Node(op, node_name, attrs or {}, list(inputs), [value]))
        return value

    def constant(self, values: np.ndarray, name: str) -> gs.Variable:
        """Append a Constant node. Unlike an initializer, it belongs to the head at every IR version."""
        return self.add("Constant", [], name, {"value": gs.Constant(name, values)})

    def add_input(self, name: str, dtype: int, dims: Sequence[int | str | None]) -> gs.Variable:
        """Append a new input after all others."""
        self.changes.inputs.append(onnx.helper.make_tensor_value_info(name, dtype, dims))
        return gs.Variable(name)

    @contextmanager
    def at_front(self) -> Iterator[None]:
        """Put the nodes added within this context before all other nodes, so that the source's nodes can use them."""
        with self._inserting(0):
            yield

    @contextmanager
    def behind(self, value: str) -> Iterator[None]:
        """Put the nodes added within this context right after the node that makes ``value``, so that all its readers can use
        them."""
        places = (place for place, node in enumerate(self.graph.nodes) if any(one.name == value for one in node.outputs))
        with self._inserting(next(places) + 1):
            yield

    @contextmanager
    def _inserting(self, place: int) -> Iterator[None]:
        count = len(self.graph.nodes)
        yield
        added = self.graph.nodes[count:]
        del self.graph.nodes[count:]
        self.graph.nodes[place:place] = added

    def rename(self, old: str, new: str) -> gs.Tensor:
        """Rename a value wherever it is produced and used."""
        tensor = self.tensor(old)
        tensor.name = new
        return tensor

    def take_name_away(self, name: str, step: str) -> None:
        """Give the value of the output ``name`` another name, so that a new node can make the output, as it is declared."""
        output = self.tensor(name)
        inside = gs.Variable(self.namer.new(f"{name}_before_{step}"))
        for node in (*output.inputs, *output.outputs):
            for side in (node.inputs, node.outputs):
                for place, value in enumerate(side):
                    if value is output:
                        side[place] = inside

    def finish(self) -> Document:
        """Return the edited document."""
        for value, elements in self._held:
            if isinstance(value, gs.Constant) and _is_only_read(value, elements):
                value._values = elements
        source, changes = self.model.document, self.changes
        graph = splice_records(source.graph, NODE, self._build_nodes())
        graph = splice_records(graph, OUTPUT, changes.change_infos(OUTPUT, self._build_outputs(), source.payloads))
        for number in (INPUT, VALUE_INFO):
            held = [record for record in source.graph if record.field == number]
            graph = splice_records(graph, number, changes.change_infos(number, held, source.payloads))
        if changes.initializers:
            new = [Record.literal(INITIALIZER, tensor.SerializeToString()) for tensor in changes.initializers]
            graph = splice_records(graph, INITIALIZER, [record for record in graph if record.field == INITIALIZER] + new)
        return Document(source.model, graph, source.payloads)

    def _build_nodes(self) -> list[Record]:
        index_of = {id(node): index for index, node in enumerate(self._imported_nodes)}
        records = [record for record in self.model.document.graph if record.field == NODE]
        return [self._build_node(node, index_of.get(id(node)), records) for node in self.graph.nodes]

    def _build_node(self, node: gs.Node, index: int | None, records: list[Record]) -> Record:
        payloads = self.model.document.payloads
        if index is not None and make_node_signature(node) == self._signatures[index]:
            return self.changes.change_node(records[index], payloads)
        proto = (
            gs.exporters.onnx_exporter.OnnxExporter.export_node(node) if index is None else self._merge_with_source(node, index)
        )
        record = make_record(NODE, proto.SerializeToString(), onnx.NodeProto.DESCRIPTOR, payloads)
        return record if index is None else self.changes.change_node(record, payloads)

    def _merge_with_source(self, node: gs.Node, index: int) -> onnx.NodeProto:
        """Return a changed node together with everything onnx-graphsurgeon lost of its source: unchanged attributes, doc
        string, metadata."""
        source = self.model.proto.graph.node[index]
        imported = dict(self._signatures[index].attributes)
        changed = [key for key, signature in make_node_signature(node).attributes if imported.get(key) != signature]
        if any(isinstance(node.attrs[key], gs.Graph) for key in changed):
            raise UnsupportedModelError(
                f"the edit would change node {node.name!r} ({node.op}) through its subgraph", "this is not supported yet"
            )
        bare = gs.Node(node.op, node.name, {key: node.attrs[key] for key in changed}, domain=node.domain)
        proto = _export_node(bare)
        proto.input.extend(tensor.name for tensor in node.inputs)
        proto.output.extend(tensor.name for tensor in node.outputs)
        gone = set(imported) - set(node.attrs) | set(changed)
        new = list(proto.attribute)
        del proto.attribute[:]
        proto.attribute.extend([*(attribute for attribute in source.attribute if attribute.name not in gone), *new])
        only = onnx.NodeProto()
        only.CopyFrom(source)
        for name in [field.name for field, _ in only.ListFields() if field.name not in LOST_BY_IMPORT]:
            only.ClearField(name)
        proto.MergeFrom(only)
        return proto

    def _build_outputs(self) -> list[Record]:
        payloads = self.model.document.payloads
        records = [record for record in self.model.document.graph if record.field == OUTPUT]
        left = list(enumerate(self._imported_outputs))
        wanted = []
        for tensor in self.graph.outputs:
            place = next((place for place, imported in left if imported is tensor), None)
            left = [pair for pair in left if pair[0] != place]
            if place is not None and tensor.name == self.model.proto.graph.output[place].name:
                wanted.append(records[place])
            else:
                info = gs.exporters.onnx_exporter.OnnxExporter.export_value_info_proto(tensor, do_type_check=False)
                wanted.append(make_record(OUTPUT, info.SerializeToString(), info.DESCRIPTOR, payloads))
        return wanted


def _list_elements(graph: gs.Graph) -> Iterator[tuple[Any, Any]]:
    """Yield every attribute at any depth with the object that holds its elements. Keeping these alive keeps the identities in
    signatures valid."""
    for node in graph.nodes:
        for value in node.attrs.values():
            yield value, value._values if isinstance(value, gs.Constant) else None
            if isinstance(value, gs.Graph):
                yield from _list_elements(value)


def _is_only_read(constant: gs.Constant, elements: Any) -> bool:
    """Return whether an array replaced ``elements`` only because they were read: its values are still the same."""
    now = constant._values
    if now is elements or not isinstance(now, np.ndarray) or not isinstance(elements, gs.ir.tensor.LazyValues):
        return False
    read = elements.load()
    return bool(now.dtype == read.dtype and now.shape == read.shape and now.tobytes() == read.tobytes())


def _import_graph(proto: onnx.ModelProto) -> gs.Graph:
    """Return ``proto`` as an onnx-graphsurgeon graph, imported from a copy. Its log messages are kept off the terminal."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    _drop_undecodable(copy.graph.node)
    for function in copy.functions:
        _drop_undecodable(function.node)
    try:
        logger = gs.logger.G_LOGGER
        with IMPORTING, logger.suppress(logger.CRITICAL + 1):
            return gs.import_onnx(copy)
    except MemoryError:
        raise
    except Exception as error:  # onnx-graphsurgeon raises whatever the helper under it raised
        raise UnsupportedModelError(
            f"onnx-graphsurgeon cannot import this graph, so it cannot be edited: {error}", "inspect and verify still work"
        ) from error


def _drop_undecodable(nodes: Iterable[onnx.NodeProto]) -> None:
    """Drop attributes whose strings are not UTF-8 from the copy. Their nodes are written back from the source anyway."""
    for node in nodes:
        for index in reversed(range(len(node.attribute))):
            if not all(map(_is_utf8, [node.attribute[index].s, *node.attribute[index].strings])):
                del node.attribute[index]
        for graph in list_subgraphs(node):
            _drop_undecodable(graph.node)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


class Signature(NamedTuple):
    """What an edit can change of a node. Equal signatures mean an unchanged node."""

    op: str
    name: str
    domain: str | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[tuple[str, Hashable], ...]


def make_node_signature(node: gs.Node) -> Signature:
    """Return operator, name, domain, value names and attributes, and the same for every node in its subgraphs."""
    return Signature(
        node.op,
        node.name,
        node.domain,
        tuple(tensor.name for tensor in node.inputs),
        tuple(tensor.name for tensor in node.outputs),
        tuple((name, make_attribute_signature(value)) for name, value in node.attrs.items()),
    )


def make_attribute_signature(value: Any) -> Hashable:
    """Return a signature of an attribute's value. Tensors are compared by the identity of their storage, so no large data are
    compared."""
    if isinstance(value, gs.Graph):
        inputs, outputs = (tuple(tensor.name for tensor in side) for side in (value.inputs, value.outputs))
        return ("graph", inputs, outputs, tuple(map(make_node_signature, value.nodes)))
    if isinstance(value, gs.Tensor):
        return ("tensor", value.name, id(value._values) if isinstance(value, gs.Constant) else None)
    if isinstance(value, np.ndarray):
        return ("array", id(value))
    if isinstance(value, list | tuple):
        return tuple(map(make_attribute_signature, value))
    if isinstance(value, gs.Node.AttributeRef):
        return ("reference", value.name)
    return (type(value).__name__, value) if isinstance(value, Hashable) else ("object", id(value))


def _export_node(node: gs.Node) -> onnx.NodeProto:
    return gs.exporters.onnx_exporter.OnnxExporter.export_node(node)
