"""Save a model: nothing moves that can stay, the rest is copied by the kernel, and the output is complete or absent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from graphsurgery.errors import OutputExistsError, SurroundingsError
from graphsurgery.model import atomic
from graphsurgery.model.atomic import FileRange, Piece, Progress, no_progress
from graphsurgery.model.external import ExternalFile
from graphsurgery.model.model import Model, open_data
from graphsurgery.model.records import Chunk, Document, Span
from graphsurgery.model.provenance import recorded_move
from graphsurgery.model.relocate import externalised, referenced
from graphsurgery.model.sources import ByteSource

LARGEST_PROTOBUF = (1 << 31) - 1
"""Bytes that one protobuf message may have: above this the weights go into external data."""
ALIGNMENT = 4096


@dataclass
class Plan:
    """What will be written: the document as it will stand in the output folder, and its data file where it needs its own."""

    output: Path
    document: Document
    data: Path | None = None
    data_pieces: list[tuple[int, Span]] = field(default_factory=list)
    data_size: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes that will be written in all."""
        return self.document.size + sum(span.length for _, span in self.data_pieces)


@dataclass(frozen=True)
class Saved:
    """What was written: ``bytes_written`` in all, data file included."""

    path: Path
    data: Path | None
    bytes_written: int
    notes: tuple[str, ...]


def save(model: Model, path: str | os.PathLike[str], *, force: bool = False, progress: Progress = no_progress) -> Saved:
    """Write ``model`` to ``path``, whole or not at all.

    External data that lie in the output's folder stay where they are; from another folder they are copied once, into ``<path>.data``.
    Above 2 GiB the weights inside the file move there too.

    Raises:
        OutputExistsError: ``path`` exists and ``force`` is not set, or it is one of the model's own files.
        MissingDataError: external data would have to be copied and are not there.
        SurroundingsError: no space, no permission, no such folder. Nothing is left behind.
    """
    with staged(model, path, force=force, progress=progress) as stage:
        return stage.commit()


@dataclass
class Stage:
    """A complete, durable output that has not got its name yet: ``path`` is where it lies."""

    path: Path
    plan: Plan
    made: list[Path] = field(default_factory=list)

    def commit(self) -> Saved:
        """Give the output its name: the moment at which it exists."""
        with _system_errors(self.plan.output):
            os.replace(self.path, self.plan.output)
        self.made.clear()
        atomic.sync_folder(self.plan.output.parent)
        return Saved(self.plan.output, self.plan.data, self.plan.size, tuple(self.plan.notes))


@contextmanager
def staged(
    model: Model, path: str | os.PathLike[str], *, force: bool = False, progress: Progress = no_progress
) -> Iterator[Stage]:
    """The output under a temporary name in its folder, for proving it before `Stage.commit`; without that it is removed."""
    plan = plan_output(model, Path(path), force=force)
    stage = Stage(atomic.temporary_name(plan.output), plan)
    try:
        with _system_errors(plan.output):
            if plan.data is not None:
                _write(plan.data, plan.data_pieces, plan.data_size, progress)
                stage.made.append(plan.data)
            _write(stage.path, _in_order(plan.document.chunks()), plan.document.size, progress)
            stage.made.append(stage.path)
            atomic.sync_folder(plan.output.parent)
        yield stage
    finally:
        for made in stage.made:
            atomic.remove(made)


def plan_output(model: Model, output: Path, *, force: bool = False, largest: int = LARGEST_PROTOBUF) -> Plan:
    """Decide what has to be written where, touching nothing. Raises as `save` does."""
    check_output(model, output, force=force)
    plan = Plan(output, model.document)
    locations = referenced(model.files, model.document)
    if locations and not _same_folder(model.folder, output.parent):
        _copy_data(plan, model, locations)
    elif locations:
        plan.notes.append(f"the weights stay in {', '.join(locations)}: keep them beside the output")
    if plan.document.size > largest:
        _externalise(plan)
    return plan


