"""The rewrite ``reattach-head``: put our head in place of the one that another program exported.

Optimum's export of sentence-transformers pools with operators on which ONNX Runtime's shape inference gives up, and then the
optimizer fuses no attention. The export still gives the ``token_embeddings`` that it pools. To find out how it pools, it is
run, and its vectors are compared with those of the references of our heads.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any, ClassVar, Self

import numpy as np
import onnx

from graphsurgery.compare.tolerance import FLOAT32
from graphsurgery.edits.add_pooling import AddPooling
from graphsurgery.encoder.head import EMBEDDING, POOLING, read_head_steps
from graphsurgery.errors import NothingToPoolError, RequestError, require_value
from graphsurgery.graph.graph import Graph
from graphsurgery.interface import Interface
from graphsurgery.model.changes import OUTPUT
from graphsurgery.model.model import Model
from graphsurgery.model.reach import drop_unreached
from graphsurgery.model.records import splice_records
from graphsurgery.proof.source_feeds import make_feed_generator
from graphsurgery.references.normalize import normalize
from graphsurgery.references.pooled_rows import MODES, WEIGHTED, find_first_tokens, pool
from graphsurgery.references.pooling import ABSOLUTE, FIRST
from graphsurgery.rewrites.rewrite import Context, Rewrite, Rewritten
from graphsurgery.runtime.session import open_session

POOLED = ("token_embeddings", "last_hidden_state")
NEAR, MOST_MODES = 1e-5, 3
INSTEAD = "leave out --rehead (in a recipe: the rewrite reattach-head); add-pooling puts a head on an encoder without one"
COMPARED = ("right padding", "left padding", "holes")
Array = np.ndarray


@dataclass(frozen=True)
class Head:
    """How another program's head pools: its modes, side by side, and whether its vectors have length one."""

    mode: str
    normalize: bool
    weights_from: str | None = None
    """Where the positions of weightedmean count from: the first token, or the first position."""

    def __str__(self) -> str:
        return f"{self.mode} pooling{', normalised' if self.normalize else ''}"


def find_pooled_hidden(model: Model) -> str | None:
    """Return the output with token embeddings of a pooled export, beside its embedding, or None if ``model`` is none."""
    names = {value.name for value in model.interface.outputs}
    return next((name for name in POOLED if name in names and EMBEDDING in names), None)


@dataclass(frozen=True)
class ReattachHead(Rewrite):
    """Take off the pooling head that another program exported, and put ours in its place."""

    name: ClassVar[str] = "reattach-head"
    summary: ClassVar[str] = "put our head in place of a pooled export's own, so that its encoder fuses"
    exactness: ClassVar[str] = FLOAT32
    doing: ClassVar[str] = "recognising the head"

    def check(self, model: Model) -> None:
        if find_pooled_hidden(model) is None:
            outputs = ", ".join(map(str, model.interface.outputs))
            what = f"a head can be replaced if the file has the outputs {EMBEDDING} and {' or '.join(POOLED)}; it has {outputs}"
            raise RequestError(what, INSTEAD)
        if any(step.edit == POOLING for step in read_head_steps(model)):
            raise RequestError(
                "its head was made by graphsurgery already, and fuses as it is",
                "leave out --rehead (in a recipe: the rewrite reattach-head)",
            )

    def apply(self, encoder: Model, context: Context) -> Rewritten:
        """Replace the head of ``encoder``. The other outputs stay, after the embedding.

        Raises NothingToPoolError if no head of ours gives the same vectors, RequestError if an output is computed from the
        embedding.
        """
        hidden = require_value(find_pooled_hidden(encoder), "token embeddings")
        head = _recognise_head(encoder, hidden)
        old = [value.name for value in encoder.interface.outputs]
        kept = tuple(name for name in old if name != EMBEDDING)
        notes = [f"its own head, {head}, was replaced by ours"]
        notes += [f"its outputs have a new order: {', '.join((EMBEDDING, *kept))}"] if old[0] != EMBEDDING else []
        pooling = AddPooling(head.mode, head.normalize, hidden, keep_output=kept, weights_from=head.weights_from)
        return Rewritten(_drop_head(encoder, kept), {"head": str(head)}, tuple(notes), head=(pooling,))

    def interface(self, before: Interface) -> Interface:
        embedding = [value for value in before.outputs if value.name == EMBEDDING]
        return replace(before, outputs=(*embedding, *(one for one in before.outputs if one.name != EMBEDDING)))

    @classmethod
    def from_record(cls, parameters: Mapping[str, Any]) -> Self | None:
        return None if parameters.get("head") is None else cls()


def _recognise_head(model: Model, hidden: str) -> Head:
    """Return the head whose reference gives the file's vectors, on ragged batches, with left padding and with holes."""
    generator, session = make_feed_generator(model), open_session(model)
    candidates: list[Head] | None = None
    for mask in (mask for kind, masks in generator.generate_masks() if kind in COMPARED for mask in masks):
        feed = generator.generate(mask, seed=0)
        found, given = session.run(feed, [hidden, EMBEDDING]), generator.find_mask(feed)
        tokens = np.ones(found[hidden].shape[:2], dtype=bool) if given is None else given
        wanted = found[EMBEDDING]
        candidates = _list_candidates(found[hidden], wanted) if candidates is None else candidates
        candidates = [head for head in candidates if _matches(head, found[hidden], tokens, wanted)]
    if not candidates:
        raise NothingToPoolError(
            f"{EMBEDDING} is not made from {hidden} by any pooling that graphsurgery knows, normalised or not",
            "export the transformer alone",
        )
    return candidates[0]


def _list_candidates(hidden: Array, embedding: Array) -> list[Head]:
    """Return every head that gives vectors of that width: one mode, or a few side by side."""
    times, rest = divmod(embedding.shape[-1], hidden.shape[-1])
    if rest or embedding.ndim != 2 or times > MOST_MODES:
        return []
    return [
        Head(",".join(modes), unit, weights_from)
        for modes in permutations(MODES, times)
        for weights_from in ((FIRST, ABSOLUTE) if WEIGHTED in modes else (None,))
        for unit in (False, True)
    ]


def _matches(head: Head, hidden: Array, mask: Array, wanted: Array) -> bool:
    first = find_first_tokens(mask) if head.weights_from == FIRST else None
    made = pool(hidden, mask, head.mode.split(","), first=first)
    made = normalize(made) if head.normalize else made
    return made.shape == wanted.shape and bool(np.all(np.abs(made - wanted) <= NEAR * np.maximum(1, np.abs(made).max())))


def _drop_head(model: Model, outputs: Collection[str]) -> Model:
    """Return ``model`` with only the nodes and weights from which ``outputs`` are computed.

    Raises RequestError if one of them is computed from the embedding.
    """
    document, graph = model.document, Graph.of(model)
    ends = [value for name in outputs if (value := graph.value(name)) is not None]
    if EMBEDDING in {value.name for value in graph.ancestors(ends)}:
        raise RequestError(
            f"some of the outputs {', '.join(outputs)} are computed from {EMBEDDING}, so its head cannot be replaced",
            INSTEAD,
        )
    given = [
        record for record in document.graph
        if record.field == OUTPUT and onnx.ValueInfoProto.FromString(record.content).name in outputs
    ]  # fmt: skip
    records = drop_unreached(splice_records(document.graph, OUTPUT, given))
    return replace(model, document=replace(document, graph=records), loaded=None)
