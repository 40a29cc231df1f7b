"""Turn texts into token ids as a model folder says: with its prompt, and its limit on the length of a text.

The folder's configs decide about padding and truncation. tokenizer.json only holds the settings of the program that saved it
last.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from graphsurgery.embedding.tokenization import TOKENIZER, Tokenization
from graphsurgery.errors import FolderError, GraphSurgeryError, RequestError, WrongTypeError
from graphsurgery.model.parsing import shorten
from graphsurgery.runtime.texts import Encoded, open_tokenizer

CUT, ERROR, SPLIT = "cut", "error", "split"
LONG = (CUT, ERROR, SPLIT)
"""What becomes of a text that is longer than the model takes: its beginning, an error, or the mean of its parts."""
RIGHT, LEFT = "right", "left"
SIDES = (RIGHT, LEFT)
"""From which end a text that is too long is cut."""
CHARACTERS_PER_TOKEN = 250
"""A text is cut to this many characters for each token that the model takes, before it is tokenised: a text of a million
characters would take a second. Text Embeddings Inference does the same."""


Input: TypeAlias = "str | tuple[str, str]"
"""What a tokenizer takes: a text, or a pair of texts."""


@dataclass(frozen=True)
class Cut:
    """A text that was cut, because it is longer than the model takes."""

    text: int
    """Its place among the texts."""
    kept: int
    """How many of its tokens were embedded, special ones included."""
    tokens: int | None
    """How many tokens the whole text has, special ones included. None if the text was too long to be tokenised to its end."""

    def to_json(self) -> dict[str, int | None]:
        return {"text": self.text, "kept": self.kept, "tokens": self.tokens}


@dataclass(frozen=True)
class Part:
    """The token ids of a text, or of one of the parts that it was split into."""

    text: int
    ids: np.ndarray
    types: np.ndarray


@dataclass(frozen=True)
class Tokenized:
    """Texts as token ids: at least one part for each text that has no error."""

    parts: tuple[Part, ...]
    cuts: tuple[Cut, ...]
    errors: dict[int, GraphSurgeryError]
    """Why texts cannot be embedded, by the place of the text."""


@dataclass(frozen=True)
class Token:
    """One token of a text."""

    id: int
    text: str
    """The token as the tokenizer writes it, with its own marks, such as ``##`` or ``▁``."""
    is_special: bool
    start: int
    """Where it begins in the text, its prompt included, in characters."""
    stop: int


