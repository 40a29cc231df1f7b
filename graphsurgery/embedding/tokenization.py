"""How texts become inputs, as a model folder says. The Embedder follows it, and the README of a baked folder states it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from graphsurgery.errors import FolderError, RequestError
from graphsurgery.folders.files import BAKED, is_there, open_file, read_json, resolve_inside
from graphsurgery.folders.modules import MODULES, Module, read_module, read_modules
from graphsurgery.folders.transformer_config import read_encoder_config, read_transformer_settings
from graphsurgery.runtime.texts import read_padding_and_end

TOKENIZER, CONFIG, SPECIAL = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend", None)
"""Classes of tokenizers that know only the special tokens that a config names."""
LISTS = ("additional_special_tokens", "extra_special_tokens")
LONGEST = 1 << 20
"""A limit of this many tokens or more means no limit. transformers writes 1e30 for no limit."""


@dataclass(frozen=True)
class Tokenization:
    """How a model's texts are tokenised."""

    folder: Path
    """The folder of the tokenizer's files."""
    has_tokenizer: bool
    """Whether one of them is the tokenizer.json that the tokenizers package reads."""
    side: str = "right"
    pad_id: int = 0
    pad_token: str = "[PAD]"
    longest: int | None = None
    """The longest text in tokens, special ones included. Longer texts are cut."""
    lower_case: bool = False
    adds_special: bool = True
    """Whether special tokens are put around a text."""
    ends_special: bool = False
    """Whether a text ends with a token that transformers knows to be special. It does not count as one of a prompt's tokens."""
    has_own_limit: bool = False
    """Whether tokenizer.json itself sets the limit."""
    takes_messages: bool = False
    """Whether a chat template makes one text of each input. Only transformers' tokenizers know it."""


def read_tokenization(folder: Path, first: Module) -> Tokenization:
    """Read how sentence-transformers tokenises texts for the model in ``folder`` with the first module ``first``.

    Raises FolderError for a tokenizer.json that cannot be read.
    """
    place = first.path if is_there(first.path / TOKENIZER) else folder
    if not is_there(place / TOKENIZER):
        return Tokenization(place, False, longest=_find_longest(first, place), lower_case=_is_lower_case(first))
    open_file(resolve_inside(place, TOKENIZER, str(place)))
    try:
        side, pad, token, end = read_padding_and_end(place / TOKENIZER)
        ends_special = _is_special(place, end)
    except RequestError as error:
        raise FolderError(error.message, error.advice) from error
    if first.kind == "StaticEmbedding":  # its module takes the tokenizer as it is, padding and special tokens left out
        return Tokenization(place, True, side, pad, token, adds_special=False, has_own_limit=True)
    takes_messages = first.kind == "Transformer" and read_transformer_settings(first).takes_messages
    return Tokenization(
        place, True, side, pad, token, _find_longest(first, place), _is_lower_case(first), ends_special=ends_special,
        takes_messages=takes_messages,
    )  # fmt: skip


def read_folder_tokenization(folder: Path) -> Tokenization:
    """Read how texts are tokenised for the model in ``folder``, which may be a baked one without modules.json.

    Raises FolderError for modules or a tokenizer.json that cannot be read.
    """
    if is_there(folder / MODULES):
        return read_tokenization(folder, read_modules(folder)[0])
    kind = "StaticEmbedding" if _read_baked_kind(folder) == "StaticEmbedding" else "Transformer"
    return read_tokenization(folder, read_module(folder, "", f"sentence_transformers.models.{kind}", "0", folder))


def _read_baked_kind(folder: Path) -> str | None:
    """Return the kind of the first module that a baked folder was made from, or None if the folder does not record it."""
    modules = _read_settings(folder, BAKED).get("modules")
    first = modules[0] if isinstance(modules, list) and modules else None
    return first.get("kind") if isinstance(first, dict) else None


def _is_special(place: Path, token: str | None) -> bool:
    """Return whether transformers knows that ``token`` is special: by its tokenizer's class, or because the configs name it."""
    config = _read_settings(place, CONFIG)
    if token is None or config.get("tokenizer_class", GENERIC[0]) not in GENERIC:
        return token is not None
    return token in {*_list_special_tokens(config), *_list_special_tokens(_read_settings(place, SPECIAL))}


def _list_special_tokens(config: dict[str, Any]) -> Iterator[str]:
    """Yield the special tokens that a config names."""
    for key, value in config.items():
        listed = value if key in LISTS and isinstance(value, list) else [value] if key.endswith("_token") else []
        for one in listed:
            token = one.get("content") if isinstance(one, dict) else one
            if isinstance(token, str):
                yield token


def _is_lower_case(first: Module) -> bool:
    return first.kind == "Transformer" and read_transformer_settings(first).do_lower_case


def _find_longest(first: Module, place: Path) -> int | None:
    """Return the module's own limit, or else the smaller one of the tokenizer's and the position table's."""
    if first.kind != "Transformer":
        return None
    limit = read_transformer_settings(first).max_seq_length
    if limit is not None:
        return limit if limit < LONGEST else None
    encoder = read_encoder_config(first.path)
    positions = encoder.raw.get("max_position_embeddings") if encoder is not None else None
    limits: list[int] = [one for one in (_read_settings(place, CONFIG).get("model_max_length"), positions) if _is_limit(one)]
    return min(limits, default=None)


def _is_limit(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < LONGEST


def _read_settings(place: Path, name: str) -> dict[str, Any]:
    return dict(read_json(resolve_inside(place, name, str(place)))) if is_there(place / name) else {}
