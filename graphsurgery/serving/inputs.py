"""Read the inputs of a request: texts, token ids, pictures and clips. Each is checked before anything is computed."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphsurgery.serving.errors import EmptyRequestError, InvalidRequestError, ServiceError
from graphsurgery.serving.settings import ServeSettings
from graphsurgery.serving.towers import AUDIO, IMAGE, PAIR, TEXT

NAMES: Mapping[str, str] = {TEXT: "texts", IMAGE: "pictures", AUDIO: "sound"}
"""How messages name the kinds of towers."""
DATA = "data:"
NUL = "\0"
TYPES: Mapping[str, str] = {"image/": IMAGE, "audio/": AUDIO}
"""The kind of an input by the beginning of its media type."""
NOT_FETCHED = "send the bytes themselves: as the body with their content type, or as a data URL in base64"
IDS_ADVICE = (
    "send texts: LangChain's OpenAIEmbeddings does with check_embedding_ctx_length=False. If the ids are of this model's own "
    "tokenizer, start the service with --accept-token-ids"
)


@dataclass(frozen=True)
class Item:
    """One input of a request."""

    kind: str
    content: str | list[int] | bytes
    place: str
    """Its place in the body, for messages."""


@dataclass(frozen=True)
class ItemReader:
    """Reads the inputs of requests, for a service that has certain kinds of towers."""

    kinds: Collection[str]
    settings: ServeSettings

    def read(self, value: Any, field: str, kind: str | None = None) -> list[Item]:
        """Return the inputs that the ``field`` of a body holds: one, or a list of them.

        ``kind`` says what its strings are. Without it they are texts, or pictures and sound if they are data URLs.

        Raises EmptyRequestError, InvalidRequestError.
        """
        items: list[Item] = []
        for one in self.read_each(value, field, kind):
            if isinstance(one, ServiceError):
                raise one
            items.append(one)
        return items

    def read_each(self, value: Any, field: str, kind: str | None = None) -> Iterator[Item | ServiceError]:
        """Yield the same inputs as `read`, with an error in place of an input that is wrong."""
        is_list = isinstance(value, list) and not _are_ids(value)
        if is_list:
            self.check_count(len(value))
        for place, one in enumerate(value if is_list else [value]):
            try:
                yield self._read_one(one, f"{field}[{place}]" if is_list else field, kind)
            except ServiceError as error:
                yield error

    def check_count(self, count: int) -> None:
        """Raise EmptyRequestError for no inputs at all, InvalidRequestError for more than a request may have."""
        if not count:
            raise EmptyRequestError("the batch is empty", "give one input or more")
        if count > self.settings.max_items:
            what = f"batch size {count} > maximum allowed batch size {self.settings.max_items}"
            raise InvalidRequestError(what, "send several requests")

    def read_texts(self, texts: Sequence[str], field: str) -> list[str]:
        """Check each of ``texts`` as `check_text` does, and return them. Here a data URL counts as a text, too."""
        self.check_count(len(texts))
        return [check_text(one, f"{field}[{place}]") for place, one in enumerate(texts)]

    def read_media(self, content: bytes, kind: str, place: str = "body") -> Item:
        """Return the bytes of a picture or a clip as an input."""
        self._check_kind(kind, place)
        if not content:
            raise EmptyRequestError(f"`{place}` holds no bytes", "send those of the file")
        return Item(kind, content, place)

    def _read_one(self, value: Any, place: str, kind: str | None) -> Item:
        if isinstance(value, dict):
            return self._read_object(value, place)
        if isinstance(value, list):
            return self._read_ids(value, place)
        if not isinstance(value, str):
            raise InvalidRequestError(f"`{place}` is {_describe(value)}", "give a string")
        if kind == TEXT:
            return self._read_text(value, place)
        found = _find_kind(value) if value[: len(DATA)].lower() == DATA else None
        if kind is None and found is None:
            return self._read_text(value, place)
        if found is None or kind not in (None, found):
            raise InvalidRequestError(f"`{place}` is no data URL of {NAMES[kind or TEXT]}", NOT_FETCHED)
        return self.read_media(_decode(value, place), found, place)

    def _read_object(self, value: dict[str, Any], place: str) -> Item:
        """Return the input of ``{"text": ...}``, ``{"image": ...}`` or ``{"audio": ...}``."""
        kind, content = next(iter(value.items())) if len(value) == 1 else ("", None)
        if kind not in NAMES or not isinstance(content, str):
            raise InvalidRequestError(f"`{place}` is an object that holds no input", 'give {"text": "..."} or a string')
        return self._read_one(content, f"{place}.{kind}", kind)

    def _read_text(self, value: str, place: str) -> Item:
        self._check_kind(TEXT, place)
        return Item(TEXT, check_text(value, place), place)

    def _read_ids(self, value: list[Any], place: str) -> Item:
        if not _are_ids(value):
            raise InvalidRequestError(f"`{place}` is a list", "give one string for each input: pairs are not embedded")
        if not self.settings.accept_token_ids:
            raise InvalidRequestError(f"`{place}` holds token ids, which may be of another model's tokenizer", IDS_ADVICE)
        self._check_kind(TEXT, place)
        return Item(TEXT, value, place)

    def _check_kind(self, kind: str, place: str) -> None:
        if PAIR in self.kinds and kind not in self.kinds:
            raise InvalidRequestError("this model scores a text beside a query, and embeds nothing", "ask /rerank")
        if kind not in self.kinds:
            has = " and ".join(NAMES[one] for one in NAMES if one in self.kinds) or "nothing"
            raise InvalidRequestError(f"`{place}` is for {NAMES[kind]}, and this model embeds {has}", f"send {has}")


def find_media(content_type: str) -> str | None:
    """Return the kind of input that a body of ``content_type`` holds; None if it is neither a picture nor sound."""
    return next((kind for start, kind in TYPES.items() if content_type.lower().startswith(start)), None)


def _are_ids(value: list[Any]) -> bool:
    return bool(value) and all(type(one) is int for one in value)


def count_characters(items: Iterable[Item]) -> int:
    return sum(len(one.content) for one in items if isinstance(one.content, str))


def check_text(value: str, place: str) -> str:
    """Return ``value``. Raises InvalidRequestError if it is empty, or holds a NUL, which tokenizers drop."""
    if not value:
        raise InvalidRequestError(f"`{place}` cannot be empty", "leave it out")
    if NUL in value:
        raise InvalidRequestError(f"`{place}` holds the character NUL, which tokenizers drop in silence", "take it out")
    return value


def _describe(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"the number {value}"


def _find_kind(url: str) -> str | None:
    return find_media(url[len(DATA) : len(DATA) + 20])


def _decode(url: str, place: str) -> bytes:
    """Return the bytes of a data URL."""
    head, comma, content = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise InvalidRequestError(f"`{place}` is a data URL without base64", 'write it as "data:image/png;base64,..."')
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequestError(f"`{place}` holds no valid base64", "encode the bytes of the file again") from None