class TextTokenizer:
    """Tokenises the texts of one model. Any number of threads may use it at once."""

    def __init__(self, settings: Tokenization, longest: int | None, vocabulary: int | None) -> None:
        """Open the tokenizer.json of a folder.

        Args:
            settings: how the folder says that texts are tokenised.
            longest: the longest text in tokens, special ones included; None for no limit.
            vocabulary: the rows of the model's table of token embeddings; None if they are not known.

        Raises:
            FolderError: the folder has no tokenizer.json, or its chat template makes the texts.
            MissingPackageError: the tokenizers package is not installed.
            RequestError: the file cannot be read.
        """
        if settings.takes_messages:
            what = f"the chat template of {settings.folder} makes one text of each input, which only transformers can do"
            raise FolderError(
                what, "make the texts with transformers' apply_chat_template, and embed them with this file alone"
            )
        if not settings.has_tokenizer:
            advice = "put the model's tokenizer.json there, or save the tokenizer again with transformers"
            raise FolderError(f"{settings.folder} has no {TOKENIZER}", advice)
        self.settings, self.longest, self.vocabulary = settings, longest, vocabulary
        self._lock = threading.Lock()
        self._left: Any = None
        self._tokenizer = self._open(RIGHT)
        self._added = self._tokenizer.num_special_tokens_to_add(False) if settings.adds_special else 0

    def _open(self, cut_from: str) -> Any:
        opened = open_tokenizer(self.settings.folder / TOKENIZER)
        opened.no_padding()
        if self.longest is not None:
            opened.enable_truncation(max_length=self.longest, direction=cut_from)
        elif not self.settings.has_own_limit:
            opened.no_truncation()
        return opened

    def _find(self, cut_from: str) -> Any:
        """Return the tokenizer that cuts texts from this end. The one for the left is opened when it is first asked for."""
        if cut_from == RIGHT:
            return self._tokenizer
        with self._lock:
            self._left = self._left or self._open(LEFT)
        return self._left

    def tokenize(
        self, texts: Sequence[object], prompt: str = "", on_long: str = CUT, first: int = 0, cut_from: str = RIGHT
    ) -> Tokenized:
        """Return the token ids of ``texts``, with ``prompt`` in front of each. A wrong text gets an error of its own.

        ``first`` is the place of the first text, if these texts are part of a longer list. A text that is cut from the left
        loses its prompt first.
        """
        errors: dict[int, GraphSurgeryError] = {}
        places, prepared, shortened = [], [], set()
        for place, text in enumerate(texts, first):
            try:
                whole = self._prepare_input(text, prompt, place)
            except GraphSurgeryError as error:
                errors[place] = error
                continue
            limit = None if self.longest is None or on_long == SPLIT else self.longest * CHARACTERS_PER_TOKEN
            prepared.append(_shorten(whole, limit, cut_from))
            places.append(place)
            if prepared[-1] != whole:
                shortened.add(place)
        encodings = self._find(cut_from).encode_batch(prepared, add_special_tokens=self.settings.adds_special)
        parts: list[Part] = []
        cuts: list[Cut] = []
        for place, encoding in zip(places, encodings, strict=True):
            rest = encoding.overflowing
            if (rest or place in shortened) and on_long != SPLIT:
                cut = Cut(place, len(encoding.ids), None if place in shortened else self._count_tokens(encoding))
                if on_long == ERROR:
                    errors[place] = self._make_length_error(cut)
                    continue
                cuts.append(cut)
            try:
                parts += [self._make_part(place, one) for one in (encoding, *(rest if on_long == SPLIT else ()))]
            except GraphSurgeryError as error:
                errors[place] = error
        return Tokenized(tuple(parts), tuple(cuts), errors)

    def list_tokens(self, text: object, prompt: str = "", adds_special: bool = True) -> list[Token]:
        """Return the tokens of a text, with its prompt in front, as they are embedded: a long text is cut.

        Raises WrongTypeError, RequestError for a text that the tokenizer cannot read.
        """
        whole = self._prepare(text, prompt, 0)
        limit = None if self.longest is None else self.longest * CHARACTERS_PER_TOKEN
        encoding = self._tokenizer.encode(whole[:limit], add_special_tokens=adds_special and self.settings.adds_special)
        columns = (encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets)
        return [Token(id, text, bool(special), *place) for id, text, special, place in zip(*columns, strict=True)]

    def count_prompt(self, prompt: str) -> int:
        """Return the number of tokens of a prompt, as sentence-transformers counts them: without the final special token."""
        if not prompt:
            return 0
        encoding = self._tokenizer.encode(self._prepare(prompt, "", 0), add_special_tokens=self.settings.adds_special)
        return len(encoding.ids) - (self.settings.adds_special and self.settings.ends_special)

    def count_own(self, part: Part) -> int:
        """Return the number of tokens of a part without special ones, but at least 1."""
        return max(len(part.ids) - self._added, 1)

    def make_batch(self, parts: Sequence[Part]) -> Encoded:
        """Return parts as one batch ``[parts, longest]``, padded on the folder's side."""
        pad, side = self.settings.pad_id, self.settings.side
        width = max(1, *(len(one.ids) for one in parts))
        shape = (len(parts), width)
        ids, mask, types = np.full(shape, pad), np.zeros(shape, np.bool_), np.zeros(shape, np.int64)
        for row, one in enumerate(parts):
            place = slice(width - len(one.ids), None) if side == "left" else slice(len(one.ids))
            ids[row, place], mask[row, place], types[row, place] = one.ids, True, one.types
        return Encoded(ids, mask, types, pad, side)

    def _prepare_input(self, given: object, prompt: str, place: int) -> Input:
        """Return an input ready to be tokenised. Raises what `_prepare` raises."""
        return self._prepare(given, prompt, place)

    def _count_tokens(self, encoding: Any) -> int | None:
        """Return the tokens of a text that was cut, special ones included; None if they are not known."""
        return len(encoding.ids) + sum(len(one.ids) - self._added for one in encoding.overflowing)

    def _prepare(self, text: object, prompt: str, place: int) -> str:
        """Return a text ready to be tokenised. Raises WrongTypeError, RequestError for what the tokenizer cannot read."""
        if not isinstance(text, str):
            kind = f"a {type(text).__name__}, which would be read as a pair" if isinstance(text, list | tuple) else repr(text)
            raise WrongTypeError(f"text {place} is {shorten(kind)}", "give one string for each text")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise RequestError(
                f"text {place} holds half of a surrogate pair, which no UTF-8 can hold", "decode it again, or leave it out"
            ) from None
        whole = prompt + text
        return whole.lower() if self.settings.lower_case else whole

    def _make_length_error(self, cut: Cut) -> RequestError:
        has = "is far longer" if cut.tokens is None else f"has {cut.tokens} tokens"
        return RequestError(
            f"text {cut.text} {has}, and the model takes {self.longest}", f'give on_long="{CUT}" or on_long="{SPLIT}"'
        )

    def accept_ids(self, ids: Sequence[object], on_long: str = CUT, place: int = 0, cut_from: str = RIGHT) -> tuple[Part, bool]:
        """Return (a part of token ids that the caller made, whether it was cut). No special tokens are added.

        Raises WrongTypeError for anything but whole numbers, and RequestError for ids that this model does not have, and for
        too many ids if ``on_long`` is ``error``.
        """
        wrong = next((one for one in ids if isinstance(one, bool) or not isinstance(one, int)), None)
        if wrong is not None or not ids:
            what = "is empty" if wrong is None else f"holds {shorten(repr(wrong))}"
            raise WrongTypeError(f"the list of token ids {place} {what}", "give one whole number for each token")
        found = np.array(ids, dtype=np.object_)
        if np.any(found < 0) or np.any(found >= (self.vocabulary or 1 << 31)):
            raise self._make_id_error(place, found)
        is_cut = self.longest is not None and len(ids) > self.longest
        if is_cut and on_long == ERROR:
            raise self._make_length_error(Cut(place, 0, len(ids)))
        kept = found[: self.longest] if cut_from == RIGHT else found[-(self.longest or 0) :]
        return Part(place, kept.astype(np.int64), np.zeros(len(kept), dtype=np.int64)), is_cut

    def _make_part(self, place: int, encoding: Any) -> Part:
        """Return an encoding as arrays. Raises RequestError for ids outside the table: ONNX Runtime accepts -1 silently."""
        ids = np.array(encoding.ids, dtype=np.int64)
        if self.vocabulary is not None and ids.size and not 0 <= ids.min() <= ids.max() < self.vocabulary:
            error = self._make_id_error(place, ids)
            error.advice = "put the tokenizer.json of this model beside it"
            raise error
        return Part(place, ids, np.array(encoding.type_ids, dtype=np.int64))

    def _make_id_error(self, place: int, ids: np.ndarray) -> RequestError:
        wrong = ids[(ids < 0) | (ids >= (self.vocabulary or 1 << 31))][0]
        return RequestError(f"text {place} has the token id {wrong}, and the model's table has {self.vocabulary} rows")


def _shorten(whole: Input, limit: int | None, cut_from: str) -> Input:
    """Return a text, or both of a pair, with at most ``limit`` characters."""
    kept = slice(limit) if cut_from == RIGHT or limit is None else slice(-limit, None)
    return whole[kept] if isinstance(whole, str) else (whole[0][kept], whole[1][kept])
