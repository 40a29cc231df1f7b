"""A pooled export of another program, given our head in the place of its own.

Optimum's export of sentence-transformers pools with operators that ONNX Runtime's shape inference gives up on, and then the
optimizer fuses no attention. What it pools stays an output, ``token_embeddings``; how it pools is found by running it: it is
that of our heads whose reference gives the same vectors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx

from graphsurgery.anatomy.head import EMBEDDING
from graphsurgery.edits.add_pooling import AddPooling
from graphsurgery.errors import NothingToPoolError, RequestError
from graphsurgery.model.changes import INITIALIZER, NODE, OUTPUT
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import without_entries
from graphsurgery.model.splice import spliced
from graphsurgery.optimizing.upstream import reads, upstream
from graphsurgery.proof.drawing import drawer_of
from graphsurgery.proof.meanings.normalize import normalize
from graphsurgery.proof.meanings.pooling import MODES, pool
from graphsurgery.runtime.session import open_session

POOLED = ("token_embeddings", "last_hidden_state")
NEAR = 1e-5
COMPARED = ("right padding", "left padding", "holes")
Array = np.ndarray


@dataclass(frozen=True)
class Head:
    """What another program's head turned out to be."""

    mode: str
    normalize: bool

    def __str__(self) -> str:
        return f"{self.mode} pooling{', normalised' if self.normalize else ''}"


def hidden_behind(model: Model) -> str | None:
    """The token embeddings of a pooled export that has them as an output beside the embedding; None where it is none."""
    names = {value.name for value in model.interface.outputs}
    return next((name for name in POOLED if name in names and EMBEDDING in names), None)


def reheaded(model: Model) -> tuple[Model, Head]:
    """``model`` with its own head taken off and ours in its place; its token embeddings stay an output.

    Raises RequestError for what is no pooled export with token embeddings, NothingToPoolError for a head that is none of ours.
    """
    hidden = hidden_behind(model)
    if hidden is None:
        outputs = ", ".join(map(str, model.interface.outputs))
        raise RequestError(
            f"a head can be replaced where the file gives {EMBEDDING} and {' or '.join(POOLED)}; this one gives {outputs}",
            "leave out --rehead, or export the transformer alone",
        )
    head = _recognised(model, hidden)
    pooling = AddPooling(head.mode, head.normalize, hidden, keep_output=(hidden,))
    return pooling.apply(_without_head(model, hidden)), head


def _recognised(model: Model, hidden: str) -> Head:
    """The head whose reference gives what the file gives, on ragged, left-padded and holed batches."""
    drawer, session = drawer_of(model, []), open_session(model)
    candidates = [Head(mode, unit) for mode in MODES for unit in (False, True)]
    for kind, masks in drawer.kinds():
        if kind in COMPARED:
            feed = drawer.feed(masks[0], seed=0)
            found, mask = session.run(feed, [hidden, EMBEDDING]), drawer.mask_of(feed)
            tokens = np.ones(found[hidden].shape[:2], dtype=bool) if mask is None else mask
            candidates = [head for head in candidates if _gives(head, found[hidden], tokens, found[EMBEDDING])]
    if not candidates:
        raise NothingToPoolError(
            f"{EMBEDDING} is no pooling of {hidden} that graphsurgery knows, normalised or not", "export the transformer alone"
        )
    return candidates[0]


def _gives(head: Head, hidden: Array, mask: Array, wanted: Array) -> bool:
    made = pool(hidden, mask, [head.mode])
    made = normalize(made) if head.normalize else made
    return made.shape == wanted.shape and bool(np.all(np.abs(made - wanted) <= NEAR * np.maximum(1, np.abs(made).max())))


def _without_head(model: Model, hidden: str) -> Model:
    """The nodes that ``hidden`` is computed by, and the weights that these read; ``hidden`` is the only output."""
    document = model.document
    nodes = [(record, onnx.NodeProto.FromString(record.content)) for record in document.graph if record.field == NODE]
    needed = upstream([node for _, node in nodes], hidden)
    kept = [record for record, node in nodes if needed & set(node.output)]
    read = needed | {name for record, node in nodes if record in kept for name in reads(node)}
    weights = [record for record in document.graph if record.field == INITIALIZER and _name(record.content) in read]
    outputs = [
        record for record in document.graph
        if record.field == OUTPUT and onnx.ValueInfoProto.FromString(record.content).name == hidden
    ]  # fmt: skip
    graph = document.graph
    for number, wanted in ((NODE, kept), (INITIALIZER, weights), (OUTPUT, outputs)):
        graph = spliced(graph, number, wanted)
    return replace(model, document=replace(document, model=without_entries(document.model), graph=graph))


def _name(content: bytes) -> str:
    return onnx.TensorProto.FromString(content).name
