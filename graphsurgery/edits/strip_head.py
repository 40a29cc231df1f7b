"""strip-head: take the recorded head off again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from graphsurgery.edits.edit import Edit, Resolved
from graphsurgery.encoder.head import explain_pooling, read_head_steps, read_padding_free_form
from graphsurgery.errors import NoHeadError, UnsupportedModelError
from graphsurgery.model.model import Model, open_data
from graphsurgery.model.provenance import HOUSEKEEPING, MOVE, Step, list_undoable_steps, undo_step
from graphsurgery.model.records import Document
from graphsurgery.model.relocate import list_locations, move_tensors
from graphsurgery.remarks import Warn

PADDING_FREE = Warn(
    "the encoder is padding-free: at padded positions its hidden state holds vectors of other tokens, so whatever "
    "reads it must leave padding out"
)


@dataclass(frozen=True)
class StripHead(Edit):
    """Undo every edit that graphsurgery recorded in the file, newest first. The result is the file before them, byte for byte.

    If the weights were copied to a data file in another folder, they stay there. In that case everything except their location
    is restored.
    """

    restores: ClassVar[bool] = True

    def resolve(self, model: Model) -> Resolved[Self, None]:
        """List the recorded edits.

        Raises NoHeadError if there is none, and UnsupportedModelError if the encoder was narrowed to what its head reads.
        """
        found = read_head_steps(model)
        if not found:
            pools = explain_pooling(model) is not None or any(one.rank == 2 for one in model.interface.outputs)
            raise NoHeadError(
                "the file records no edit of graphsurgery, so there is no head to take off",
                "another program's head stays in the file; add-pooling --hidden-state NAME pools what lies before it, and "
                "--replace puts the new head in its place"
                if pools
                else "this file is the encoder already",
            )
        if any(step.given.get("pooled_token") and step.given.get("edits") for step in model.rewrites):
            raise UnsupportedModelError(
                "the encoder of this file computes only the token that its head takes, and gives it at every position",
                "strip the head of the file from which the rewrite pooled-token made this one",
            )
        left = [step for step in list_undoable_steps(model.proto) if step.edit not in HOUSEKEEPING]
        if not left and not model.rewrites:
            raise NoHeadError(
                f"{found[-1].edit} dropped nodes and weights of its source, and this file does not hold them any more",
                "take the file that it was made from",
            )
        notes = () if read_padding_free_form(model) is None else (PADDING_FREE,)
        return Resolved(self, None, (f"takes off {', '.join(step.edit for step in reversed(left or found))}", *notes))

    def document(self, model: Model, found: Any, weights: str | None) -> Document:
        document = restore_source(model)
        for step in list_undoable_steps(model.proto):
            if step.edit == MOVE:
                document = redo_move(document, step)
        if not set(list_locations(document)) <= set(model.files):
            raise _make_changed_error(MOVE)
        return document


def redo_move(document: Document, step: Step) -> Document:
    """Return ``document`` after the later move of its weights, ``step``. Raises NoHeadError if the two do not fit."""
    try:
        return move_tensors(document, step.parameters["data"], step.parameters["bases"])
    except (KeyError, ValueError) as error:
        raise _make_changed_error(step.edit) from error


def restore_source(model: Model) -> Document:
    """Return the document before the first recorded edit, or before the first edit after a rewrite. Raises as `undo_steps`."""
    before = [document for _, document in undo_steps(model)]
    return before[-1] if before else model.document


def undo_steps(model: Model) -> Iterator[tuple[Step, Document]]:
    """Yield each recorded edit, newest first, with the document before it, whose fingerprint is checked.

    Raises NoHeadError if another program has changed the file since.
    """
    document = model.document
    for step in reversed(list_undoable_steps(model.proto)):
        document = undo_step(document, step, lambda location: open_data(model.files[location]))
        if document.fingerprint != step.source:
            raise _make_changed_error(step.edit)
        yield step, document


def _make_changed_error(edit: str) -> NoHeadError:
    return NoHeadError(
        f"{edit} cannot be undone: another program has changed the file since",
        "use the original encoder file instead",
    )
