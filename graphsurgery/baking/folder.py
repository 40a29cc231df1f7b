"""A folder that appears whole or not at all."""

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
"""What every folder that we made holds: it lists the others of its files."""
FILES = "files"
STEP = "baked"
CACHE, SNAPSHOTS = "models--", "snapshots"
"""How the Hugging Face cache names a model's folder, and where in it the revisions lie."""
MOST_SHOWN = 3


def repository_of(folder: Path) -> str | None:
    """The repository that ``folder`` is a revision of in the Hugging Face cache, None where it lies elsewhere."""
    place = folder.parent.parent.name
    if folder.parent.name != SNAPSHOTS or not place.startswith(CACHE):
        return None
    return place.removeprefix(CACHE).replace("--", "/")


def default_folder(source: Path) -> Path:
    """``<source>-baked`` beside ``source``; RequestError where that is no place for it."""
    if repository_of(source) is not None:
        raise RequestError(
            f"{source} lies in the cache of a model hub, which is no place for other folders", "say where to with -o"
        )
    named = Path(os.path.normpath(source))  # a folder given as .. has a name as well
    if not named.name:
        raise RequestError(f"{source} has no name", "say where to with -o")
    return named.with_name(f"{named.name}-{STEP}")


def check_folder(source: Path, output: Path, *, force: bool) -> None:
    """OutputExistsError or SurroundingsError when a folder cannot be made at ``output``, away from ``source``."""
    here, there = Path(os.path.realpath(source)), Path(os.path.realpath(output))
    if there == here or there in here.parents or here in there.parents:
        raise OutputExistsError(
            f"{output} is the model folder itself, or lies around or in it", "choose another folder with -o"
        )
    if not output.parent.is_dir():
        raise SurroundingsError(f"there is no folder {output.parent}", "make it first, or choose another folder with -o")
    if not os.path.lexists(output):
        return
    why = _why_kept(output)
    if why is not None:
        raise OutputExistsError(
            f"{output} exists and is not replaced: {why}", "choose another folder with -o, or remove it yourself"
        )
    if not force:
        raise OutputExistsError(f"{output} exists already", "choose another folder with -o, or replace it with --force")


def _why_kept(output: Path) -> str | None:
    """Why what stands at ``output`` must stay there even when it may be replaced by force; None where nothing of it would be
    lost but what we made."""
    if output.is_symlink() or not output.is_dir():
        return "it is no folder" if not output.is_symlink() else "it is a symlink"
    if not (output / CERTIFICATE).is_file():
        return f"graphsurgery did not make it (it has no {CERTIFICATE})"
    try:
        listed = read_json(output / CERTIFICATE).get(FILES)
    except FolderError as error:
        return f"graphsurgery did not make it ({error})"
    if not isinstance(listed, dict):
        return f"graphsurgery did not make it (its {CERTIFICATE} is none of ours)"
    known = {CERTIFICATE, *listed}
    found = (Path(place, name).relative_to(output).as_posix() for place, folders, names in os.walk(output)
             for name in (*names, *(one for one in folders if Path(place, one).is_symlink())))  # fmt: skip
    strange = sorted(name for name in found if name not in known)
    if not strange:
        return None
    more = f" and {len(strange) - MOST_SHOWN} more" if len(strange) > MOST_SHOWN else ""
    return f"it holds what graphsurgery did not put there: {', '.join(strange[:MOST_SHOWN])}{more}"


@contextmanager
def staged_folder(output: Path) -> Iterator[Path]:
    """An empty folder under a temporary name beside ``output``; removed at the end, unless it was given its name."""
    stage = atomic.temporary_name(output)
    try:
        with system_errors(output):
            stage.mkdir()
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def commit_folder(stage: Path, output: Path, *, force: bool) -> None:
    """Let ``stage`` be ``output``; with ``force`` what stood there, one of our own folders, goes. OutputExistsError when
    something else took the name meanwhile."""
    old = atomic.temporary_name(output)
    with system_errors(output):
        for place, _, _ in os.walk(stage):
            atomic.sync_folder(Path(place))
        if os.path.lexists(output) and (not force or _why_kept(output) is not None):
            raise OutputExistsError(f"{output} was made while this ran", "choose another folder with -o")
        try:
            if os.path.lexists(output):
                output.rename(old)
            stage.rename(output)
        finally:
            if old.exists() and not os.path.lexists(output):
                old.rename(output)  # what was there before stays there
            shutil.rmtree(old, ignore_errors=True)
        atomic.sync_folder(output.parent)


def write_file(path: Path, content: bytes | FileBytes) -> None:
    """A new file, durable; its folder is made where it is not there. What is copied is copied by the kernel."""
    with system_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            atomic.write_new(path, [(0, content)], len(content))
            return
        atomic.write_new(path, [(0, FileRange(content.descriptor, 0, content.size))], content.size)
        content.check_unchanged()


@contextmanager
def system_errors(path: Path) -> Iterator[None]:
    """What the system refuses, as a typed error."""
    try:
        yield
    except (SurroundingsError, OutputExistsError):
        raise
    except OSError as error:
        raise SurroundingsError(
            f"cannot write {path.name}: {error.strerror or error}",
            "nothing was left behind; free some space or choose another folder",
        ) from error
