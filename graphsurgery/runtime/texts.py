"""Real text for feeds: a few built-in sentences, the texts of the package, or the lines of a file.

The tokenizer beside a model tokenises them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
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

JUDGE, CALIBRATE = "judge", "calibrate"
BUNDLED = {JUDGE: "judging.txt", CALIBRATE: "calibration.txt"}
"""The lists of texts in the package's folder ``data``, by their use. No text is in both."""
SIDES = ("right", "left")
ADVICE = "give a text file with one text per line"
BATCH = 32
"""The number of texts to run at a time."""


@dataclass(frozen=True)
class Encoded:
    """Tokenised texts: ``ids``, ``mask`` (bool, true at tokens) and ``types``, each ``[batch, seq]``.

    Padding has the id ``pad``, and is on the ``side`` "right" or "left".
    """

    ids: np.ndarray
    mask: np.ndarray
    types: np.ndarray
    pad: int = 0
    side: str = "right"

    def split_into_batches(self) -> Iterator[Encoded]:
        """Yield the texts, `BATCH` at a time, each batch as `take` gives it."""
        for start in range(0, len(self.ids), BATCH):
            yield self.take(slice(start, start + BATCH))

    def take(self, rows: slice | Sequence[int]) -> Encoded:
        """Return some of the texts as a batch, without the columns at both ends that hold only padding."""
        some = np.flatnonzero(self.mask[rows].any(axis=0))
        batch = self.select(rows)
        return batch.select((slice(None), slice(some[0], some[-1] + 1))) if some.size else batch

    def select(self, part: Any) -> Encoded:
        """Return the texts, or parts of texts, at this numpy index."""
        return self._map_arrays(lambda array, _: array[part])

    def pad_to(self, width: int) -> Encoded:
        """Return the texts, each padded or cut to ``width`` tokens on its own side."""
        missing = max(width - self.ids.shape[1], 0)
        room = (missing, 0) if self.side == "left" else (0, missing)
        kept = slice(-width, None) if self.side == "left" else slice(width)
        return self._map_arrays(lambda array, filler: np.pad(array, ((0, 0), room), constant_values=filler)[:, kept])

    def _map_arrays(self, change: Callable[[np.ndarray, int], np.ndarray]) -> Encoded:
        """Return the texts with ``change(array, value at padding)`` in place of each array."""
        arrays = ((self.ids, self.pad), (self.mask, 0), (self.types, 0))
        ids, mask, types = (change(array, filler) for array, filler in arrays)
        return replace(self, ids=ids, mask=mask, types=types)


def find_tokenizer(model: Path | None) -> Path | None:
    """Return the tokenizer.json beside a model or in the folder above it, or None."""
    if model is None:
        return None
    return next((path for folder in (model.parent, model.parent.parent) if (path := folder / "tokenizer.json").is_file()), None)


def read_texts(path: str | Path) -> list[str]:
    """Return the non-empty lines of a UTF-8 file.

    Raises RequestError if it has none or is not UTF-8, SurroundingsError if it cannot be read.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines()]
    except OSError as error:
        raise SurroundingsError(f"cannot read {path}: {error.strerror}", ADVICE) from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8: {error}", ADVICE) from error
    texts = [line for line in lines if line]
    if not texts:
        raise RequestError(f"{path} contains no text", ADVICE)
    return texts


def bundled_texts(use: str) -> list[str]:
    """Return the texts of the package for one use: `JUDGE` (for judging lossy models) or `CALIBRATE` (for quantising).

    They are in many languages and of many lengths. A file has one text per line, in which ``\\n`` stands for a new line.
    Raises RequestError for any other use.
    """
    if use not in BUNDLED:
        raise RequestError(f"the package has no texts to {use!r}", f"its texts are for one of: {', '.join(BUNDLED)}")
    content = resources.files("graphsurgery").joinpath("data", BUNDLED[use]).read_text(encoding="utf-8")
    return [line.replace("\\n", "\n") for line in content.split("\n") if line]


def tokenize(tokenizer: Path, texts: Sequence[str], longest: int) -> Encoded:
    """Tokenise texts, cut to ``longest`` tokens each and padded to the longest text on the side that the folder says.

    Raises MissingPackageError if the tokenizers package is not installed, RequestError if it cannot read the tokenizer.json.
    """
    loaded = open_tokenizer(tokenizer)
    side, pad, token = _read_padding(tokenizer, loaded)
    loaded.enable_truncation(max_length=longest)
    loaded.enable_padding(direction=side, pad_id=pad, pad_token=token)
    encodings = loaded.encode_batch(list(texts))
    ids, mask, types = (np.array([getattr(one, name) for one in encodings]) for name in ("ids", "attention_mask", "type_ids"))
    return Encoded(ids, mask.astype(np.bool_), types, pad, side)


def read_padding(tokenizer: Path) -> tuple[str, int, str]:
    """Return (side, id, token) of the padding, as the folder of a tokenizer.json says. Raises the errors of `tokenize`."""
    return _read_padding(tokenizer, open_tokenizer(tokenizer))


def read_padding_and_end(tokenizer: Path) -> tuple[str, int, str, str | None]:
    """Return what `read_padding` does, and the special token at the end of a text, such as [SEP]; None if there is none.

    Raises the errors of `tokenize`.
    """
    loaded = open_tokenizer(tokenizer)
    encoded = loaded.encode("a")
    end = str(encoded.tokens[-1]) if encoded.ids and encoded.special_tokens_mask[-1] else None
    return *_read_padding(tokenizer, loaded), end


def open_tokenizer(tokenizer: Path) -> Any:
    """Return the tokenizer of a tokenizer.json. Raises the errors of `tokenize`."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingPackageError("real text needs the tokenizers package", "pip install tokenizers") from error
    try:
        return Tokenizer.from_file(str(tokenizer))
    except Exception as error:  # the Rust side raises plain Exception
        raise RequestError(f"{tokenizer} cannot be read: {error}", "replace it with the model's own tokenizer.json") from error


def _read_padding(path: Path, loaded: Any) -> tuple[str, int, str]:
    """Return (side, id, token) of the padding from tokenizer_config.json or tokenizer.json. If neither names an id, it is 0."""
    own = loaded.padding or {}
    config = _read_config(path.with_name("tokenizer_config.json"))
    token = config.get("pad_token") or own.get("pad_token")
    token = token.get("content") if isinstance(token, dict) else token
    token = token if isinstance(token, str) and token.isprintable() else "[PAD]"
    pad = loaded.token_to_id(token)
    side = config.get("padding_side") or own.get("direction")
    return side if side in SIDES else SIDES[0], own.get("pad_id", 0) if pad is None else pad, token


def _read_config(path: Path) -> dict[str, Any]:
    """Return the settings in a tokenizer_config.json; an empty dict if it cannot be read."""
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig")) if path.is_file() else {}
    except (ValueError, OSError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}
