"""Pairs of texts as token ids, for cross-encoders: both texts in one row, with the model's own tokens around them."""

from __future__ import annotations

from typing import Any

from graphsurgery.embedding.tokenizer import Cut, Input, TextTokenizer
from graphsurgery.errors import RequestError, WrongTypeError
from graphsurgery.model.parsing import shorten


class PairTokenizer(TextTokenizer):
    """Tokenises pairs as sentence-transformers' CrossEncoder does.

    If a pair is too long, the longer of its texts loses tokens first. A prompt goes before the first text.
    """

    def _prepare_input(self, given: object, prompt: str, place: int) -> Input:
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise WrongTypeError(f"text {place} is {shorten(repr(given))}, and no pair of texts", "give a query and a text")
        return self._prepare(given[0], prompt, place), self._prepare(given[1], "", place)

    def _count_tokens(self, encoding: Any) -> None:
        """Return None: the tokenizer gives the cut-off rest of a pair in overlapping pieces, so it cannot be counted."""

    def _make_length_error(self, cut: Cut) -> RequestError:
        what = f"text {cut.text} and its query are longer than the {self.longest} tokens that the model takes"
        return RequestError(what, "send shorter ones, or let them be cut")
