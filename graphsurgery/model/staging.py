"""The output: which names it and its data file may take, and how it is written under a temporary name, proven, and then
renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path

from graphsurgery.errors import OutputExistsError, SurroundingsError
from graphsurgery.model import atomic
from graphsurgery.model.atomic import FileRange, Piece, Progress, ignore_progress
from graphsurgery.model.hub_cache import check_outside_cache
from graphsurgery.model.model import Model
from graphsurgery.model.records import Chunk, Document, Span
from graphsurgery.model.sources import ByteSource
from graphsurgery.remarks import HasRemarks

HUB_FOLDER = "onnx"
"""The folder of the ONNX files in a repository of a model hub."""


def check_output(model: Model, output: Path, *, force: bool) -> None:
    """Check that ``output`` may be written. Raise RequestError, OutputExistsError or SurroundingsError otherwise."""
    own = [model.path] if model.path is not None else []
    own += [file.path for file in model.files.values()]
    for path in own:
        if _is_same_file(path, output):
            raise OutputExistsError(f"{output} is the input, which is never overwritten", "choose another output with -o")
    check_outside_cache(output)
    if output.exists() and not output.is_file():
        what = "a folder" if output.is_dir() else "not a regular file"
        raise OutputExistsError(f"{output} is {what}", "give the path of a file with -o")
    if os.path.lexists(output) and not force:
        raise make_exists_error(output)
    if not output.parent.is_dir():
        raise SurroundingsError(
            f"the folder {output.parent} does not exist", "create it first, or choose another output with -o"
        )


def choose_data_name(output: Path) -> Path:
    """Return ``<output>.data``, or that name with a number if it is taken.

    In a folder ``onnx``, as model hubs have it, the name is ``<output>_data``, the only one that hub clients download.
    """
    ending = "_data" if output.parent.name == HUB_FOLDER else ".data"
    for number in ("", *(f".{n}" for n in range(1, 1000))):
        candidate = output.with_name(f"{output.name}{number}{ending}")
        if not os.path.lexists(candidate):
            return candidate
    raise OutputExistsError(
        f"{output}.data and a thousand numbered names like it exist", "remove the data files that no model uses"
    )


def list_leftover_data(model: Model, output: Path) -> list[str]:
    """Return the data files of earlier outputs of this name. Replacing the output leaves them, since another model may refer to
    them."""
    own = {file.path.name for file in model.files.values()}
    found = [output.with_name(f"{output.name}{ending}") for ending in (".data", "_data")]
    found += [one for ending in (".data", "_data") for one in output.parent.glob(f"{escape(output.name)}.[0-9]*{ending}")]
    return sorted(path.name for path in found if path.exists() and path.name not in own)


def is_same_folder(folder: Path | None, other: Path) -> bool:
    """Return whether ``folder`` is given and is ``other``, however the two are spelt."""
    return folder is not None and os.path.realpath(folder) == os.path.realpath(other)


def make_exists_error(output: Path) -> OutputExistsError:
    """Return the error for an output that exists and must not be replaced."""
    return OutputExistsError(f"{output} already exists", "choose another output with -o, or replace it with --force")


def _is_same_file(path: Path, output: Path) -> bool:
    """Return whether both paths are one file under any name, or would be if they existed."""
    if path.exists() and output.exists():
        return path.samefile(output)
    return os.path.realpath(path) == os.path.realpath(output)


@dataclass
class Plan:
    """The planned output: the document as it will stand in the output folder, and its own data file if it needs one."""

    output: Path
    document: Document
    data: Path | None = None
    data_pieces: list[tuple[int, Span]] = field(default_factory=list)
    data_size: int = 0
    remarks: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """The bytes that will be written in all."""
        return self.document.size + sum(span.length for _, span in self.data_pieces)


@dataclass(frozen=True)
class Saved(HasRemarks):
    """A written output: ``bytes_written`` includes its data file."""

    path: Path
    """The path of the ONNX file."""
    data: Path | None
    """The path of its data file. None if no data file was written."""
    bytes_written: int
    """The number of bytes written, those of the data file included."""
    remarks: tuple[str, ...]
    """Notes and warnings about what was written."""


@dataclass
class Stage:
    """A complete, durable output at the temporary ``path``. `commit` gives it its name."""

    path: Path
    plan: Plan
    force: bool = False
    made: list[Path] = field(default_factory=list)

    def commit(self) -> Saved:
        """Give the output its name: the moment at which it exists. Raise OutputExistsError if another process took the name
        meanwhile."""
        with translate_system_errors(self.plan.output):
            try:
                atomic.move_into_place(self.path, self.plan.output, force=self.force)
            except FileExistsError as error:
                raise make_exists_error(self.plan.output) from error
        self.made = [self.path]
        atomic.sync_folder(self.plan.output.parent)
        return Saved(self.plan.output, self.plan.data, self.plan.size, tuple(self.plan.remarks))

    def write(self, progress: Progress) -> None:
        """Write data file and output durably. The output gets a temporary name."""
        plan = self.plan
        if plan.data is not None:
            _write_chunks(plan.data, plan.data_pieces, plan.data_size, progress)
            self.made.append(plan.data)
        _write_chunks(self.path, _add_offsets(plan.document.chunks()), plan.document.size, progress)
        self.made.append(self.path)
        atomic.sync_folder(plan.output.parent)

    def extend(self, document: Document) -> None:
        """Replace the written document by ``document``, durably. If it only adds a last record, that record alone is
        appended."""
        *before, last = document.model
        with translate_system_errors(self.plan.output):
            if tuple(before) == self.plan.document.model:
                atomic.append_bytes(self.path, last.skeleton)
            else:
                self._write_again(document)
        self.plan.document = document

    def _write_again(self, document: Document) -> None:
        other = atomic.make_temporary_name(self.plan.output)
        self.made.append(other)
        _write_chunks(other, _add_offsets(document.chunks()), document.size, ignore_progress)
        atomic.remove(self.path)
        self.made.remove(self.path)
        self.path = other

    def discard(self) -> None:
        """Remove the written files, but keep the data of an output that already has its name: an interrupt may come just after
        the rename."""
        named = self._is_committed()
        for made in self.made:
            if made == self.path or not named:
                atomic.remove(made)

    def _is_committed(self) -> bool:
        if self.path not in self.made:
            return False
        with suppress(OSError):
            return self.path.samefile(self.plan.output)
        return not os.path.lexists(self.path)


@contextmanager
def stage_output(plan: Plan, *, force: bool = False, progress: Progress = ignore_progress) -> Iterator[Stage]:
    """Write the planned output under a temporary name in its folder, to be proven before `Stage.commit`. Without a commit it is
    removed."""
    with translate_system_errors(plan.output):
        stage = Stage(atomic.make_temporary_name(plan.output), plan, force)
    try:
        with translate_system_errors(plan.output):
            stage.write(progress)
        yield stage
    finally:
        stage.discard()


def _add_offsets(chunks: Iterator[Chunk]) -> Iterator[tuple[int, Chunk]]:
    """Yield each chunk with the offset at which it starts."""
    offset = 0
    for chunk in chunks:
        yield offset, chunk
        offset += len(chunk) if isinstance(chunk, bytes) else chunk.length


def _write_chunks(
    path: Path, placed: Iterator[tuple[int, Chunk]] | list[tuple[int, Span]], size: int, progress: Progress
) -> None:
    sources: set[ByteSource] = set()

    def pieces() -> Iterator[tuple[int, Piece]]:
        for offset, chunk in placed:
            if isinstance(chunk, bytes):
                yield offset, chunk
                continue
            sources.add(chunk.source)
            if chunk.source.descriptor is None:
                yield offset, chunk.source.read(chunk.offset, chunk.length)
            else:
                yield offset, FileRange(chunk.source.descriptor, chunk.offset, chunk.length)
        check_sources()

    def check_sources() -> None:
        for source in sources:
            source.check_unchanged()

    try:
        atomic.write_new_file(path, pieces(), size, progress)
    except OSError:
        check_sources()  # what was cut short while it was copied is the reason to tell
        raise


@contextmanager
def translate_system_errors(output: Path) -> Iterator[None]:
    """Raise the system's refusals as a SurroundingsError."""
    try:
        yield
    except SurroundingsError:
        raise
    except OSError as error:
        if isinstance(error, OutputExistsError):
            raise
        raise SurroundingsError(
            f"cannot write {output}: {error.strerror or error}",
            "nothing was left behind; free some space or choose another folder",
        ) from error
