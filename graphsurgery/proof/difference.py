"""The differences between the graphs of an output and its source, read off the fields of both files."""

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
from graphsurgery.model.schema import GRAPH, MODEL, find_tensor_fields, walk_tensors
from graphsurgery.references.nested import list_all_nodes

NODE = GRAPH.fields_by_name["node"].number
OUTPUT = GRAPH.fields_by_name["output"].number
METADATA = MODEL.fields_by_name["metadata_props"].number
APART = ("node", "output")
"""The fields whose values `Difference` lists one by one."""
REORDERED = "reordered"
Key = tuple[int, bytes]


@dataclass(frozen=True)
class Difference:
    """The differences between a source and an output: nodes that only one of them has, renamed values, and everything else."""

    added: tuple[onnx.NodeProto, ...]
    removed: tuple[onnx.NodeProto, ...]
    renamed: dict[str, str] = field(default_factory=dict)
    """From the names of the source's values to their other names in the output."""
    others: tuple[str, ...] = ()
    """The changes outside nodes, outputs and our own metadata entries, in words."""

    @cached_property
    def made(self) -> set[str]:
        """The values that the added nodes make."""
        return {name for node in self.added for name in node.output if name}

    @cached_property
    def taken(self) -> list[str]:
        """The values that the added nodes take from elsewhere, in order of first use."""
        return list(dict.fromkeys(name for node in self.added for name in node.input if name and name not in self.made))


def find_difference(source: Model, output: Model) -> Difference:
    """Compare two models field by field. Tensors are compared by name, type, dims and length, wherever their bytes lie."""
    before, after = _make_keys(source, source.document.graph, GRAPH), _make_keys(output, output.document.graph, GRAPH)
    removed = _pick_nodes(source, before, _subtract(before, after))
    added = _pick_nodes(output, after, _subtract(after, before))
    renamed, added, removed = _separate_renames(source, added, removed)
    others = [f"{name} {what}" for name, what in _list_changes(before, after, GRAPH) if name not in APART or what == REORDERED]
    model_before, model_after = (
        [key for key in _make_keys(model, model.document.model, MODEL) if not _is_own_entry(key)] for model in (source, output)
    )
    others += [f"{name} {what}" for name, what in _list_changes(model_before, model_after, MODEL)]
    lost = {name for node in removed for name in node.output}
    remade = {name for node in added for name in node.output} & (_list_values(source) - set(renamed) - lost)
    others += [f"value {name!r} of the source is made anew" for name in sorted(remade)]
    return Difference(tuple(added), tuple(removed), renamed, tuple(others))


def _list_changes(before: list[Key], after: list[Key], message: Any) -> list[tuple[str, str]]:
    """Return pairs: the name of a field, and what happened to one of its values, in words."""
    numbers = [(number, "removed") for number, _ in _subtract(before, after)]
    numbers += [(number, "added") for number, _ in _subtract(after, before)]
    numbers += [(number, REORDERED) for number in _find_reordered(before, after)]
    return [(_name_field(message, number), what) for number, what in numbers]


def _find_reordered(before: list[Key], after: list[Key]) -> list[int]:
    """Return the fields whose shared values come in another order."""
    both = set(before) & set(after)
    orders: tuple[dict[int, list[Key]], dict[int, list[Key]]] = ({}, {})
    for keys, order in zip((before, after), orders, strict=True):
        for key in keys:
            if key in both:
                order.setdefault(key[0], []).append(key)
    return [number for number, order in orders[0].items() if order != orders[1][number]]


def _name_field(message: Any, number: int) -> str:
    known = message.fields_by_number.get(number)
    return known.name if known is not None else f"field {number}"


def _list_values(model: Model) -> set[str]:
    """Return the names of a model's values."""
    made = {name for node in model.proto.graph.node for name in node.output if name}
    return made | set(model.initializers) | {info.name for info in model.proto.graph.input}


def _read_entry_key(content: bytes) -> str:
    """Return the key of a metadata entry; empty if it is not UTF-8, which protobuf gives as bytes."""
    key = onnx.StringStringEntryProto.FromString(content).key
    return key if isinstance(key, str) else ""


def _is_own_entry(key: Key) -> bool:
    return key[0] == METADATA and _read_entry_key(key[1]).startswith(PREFIX)


