"""Read the rows of a file of texts (lines, JSON lines, CSV or Parquet) in groups, with all their columns."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphsurgery.errors import MissingPackageError, RequestError, SurroundingsError
from graphsurgery.suggestions import suggest

if TYPE_CHECKING:
    import pyarrow

LINES, JSONL, CSV, PARQUET = "lines", "jsonl", "csv", "parquet"
FORMATS = {".txt": LINES, ".jsonl": JSONL, ".ndjson": JSONL, ".csv": CSV, ".parquet": PARQUET}
"""The formats by the ends of file names."""
TEXT = "text"
"""The usual column of the texts, and the only one of plain lines."""
BLOCK = 1 << 20


@dataclass(frozen=True)
class Rows:
    """Some rows that follow one another."""

    first: int
    """The place of the first one in the file."""
    texts: tuple[object, ...]
    """The text of each row. If a row holds something else in the column of texts, that value as it is."""
    table: pyarrow.Table
    """All columns, the texts' included."""
    broken: Mapping[int, str] = field(default_factory=dict)
    """Why rows could not be read, by the place of the row in the file. The columns of such a row are null."""


def import_arrow() -> Any:
    """Return the module pyarrow. Raises MissingPackageError if it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingPackageError("embedding files needs pyarrow", "pip install 'graphsurgery[embed]'") from error
    return pyarrow


def find_format(path: Path, asked: str | None) -> str:
    """Return the format of a file: ``asked`` if given, or else the one that its name ends with.

    Raises RequestError if neither is a known format.
    """
    choices = tuple(dict.fromkeys(FORMATS.values()))
    found = asked if asked is not None else FORMATS.get(path.suffix.lower())
    if found not in choices:
        what = f"the format {asked!r} is not known" if asked is not None else f"the name {path.name!r} does not tell its format"
        raise RequestError(what, f"{suggest(str(asked or ''), choices)}give --format {', '.join(choices)}")
    return found


@dataclass(frozen=True)
class Digest:
    """The sha256 (hex) of a file's bytes, and its number of rows; None if it cannot be counted without reading them."""

    sha256: str
    rows: int | None


def digest_file(path: Path, form: str) -> Digest:
    """Return the digest of an input. Raises SurroundingsError if it cannot be read."""
    found, lines, last = hashlib.sha256(), 0, b"\n"
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                found.update(block)
                lines, last = lines + block.count(b"\n"), block[-1:]
    except OSError as error:
        raise SurroundingsError(f"cannot read {path}: {error.strerror}", "check the path") from error
    if form == PARQUET:
        return Digest(found.hexdigest(), _open_parquet(path).metadata.num_rows)
    return Digest(found.hexdigest(), lines + (last != b"\n") if form in (LINES, JSONL) else None)


def read_rows(path: Path, form: str, column: str, size: int, schema: pyarrow.Schema | None = None) -> Iterator[Rows]:
    """Yield all rows of a file, ``size`` at a time.

    Args:
        column: the column of the texts.
        schema: the columns and their types, if earlier rows have shown them. Otherwise the first ``size`` rows do.

    Raises:
        RequestError: there is no such column, or a later row does not fit the columns of the first ones.
        SurroundingsError: the file cannot be read.
    """
    arrow = import_arrow()
    if form == PARQUET:
        yield from _read_parquet(path, column, size)
        return
    records = _READERS[form](path)
    for first in range(0, 1 << 62, size):
        some = list(islice(records, size))
        if not some:
            return
        broken = {first + place: one for place, one in enumerate(some) if isinstance(one, str)}
        kept = [{} if isinstance(one, str) else one for one in some]
        if schema is None:
            schema = _infer_schema(arrow, kept, column, path)
        table = _make_table(arrow, kept, schema, first)
        yield Rows(first, tuple(one.get(column) for one in kept), table, broken)


Record = dict[str, Any] | str
"""A row's columns, or why it cannot be read."""


