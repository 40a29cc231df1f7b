"""A tower of pairs: it takes a query and a text, and gives the score of a cross-encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from graphsurgery.embedding.embedder import Embedder
from graphsurgery.embedding.pair_tokenizer import PairTokenizer
from graphsurgery.errors import GraphSurgeryError, UnsupportedModelError
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import RESHAPING, get_operator
from graphsurgery.model.model import Model
from graphsurgery.runtime.texts import SENTENCES
from graphsurgery.serving.text_tower import TextTower
from graphsurgery.serving.towers import PAIR, Facts, Prepared, TextOptions

TO_PROBABILITIES = ("Sigmoid", "Softmax")
"""The operators whose results are between 0 and 1."""


class PairTower(TextTower):
    """Scores pairs ``(query, text)``: ``[pairs, 1]``, as the file gives them. A prompt goes before the query."""

    kind = PAIR
    samples: Sequence[Any] = tuple((SENTENCES[0], one) for one in SENTENCES)

    def __init__(self, embedder: Embedder) -> None:
        super().__init__(embedder)
        self.tokenizer = PairTokenizer(embedder.tokenization, embedder.max_length, embedder.tokenizer.vocabulary)
        self._is_probability = _ends_in_probabilities(embedder.model, embedder.output)

    def prepare(self, inputs: Sequence[Any], options: TextOptions) -> list[Prepared | GraphSurgeryError]:
        """Tokenise pairs. A pair that cannot be tokenised has its own error."""
        return self._tokenize(inputs, options)

    def warm_up(self) -> None:
        """See `TextTower.warm_up`. Raises UnsupportedModelError if a pair gets several scores."""
        super().warm_up()
        if self.width != 1:
            raise UnsupportedModelError(
                f"{self.embedder.path} gives {self.width} scores for a pair of texts, and texts are ranked by one",
                "serve a cross-encoder with one label",
            )

    @property
    def facts(self) -> Facts:
        return replace(super().facts, is_normalized=False, is_probability=self._is_probability)


def _ends_in_probabilities(model: Model, output: str) -> bool:
    """Return whether the last operator before ``output`` gives numbers between 0 and 1."""
    graph = Graph.of(model)
    value = graph.value(output)
    node = None if value is None else graph.origin(value, RESHAPING).producer()
    return node is not None and get_operator(node) in TO_PROBABILITIES
