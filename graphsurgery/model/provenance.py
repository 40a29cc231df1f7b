"""The steps that a file records about itself: one ``graphsurgery.step.<n>`` entry in metadata_props per step.

An entry is JSON: the edit and its parameters, the tool's version, the source's fingerprint (and that of its weights if asked
for), and the undo: the source's records as runs of this file's records and literal bytes. `undo_step` restores the source from
it byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx

from graphsurgery.edit_list import EDIT_LIST, TEXT
from graphsurgery.errors import NoHeadError, UnsupportedModelError
from graphsurgery.model import wire
from graphsurgery.model.parsing import parse
from graphsurgery.model.records import GRAPH_FIELD, Document, Record, Span, splice_records
from graphsurgery.model.relocate import move_payloads_back, move_payloads_out, move_tensors, move_tensors_back
from graphsurgery.model.schema import MODEL
from graphsurgery.model.sources import ByteSource
from graphsurgery.model.step_parameters import UNDO, complete_parameters, explain_misfit, is_of_type
from graphsurgery.model.undo import apply_undo, compute_undo
from graphsurgery.version import __version__

PREFIX = "graphsurgery.step."
MOVE = "move-weights"
"""Recorded when saving copies external data into another folder."""
EXTERNALIZE = "externalize-weights"
"""Recorded when saving moves weights out of a file that would exceed 2 GiB."""
GOLDEN = "record-golden"
"""Holds golden inputs and vectors. A later check compares the file's outputs with them."""
CERTIFICATE = "record-certificate"
"""Holds the sha256 of the source files, package versions, and the verdict of the proof."""
OPTIMIZED = "optimize"
"""Records a rewrite that cannot be undone. Undoable steps start after it."""
HOUSEKEEPING = (MOVE, EXTERNALIZE, GOLDEN, CERTIFICATE, OPTIMIZED)
"""Steps that do not change what a file computes: they move weights or record facts about the file."""
METADATA = MODEL.fields_by_name["metadata_props"].number
LONGEST_NUMBER = 9
"""The most digits of an entry's number. We never write longer ones, and Python refuses to parse thousands of digits."""


@dataclass(frozen=True)
class Step:
    """One recorded edit: ``source`` is the fingerprint of the model it was applied to, ``undo`` restores that model."""

    edit: str
    given: dict[str, Any]
    """The parameters with the types that `step_parameters` requires, or empty if they do not have these types."""
    version: str
    source: str
    undo: dict[str, Any]
    weights: str | None = None
    unreadable: str | None = None
    """Why the parameters cannot be read, or None."""

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters. Raises UnsupportedModelError if they cannot be read."""
        if self.unreadable is not None:
            raise UnsupportedModelError(
                self.unreadable, "use the version of graphsurgery that recorded it, or make the file again from its source"
            )
        return self.given

    def to_json(self) -> dict[str, Any]:
        """Return the entry's content without ``undo``, and the reason if the parameters cannot be read."""
        shown = {"edit": self.edit, "parameters": self.given, "version": self.version, "source": self.source}
        shown |= {"weights": self.weights} if self.weights else {}
        return shown | ({"unreadable": self.unreadable} if self.unreadable else {})


def list_undoable_steps(model: onnx.ModelProto) -> list[Step]:
    """Return the steps recorded after the last one that cannot be undone, oldest first.

    These are rewrites, and edits that drop nodes and weights.
    """
    found = read_steps(model)
    start = max((place for place, step in enumerate(found) if step.edit == OPTIMIZED or _drops(step.edit)), default=-1)
    return found[start + 1 :]


def _drops(edit: str) -> bool:
    """Return whether an edit drops nodes and weights, which the file does not hold any more."""
    return edit in EDIT_LIST and EDIT_LIST[edit].drops


def remove_entries(records: Sequence[Record], keep: Sequence[str] = ()) -> tuple[Record, ...]:
    """Return a model's records without our metadata entries, except those of the steps that ``keep`` names."""
    return tuple(record for record in records if record.field != METADATA or not _is_ours(record, keep))


