"""The parts of an output that is being made. A run that was killed at any moment resumes after the last complete part.

Until the output is done, the folder ``OUT.parquet.parts`` lies beside ``OUT.parquet``. It holds a manifest that says from what
and how the vectors are made, a lock, and a Parquet file for each 4,096 rows. Every file gets its name only when it is complete
and on the disk. The output is made of the parts in order, so a resumed run writes the same bytes as an uninterrupted one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphsurgery.embedding.rows import import_arrow
from graphsurgery.errors import OutputExistsError, RequestError, SurroundingsError
from graphsurgery.folders.files import hash_file
from graphsurgery.model.atomic import move_into_place, replace_file, sync_folder

if TYPE_CHECKING:
    import pyarrow

EMBEDDING = "embedding"
"""The column of the vectors."""
METADATA = b"graphsurgery"
"""The key of the Parquet metadata that says, in JSON, how the vectors were made."""
ERRORS = b"graphsurgery.errors"
MANIFEST, LOCK, DONE, BUDGET = "manifest.json", "lock", "done.json", "budget.json"
PART_ROWS = 4096
COMPRESSION = "zstd"
MOST_DIFFERENCES = 3


@dataclass(frozen=True)
class Part:
    """Rows that are done: all columns, with the vectors, and the reasons why some rows have no vector."""

    table: pyarrow.Table
    errors: Mapping[int, str]


class PartsFolder:
    """The folder of the parts of one output, which one run at a time may use."""

    def __init__(self, output: Path) -> None:
        self.output, self.path = output, output.with_name(f"{output.name}.parts")

    @contextmanager
    def open(self, manifest: Mapping[str, Any], *, force: bool) -> Iterator[None]:
        """Create the folder or resume from it, and hold its lock. With ``force``, parts of other vectors are dropped.

        Raises:
            OutputExistsError: the output exists already, and is not the one that these parts made.
            RequestError: there are parts of other texts or options, or another run is at work.
            SurroundingsError: the folder cannot be made.
        """
        try:
            self.path.mkdir(exist_ok=True)
        except OSError as error:
            raise SurroundingsError(f"cannot make {self.path}: {error.strerror}", "choose another place with -o") from error
        with self._lock():
            found = self._read(MANIFEST)
            if found is not None and found != json.loads(json.dumps(manifest)):
                if not force:
                    raise self._make_difference_error(found, manifest)
                self._drop_parts()
            if os.path.lexists(self.output) and not force and not self.is_done:
                self._drop_if_empty()
                raise OutputExistsError(
                    f"{self.output} exists already", "choose another place with -o, or replace it with --force"
                )
            self.write(MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())
            yield

    @contextmanager
    def _lock(self) -> Iterator[None]:
        try:
            from fcntl import LOCK_EX, LOCK_NB, flock
        except ImportError:  # Windows: nothing keeps two runs apart
            yield
            return
        descriptor = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        try:
            try:
                flock(descriptor, LOCK_EX | LOCK_NB)  # the system releases the lock when the process ends, whatever ends it
            except BlockingIOError:
                raise RequestError(f"another run is making {self.output}", "wait until it ends, or stop it") from None
            yield
        finally:
            os.close(descriptor)

    @property
    def is_done(self) -> bool:
        """Whether the output was made of these parts, and is whole: only the parts are left to remove."""
        done = self._read(DONE)
        return done is not None and self.output.is_file() and hash_file(self.output) == done.get("sha256")

    def recall(self, name: str, make: Callable[[], int]) -> int:
        """Return the number that an earlier run stored under ``name``, or compute it with ``make`` and store it."""
        found = (self._read(name) or {}).get("value")
        if isinstance(found, int):
            return found
        value = make()
        self.write(name, json.dumps({"value": value}).encode())
        return value

    def write(self, name: str, content: bytes) -> None:
        """Write a file. It gets its name only when it is complete and on the disk."""
        replace_file(self.path / name, content)

    def write_part(self, number: int, part: Part) -> None:
        """Write the rows of one part."""
        content = BytesIO()
        errors = json.dumps({str(place): why for place, why in part.errors.items()}, sort_keys=True)
        table = part.table.replace_schema_metadata({ERRORS: errors})
        with open_writer(content, table.schema) as writer:
            writer.write_table(table, row_group_size=PART_ROWS)
        self.write(_name_part(number), content.getvalue())

    def read_part(self, number: int) -> Part | None:
        """Return a part, or None if it is missing or damaged, so that it has to be made again."""
        arrow = import_arrow()
        try:
            table = arrow.parquet.read_table(self.path / _name_part(number), page_checksum_verification=True)
            errors = json.loads(table.schema.metadata[ERRORS])
        except (OSError, ValueError, KeyError, TypeError):  # Arrow's own errors are ValueErrors and OSErrors
            return None
        return Part(table.replace_schema_metadata(None), {int(place): why for place, why in errors.items()})

    def finish(self, made: Path, *, force: bool) -> None:
        """Give the file ``made``, in this folder, the output's name, and remove the parts."""
        self.write(DONE, json.dumps({"sha256": hash_file(made)}).encode())
        try:
            move_into_place(made, self.output, force=force or self.is_done)
        except FileExistsError:
            raise OutputExistsError(f"{self.output} exists already", "replace it with --force") from None
        sync_folder(self.output.parent)
        self.remove()

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def _drop_parts(self) -> None:
        for path in self.path.iterdir():
            if path.name != LOCK:
                path.unlink()

    def _drop_if_empty(self) -> None:
        if {path.name for path in self.path.iterdir()} <= {LOCK}:
            self.remove()

    def _read(self, name: str) -> dict[str, Any] | None:
        with suppress(OSError, ValueError):
            found = json.loads((self.path / name).read_text(encoding="utf-8"))
            return found if isinstance(found, dict) else None
        return None

    def _make_difference_error(self, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> RequestError:
        names = [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]
        shown = "; ".join(f"{name} was {found.get(name)!r} and is {wanted.get(name)!r}" for name in names[:MOST_DIFFERENCES])
        return RequestError(
            f"{self.path} holds the parts of another run: {shown}",
            "ask for the same again to go on with them, or drop them and start anew with --force",
        )


def _name_part(number: int) -> str:
    return f"{number:06d}.parquet"


@contextmanager
def open_writer(target: Any, schema: Any) -> Iterator[Any]:
    """Open a Parquet file for writing: compressed, and with checksums that notice a flipped bit."""
    arrow = import_arrow()
    kind = schema.field(EMBEDDING).type
    is_float = arrow.types.is_float32(kind.value_type)
    split = {"use_byte_stream_split": [f"{EMBEDDING}.list.element"]} if is_float else {}
    with arrow.parquet.ParquetWriter(
        target, schema, compression=COMPRESSION, write_page_checksum=True, use_dictionary=False, **split
    ) as writer:
        yield writer


def add_vectors(table: Any, vectors: np.ndarray, missing: list[int]) -> Any:
    """Return ``table`` with a column of ``vectors [rows, dims]``, null in the ``missing`` rows."""
    arrow = import_arrow()
    if EMBEDDING in table.column_names:
        raise RequestError(f"the input has a column {EMBEDDING!r} already", "rename it, because the vectors get that name")
    flat = arrow.array(np.ascontiguousarray(vectors).reshape(-1))
    mask = np.zeros(len(vectors), np.bool_)
    mask[missing] = True
    column = arrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1], mask=arrow.array(mask))
    return table.append_column(EMBEDDING, column)
