"""Real text for feeds: a few sentences of our own, tokenised with the tokenizer that lies beside a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from graphsurgery.errors import MissingPackageError, RequestError, SurroundingsError

SENTENCES = (
    "The kettle has been boiling for ten minutes.",
    "Nobody turned off the stove, so the water is almost gone.",
    "Wie lange dauert die Fahrt mit dem Zug nach Hamburg?",
    "¿Dónde puedo cambiar mi contraseña?",
    "昨日は一日中雨が降っていました。",
    "SELECT name FROM users WHERE last_login < '2024-01-01';",
    "Hi",
    "A vector of length one keeps only its direction; whatever the norm once said about how sure the model was, or how long "
    "the text, is gone, and that is exactly what cosine similarity wants, though not always what its user wanted.",
)

SIDES = ("right", "left")


BATCH = 32
"""Texts that are run at a time."""


@dataclass(frozen=True)
class Encoded:
    """Tokenised texts: ``ids``, ``mask`` (bool) and ``types``, each ``[batch, seq]``. They are padded with the id ``pad`` on
    one ``side``."""

    ids: np.ndarray
    mask: np.ndarray
    types: np.ndarray
    pad: int = 0
    side: str = "right"

    def batches(self, size: int = BATCH) -> Iterator[Encoded]:
        """The texts, so many at a time, without the columns in which none of those has a token."""
        for start in range(0, len(self.ids), size):
            rows = slice(start, start + size)
            some = np.flatnonzero(self.mask[rows].any(axis=0))
            columns = slice(some[0], some[-1] + 1) if some.size else slice(None)
            yield self._of(partial(_part, rows, columns))

    def rows(self, chosen: np.ndarray) -> Encoded:
        """The texts at these places."""
        return self._of(lambda array, _: array[chosen])

    def as_wide_as(self, width: int) -> Encoded:
        """Each text padded up to ``width`` tokens, or cut, on its own side."""
        missing = max(width - self.ids.shape[1], 0)
        room = (missing, 0) if self.side == "left" else (0, missing)
        kept = slice(-width, None) if self.side == "left" else slice(width)
        return self._of(lambda array, filler: np.pad(array, ((0, 0), room), constant_values=filler)[:, kept])

    def _of(self, change: Callable[[np.ndarray, int], np.ndarray]) -> Encoded:
        """The same with every array changed; ``change`` gets what the array holds at padding, too."""
        arrays = ((self.ids, self.pad), (self.mask, 0), (self.types, 0))
        ids, mask, types = (change(array, filler) for array, filler in arrays)
        return replace(self, ids=ids, mask=mask, types=types)


def _part(rows: slice, columns: slice, array: np.ndarray, _filler: int) -> np.ndarray:
    return array[rows, columns]


def find_tokenizer(model: Path | None) -> Path | None:
    """The tokenizer.json beside a model or one folder above it, or None."""
    if model is None:
        return None
    return next((path for folder in (model.parent, model.parent.parent) if (path := folder / "tokenizer.json").is_file()), None)


def read_texts(path: str | Path) -> list[str]:
    """The non-empty lines of a UTF-8 file; RequestError when there is none, SurroundingsError when it cannot be read."""
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise SurroundingsError(f"cannot read {path}: {error.strerror}", "give a text file with one text a line") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8: {error}", "give a text file with one text a line") from error
    texts = [line for line in lines if line]
    if not texts:
        raise RequestError(f"{path} holds no text", "give a text file with one text a line")
    return texts


def tokenize(tokenizer: Path, texts: Sequence[str], longest: int) -> Encoded:
    """Tokenise with padding to the longest text, on the side the folder says; at most ``longest`` tokens each.

    MissingPackageError without the tokenizers package, RequestError for a tokenizer.json that it cannot read.
    """
    loaded = _opened(tokenizer)
    side, pad, token = _padding(tokenizer, loaded)
    loaded.enable_truncation(max_length=longest)
    loaded.enable_padding(direction=side, pad_id=pad, pad_token=token)
    encodings = loaded.encode_batch(list(texts))
    ids, mask, types = (np.array([getattr(one, name) for one in encodings]) for name in ("ids", "attention_mask", "type_ids"))
    return Encoded(ids, mask.astype(np.bool_), types, pad, side)


def padding_of(tokenizer: Path) -> tuple[str, int, str]:
    """(side, id, token) of the padding, as the folder of a tokenizer.json says. Raises as `tokenize`."""
    return _padding(tokenizer, _opened(tokenizer))


def closing_token(tokenizer: Path) -> str | None:
    """The special token that a tokenizer.json puts behind a text, as [SEP]; None where it puts none. Raises as `tokenize`."""
    encoded = _opened(tokenizer).encode("a")
    return str(encoded.tokens[-1]) if encoded.ids and encoded.special_tokens_mask[-1] else None


def _opened(tokenizer: Path) -> Any:
    """The tokenizer itself."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingPackageError("real text needs the tokenizers package", "pip install tokenizers") from error
    try:
        return Tokenizer.from_file(str(tokenizer))
    except Exception as error:  # the Rust side raises plain Exception
        raise RequestError(f"{tokenizer} cannot be read: {error}", "replace it with the model's own tokenizer.json") from error


def _padding(path: Path, loaded: Any) -> tuple[str, int, str]:
    """(side, id, token) of the padding as tokenizer_config.json or tokenizer.json give them; id 0 where they name none."""
    own = loaded.padding or {}
    config = _beside(path.with_name("tokenizer_config.json"))
    token = config.get("pad_token") or own.get("pad_token")
    token = token.get("content") if isinstance(token, dict) else token
    token = token if isinstance(token, str) and token.isprintable() else "[PAD]"
    pad = loaded.token_to_id(token)
    side = config.get("padding_side") or own.get("direction")
    return side if side in SIDES else SIDES[0], own.get("pad_id", 0) if pad is None else pad, token


def _beside(path: Path) -> dict[str, Any]:
    """The settings in a tokenizer_config.json; none where it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (ValueError, OSError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
