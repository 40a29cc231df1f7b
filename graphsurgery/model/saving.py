"""Save a model: nothing moves that can stay, the rest is copied by the kernel, and the output is complete or absent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from graphsurgery.errors import OutputExistsError, SurroundingsError
from graphsurgery.model import atomic
from graphsurgery.model.atomic import FileRange, Piece, Progress, no_progress
from graphsurgery.model.external import ExternalFile
from graphsurgery.model.model import Model, open_data
from graphsurgery.model.output_names import already_there, check_output, left_behind, same_folder, unused_data_name
from graphsurgery.model.provenance import recorded_move, recorded_outward
from graphsurgery.model.records import Chunk, Document, Record, Span
from graphsurgery.model.relocate import referenced
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

    External data in the output's folder stay where they are; from another folder they are copied once, into ``<path>.data``.
    Above 2 GiB the weights inside the file move there too.

    Raises:
        OutputExistsError: ``path`` exists and ``force`` is not set, or it is one of the model's own files.
        MissingDataError: external data would have to be copied and are not there.
        SurroundingsError: no space, no permission, no such folder. Nothing is left behind.
    """
    plan = plan_output(model, Path(path), force=force)
    with staged(plan, force=force, progress=progress) as stage:
        return stage.commit()


@dataclass
class Stage:
    """A complete, durable output that has not got its name yet: ``path`` is where it lies."""

    path: Path
    plan: Plan
    force: bool = False
    made: list[Path] = field(default_factory=list)

    def commit(self) -> Saved:
        """Give the output its name: the moment at which it exists. OutputExistsError when another took the name meanwhile."""
        with _system_errors(self.plan.output):
            try:
                atomic.give_name(self.path, self.plan.output, force=self.force)
            except FileExistsError as error:
                raise already_there(self.plan.output) from error
        self.made = [self.path]
        atomic.sync_folder(self.plan.output.parent)
        return Saved(self.plan.output, self.plan.data, self.plan.size, tuple(self.plan.notes))

    def write(self, progress: Progress) -> None:
        """Write data file and output, durably, under names that nobody uses."""
        plan = self.plan
        if plan.data is not None:
            _write(plan.data, plan.data_pieces, plan.data_size, progress)
            self.made.append(plan.data)
        _write(self.path, _in_order(plan.document.chunks()), plan.document.size, progress)
        self.made.append(self.path)
        atomic.sync_folder(plan.output.parent)

    def append(self, record: Record) -> None:
        """Write a field of the model that holds no payload behind what is written, durably."""
        with _system_errors(self.plan.output):
            atomic.append(self.path, record.skeleton)
        self.plan.document = replace(self.plan.document, model=(*self.plan.document.model, record))

    def discard(self) -> None:
        """Remove what was written, but no data of an output that has its name: an interrupt may come just when it got it."""
        named = self._has_name()
        for made in self.made:
            if made == self.path or not named:
                atomic.remove(made)

    def _has_name(self) -> bool:
        if self.path not in self.made:
            return False
        with suppress(OSError):
            return self.path.samefile(self.plan.output)
        return not os.path.lexists(self.path)


@contextmanager
def staged(plan: Plan, *, force: bool = False, progress: Progress = no_progress) -> Iterator[Stage]:
    """What is planned under a temporary name in its folder, to be proven before `Stage.commit`; without that it is removed."""
    with _system_errors(plan.output):
        stage = Stage(atomic.temporary_name(plan.output), plan, force)
    try:
        with _system_errors(plan.output):
            stage.write(progress)
        yield stage
    finally:
        stage.discard()


def plan_output(model: Model, output: Path, *, force: bool = False, largest: int = LARGEST_PROTOBUF) -> Plan:
    """Decide what has to be written where, touching nothing. Raises as `save` does."""
    with _system_errors(output):
        check_output(model, output, force=force)
        plan = Plan(output, model.document)
        locations = referenced(model.files, model.document)
        old = left_behind(model, output) if output.exists() else []
        if old:
            plan.notes.append(f"data of the replaced output stay, in case another model needs them: {', '.join(old)}")
        if locations and not same_folder(model.folder, output.parent):
            _copy_data(plan, model, locations)
        elif locations:
            _keep_data(plan, model, locations)
        if plan.document.size > largest:
            _externalise(plan)
        return plan


def _keep_data(plan: Plan, model: Model, locations: list[str]) -> None:
    """Leave the data files where they are; those that were there at load must still be what they were."""
    for location in locations:
        if model.files[location].identity is not None:
            open_data(model.files[location])
        if model.files[location].path.is_symlink():
            plan.notes.append(
                f"warning: {location} is a symlink, and onnx and ONNX Runtime refuse external data behind one: "
                "write to another folder (-o), where it is copied"
            )
    plan.notes.append(f"the weights stay in {', '.join(locations)}: keep them beside the output")


def _copy_data(plan: Plan, model: Model, locations: list[str]) -> None:
    """Plan one data file beside the output with every range the model refers to, at its own offset after a base per file."""
    model.require_data(f"saving into another folder ({plan.output.parent})")
    plan.data = unused_data_name(plan.output)
    bases: dict[str, int] = {}
    for location in locations:
        base = bases[location] = (plan.data_size // ALIGNMENT + 1) * ALIGNMENT if bases else 0  # above every offset before it
        source = open_data(model.files[location])
        for start, end in _ranges(model, model.files[location]):
            plan.data_pieces.append((base + start, Span(source, start, end - start)))
            plan.data_size = base + end
    plan.document = recorded_move(plan.document, plan.data.name, bases)
    plan.notes.append(f"external data copied once, to {plan.data.name}")


def _externalise(plan: Plan) -> None:
    """Plan the initializers' payloads into the data file."""
    plan.data = plan.data or unused_data_name(plan.output)

    def place(span: Span) -> int:
        offset = -(-plan.data_size // ALIGNMENT) * ALIGNMENT
        plan.data_pieces.append((offset, span))
        plan.data_size = offset + span.length
        return offset

    size = plan.document.size
    plan.document = recorded_outward(plan.document, plan.data.name, plan.data_size, place)
    if plan.document.size > LARGEST_PROTOBUF:
        raise SurroundingsError(
            f"{plan.output.name} would have {plan.document.size} bytes beside its initializers, and protobuf ends at 2 GiB",
            "move large constants into initializers first",
        )
    what = f"{size / 2**30:.1f} GiB do not fit into one .onnx file (protobuf ends at 2 GiB)"
    plan.notes.append(f"{what}: weights in {plan.data.name}")


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
        check_sources()

    def check_sources() -> None:
        for source in sources:
            source.check_unchanged()

    try:
        atomic.write_new(path, pieces(), size, progress)
    except OSError:
        check_sources()  # what was cut short while it was copied is the reason to tell
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
            f"cannot write {output}: {error.strerror or error}",
            "nothing was left behind; free some space or choose another folder",
        ) from error
