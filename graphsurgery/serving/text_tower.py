"""A tower of texts: an `Embedder` whose tokenising and runs are separate steps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphsurgery.embedding.embedder import MEASURED_FROM, Embedder
from graphsurgery.embedding.part_maker import describe_vectors
from graphsurgery.embedding.tokenizer import CUT, Part, Token
from graphsurgery.errors import GraphSurgeryError
from graphsurgery.runtime.texts import SENTENCES
from graphsurgery.serving.errors import InvalidRequestError
from graphsurgery.serving.towers import TEXT, Facts, Prepared, TextOptions, run_at_once

SHORTER = "send a shorter text, or let it be cut"


class TextTower:
    """Gives texts the vectors that `Embedder.encode` gives them. A list of whole numbers is taken for token ids."""

    kind = TEXT
    samples: Sequence[Any] = SENTENCES
    """The inputs with which it is warmed up."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder
        self.tokenizer = embedder.tokenizer
        self.budget = embedder.measure_budget(MEASURED_FROM)
        self.is_padded = embedder.is_padded
        self.most_at_once = embedder.most_at_once
        self.width = embedder.width
        self.dtype = np.dtype(np.float32)
        description = describe_vectors(embedder, "", None, None, CUT, None)
        self._sha256 = str(description["model_sha256"][0])
        text = json.dumps([description, embedder.providers], sort_keys=True)
        self.identity = hashlib.sha256(text.encode()).hexdigest()
        self._is_batch_invariant: bool | None = None

    def prepare(self, inputs: Sequence[Any], options: TextOptions) -> list[Prepared | GraphSurgeryError]:
        """Tokenise texts. A text that cannot be tokenised has its own error."""
        ready = {place: self._accept_ids(one, options) for place, one in enumerate(inputs) if isinstance(one, list)}
        places = [place for place in range(len(inputs)) if place not in ready]
        texts = self._tokenize([inputs[place] for place in places], options)
        ready |= dict(zip(places, texts, strict=True))
        return [ready[place] for place in range(len(inputs))]

    def _tokenize(self, inputs: Sequence[Any], options: TextOptions) -> list[Prepared | GraphSurgeryError]:
        prompt_tokens = self.embedder.count_prompt(options.prompt)
        found = self.tokenizer.tokenize(inputs, options.prompt, options.on_long, cut_from=options.cut_from)
        cuts = {one.text for one in found.cuts}
        ready: dict[int, Prepared | GraphSurgeryError] = {
            one.text: self._make_prepared(one, one.text in cuts, prompt_tokens) for one in found.parts
        }
        ready |= {place: _make_invalid(error, place) for place, error in found.errors.items()}
        return [ready[place] for place in range(len(inputs))]

    def run(self, inputs: Sequence[Prepared]) -> np.ndarray:
        return self.embedder.run_batch([one.content for one in inputs], inputs[0].group[0])

    def list_tokens(self, text: str, options: TextOptions, adds_special: bool = True) -> list[Token]:
        """Return the tokens of a text, with its prompt in front. A long text is cut. Raises InvalidRequestError."""
        try:
            return self.tokenizer.list_tokens(text, options.prompt, adds_special)
        except GraphSurgeryError as error:
            raise _make_invalid(error, 0) from error

    def warm_up(self) -> None:
        """Run a few sentences one by one, and then together in several threads at once.

        This shows whether a text's vector depends on its batch or on other runs. Raises the error of a sentence that cannot be
        tokenised, and UnsupportedModelError if a run fails.
        """
        self.embedder.prepare_for_many()
        ready = []
        for one in self.prepare(self.samples, TextOptions()):
            if isinstance(one, GraphSurgeryError):
                raise one
            ready.append(one)
        alone = [self.run([one])[0] for one in ready]
        self.width, self.dtype = alone[0].shape[0], alone[0].dtype
        together = ready if self.embedder.mixes_lengths else [ready[0]] * 3
        wanted = alone if self.embedder.mixes_lengths else [alone[0]] * 3
        self._is_batch_invariant = all(
            one.tobytes() == other.tobytes()
            for rows in run_at_once(lambda: self.run(together), self.most_at_once)
            for one, other in zip(rows, wanted, strict=True)
        )

    @property
    def facts(self) -> Facts:
        one = self.embedder
        return Facts(
            str(one.path), self._sha256, self.width, self.dtype.name, one.max_length, one.prompts,
            one.config.default_prompt_name, one.config.similarity or "cosine", is_normalized=one.is_normalized,
            providers=tuple(one.providers), threads=one.threads,
            is_batch_invariant=self._is_batch_invariant,
        )  # fmt: skip

    def _accept_ids(self, ids: list[Any], options: TextOptions) -> Prepared | GraphSurgeryError:
        if options.prompt:
            return InvalidRequestError("a prompt cannot go before token ids", "send texts, or leave the prompt out")
        try:
            part, is_cut = self.tokenizer.accept_ids(ids, options.on_long, 0, options.cut_from)
        except GraphSurgeryError as error:
            return _make_invalid(error, 0)
        return self._make_prepared(part, is_cut, self.embedder.count_prompt(""))

    def _make_prepared(self, part: Part, is_cut: bool, prompt_tokens: int | None) -> Prepared:
        length = len(part.ids)
        return Prepared(part, max(length, 1), length, is_cut, (prompt_tokens, None if self.embedder.mixes_lengths else length))


def _make_invalid(error: GraphSurgeryError, place: int) -> InvalidRequestError:
    """Return the error of a text without the place of the text, which differs between the requests that share the error."""
    message = error.message.replace(f"text {place} ", "the text ").replace(f"token ids {place} ", "token ids ")
    return InvalidRequestError(message, SHORTER if "the model takes" in message else error.advice)