def _make_keys(model: Model, records: tuple[Record, ...], message: Any) -> list[Key]:
    return [_make_key(model, record, message) for record in records if record.field != GRAPH_FIELD or message is GRAPH]


def _make_key(model: Model, record: Record, message: Any) -> Key:
    """Return the field and the content of a record, without the place of tensor data."""
    inner = find_tensor_fields(message).get(record.field)
    if inner is None or not (record.has_payload or b"location" in record.skeleton):
        known = message.fields_by_number.get(record.field)
        return record.field, record.content if known is not None and known.message_type is not None else record.skeleton
    value = GetMessageClass(inner).FromString(record.content)
    for _, tensor in walk_tensors(value):
        if is_external(tensor):
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
        elif model.document.payloads.find(tensor) is not None:
            tensor.ClearField("raw_data")
    return record.field, value.SerializeToString(deterministic=True)


def _subtract(some: list[Key], others: list[Key]) -> list[Key]:
    """Return the keys of ``some`` that ``others`` has fewer times, in order."""
    left = Counter(others)
    rest = []
    for key in some:
        if left[key] > 0:
            left[key] -= 1
        else:
            rest.append(key)
    return rest


def _pick_nodes(model: Model, keys: list[Key], wanted: list[Key]) -> list[onnx.NodeProto]:
    """Return the nodes whose keys are ``wanted``, with marks in place of their large tensors.

    ``keys`` are those of the graph's records. Of equal nodes, the last ones are returned.
    """
    left = Counter(wanted)
    picked = []
    for key, record in reversed(list(zip(keys, model.document.graph, strict=True))):
        if key[0] == NODE and left[key] > 0:
            left[key] -= 1
            picked.append(onnx.NodeProto.FromString(record.content))
    return picked[::-1]


def _separate_renames(
    source: Model, added: list[onnx.NodeProto], removed: list[onnx.NodeProto]
) -> tuple[dict[str, str], list[onnx.NodeProto], list[onnx.NodeProto]]:
    """Separate pairs of nodes that differ only by renamed values.

    A value counts as renamed if the source has no value of the new name, a node of the source makes it, and every node of the
    source that used it uses the new name. Otherwise the nodes were wired anew, and none is taken out.

    Returns:
        From old names to new names, the other added nodes, and the other removed nodes.
    """
    pairs = _pair_nodes(added, removed)
    renamed = {old: new for node, twin in pairs for old, new in _pair_names(node, twin) if old != new}
    lost = {name for node in removed for name in node.output}
    kept = [node for node in list_all_nodes(source.proto.graph) if lost.isdisjoint(node.output)]
    consistent = (
        all(renamed.get(old, old) == new for node, twin in pairs for old, new in _pair_names(node, twin))
        and len(set(renamed.values())) == len(renamed)
        and not _list_values(source) & set(renamed.values())
        and set(renamed) <= {name for node, _ in pairs for name in node.output}
        and not set(renamed) & {name for node in kept for name in node.input}
    )
    if not consistent:
        return {}, added, removed
    twins = {id(twin) for _, twin in pairs}
    originals = {id(node) for node, _ in pairs}
    return renamed, [node for node in added if id(node) not in twins], [node for node in removed if id(node) not in originals]


def _pair_nodes(added: list[onnx.NodeProto], removed: list[onnx.NodeProto]) -> list[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Return pairs of a removed and an added node that differ only in the names of values, in order."""
    left = list(added)
    pairs = []
    for node in removed:
        place = next((place for place, other in enumerate(left) if _is_renamed(node, other)), None)
        if place is not None:
            pairs.append((node, left.pop(place)))
    return pairs


def _pair_names(one: onnx.NodeProto, other: onnx.NodeProto) -> list[tuple[str, str]]:
    return list(zip([*one.input, *one.output], [*other.input, *other.output], strict=True))


def _is_renamed(one: onnx.NodeProto, other: onnx.NodeProto) -> bool:
    if len(one.input) != len(other.input) or len(one.output) != len(other.output) or one.name != other.name:
        return False
    first, second = onnx.NodeProto(), onnx.NodeProto()
    for copy, node in ((first, one), (second, other)):
        copy.CopyFrom(node)
        copy.ClearField("input")
        copy.ClearField("output")
    return first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
