"""Rows to parts: embed the rows of one part. A single process does this, and so does each of Ray's workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphsurgery.embedding.embedder import RAISE, SKIP, Embedded, Embedder
from graphsurgery.embedding.parts import Part, add_vectors
from graphsurgery.embedding.rows import Rows
from graphsurgery.embedding.tokenization import TOKENIZER
from graphsurgery.errors import RequestError
from graphsurgery.folders.files import hash_file
from graphsurgery.model.certificate import list_versions
from graphsurgery.progress import Progress

EMPTY = "the text is empty"
FLOAT32 = "float32"


@dataclass(frozen=True)
class PartOptions:
    """How the vectors of rows are made, and whether a row that cannot be embedded is an error or is skipped."""

    prompt: str
    """The text that goes before each text, already chosen."""
    dims: int | None
    precision: str | None
    on_long: str
    ranges: np.ndarray | None
    on_error: str
    id_column: str | None


@dataclass(frozen=True)
class MadePart:
    """A part that was just made, with its numbers of tokens and of cut texts."""

    part: Part
    tokens: int
    cut: int
    """How many texts were cut."""


class PartMaker:
    """Makes parts with one model."""

    def __init__(self, embedder: Embedder, options: PartOptions) -> None:
        self.embedder, self.options = embedder, options

    def describe(self) -> dict[str, Any]:
        """Return how this maker's vectors are made, as `describe_vectors` gives it."""
        asked = self.options
        return describe_vectors(self.embedder, asked.prompt, asked.dims, asked.precision, asked.on_long, asked.ranges)

    def make(self, rows: Rows, progress: Progress | None = None) -> MadePart:
        """Embed the texts of some rows. A row that cannot be embedded does not affect the others.

        Raises RequestError for the first row that cannot be embedded, unless such rows are skipped.
        """
        texts = [None if one == "" else one for one in rows.texts]  # None is an error, and an empty text is one here
        errors = {rows.first + place: EMPTY for place, one in enumerate(texts) if one is None}
        errors |= rows.broken
        done = self._embed(texts, rows.first, progress)
        errors |= {
            place: error.message.removeprefix(f"text {place} ") for place, error in done.errors.items() if place not in errors
        }
        if errors and self.options.on_error == RAISE:
            place = min(errors)
            raise RequestError(
                f"row {self._name(rows, place)}: {errors[place]}",
                "mend the row, or give --on-error skip to leave its vector out",
            )
        table = add_vectors(rows.table, done.vectors, [place - rows.first for place in errors])
        return MadePart(Part(table, errors), done.tokens, len(done.cuts))

    def _embed(self, texts: list[Any], first: int, progress: Progress | None) -> Embedded:
        asked = self.options
        return self.embedder.embed(
            texts, dims=asked.dims, precision=asked.precision, progress=progress, prompt=asked.prompt, on_long=asked.on_long,
            on_error=SKIP, ranges=asked.ranges, first=first,
        )  # fmt: skip

    def _name(self, rows: Rows, place: int) -> str:
        column = self.options.id_column
        return str(place) if column is None else f"{place} ({column} {rows.table.column(column)[place - rows.first].as_py()!r})"


def describe_vectors(
    embedder: Embedder, prompt: str, dims: int | None, precision: str | None, on_long: str, ranges: np.ndarray | None
) -> dict[str, Any]:
    """Return how vectors are made, ready for JSON. Vectors can be compared if these are equal."""
    data = sorted({file.path for file in embedder.model.files.values()}, key=str)
    return {
        "model_sha256": [hash_file(embedder.path), *map(hash_file, data)],
        "tokenizer_sha256": hash_file(embedder.tokenization.folder / TOKENIZER),
        "output": embedder.output, "prompt": prompt, "max_length": embedder.max_length, "on_long": on_long, "dims": dims,
        "precision": precision or FLOAT32, "ranges": None if ranges is None else ranges.tolist(),
        "similarity": embedder.config.similarity or "cosine", "versions": list_versions(),
    }  # fmt: skip
