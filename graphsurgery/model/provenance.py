"""What a file says about how it was made: one ``graphsurgery.step.<n>`` entry in metadata_props per edit.

An entry is JSON: the edit and its parameters, the tool's version, the source's fingerprint (and that of its weights where asked
for), and how to undo the edit: the source's records as runs of this file's records and literal bytes, so that `undone` gives
back the source byte for byte.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx

from graphsurgery.errors import NoHeadError
from graphsurgery.model import wire
from graphsurgery.model.parsing import parse
from graphsurgery.model.records import GRAPH_FIELD, Document, Payloads, Record, Span
from graphsurgery.model.relocate import externalised, internalised, moved, moved_back
from graphsurgery.model.schema import MODEL
from graphsurgery.model.sources import ByteSource
from graphsurgery.model.splice import spliced
from graphsurgery.version import __version__

PREFIX = "graphsurgery.step."
MOVE = "move-weights"
"""What saving records when it copies external data into another folder."""
OUTWARD = "externalize-weights"
"""What saving records when it moves weights out of a file that would pass 2 GiB."""
GOLDEN = "record-golden"
"""What holds golden inputs and vectors, for a later look whether the file still gives them."""
HOUSEKEEPING = (MOVE, OUTWARD, GOLDEN)
"""Steps that change what a file computes in no way: where weights lie, and what is recorded of it."""
METADATA = MODEL.fields_by_name["metadata_props"].number
LONGEST_NUMBER = 9
"""Digits of an entry's number at most: what is longer is not ours, and Python refuses to read thousands of them."""
Parts = list[str | int]
"""Bytes of a record: a string is base64 of literal bytes, a number that of a payload within the record."""
Recipe = list[list[int] | str | dict[str, Any]]
"""How to rebuild a list of records: ``[first, count]`` takes records of the edited file, a string is base64 of literal bytes,
a mapping takes the payloads of the record at ``place`` and gives them other bytes around (``chunks``, ``skeleton``)."""


@dataclass(frozen=True)
class Step:
    """One edit that a file records: ``source`` is the fingerprint of what it was applied to, ``undo`` the way back."""

    edit: str
    parameters: dict[str, Any]
    version: str
    source: str
    undo: dict[str, Any]
    weights: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The entry's content; ``undo`` left out, which is for machines."""
        shown = {"edit": self.edit, "parameters": self.parameters, "version": self.version, "source": self.source}
        return shown | ({"weights": self.weights} if self.weights else {})


def steps(model: onnx.ModelProto) -> list[Step]:
    """The edits that a file records, oldest first; entries that cannot be read are ignored."""
    return [step for _, step in _numbered(model)]


def recorded(before: Document, after: Document, edit: str, parameters: dict[str, Any], weights: str | None = None) -> Document:
    """``after`` with an entry saying that ``edit`` made it from ``before``, whose weights hash to ``weights`` if known."""
    content = {"edit": edit, "parameters": parameters, "version": __version__, "source": before.fingerprint}
    return _with_entry(before, after, content | ({"weights": weights} if weights is not None else {}))


def recorded_move(document: Document, name: str, bases: dict[str, int]) -> Document:
    """``document`` with its external data in the file ``name`` (see `relocate.moved`), and an entry that says so."""
    there = moved(document, name, bases)
    back = moved_back(there, name, bases)
    before = replace(
        document, model=_unless_given_back(document.model, there.model, back.model),
        graph=_unless_given_back(document.graph, there.graph, back.graph),
    )  # fmt: skip
    content = {
        "edit": MOVE, "parameters": {"data": name, "bases": bases}, "version": __version__, "source": document.fingerprint,
    }  # fmt: skip
    return _with_entry(before, there, content)


def recorded_outward(document: Document, name: str, start: int, place: Callable[[Span], int]) -> Document:
    """``document`` with its initializers' payloads in the file ``name``, from ``start`` on, and an entry that says so."""
    there = externalised(document, name, place)
    content = {
        "edit": OUTWARD, "parameters": {"data": name, "start": start}, "version": __version__, "source": document.fingerprint,
    }  # fmt: skip
    return _with_entry(there, there, content)


def _unless_given_back(source: Sequence[Record], there: Sequence[Record], back: Sequence[Record]) -> tuple[Record, ...]:
    """The records that were moved, but those as they were which `moved_back` does not give back byte for byte."""
    return tuple(
        moved if given.chunks == record.chunks else record for record, moved, given in zip(source, there, back, strict=True)
    )


def _with_entry(before: Document, after: Document, content: dict[str, Any]) -> Document:
    """``after`` with ``content`` and the way back to ``before`` as its newest entry."""
    kept = [record for record in after.model if record.field == METADATA]
    number = max((_number(parse(onnx.StringStringEntryProto, record.content).key) or 0 for record in kept), default=0) + 1
    place_holder = Record.literal(METADATA, b"")
    model = spliced(after.model, METADATA, [*kept, place_holder])
    undo = _undo(before, replace(after, model=model))
    value = json.dumps(content | {"undo": undo}, separators=(",", ":"))
    entry = onnx.StringStringEntryProto(key=f"{PREFIX}{number}", value=value)
    new = Record.literal(METADATA, entry.SerializeToString())
    return replace(after, model=tuple(new if record is place_holder else record for record in model))


