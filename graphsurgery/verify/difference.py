"""What an output's graph has that its source's has not, and the other way round, read off the files' own fields."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import onnx
from google.protobuf.message_factory import GetMessageClass

from graphsurgery.model.external import is_external
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import PREFIX
from graphsurgery.model.records import GRAPH_FIELD, Record
from graphsurgery.model.schema import GRAPH, MODEL, tensor_holders, tensors

NODE = GRAPH.fields_by_name["node"].number
OUTPUT = GRAPH.fields_by_name["output"].number
METADATA = MODEL.fields_by_name["metadata_props"].number
Key = tuple[int, bytes]


@dataclass(frozen=True)
class Difference:
    """Between a source and an output: nodes only in the output, nodes only in the source, renamed values, and everything else."""

    added: tuple[onnx.NodeProto, ...]
    removed: tuple[onnx.NodeProto, ...]
    renamed: dict[str, str] = field(default_factory=dict)
    """Values of the source that have another name in the output."""
    others: tuple[str, ...] = ()
    """Changes outside nodes, outputs and our own metadata entries, in words."""

    @cached_property
    def made(self) -> set[str]:
        """Values that the added nodes make."""
        return {name for node in self.added for name in node.output if name}

    @cached_property
    def taken(self) -> list[str]:
        """Values that the added nodes take from elsewhere, in order of first use."""
        return list(dict.fromkeys(name for node in self.added for name in node.input if name and name not in self.made))


def difference(source: Model, output: Model) -> Difference:
    """Compare two models field by field; tensors by name, type, dims and length, wherever their bytes lie."""
    before, after = _keyed(source, source.document.graph, GRAPH), _keyed(output, output.document.graph, GRAPH)
    removed = _nodes(source, [key for key in _minus(before, after) if key[0] == NODE])
    added = _nodes(output, [key for key in _minus(after, before) if key[0] == NODE])
    renamed, added, removed = _paired(added, removed)
    others = [
        f"{GRAPH.fields_by_number[number].name} {what}"
        for what, keys in (("removed", _minus(before, after)), ("added", _minus(after, before)))
        for number, _ in keys
        if number not in (NODE, OUTPUT)
    ]
    return Difference(tuple(added), tuple(removed), renamed, tuple(others + _model_changes(source, output)))


def _model_changes(source: Model, output: Model) -> list[str]:
    before, after = (
        [key for key in _keyed(model, model.document.model, MODEL) if not _is_own_entry(key)] for model in (source, output)
    )
    return [
        f"{MODEL.fields_by_number[number].name} {what}"
        for what, keys in (("removed", _minus(before, after)), ("added", _minus(after, before)))
        for number, _ in keys
    ]


def _is_own_entry(key: Key) -> bool:
    return key[0] == METADATA and onnx.StringStringEntryProto.FromString(key[1]).key.startswith(PREFIX)


def _keyed(model: Model, records: tuple[Record, ...], message: Any) -> list[Key]:
    return [_key(model, record, message) for record in records if record.field != GRAPH_FIELD or message is GRAPH]


def _key(model: Model, record: Record, message: Any) -> Key:
    """A record's content, the place of tensor data left out of it."""
    inner = tensor_holders(message).get(record.field)
    if inner is None or not (record.has_payload or b"location" in record.skeleton):
        known = message.fields_by_number.get(record.field)
        return record.field, record.content if known is not None and known.message_type is not None else record.skeleton
    value = GetMessageClass(inner).FromString(record.content)
    for _, tensor in tensors(value):
        if is_external(tensor):
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
        elif model.document.payloads.find(tensor) is not None:
            tensor.ClearField("raw_data")
    return record.field, value.SerializeToString(deterministic=True)


def _minus(some: list[Key], others: list[Key]) -> list[Key]:
    """The keys of ``some`` that ``others`` has fewer of, in order."""
    left = Counter(others)
    found = []
    for key in some:
        if left[key] > 0:
            left[key] -= 1
        else:
            found.append(key)
    return found


def _nodes(model: Model, keys: list[Key]) -> list[onnx.NodeProto]:
    return [onnx.NodeProto.FromString(content) for _, content in keys]


def _paired(
    added: list[onnx.NodeProto], removed: list[onnx.NodeProto]
) -> tuple[dict[str, str], list[onnx.NodeProto], list[onnx.NodeProto]]:
    """Take out pairs of nodes that differ in value names alone: (old name -> new name, the rest added, the rest removed)."""
    renamed: dict[str, str] = {}
    left = list(added)
    rest = []
    for node in removed:
        twin = next((other for other in left if _differ_in_names_only(node, other)), None)
        if twin is None:
            rest.append(node)
            continue
        left.remove(twin)
        pairs = zip([*node.input, *node.output], [*twin.input, *twin.output], strict=True)
        renamed.update((old, new) for old, new in pairs if old != new)
    return renamed, left, rest


def _differ_in_names_only(one: onnx.NodeProto, other: onnx.NodeProto) -> bool:
    if len(one.input) != len(other.input) or len(one.output) != len(other.output) or one.name != other.name:
        return False
    first, second = onnx.NodeProto(), onnx.NodeProto()
    for copy, node in ((first, one), (second, other)):
        copy.CopyFrom(node)
        copy.ClearField("input")
        copy.ClearField("output")
    return first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
