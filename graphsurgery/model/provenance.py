"""What a file says about how it was made: one ``graphsurgery.step.<n>`` entry in metadata_props per edit.

An entry is JSON: the edit and its parameters, the tool's version, the source's fingerprint (and that of its weights where asked for),
and how to undo the edit: the source's records as runs of this file's records and literal bytes, so that `undone` gives back the
source byte for byte.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx

from graphsurgery.errors import NoHeadError
from graphsurgery.model import wire
from graphsurgery.model.records import GRAPH_FIELD, Document, Record
from graphsurgery.model.relocate import moved, moved_back
from graphsurgery.model.schema import MODEL
from graphsurgery.model.splice import spliced
from graphsurgery.version import __version__

PREFIX = "graphsurgery.step."
MOVE = "move-weights"
"""What saving records when it copies external data into another folder."""
METADATA = MODEL.fields_by_name["metadata_props"].number
Recipe = list[list[int] | str]
"""How to rebuild a list of records: ``[first, count]`` takes records of the edited file, a string is base64 of literal bytes."""


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


def recorded(
    before: Document, after: Document, edit: str, parameters: dict[str, Any], weights: str | None = None
) -> Document:
    """``after`` with an entry saying that ``edit`` made it from ``before``, whose weights hash to ``weights`` if that is known."""
    content = {"edit": edit, "parameters": parameters, "version": __version__, "source": before.fingerprint}
    return _with_entry(before, after, content | ({"weights": weights} if weights is not None else {}))


def recorded_move(document: Document, name: str, bases: dict[str, int]) -> Document:
    """``document`` with its external data in the file ``name`` (see `relocate.moved`), and an entry that says so."""
    there = moved(document, name, bases)
    content = {
        "edit": MOVE, "parameters": {"data": name, "bases": bases}, "version": __version__, "source": document.fingerprint,
    }  # fmt: skip
    return _with_entry(there, there, content)


def _with_entry(before: Document, after: Document, content: dict[str, Any]) -> Document:
    """``after`` with ``content`` and the way back to ``before`` as its newest entry."""
    number = max((number for number, _ in _numbered(before.proto)), default=0) + 1
    kept = [record for record in after.model if record.field == METADATA]
    place_holder = Record.literal(METADATA, b"")
    model = spliced(after.model, METADATA, [*kept, place_holder])
    undo = _undo(before, replace(after, model=model))
    value = json.dumps(content | {"undo": undo}, separators=(",", ":"))
    entry = onnx.StringStringEntryProto(key=f"{PREFIX}{number}", value=value)
    new = Record.literal(METADATA, entry.SerializeToString())
    return replace(after, model=tuple(new if record is place_holder else record for record in model))


def undone(document: Document, step: Step) -> Document:
    """The document that ``step``, the newest one of ``document``, was applied to.

    Raises NoHeadError when the entry does not fit the file: another tool rewrote it since.
    """
    try:
        return _undone(document, step)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, StopIteration) as error:
        raise NoHeadError(
            f"what the file records about {step.edit} does not fit its content: another program rewrote it since",
            "take the original encoder file instead",
        ) from error


def _undone(document: Document, step: Step) -> Document:
    model = tuple(_rebuilt(document.model, step.undo["model"]))
    graph = tuple(_rebuilt(document.graph, step.undo["graph"]))
    if sum(record.field == GRAPH_FIELD for record in model) != 1:
        raise ValueError("the way back does not lead to a model")
    if "header" in step.undo:
        header = base64.b64decode(step.undo["header"])
        model = tuple(replace(record, skeleton=header) if record.field == GRAPH_FIELD else record for record in model)
    before = replace(document, model=model, graph=graph)
    if step.edit == MOVE:
        return moved_back(before, step.parameters["data"], step.parameters["bases"])
    return before


def _numbered(model: onnx.ModelProto) -> list[tuple[int, Step]]:
    found = []
    for entry in model.metadata_props:
        number = entry.key.removeprefix(PREFIX)
        if entry.key.startswith(PREFIX) and number.isascii() and number.isdigit():
            step = _parsed(entry.value)
            if step is not None:
                found.append((int(number), step))
    return sorted(found, key=lambda pair: pair[0])


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
    undo: dict[str, Any] = {"model": _recipe(before.model, after.model), "graph": _recipe(before.graph, after.graph)}
    place = next(record for record in before.model if record.field == GRAPH_FIELD)
    length = sum(record.size for record in before.graph)
    if place.skeleton != wire.header(GRAPH_FIELD, length):
        undo["header"] = base64.b64encode(place.skeleton).decode()
    return undo


def _recipe(before: Sequence[Record], after: Sequence[Record]) -> Recipe:
    """How to get ``before`` from ``after``. A dropped record with a payload cannot be kept: ValueError."""
    place = {id(record): index for index, record in enumerate(after)}
    recipe: Recipe = []
    for record in before:
        index = place.get(id(record))
        if index is None:
            if record.has_payload:
                raise ValueError("an edit that drops weights cannot be undone")
            recipe.append(base64.b64encode(record.skeleton).decode())
        elif recipe and isinstance(recipe[-1], list) and sum(recipe[-1]) == index:
            recipe[-1][1] += 1
        else:
            recipe.append([index, 1])
    return recipe


def _rebuilt(records: Sequence[Record], recipe: Recipe) -> Iterator[Record]:
    for item in recipe:
        if isinstance(item, str):
            yield _literal(base64.b64decode(item, validate=True))
        else:
            first, count = item
            if first < 0 or first + count > len(records):
                raise IndexError(first)
            yield from records[first : first + count]


def _literal(data: bytes) -> Record:
    tag, _ = wire.decode_varint(data)
    return Record(tag >> 3, (data,), data)