def undone(document: Document, step: Step, opened: Callable[[str], ByteSource] | None = None) -> Document:
    """The document that ``step``, the newest one of ``document``, was applied to. ``opened`` opens a data file by its location.

    Raises NoHeadError when the entry does not fit the file: another tool rewrote it since.
    """
    try:
        if step.edit == OUTWARD and opened is not None:
            name = step.parameters["data"]
            document = internalised(document, name, int(step.parameters["start"]), opened(name))
        return _undone(document, step)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, StopIteration) as error:
        raise NoHeadError(
            f"what the file records about {step.edit} does not fit its content: another program rewrote it since",
            "take the original encoder file instead",
        ) from error


def _undone(document: Document, step: Step) -> Document:
    if step.edit == MOVE:
        document = moved_back(document, step.parameters["data"], step.parameters["bases"])
    model = tuple(_rebuilt(document, document.model, step.undo["model"]))
    graph = tuple(_rebuilt(document, document.graph, step.undo["graph"]))
    if sum(record.field == GRAPH_FIELD for record in model) != 1:
        raise ValueError("the way back does not lead to a model")
    if "header" in step.undo:
        header = _decoded(step.undo["header"])
        wire.decode_varint(header, wire.decode_varint(header)[1])  # ValueError where it is no tag and length
        model = tuple(replace(record, skeleton=header) if record.field == GRAPH_FIELD else record for record in model)
    return replace(document, model=model, graph=graph)


def _numbered(model: onnx.ModelProto) -> list[tuple[int, Step]]:
    found = []
    for entry in model.metadata_props:
        number = _number(entry.key)
        step = _parsed(entry.value) if number is not None else None
        if number is not None and step is not None:
            found.append((number, step))
    return sorted(found, key=lambda pair: pair[0])


def _number(key: str | bytes) -> int | None:
    """The number in the key of one of our entries; None for another's. Protobuf gives bytes where a key is not UTF-8."""
    if not isinstance(key, str) or not key.startswith(PREFIX):
        return None
    number = key.removeprefix(PREFIX)
    return int(number) if number.isascii() and number.isdigit() and len(number) <= LONGEST_NUMBER else None


def _parsed(text: str) -> Step | None:
    try:
        content = json.loads(text)
        fields = (content["edit"], content["parameters"], content["version"], content["source"], content["undo"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not all(isinstance(value, kind) for value, kind in zip(fields, (str, dict, str, str, dict), strict=True)):
        return None
    return Step(*fields, weights=content.get("weights"))


def _undo(before: Document, after: Document) -> dict[str, Any]:
    payloads = after.payloads
    undo: dict[str, Any] = {
        "model": _recipe(before.model, after.model, payloads), "graph": _recipe(before.graph, after.graph, payloads)
    }  # fmt: skip
    place = next(record for record in before.model if record.field == GRAPH_FIELD)
    length = sum(record.size for record in before.graph)
    if place.skeleton != wire.header(GRAPH_FIELD, length):
        undo["header"] = _encoded(place.skeleton)
    return undo


def _recipe(before: Sequence[Record], after: Sequence[Record], payloads: Payloads) -> Recipe:
    """How to get ``before`` from ``after``. A payload that ``after`` lacks cannot be kept: ValueError."""
    place = {id(record): index for index, record in enumerate(after)}
    recipe: Recipe = []
    for record in before:
        index = place.get(id(record))
        if index is None:
            recipe.append(_around_payloads(record, after, payloads) if record.has_payload else _encoded(record.skeleton))
        elif recipe and isinstance(recipe[-1], list) and sum(recipe[-1]) == index:
            recipe[-1][1] += 1
        else:
            recipe.append([index, 1])
    return recipe


def _around_payloads(record: Record, after: Sequence[Record], payloads: Payloads) -> dict[str, Any]:
    """The recipe for a record that was changed, but for the payloads in it."""
    wanted = record.spans
    place = next((index for index, one in enumerate(after) if all(span in one.spans for span in wanted)), None)
    if place is None:
        raise ValueError("an edit that drops weights cannot be undone")
    held = after[place].spans
    chunks = [_encoded(chunk) if isinstance(chunk, bytes) else held.index(chunk) for chunk in record.chunks]
    skeleton: Parts = []
    rest = record.skeleton
    for span in wanted:
        literal, _, rest = rest.partition(payloads.mark_of(span))
        skeleton += [_encoded(literal), held.index(span)]
    return {"place": place, "chunks": chunks, "skeleton": [*skeleton, _encoded(rest)]}


def _rebuilt(document: Document, records: Sequence[Record], recipe: Recipe) -> Iterator[Record]:
    """The records of a recipe. IndexError when it takes what is not there, or takes anything twice, which none of ours does."""
    left = len(records)
    for item in recipe:
        if isinstance(item, str):
            yield _literal(_decoded(item))
            continue
        first, count = item if isinstance(item, list) else (item["place"], 1)
        left -= count
        if first < 0 or count < 1 or left < 0 or first + count > len(records):
            raise IndexError(first)
        if isinstance(item, list):
            yield from records[first : first + count]
        else:
            yield _with_payloads_of(records[first], item, document.payloads)


def _with_payloads_of(record: Record, item: dict[str, Any], payloads: Payloads) -> Record:
    held = record.spans
    chunks = tuple(_decoded(part) if isinstance(part, str) else held[part] for part in item["chunks"])
    skeleton = [_decoded(part) if isinstance(part, str) else payloads.mark_of(held[part]) for part in item["skeleton"]]
    return Record(record.field, chunks, b"".join(skeleton))


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _literal(data: bytes) -> Record:
    tag, _ = wire.decode_varint(data)
    return Record(tag >> 3, (data,), data)
