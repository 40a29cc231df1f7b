"""What a model was before each of its recorded edits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

from graphsurgery.edits.strip_head import moved_again, ways_back
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import HOUSEKEEPING, MOVE, OUTWARD, Step, undoable, undone
from graphsurgery.model.records import Document


@dataclass(frozen=True)
class History:
    """The recorded ``steps``, oldest first, but for those of where weights lie; ``documents``: what was there before each of
    them, and after the last one. Weights lie where they do now in all of them."""

    documents: tuple[Document, ...]
    steps: tuple[Step, ...]


def history_of(model: Model) -> History:
    """How ``model`` was made. Raises NoHeadError where its records do not fit it: another program changed it since."""
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
