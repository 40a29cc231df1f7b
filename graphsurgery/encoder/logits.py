"""The scores of a masked-language model: one number for every token and word of the vocabulary."""

from __future__ import annotations

from graphsurgery.encoder.hidden_state import HiddenState, Sought, find_hidden_state
from graphsurgery.encoder.roles import roles_of
from graphsurgery.encoder.tables import find_tables
from graphsurgery.encoder.width import last_dim
from graphsurgery.errors import NothingToPoolError
from graphsurgery.graph.graph import Graph
from graphsurgery.interface import Value
from graphsurgery.model.dtypes import FLOATS
from graphsurgery.model.model import Model

LOGITS = "logits"
ADVICE = "name the scores [batch, seq, vocabulary] with --target, or export the model with its masked-language-model head"
SCORES = Sought("--target", "[batch, seq, vocabulary]", ADVICE)


def find_logits(model: Model, name: str | None = None, ids: str | None = None) -> HiddenState:
    """Find the scores ``[batch, seq, vocabulary]``: the value ``name``, else the output ``logits``, else the only rank-3 float
    output as wide as the vocabulary.

    Raises NameNotFoundError if ``name`` is not in the graph, NothingToPoolError if nothing fits.
    """
    return find_hidden_state(model, name if name is not None else _only_candidate(model, ids), ids, sought=SCORES)


def _only_candidate(model: Model, ids: str | None) -> str:
    if model.interface.output(LOGITS) is not None:
        return LOGITS
    graph, vocabulary = Graph.of(model), find_tables(model, roles_of(model.interface, ids)).vocabulary
    wide = [value.name for value in model.interface.outputs if _is_as_wide(graph, value, vocabulary)]
    if len(wide) == 1:
        return wide[0]
    found = ", ".join(map(str, model.interface.outputs)) or "no output"
    what = "several outputs are" if wide else "no output is"
    raise NothingToPoolError(f"{what} [batch, seq, vocabulary]; the model gives {found}", ADVICE)


def _is_as_wide(graph: Graph, value: Value, vocabulary: int | None) -> bool:
    if vocabulary is None or value.rank != 3 or value.dtype not in FLOATS or value.dims is None:
        return False
    return vocabulary in (last_dim(graph, graph.value(value.name)), value.dims[-1])