def _is_ours(record: Record, but: Sequence[str]) -> bool:
    """Return whether a metadata record is an entry of ours whose step is not in ``but``."""
    entry = parse(onnx.StringStringEntryProto, record.content)
    if _parse_number(entry.key) is None:
        return False
    step = _parse_step(entry.value) if but else None
    return step is None or step.edit not in but


def record_rewrite(document: Document, parameters: dict[str, Any], source: str) -> Document:
    """Return ``document`` with an entry of a rewrite that made it from the model with the fingerprint ``source``.

    A rewrite cannot be undone. Entries of earlier rewrites stay.
    """
    content = _make_content(OPTIMIZED, parameters, source)
    kept = [record for record in document.model if record.field == METADATA]
    new = _encode_entry(content | {"undo": {}}, kept)
    length = sum(record.size for record in document.graph)
    plain = Record(GRAPH_FIELD, (), wire.encode_header(GRAPH_FIELD, length))  # its source's length is of no use any more
    model = tuple(plain if record.field == GRAPH_FIELD else record for record in document.model)
    return replace(document, model=splice_records(model, METADATA, [*kept, new]))


def _find_newest_number(entries: Sequence[Record]) -> int:
    """Return the highest number among our metadata entries, or 0 if there is none."""
    return max((_parse_number(parse(onnx.StringStringEntryProto, record.content).key) or 0 for record in entries), default=0)


def list_steps_since_edit(model: onnx.ModelProto) -> list[Step]:
    """Return the steps recorded after the newest edit. They describe the file as it is, not an earlier form of it."""
    found = read_steps(model)
    last = max((place for place, step in enumerate(found) if step.edit not in HOUSEKEEPING), default=-1)
    return found[last + 1 :]


def read_steps(model: onnx.ModelProto) -> list[Step]:
    """Return the steps that a file records, oldest first. Entries that cannot be parsed are ignored."""
    found = []
    for entry in model.metadata_props:
        number = _parse_number(entry.key)
        step = _parse_step(entry.value) if number is not None else None
        if number is not None and step is not None:
            found.append((number, step))
    return [step for _, step in sorted(found, key=lambda pair: pair[0])]


def record_edit(
    before: Document, after: Document, edit: str, parameters: dict[str, Any], weights: str | None = None
) -> Document:
    """Return ``after`` with an entry: ``edit`` made it from ``before``, whose weights hash to ``weights`` if that is known."""
    content = _make_content(edit, parameters, before.fingerprint)
    return _add_entry(before, after, content | ({"weights": weights} if weights is not None else {}))


def record_move(document: Document, name: str, bases: dict[str, int]) -> Document:
    """Return ``document`` with its external data in the file ``name`` (see `relocate.move_tensors`), and an entry of that
    move."""
    there = move_tensors(document, name, bases)
    back = move_tensors_back(there, name, bases)
    before = replace(
        document, model=_keep_unrestored(document.model, there.model, back.model),
        graph=_keep_unrestored(document.graph, there.graph, back.graph),
    )  # fmt: skip
    return _add_entry(before, there, _make_content(MOVE, {"data": name, "bases": bases}, document.fingerprint))


def record_externalization(document: Document, name: str, start: int, place: Callable[[Span], int]) -> Document:
    """Return ``document`` with its initializers' payloads in the file ``name``, from ``start`` on, and an entry of that
    step."""
    there = move_payloads_out(document, name, place)
    return _add_entry(there, there, _make_content(EXTERNALIZE, {"data": name, "start": start}, document.fingerprint))


def record_at_end(document: Document, edit: str, parameters: dict[str, Any]) -> Document:
    """Return ``document`` with an entry of ``edit`` after everything else, so that all bytes before it stay as they are.

    If other fields must follow the metadata, the entry goes among the metadata, as protobuf would write it.
    """
    if any(record.field > METADATA for record in document.model):
        return record_edit(document, document, edit, parameters)
    content = _make_content(edit, parameters, document.fingerprint)
    after = replace(document, model=(*document.model, Record.literal(METADATA, b"")))
    return replace(document, model=(*document.model, _make_entry(document, after, content)))


