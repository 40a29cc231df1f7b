"""The output folder of a bake, which appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graphsurgery.errors import FolderError, OutputExistsError, RequestError, SurroundingsError
from graphsurgery.folders.files import read_json
from graphsurgery.model import atomic
from graphsurgery.model.atomic import FileRange
from graphsurgery.model.sources import FileBytes

CERTIFICATE = "graphsurgery.json"
"""A file in every folder that graphsurgery made. It lists the other files."""
FILES = "files"
STEP = "baked"
CACHE, SNAPSHOTS = "models--", "snapshots"
"""The start of a model folder's name in the Hugging Face cache, and the folder of its revisions."""
MOST_SHOWN = 3


def find_repository(folder: Path) -> str | None:
    """Return the repository of a ``folder`` in the Hugging Face cache, or None if it lies elsewhere."""
    place = folder.parent.parent.name
    if folder.parent.name != SNAPSHOTS or not place.startswith(CACHE):
        return None
    return place.removeprefix(CACHE).replace("--", "/")


def choose_default_folder(source: Path) -> Path:
    """Return ``<source>-baked`` beside ``source``. RequestError if no folder can be made there."""
    if find_repository(source) is not None:
        raise RequestError(
            f"{source} lies in the cache of a model hub, which must hold no other folders", "choose an output folder with -o"
        )
    named = Path(os.path.normpath(source))  # a folder given as .. has a name as well
    if not named.name:
        raise RequestError(f"{source} has no name", "choose an output folder with -o")
    return named.with_name(f"{named.name}-{STEP}")


def check_folder(source: Path, output: Path, *, force: bool) -> None:
    """Raise OutputExistsError or SurroundingsError if a folder cannot be made at ``output``, apart from ``source``."""
    here, there = Path(os.path.realpath(source)), Path(os.path.realpath(output))
    if there == here or there in here.parents or here in there.parents:
        raise OutputExistsError(
            f"{output} is the model folder itself, contains it or lies in it", "choose another folder with -o"
        )
    if not output.parent.is_dir():
        raise SurroundingsError(f"there is no folder {output.parent}", "make it, or choose another folder with -o")
    if not os.path.lexists(output):
        return
    why = _find_reason_to_keep(output)
    if why is not None:
        raise OutputExistsError(
            f"{output} exists and cannot be replaced: {why}", "choose another folder with -o, or remove it yourself"
        )
    if not force:
        raise OutputExistsError(f"{output} exists already", "choose another folder with -o, or replace it with --force")


def _find_reason_to_keep(output: Path) -> str | None:
    """Return why ``output`` must stay even with force, or None if it holds nothing except files that graphsurgery made."""
    if output.is_symlink() or not output.is_dir():
        return "it is not a folder" if not output.is_symlink() else "it is a symlink"
    if not (output / CERTIFICATE).is_file():
        return f"graphsurgery did not make it (it has no {CERTIFICATE})"
    try:
        listed = read_json(output / CERTIFICATE).get(FILES)
    except FolderError as error:
        return f"graphsurgery did not make it ({error})"
    if not isinstance(listed, dict):
        return f"graphsurgery did not make it (its {CERTIFICATE} lists no files)"
    paths = (Path(place, name).relative_to(output).as_posix() for place, folders, names in os.walk(output)
             for name in (*names, *(one for one in folders if Path(place, one).is_symlink())))  # fmt: skip
    others = sorted(name for name in paths if name not in {CERTIFICATE, *listed})
    if not others:
        return None
    more = f" and {len(others) - MOST_SHOWN} more" if len(others) > MOST_SHOWN else ""
    return f"it holds files that graphsurgery did not make: {', '.join(others[:MOST_SHOWN])}{more}"


@contextmanager
def stage_folder(output: Path) -> Iterator[Path]:
    """Make an empty folder with a temporary name beside ``output``. Remove it at the end, unless it was committed."""
    stage = atomic.make_temporary_name(output)
    try:
        with _type_system_errors(output):
            stage.mkdir()
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def commit_folder(stage: Path, output: Path, *, force: bool) -> None:
    """Rename ``stage`` to ``output``. With ``force`` it replaces a folder that graphsurgery made.

    OutputExistsError if something else took the name meanwhile.
    """
    old = atomic.make_temporary_name(output)
    with _type_system_errors(output):
        for place, _, _ in os.walk(stage):
            atomic.sync_folder(Path(place))
        if os.path.lexists(output) and (not force or _find_reason_to_keep(output) is not None):
            raise OutputExistsError(f"{output} was made while this ran", "choose another folder with -o")
        try:
            if os.path.lexists(output):
                output.rename(old)
            stage.rename(output)
        finally:
            if old.exists() and not os.path.lexists(output):
                old.rename(output)  # the rename of the stage failed: put the old folder back
            shutil.rmtree(old, ignore_errors=True)
        atomic.sync_folder(output.parent)


def write_file(path: Path, content: bytes | FileBytes) -> None:
    """Write a new file durably, and its folder if needed. The kernel copies files."""
    with _type_system_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            atomic.write_new_file(path, [(0, content)], len(content))
            return
        atomic.write_new_file(path, [(0, FileRange(content.descriptor, 0, content.size))], content.size)
        content.check_unchanged()


@contextmanager
def _type_system_errors(path: Path) -> Iterator[None]:
    """Turn errors of the system into typed errors."""
    try:
        yield
    except (SurroundingsError, OutputExistsError):
        raise
    except OSError as error:
        raise SurroundingsError(
            f"cannot write {path.name}: {error.strerror or error}",
            "nothing was left behind; free some space or choose another folder",
        ) from error
