"""embed: turn a file of texts into a file of vectors, in bounded memory. A run that was killed can be resumed."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from graphsurgery.argument_types import check_argument_types
from graphsurgery.embedding.embedder import CHARACTERS_OF_TOKEN, RAISE, SKIP, Embedder, check_choice
from graphsurgery.embedding.part_maker import MadePart, PartMaker, PartOptions
from graphsurgery.embedding.parts import BUDGET, EMBEDDING, METADATA, PART_ROWS, Part, PartsFolder, open_writer
from graphsurgery.embedding.ray_engine import import_ray, make_parts_on_ray
from graphsurgery.embedding.rows import (
    JSONL,
    PARQUET,
    TEXT,
    Digest,
    Rows,
    digest_file,
    find_format,
    import_arrow,
    read_rows,
)
from graphsurgery.embedding.tokenizer import CUT
from graphsurgery.errors import RequestError, SurroundingsError, require_value
from graphsurgery.folders.ranges import read_ranges
from graphsurgery.progress import Progress, ignore_progress
from graphsurgery.report import list_few
from graphsurgery.runtime.devices import AUTO

STDIN = "-"
NPY = "npy"
WRITTEN = {".parquet": PARQUET, ".npy": NPY, ".jsonl": JSONL}
"""The formats of outputs, by the ends of their names."""
PROCESS, RAY = ENGINES = ("process", "ray")
"""What the texts are embedded by: this process, or workers of Ray."""


@dataclass(frozen=True)
class EmbeddedFile:
    """The result of `embed_file`."""

    output: Path
    rows: int
    dims: int
    tokens: int
    """The tokens that this run embedded. Those of parts that were there already do not count."""
    cut: int
    """The texts that this run cut, because they are longer than the model takes."""
    errors: Mapping[int, str] = field(default_factory=dict)
    """Why rows have no vector, by the place of the row in the input, counted from 0."""
    resumed: int = 0
    """The rows that an earlier run had done."""
    seconds: float = 0.0
    identity: Mapping[str, Any] = field(default_factory=dict)
    """How the vectors were made. Vectors can be compared if these are equal."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about texts that were cut, and about rows without a vector."""
        found = [f"{self.cut} texts were cut at {self.identity.get('max_length')} tokens"] if self.cut else []
        if self.errors:
            places = list_few([f"{place} ({why})" for place, why in self.errors.items()])
            found.append(f"{len(self.errors)} rows have no vector: {places}")
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        return {
            "output": str(self.output), "rows": self.rows, "dims": self.dims, "tokens": self.tokens, "cut": self.cut,
            "errors": {str(place): why for place, why in self.errors.items()}, "resumed": self.resumed,
            "seconds": self.seconds, "identity": dict(self.identity), "warnings": list(self.warnings),
        }  # fmt: skip