def check_output(model: Model, output: Path, *, force: bool) -> None:
    """OutputExistsError or SurroundingsError when ``output`` cannot be written."""
    own = [model.path] if model.path is not None else []
    own += [file.path for file in model.files.values()]
    for path in own:
        if path.exists() and output.exists() and os.path.samefile(path, output):
            raise OutputExistsError(f"{output} is the input itself, which is never written", "choose another output with -o")
    if output.is_dir():
        raise OutputExistsError(f"{output} is a folder", "give the path of a file with -o")
    if os.path.lexists(output) and not force:
        raise OutputExistsError(f"{output} exists already", "choose another output with -o, or replace it with --force")
    if not output.parent.is_dir():
        raise SurroundingsError(f"there is no folder {output.parent}", "make it first, or choose another output with -o")


def _copy_data(plan: Plan, model: Model, locations: list[str]) -> None:
    """Plan one data file beside the output that holds every range the model refers to, at its own offset after a base per file."""
    model.require_data(f"saving into another folder ({plan.output.parent})")
    plan.data = _unused_data_name(plan.output)
    bases = {}
    for location in locations:
        base = bases[location] = -(-plan.data_size // ALIGNMENT) * ALIGNMENT
        source = open_data(model.files[location])
        for start, end in _ranges(model, model.files[location]):
            plan.data_pieces.append((base + start, Span(source, start, end - start)))
            plan.data_size = base + end
    plan.document = recorded_move(plan.document, plan.data.name, bases)
    plan.notes.append(f"external data copied once, to {plan.data.name}")


def _externalise(plan: Plan) -> None:
    """Plan the initializers' payloads into the data file."""
    plan.data = plan.data or _unused_data_name(plan.output)

    def place(span: Span) -> int:
        offset = -(-plan.data_size // ALIGNMENT) * ALIGNMENT
        plan.data_pieces.append((offset, span))
        plan.data_size = offset + span.length
        return offset

    size = plan.document.size
    plan.document = externalised(plan.document, plan.data.name, place)
    if plan.document.size > LARGEST_PROTOBUF:
        raise SurroundingsError(
            f"{plan.output.name} would have {plan.document.size} bytes beside its initializers, and protobuf ends at 2 GiB",
            "move large constants into initializers first",
        )
    plan.notes.append(f"{size / 2**30:.1f} GiB do not fit into one .onnx file (protobuf ends at 2 GiB): weights in {plan.data.name}")


def _ranges(model: Model, file: ExternalFile) -> list[tuple[int, int]]:
    """The byte ranges of ``file`` that the model refers to, sorted, joined where less than a block lies between them."""
    wanted = sorted((one.offset, one.offset + one.length) for one in model.externals if one.file == file)
    joined: list[tuple[int, int]] = []
    for start, end in wanted:
        if joined and start - joined[-1][1] < ALIGNMENT:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _unused_data_name(output: Path) -> Path:
    candidates = [output.with_name(f"{output.name}.data"), *(output.with_name(f"{output.name}.{n}.data") for n in range(1, 1000))]
    for candidate in candidates:
        if not os.path.lexists(candidate):
            return candidate
    raise OutputExistsError(f"{candidates[0]} and a thousand names like it exist", "remove the data files that no model uses")


def _same_folder(folder: Path | None, other: Path) -> bool:
    return folder is not None and os.path.realpath(folder) == os.path.realpath(other)


def _in_order(chunks: Iterator[Chunk]) -> Iterator[tuple[int, Chunk]]:
    """Each chunk with the offset at which it starts."""
    offset = 0
    for chunk in chunks:
        yield offset, chunk
        offset += len(chunk) if isinstance(chunk, bytes) else chunk.length


def _write(path: Path, placed: Iterator[tuple[int, Chunk]] | list[tuple[int, Span]], size: int, progress: Progress) -> None:
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

    atomic.write_new(path, pieces(), size, progress)
    try:
        for source in sources:
            source.check_unchanged()
    except BaseException:
        atomic.remove(path)
        raise


@contextmanager
def _system_errors(output: Path) -> Iterator[None]:
    """What the system refuses, as a typed error."""
    try:
        yield
    except SurroundingsError:
        raise
    except OSError as error:
        if isinstance(error, OutputExistsError):
            raise
        raise SurroundingsError(
            f"cannot write {output}: {error.strerror or error}", "nothing was left behind; free some space or choose another folder"
        ) from error
