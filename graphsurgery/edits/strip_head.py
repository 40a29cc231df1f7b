"""strip-head: back to the encoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from graphsurgery.edits.edit import Edit, Resolved
from graphsurgery.encoder.head import read_head_steps
from graphsurgery.errors import NoHeadError
from graphsurgery.model.model import Model, open_data
from graphsurgery.model.provenance import MOVE, Step, list_undoable_steps, undo_step
from graphsurgery.model.records import Document
from graphsurgery.model.relocate import list_locations, move_tensors


@dataclass(frozen=True)
class StripHead(Edit):
    """Take off every edit that the file records, newest first: what is left is the source file, byte for byte.

    External data that were copied into another folder stay where they are now; then all but their location is as it was.
    """

    restores: ClassVar[bool] = True

    def resolve(self, model: Model) -> Resolved[Self, None]:
        """Raises NoHeadError when the file records no edit."""
        found = read_head_steps(model)
        if not found:
            raise NoHeadError(
                "the file records no head that graphsurgery appended, so there is nothing to take off",
                "only heads made by graphsurgery can be taken off; otherwise export the encoder again",
            )
        return Resolved(self, None, (f"takes off {', '.join(step.edit for step in reversed(found))}",))

    def document(self, model: Model, found: Any, weights: str | None) -> Document:
        document = restore_source(model)
        for step in list_undoable_steps(model.proto):
            if step.edit == MOVE:
                document = redo_move(document, step)
        if not set(list_locations(document)) <= set(model.files):
            raise _make_changed_error(MOVE)
        return document


def redo_move(document: Document, step: Step) -> Document:
    """``document`` with its weights where a later move of them, ``step``, left them. NoHeadError where that does not fit."""
    try:
        return move_tensors(document, step.parameters["data"], step.parameters["bases"])
    except (KeyError, ValueError) as error:
        raise _make_changed_error(step.edit) from error


def restore_source(model: Model) -> Document:
    """The document that the file's first recorded edit was applied to, or the first behind a rewrite. Raises as `ways_back`."""
    before = [document for _, document in undo_steps(model)]
    return before[-1] if before else model.document


def undo_steps(model: Model) -> Iterator[tuple[Step, Document]]:
    """Each recorded edit, newest first, with the document that it was applied to, checked against its fingerprint.

    Raises NoHeadError when another program changed the file since.
    """
    document = model.document
    for step in reversed(list_undoable_steps(model.proto)):
        document = undo_step(document, step, lambda location: open_data(model.files[location]))
        if document.fingerprint != step.source:
            raise _make_changed_error(step.edit)
        yield step, document


def _make_changed_error(edit: str) -> NoHeadError:
    return NoHeadError(
        f"without {edit} the file is not what it was made from: another program changed it since",
        "take the original encoder file instead",
    )