@check_argument_types(model='give the folder that `graphsurgery bake` made: embed_file("texts.txt", "my-model-baked", ...)')
def embed_file(
    texts: str | os.PathLike[str],
    model: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str],
    format: str | None = None,
    column: str = TEXT,
    id_column: str | None = None,
    prompt_name: str | None = None,
    prompt: str | None = None,
    dims: int | None = None,
    precision: str | None = None,
    ranges: str | os.PathLike[str] | None = None,
    on_long: str = CUT,
    on_error: str = RAISE,
    providers: str = AUTO,
    threads: int | None = None,
    max_batch_tokens: int | None = None,
    engine: str = PROCESS,
    workers: int | None = None,
    force: bool = False,
    progress: Progress = ignore_progress,
) -> EmbeddedFile:
    """Embed the texts of a file, and write their vectors with all columns of the input beside them.

    A run that is interrupted, or killed, leaves its finished parts beside the output. The same call resumes from them, and
    writes the same bytes as an uninterrupted run. The Parquet metadata say how the vectors were made.

    Args:
        texts: a file with a text a line (.txt), JSON lines (.jsonl), CSV with a heading (.csv) or Parquet, or ``-`` for stdin.
        model: a folder that `bake` made, or a pooled ONNX file. See `Embedder`.
        output: where to write: .parquet (the input's columns and ``embedding``, a list of a fixed size), .jsonl (the same), or
            .npy (``[rows, dims]`` alone).
        format: lines, jsonl, csv or parquet, if the name does not tell it.
        column: the column of the texts. Plain lines have the one column ``text``.
        id_column: a column that names the rows in messages.
        prompt_name, prompt, dims, precision, on_long: as `Embedder.embed` takes them.
        ranges: a .npy or .json file with ``[2, dims]``, for int8 and uint8.
        on_error: ``raise`` the first error of a row, such as an empty text, or ``skip`` such rows: their vectors are null then
            (NaN or 0 in .npy), and the result says why.
        providers, threads, max_batch_tokens: as `Embedder` takes them. With Ray, a worker has one thread unless you say
            otherwise.
        engine: ``process`` embeds in this process. ``ray`` embeds with Ray Data, on the workers of the cluster that
            RAY_ADDRESS names, or else on this machine. Both write the same parts, so either can resume a run of the other.
        workers: the workers of Ray, each with the model in its memory. Default: as many as the processors allow.
        force: replace an existing output, and drop parts of other texts or options.
        progress: called with a text that states texts and tokens per second, the rows that are done, and all rows.

    Raises:
        RequestError: a row, an option or a column is wrong, or there are parts of another run.
        OutputExistsError: the output exists already.
        MissingPackageError: pyarrow is not installed, or Ray, if it was asked for.
        SurroundingsError: the input cannot be read, the disk is full, or Ray's workers fail or do nothing for a minute.
        FolderError, ModelError, UnsupportedModelError: as `Embedder` raises them.
    """
    start = time.perf_counter()
    import_arrow()
    target = Path(os.fspath(output))
    written = _find_written(target)
    check_choice("on_error", on_error, (RAISE, SKIP))
    _check_engine(engine, workers)
    if engine == RAY:
        import_ray()
        threads = threads or 1  # of each worker
    embedder = Embedder(model, providers=providers, threads=threads, max_batch_tokens=max_batch_tokens)
    found_ranges = None if ranges is None else read_ranges(Path(os.fspath(ranges)), embedder.width)
    chosen = embedder.choose_prompt(prompt_name, prompt)
    maker = PartMaker(embedder, PartOptions(chosen, dims, precision, on_long, found_ranges, on_error, id_column))
    identity = maker.describe()
    with _open_input(os.fspath(texts)) as path:
        form = find_format(Path(os.fspath(texts)) if os.fspath(texts) != STDIN else Path("stdin.txt"), format)
        digest = digest_file(path, form)
        parts = PartsFolder(target)
        manifest = {
            "input": digest.sha256, "column": column, "id_column": id_column, "part_rows": PART_ROWS, "format": form,
            "written": written, **identity,
        }  # fmt: skip
        job = _Job(parts, _Source(path, form, column, id_column), digest, progress)
        with parts.open(manifest, force=force):
            if not parts.is_done:
                tokens = path.stat().st_size / CHARACTERS_OF_TOKEN
                embedder.max_batch_tokens = parts.recall(BUDGET, lambda: embedder.measure_budget(tokens, progress))
                if engine == RAY:
                    job.run(lambda rows: make_parts_on_ray(rows, maker, workers, job.tell))
                else:
                    job.run(lambda rows: ((number, maker.make(one)) for number, one in rows))
                parts.finish(job.merge(written, identity), force=force)
            else:  # a run was killed when only its parts were left to remove
                parts.remove()
    errors = dict(sorted(job.errors.items()))
    return EmbeddedFile(
        target, job.rows, job.dims, job.tokens, job.cut, errors, job.resumed, time.perf_counter() - start, identity
    )


def _check_engine(engine: str, workers: int | None) -> None:
    check_choice("engine", engine, ENGINES)
    if workers is not None and engine != RAY:
        raise RequestError(f"workers is {workers}, and the engine is {engine}", "leave workers out, or give --engine ray")
    if workers is not None and workers < 1:
        raise RequestError(f"workers is {workers}", "give 1 or more, or leave workers out")


class _Source(NamedTuple):
    """Where the rows come from."""

    path: Path
    form: str
    column: str
    id_column: str | None


NumberedRows = Iterator[tuple[int, Rows]]
"""The rows of parts, with the numbers of the parts."""


