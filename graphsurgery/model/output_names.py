"""Which names an output and its data file may take."""

from __future__ import annotations

import os
from glob import escape
from pathlib import Path

from graphsurgery.errors import OutputExistsError, SurroundingsError
from graphsurgery.model.model import Model


def check_output(model: Model, output: Path, *, force: bool) -> None:
    """OutputExistsError or SurroundingsError when ``output`` cannot be written."""
    own = [model.path] if model.path is not None else []
    own += [file.path for file in model.files.values()]
    for path in own:
        if _same_file(path, output):
            raise OutputExistsError(f"{output} is the input itself, which is never written", "choose another output with -o")
    if output.exists() and not output.is_file():
        what = "a folder" if output.is_dir() else "not a regular file"
        raise OutputExistsError(f"{output} is {what}", "give the path of a file with -o")
    if os.path.lexists(output) and not force:
        raise already_there(output)
    if not output.parent.is_dir():
        raise SurroundingsError(f"there is no folder {output.parent}", "make it first, or choose another output with -o")


def unused_data_name(output: Path) -> Path:
    """``<output>.data``, or with a number where that is taken."""
    for number in ("", *(f".{n}" for n in range(1, 1000))):
        candidate = output.with_name(f"{output.name}{number}.data")
        if not os.path.lexists(candidate):
            return candidate
    raise OutputExistsError(f"{output}.data and a thousand names like it exist", "remove the data files that no model uses")


def left_behind(model: Model, output: Path) -> list[str]:
    """Data files of earlier outputs of this name, which replacing it leaves behind: another model may refer to them."""
    own = {file.path.name for file in model.files.values()}
    found = [output.with_name(f"{output.name}.data"), *output.parent.glob(f"{escape(output.name)}.[0-9]*.data")]
    return sorted(path.name for path in found if path.exists() and path.name not in own)


def same_folder(folder: Path | None, other: Path) -> bool:
    """Whether ``folder`` is there and is ``other``, however the two are spelt."""
    return folder is not None and os.path.realpath(folder) == os.path.realpath(other)


def already_there(output: Path) -> OutputExistsError:
    """The error for an output that is not to be replaced."""
    return OutputExistsError(f"{output} exists already", "choose another output with -o, or replace it with --force")


def _same_file(path: Path, output: Path) -> bool:
    """Whether both are one file, under whatever name, or would be if they were there."""
    if path.exists() and output.exists():
        return path.samefile(output)
    return os.path.realpath(path) == os.path.realpath(output)