def _make_content(edit: str, parameters: dict[str, Any], source: str) -> dict[str, Any]:
    """Return an entry's content without its undo: ``edit`` was applied to the model with the fingerprint ``source``."""
    return {"edit": edit, "parameters": parameters, "version": __version__, "source": source}


def _keep_unrestored(source: Sequence[Record], there: Sequence[Record], back: Sequence[Record]) -> tuple[Record, ...]:
    """Return the moved records, but the original of each record that `move_tensors_back` does not restore byte for byte."""
    return tuple(
        moved if given.chunks == record.chunks else record for record, moved, given in zip(source, there, back, strict=True)
    )


def _add_entry(before: Document, after: Document, content: dict[str, Any]) -> Document:
    """Return ``after`` with ``content`` and the undo to ``before`` as its newest entry."""
    kept = [record for record in after.model if record.field == METADATA]
    place_holder = Record.literal(METADATA, b"")
    model = splice_records(after.model, METADATA, [*kept, place_holder])
    new = _make_entry(before, replace(after, model=model), content)
    return replace(after, model=tuple(new if record is place_holder else record for record in model))


def _make_entry(before: Document, after: Document, content: dict[str, Any]) -> Record:
    """Return the newest entry: ``content`` and the undo from ``after`` to ``before``. ``after`` has an empty record in the
    entry's place."""
    kept = [record for record in after.model if record.field == METADATA]
    undo = {} if _drops(content["edit"]) else compute_undo(before, after)
    return _encode_entry(content | {"undo": undo}, kept)


def _encode_entry(content: dict[str, Any], entries: Sequence[Record]) -> Record:
    """Return a metadata record of ``content``, with the next number after those of our own ``entries``."""
    value = json.dumps(content, separators=(",", ":"))
    entry = onnx.StringStringEntryProto(key=f"{PREFIX}{_find_newest_number(entries) + 1}", value=value)
    return Record.literal(METADATA, entry.SerializeToString())


def undo_step(document: Document, step: Step, opened: Callable[[str], ByteSource] | None = None) -> Document:
    """Return the document that ``step``, the newest one of ``document``, was applied to. ``opened`` opens a data file by its
    location.

    Raises NoHeadError if the entry does not fit the file because another tool rewrote it since.
    """
    try:
        if step.edit == EXTERNALIZE and opened is not None:
            name = step.parameters["data"]
            document = move_payloads_back(document, name, step.parameters["start"], opened(name))
        if step.edit == MOVE:
            document = move_tensors_back(document, step.parameters["data"], step.parameters["bases"])
        return apply_undo(document, step.undo)
    except (LookupError, ValueError, TypeError, StopIteration) as error:  # as the functions called above raise them
        raise NoHeadError(
            f"the record of {step.edit} in the file does not fit the file's content: another program rewrote it since",
            "take the original encoder file instead",
        ) from error


def _parse_number(key: str | bytes) -> int | None:
    """Return the number in the key of one of our entries, or None for other keys. Protobuf returns bytes if a key is not
    UTF-8."""
    if not isinstance(key, str) or not key.startswith(PREFIX):
        return None
    number = key.removeprefix(PREFIX)
    return int(number) if number.isascii() and number.isdigit() and len(number) <= LONGEST_NUMBER else None


def _parse_step(text: str) -> Step | None:
    """Parse the JSON of an entry, or return None if it is not an entry. This is the only place that reads it."""
    try:
        content = json.loads(text)
        fields = (content["edit"], content["parameters"], content["version"], content["source"], content["undo"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not all(is_of_type(value, kind) for value, kind in zip(fields, (str, dict, str, str, dict), strict=True)):
        return None
    edit, parameters, version, source, undo = fields
    weights = content.get("weights")
    why = (
        explain_misfit(edit, parameters)
        if is_of_type(weights, TEXT)
        else f"the file records {edit} with weights that are no sha256"
    )
    given = complete_parameters(edit, parameters) if why is None else {}
    return Step(edit, given, version, source, undo if is_of_type(undo, UNDO) else {}, weights if why is None else None, why)