class _Job:
    """The rows of one input on their way to the output."""

    def __init__(self, parts: PartsFolder, source: _Source, digest: Digest, progress: Progress) -> None:
        self.parts, self.source, self.digest, self.progress = parts, source, digest, progress
        self.rows = self.tokens = self.cut = self.resumed = self.dims = self.count = 0
        self.errors: dict[int, str] = {}
        self.start = time.perf_counter()

    def run(self, make_parts: Callable[[NumberedRows], Generator[tuple[int, MadePart], None, None]]) -> None:
        """Make all parts that do not exist yet. ``make_parts`` takes (number, rows) of each, and yields (number, part)."""
        with closing(make_parts(self._list_missing())) as parts:
            for number, made in parts:
                self.parts.write_part(number, made.part)
                self.tokens += made.tokens
                self.cut += made.cut
                self._count(made.part)
        if not self.count:
            raise RequestError(f"{self.source.path} holds no rows", "give a file with one text or more")

    def _list_missing(self) -> NumberedRows:
        """Yield the rows of each part that is missing or damaged."""
        path, form, column, id_column = self.source
        first = self.parts.read_part(0)
        schema = None if first is None else first.table.drop_columns([EMBEDDING]).schema
        for number, rows in enumerate(read_rows(path, form, column, PART_ROWS, schema)):
            if id_column is not None and id_column not in rows.table.column_names:
                names = ", ".join(rows.table.column_names)
                raise RequestError(f"there is no column {id_column!r}", f"the columns are {names}")
            self.tell()
            self.count = number + 1
            part = self.parts.read_part(number)
            if part is not None and part.table.num_rows == len(rows.texts):
                self.resumed += len(rows.texts)
                self._count(part)
            else:
                yield number, rows

    def _count(self, part: Part) -> None:
        self.rows += part.table.num_rows
        self.errors |= part.errors
        self.dims = part.table.schema.field(EMBEDDING).type.list_size

    def tell(self, underway: int = 0) -> None:
        """Report the progress. ``underway`` counts the finished rows of parts that are not complete yet."""
        rows = self.rows + underway
        seconds, done = time.perf_counter() - self.start, rows - self.resumed
        tokens = f", {self.tokens / seconds:.0f} tokens/s" if self.tokens else ""
        speed = f": {done / seconds:.0f} texts/s{tokens}" if done else ""
        left = ""
        if done and self.digest.rows is not None:
            minutes, rest = divmod(round((self.digest.rows - rows) / done * seconds), 60)
            left = f", {minutes}:{rest:02d} left"
        self.progress(f"embedding rows{speed}{left}", rows, self.digest.rows or 0)

    def merge(self, written: str, identity: Mapping[str, Any]) -> Path:
        """Join all parts to the output, still in the folder of the parts, and return its path."""
        self.progress("joining the parts")
        made = self.parts.path / f"merged.{written}"
        made.unlink(missing_ok=True)
        _MERGERS[written](made, self._read_parts(), self.rows, identity)
        with made.open("rb+") as file:
            os.fsync(file.fileno())
        return made

    def _read_parts(self) -> Iterator[Any]:
        for number in range(self.count):
            yield require_value(self.parts.read_part(number), f"part {number}").table


def _merge_parquet(made: Path, tables: Iterator[Any], _: int, identity: Mapping[str, Any]) -> None:
    first = next(tables)
    schema = first.schema.with_metadata({METADATA: json.dumps(identity, sort_keys=True)})
    with open_writer(made, schema) as writer:
        writer.write_table(first.cast(schema), row_group_size=PART_ROWS)
        for table in tables:
            writer.write_table(table.cast(schema), row_group_size=PART_ROWS)


def _merge_jsonl(made: Path, tables: Iterator[Any], _: int, __: Mapping[str, Any]) -> None:
    with made.open("w", encoding="utf-8", newline="\n") as file:
        for table in tables:
            others = table.drop_columns([EMBEDDING]).to_pylist()
            for one, vector in zip(others, table.column(EMBEDDING).to_pylist(), strict=True):
                file.write(json.dumps(one | {EMBEDDING: vector}, ensure_ascii=False, default=str) + "\n")


def _merge_npy(made: Path, tables: Iterator[Any], rows: int, _: Mapping[str, Any]) -> None:
    with made.open("wb") as file:  # and not by a memory map: its pages count as memory of this process
        for number, table in enumerate(tables):
            column = table.column(EMBEDDING).combine_chunks()
            values = column.values.to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
            if not number:
                header = {"descr": values.dtype.str, "fortran_order": False, "shape": (rows, values.shape[1])}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(values).data)


_MERGERS: Mapping[str, Callable[[Path, Iterator[Any], int, Mapping[str, Any]], None]] = {
    PARQUET: _merge_parquet, JSONL: _merge_jsonl, NPY: _merge_npy,
}  # fmt: skip


def _find_written(output: Path) -> str:
    found = WRITTEN.get(output.suffix.lower())
    if found is None:
        raise RequestError(f"{output} does not tell its format", f"give a name that ends with {', '.join(WRITTEN)}")
    if not output.parent.is_dir():
        raise SurroundingsError(f"there is no folder {output.parent}", "make it, or choose another place with -o")
    return found


@contextmanager
def _open_input(texts: str) -> Iterator[Path]:
    """Yield the path of the input. The input is read twice, so what comes on stdin is first put into a temporary file."""
    if texts != STDIN:
        yield Path(texts)
        return
    with tempfile.TemporaryDirectory(prefix="graphsurgery-") as folder:
        path = Path(folder) / "stdin"
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield path
