"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graphsurgery.errors import OutputExistsError, SurroundingsError
from graphsurgery.model import atomic

CERTIFICATE = "graphsurgery.json"
"""What every folder that we made holds, and what a folder must hold to be replaced."""


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
    if not force:
        raise OutputExistsError(f"{output} exists already", "choose another folder with -o, or replace it with --force")
    if not output.is_dir() or output.is_symlink() or not (output / CERTIFICATE).is_file():
        raise OutputExistsError(
            f"{output} is not a folder that graphsurgery made (it has no {CERTIFICATE}), so it is not replaced",
            "choose another folder with -o, or remove it yourself",
        )


@contextmanager
def staged_folder(output: Path) -> Iterator[Path]:
    """An empty folder under a temporary name beside ``output``; removed at the end, unless it was given its name."""
    stage = atomic.temporary_name(output)
    with system_errors(output):
        stage.mkdir()
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def commit_folder(stage: Path, output: Path) -> None:
    """Let ``stage`` be ``output``; what stood there, one of our own folders, goes."""
    with system_errors(output):
        atomic.sync_folder(stage)
        if not os.path.lexists(output):
            stage.rename(output)
        else:
            old = atomic.temporary_name(output)
            output.rename(old)
            try:
                stage.rename(output)
            except BaseException:
                old.rename(output)
                raise
            shutil.rmtree(old, ignore_errors=True)
        atomic.sync_folder(output.parent)


def write_file(path: Path, content: bytes) -> None:
    """A new file, durable; its folder is made where it is not there."""
    with system_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_new(path, [(0, content)], len(content))


@contextmanager
def system_errors(path: Path) -> Iterator[None]:
    """What the system refuses, as a typed error."""
    try:
        yield
    except SurroundingsError:
        raise
    except OSError as error:
        raise SurroundingsError(
            f"cannot write {path.name}: {error.strerror or error}",
            "nothing was left behind; free some space or choose another folder",
        ) from error
