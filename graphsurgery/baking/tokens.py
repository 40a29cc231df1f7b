"""How texts become inputs: what the README of a baked folder has to say, so that others tokenise as the model was trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from graphsurgery.errors import FolderError, RequestError
from graphsurgery.folders.files import inside, is_there, open_file, read_json
from graphsurgery.folders.modules import Module
from graphsurgery.folders.transformer_config import read_encoder_config, transformer_settings
from graphsurgery.runtime.texts import find_closing_token, read_padding

TOKENIZER, CONFIG, SPECIAL = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend", None)
"""Classes of tokenizers that know no special tokens but those that are named."""
LISTS = ("additional_special_tokens", "extra_special_tokens")
LONGEST = 1 << 20
"""Tokens from which on a limit is none: transformers writes 1e30 for that."""


@dataclass(frozen=True)
class Tokens:
    """How a model's texts are tokenised. ``folder`` holds its tokenizer's files; ``has_tokenizer``: among them the
    tokenizer.json that the tokenizers package reads."""

    folder: Path
    has_tokenizer: bool
    side: str = "right"
    pad_id: int = 0
    pad_token: str = "[PAD]"
    longest: int | None = None
    """Tokens that a text may have, special ones included; what is beyond is cut off."""
    lower_case: bool = False
    special: bool = True
    """Whether special tokens are put around a text."""
    closed: bool = False
    """Whether the last token of a text is one that transformers knows to be special: it is none of a prompt's."""
    own_limit: bool = False
    """Whether the limit is what tokenizer.json itself says."""


def tokens_of(folder: Path, first: Module) -> Tokens:
    """How the texts of the model in ``folder``, whose first module is ``first``, are tokenised by sentence-transformers.

    FolderError for a tokenizer.json that cannot be read.
    """
    place = first.path if is_there(first.path / TOKENIZER) else folder
    if not is_there(place / TOKENIZER):
        return Tokens(place, False, longest=_longest(first, place), lower_case=_lower_case(first))
    open_file(inside(place, TOKENIZER, str(place)))
    try:
        side, pad, token = read_padding(place / TOKENIZER)
        closed = _is_special(place, find_closing_token(place / TOKENIZER))
    except RequestError as error:
        raise FolderError(error.message, error.advice) from error
    if first.kind == "StaticEmbedding":  # its module takes the tokenizer as it is, padding and special tokens left out
        return Tokens(place, True, side, pad, token, special=False, own_limit=True)
    return Tokens(place, True, side, pad, token, _longest(first, place), _lower_case(first), closed=closed)


def _is_special(place: Path, token: str | None) -> bool:
    """Whether transformers knows that ``token`` is special: by its tokenizer's class, or because the configs name it."""
    config = _settings(place, CONFIG)
    if token is None or config.get("tokenizer_class", GENERIC[0]) not in GENERIC:
        return token is not None
    return token in set(_named(config)) | set(_named(_settings(place, SPECIAL)))


def _named(config: dict[str, Any]) -> Iterator[str]:
    """The special tokens that a config names."""
    for key, value in config.items():
        listed = value if key in LISTS and isinstance(value, list) else [value] if key.endswith("_token") else []
        for one in listed:
            token = one.get("content") if isinstance(one, dict) else one
            if isinstance(token, str):
                yield token


def _lower_case(first: Module) -> bool:
    return first.kind == "Transformer" and transformer_settings(first).do_lower_case


def _longest(first: Module, place: Path) -> int | None:
    """The module's own limit, else the smaller one of the tokenizer's and the position table's."""
    if first.kind != "Transformer":
        return None
    said = transformer_settings(first).max_seq_length
    if said is not None:
        return said if said < LONGEST else None
    encoder = read_encoder_config(first.path)
    positions = encoder.raw.get("max_position_embeddings") if encoder is not None else None
    limits: list[int] = [one for one in (_settings(place, CONFIG).get("model_max_length"), positions) if _is_limit(one)]
    return min(limits, default=None)


def _is_limit(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < LONGEST


def _settings(place: Path, name: str) -> dict[str, Any]:
    if not is_there(place / name):
        return {}
    found: dict[str, Any] = read_json(inside(place, name, str(place)))
    return found