def _read_lines(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        for line in file:
            yield {TEXT: line.rstrip("\r\n")}


def _read_json_lines(path: Path) -> Iterator[Record]:
    for one in _read_lines(path):
        line = one[TEXT] if isinstance(one, dict) else ""
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield f"it is not JSON: {str(error)[:80]}"
            continue
        yield found if isinstance(found, dict) else "it is not a JSON object"


def _read_csv(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for one in reader:
                yield "it has more cells than the heading" if None in one else dict(one)
        except csv.Error as error:
            raise RequestError(f"{path}, line {reader.line_num}: {error}", "save it again as CSV with commas") from error


_READERS: Mapping[str, Callable[[Path], Iterator[Record]]] = {LINES: _read_lines, JSONL: _read_json_lines, CSV: _read_csv}


def _infer_schema(arrow: Any, records: list[dict[str, Any]], column: str, path: Path) -> Any:
    names = list(dict.fromkeys(chain.from_iterable(records)))
    if column not in names:
        raise _make_column_error(column, names, path)
    fields = []
    for name in names:
        values = [one.get(name) for one in records]
        try:
            kind = arrow.string() if name == column else arrow.array([_clean(one) for one in values]).type
        except (arrow.ArrowInvalid, arrow.ArrowTypeError) as error:
            raise RequestError(
                f"the column {name!r} of {path} holds values of several kinds: {error}", "give one kind"
            ) from error
        fields.append(arrow.field(name, arrow.string() if arrow.types.is_null(kind) else kind))
    return arrow.schema(fields)


def _make_table(arrow: Any, records: list[dict[str, Any]], schema: Any, first: int) -> Any:
    for place, one in enumerate(records, first):
        new = next((name for name in one if name not in schema.names), None)
        if new is not None:
            what = f"row {place} has the column {new!r}, which the first rows lack"
            raise RequestError(what, "give all rows the same columns")
    columns = []
    for one in schema:
        values = [_clean(record.get(one.name)) for record in records]
        texts = [value if isinstance(value, str) or value is None else json.dumps(value) for value in values]
        try:
            columns.append(arrow.array(texts if arrow.types.is_string(one.type) else values, one.type))
        except (arrow.ArrowInvalid, arrow.ArrowTypeError, OverflowError) as error:
            raise RequestError(
                f"the column {one.name!r} is {one.type} in the first rows, and not from row {first} on: {error}",
                "give the column one kind of values",
            ) from error
    return arrow.Table.from_arrays(columns, schema=schema)


def _clean(value: Any) -> Any:
    """Return ``value`` so that Arrow can hold it: lone surrogates become question marks. Such a row is an error anyway."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def _open_parquet(path: Path) -> Any:
    arrow = import_arrow()
    try:
        return arrow.parquet.ParquetFile(path)
    except (OSError, arrow.ArrowInvalid) as error:
        raise RequestError(f"{path} is not Parquet, or is cut off: {error}", "write it again") from error


def _read_parquet(path: Path, column: str, size: int) -> Iterator[Rows]:
    arrow, file = import_arrow(), _open_parquet(path)
    if column not in file.schema_arrow.names:
        raise _make_column_error(column, file.schema_arrow.names, path)
    first, waiting = 0, []
    batches = file.iter_batches(batch_size=size)
    while True:
        batch = next(batches, None)
        waiting += [] if batch is None else [batch]
        count = sum(one.num_rows for one in waiting)
        if batch is not None and count < size:
            continue
        if not count:
            return
        table = arrow.Table.from_batches(waiting)
        part, rest = table.slice(0, size), table.slice(size)
        yield Rows(first, tuple(part.column(column).to_pylist()), part.combine_chunks().replace_schema_metadata(None))
        first, waiting = first + part.num_rows, rest.to_batches()


def _make_column_error(column: str, names: list[str], path: Path) -> RequestError:
    return RequestError(
        f"{path} has no column {column!r}", f"{suggest(column, names)}name the texts' column with --column: {', '.join(names)}"
    )
