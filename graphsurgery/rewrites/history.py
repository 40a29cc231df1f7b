"""The models that a file was before each of its recorded edits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

from graphsurgery.edits.strip_head import moved_again, ways_back
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import HOUSEKEEPING, MOVE, OUTWARD, Step, undoable, undone
from graphsurgery.model.records import Document


@dataclass(frozen=True)
class History:
    """The edits that a file records, and the documents between them. In all documents the weights lie where they do now."""

    documents: tuple[Document, ...]
    """The document before each step, and after the last one."""
    steps: tuple[Step, ...]
    """The edits, oldest first. Moves of weights and other housekeeping are left out."""


def history_of(model: Model) -> History:
    """Return the history of ``model``. Raises NoHeadError if another program changed the file since, so that its records do not
    fit it."""
    document, outside = model.document, False
    documents, steps = [document], list[Step]()
    for step, before in ways_back(model):
        outside = outside or step.edit == OUTWARD
        document = undone(document, step) if outside else before  # weights that were moved out stay there
        if step.edit in HOUSEKEEPING:
            documents[0] = document
        else:
            documents.insert(0, document)
            steps.insert(0, step)
    moves = [step for step in undoable(model.proto) if step.edit == MOVE]
    return History(tuple(reduce(moved_again, moves, one) for one in documents), tuple(steps))
