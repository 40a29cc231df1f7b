"""The output folder of a bake, which appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from graphsurgery.edits.strip_head import undo_steps
from graphsurgery.errors import FolderError, GraphSurgeryError, OutputExistsError, RequestError, SurroundingsError
from graphsurgery.folders.files import BAKED, hash_file, read_json
from graphsurgery.model import atomic
from graphsurgery.model.atomic import FileRange
from graphsurgery.model.hub_cache import check_outside_cache
from graphsurgery.model.loading import load
from graphsurgery.model.sources import FileBytes

FILES, SOURCES = "files", "sources"
"""Keys of the certificate: the sha256 of the folder's other files, and that of the files that they were made from."""
STEP = "baked"
MOST_SHOWN = 3


def choose_default_folder(source: Path) -> Path:
    """Return ``<source>-baked`` beside ``source``. RequestError if no folder can be made there."""
    named = Path(os.path.normpath(source))  # a folder given as .. has a name as well
    if not named.name:
        raise RequestError(f"{source} has no name", "choose an output folder with -o")
    return named.with_name(f"{named.name}-{STEP}")


def check_folder(source: Path, output: Path, *, force: bool) -> tuple[str, ...]:
    """Check that a folder can be made at ``output``, apart from ``source``. With ``force`` it may replace one of ours.

    Return the files that would be deleted with the old folder although its bake did not make them: see `_find_derived_files`.
    Raises OutputExistsError or SurroundingsError, and RequestError for a place in the Hugging Face cache.
    """
    here, there = Path(os.path.realpath(source)), Path(os.path.realpath(output))
    if there == here or there in here.parents or here in there.parents:
        raise OutputExistsError(
            f"{output} is the model folder itself, contains it or lies in it", "choose another folder with -o"
        )
    check_outside_cache(output)
    if not output.parent.is_dir():
        raise SurroundingsError(f"there is no folder {output.parent}", "make it, or choose another folder with -o")
    if not os.path.lexists(output):
        return ()
    derived = _list_derived_files(output)
    if not force:
        raise OutputExistsError(f"{output} exists already", "choose another folder with -o, or replace it with --force")
    return derived


def _list_derived_files(output: Path) -> tuple[str, ...]:
    """Return the files that graphsurgery made in a baked folder after the bake: ``model.optimized.onnx``, for example.

    Raises OutputExistsError if graphsurgery did not make the folder, or not everything in it: then it stays, even with force.
    """

    def refuse(why: str) -> OutputExistsError:
        what = f"{output} exists and cannot be replaced: {why}"
        return OutputExistsError(what, "choose another folder with -o, or remove it yourself")

    if output.is_symlink() or not output.is_dir():
        raise refuse("it is not a folder" if not output.is_symlink() else "it is a symlink")
    if not (output / BAKED).is_file():
        raise refuse(f"graphsurgery did not make it (it has no {BAKED})")
    try:
        certificate = read_json(output / BAKED)
    except FolderError as error:
        raise refuse(f"graphsurgery did not make it ({error})") from error
    listed, sources = certificate.get(FILES), certificate.get(SOURCES)
    if not isinstance(listed, dict):
        raise refuse(f"graphsurgery did not make it (its {BAKED} lists no files)")
    paths = (Path(place, name).relative_to(output).as_posix() for place, folders, names in os.walk(output)
             for name in (*names, *(one for one in folders if Path(place, one).is_symlink())))  # fmt: skip
    others = {name for name in paths if name not in {BAKED, *listed}}
    derived, changed = _find_derived_files(output, others, sources.values() if isinstance(sources, dict) else ())
    strangers = others - derived - changed
    if strangers:
        raise refuse(f"it holds files that graphsurgery did not make: {_list_some(strangers)}")
    if changed:
        raise refuse(f"another program changed files in it since graphsurgery made them: {_list_some(changed)}")
    return tuple(sorted(derived))


def _list_some(names: set[str]) -> str:
    more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
    return f"{', '.join(sorted(names)[:MOST_SHOWN])}{more}"


def _find_derived_files(output: Path, names: set[str], sources: Collection[str]) -> tuple[set[str], set[str]]:
    """Return those of ``names`` in ``output`` that are ONNX files made by graphsurgery, with their data, and those that another
    program changed since.

    A file is graphsurgery's if it records a rewrite (optimize, quantize), which cannot be undone; if undoing its newest
    recorded edit gives the file that it records as its source; or if it is the source of the bake itself, as strip-head
    restores it: one of ``sources``, sha256 in hex. A file with recorded edits that cannot be undone was changed since.
    """
    found: set[str] = set()
    changed: set[str] = set()
    for name in names:
        path = output / name
        if path.suffix != ".onnx" or path.is_symlink():
            continue
        try:
            model = load(path)
            if model.rewrites or hash_file(path) in sources or next(undo_steps(model), None) is not None:
                found |= {name, *(place for file in model.files.values() if (place := _locate(file.path, output)) in names)}
        except GraphSurgeryError:
            changed |= {name} if _records_edits(path) else set()
    return found, changed


def _records_edits(path: Path) -> bool:
    """Return whether an ONNX file has graphsurgery's records."""
    try:
        return bool(load(path).recorded)
    except GraphSurgeryError:
        return False


def _locate(path: Path, folder: Path) -> str | None:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else None


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
        if os.path.lexists(output):
            if not force:
                raise OutputExistsError(f"{output} was made while this ran", "choose another folder with -o")
            _list_derived_files(output)
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
