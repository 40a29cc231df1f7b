"""Files of other people's model folders: which may be opened, and JSON read within bounds.

A folder comes from anywhere: names in its configs may point out of it, its files may be pipes that never end, JSON may be
nested or large enough to fill the memory. Every refusal names the file and what to do.
"""

from __future__ import annotations

import json
import os
from itertools import islice
from pathlib import Path
from typing import Any

from graphsurgery.errors import FolderError, GraphSurgeryError
from graphsurgery.model.external import explain_bad_location, is_inside
from graphsurgery.model.parsing import shorten
from graphsurgery.model.records import Span, hash_payloads
from graphsurgery.model.sources import FileBytes

LARGEST_CONFIG = 8 << 20
"""Bytes of a config. The largest seen, with 21 000 labels, has 1 MiB; parsed, JSON can take 25 times its size."""
LARGEST_VOCABULARY = 256 << 20
"""Bytes of a config that holds a vocabulary, as those of WordWeights and BoW do: some 20 bytes for each word."""
DOWNLOAD = "download the model folder again, whole"
TYPE_NAMES: dict[type, str] = {dict: "a JSON object", list: "a JSON list"}


def resolve_inside(folder: Path, name: str, what: str) -> Path:
    """The path that ``name``, found in ``what``, means in ``folder``; there may be nothing at it.

    FolderError when it is absolute, climbs with ``..``, holds a NUL or a backslash, or reaches out of the folder through a
    symlink (but for the Hugging Face cache's own links).
    """
    why = "holds a backslash" if "\\" in name else explain_bad_location(name)
    if why is None:
        path = folder / name
        try:
            if is_inside(path, folder):
                return path
            why = "leads out of the folder through a symlink"
        except (OSError, ValueError) as error:  # ValueError: what no file system can spell
            why = f"cannot be looked at: {getattr(error, 'strerror', None) or error}"
    raise FolderError(f"{what}: the path {shorten(name)!r} {why}", f"what it names must lie in {folder}")


def is_there(path: Path) -> bool:
    """Whether anything is at ``path``: a file, a folder, or a symlink that leads nowhere (to be refused on opening)."""
    return os.path.lexists(path)


def is_folder(path: Path) -> bool:
    """Whether there is a folder at ``path`` that may be looked into."""
    return os.path.isdir(path)  # noqa: PTH112 -- Path.is_dir raises where a parent may not be entered


def open_file(path: Path) -> FileBytes:
    """``path`` open for reading; FolderError when it is not there, may not be read, or is no regular file."""
    try:
        return FileBytes(path)
    except GraphSurgeryError as error:
        raise FolderError(str(error), DOWNLOAD) from error


def hash_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    file = open_file(path)
    return hash_payloads([Span(file, 0, file.size)])


def read_json(path: Path, kind: type = dict, largest: int = LARGEST_CONFIG) -> Any:
    """The JSON at ``path``, whose top level is a ``kind``; FolderError when it cannot be read as that."""
    file = open_file(path)
    if file.size > largest:
        raise FolderError(
            f"{path} has {file.size} bytes, more than the {largest} that are read of such a file",
            "replace it with the model's own",
        )
    try:
        found = json.loads(file.read(0, file.size).decode("utf-8"))
    except RecursionError as error:
        raise FolderError(f"{path} nests too deep to be read", "replace it with the model's own") from error
    except ValueError as error:  # not UTF-8, not JSON, or a number of thousands of digits
        raise FolderError(f"{path} is not JSON: {shorten(str(error))}", DOWNLOAD) from error
    if not isinstance(found, kind):
        raise FolderError(f"{path} holds {describe_value(found)}, not {TYPE_NAMES[kind]}", DOWNLOAD)
    return found


def read_setting(config: dict[str, Any], key: str, kind: type | tuple[type, ...], path: Path, default: Any = None) -> Any:
    """``config[key]`` of type ``kind``, or ``default`` where it is absent or null; FolderError when it is anything else."""
    value = config.get(key)
    if value is None:
        return default
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join(one.__name__ for one in kinds)
        raise FolderError(f"{path}: {key!r} is {describe_value(value)}, where a value of type {wanted} belongs", DOWNLOAD)
    return value


def describe_value(value: object) -> str:
    """How messages name what a JSON value is; short values as they are."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return shorten(repr(value))
    return TYPE_NAMES.get(type(value), type(value).__name__)


USUAL = ("onnx/model.onnx", "model.onnx")
"""Where exporters put the file in full precision; the first that is there is taken."""
FOLDERS = ("onnx", "")
MOST_VARIANTS = 100


def find_onnx(folder: Path, name: str | None = None) -> tuple[Path, tuple[str, ...]]:
    """(the ONNX file, the other ONNX files of the folder, relative to it).

    ``onnx/model.onnx``, else ``model.onnx``; with ``name`` that file, in the folder or in its ``onnx/``. FolderError when there
    is none, or when it leads out of the folder.
    """
    there = list_onnx_files(folder)
    wanted = USUAL if name is None else (name, f"onnx/{name}")
    for one in wanted:
        path = resolve_inside(folder, one, str(folder) if name is None else "the ONNX file that was asked for")
        if is_there(path) and not is_folder(path):
            return path, tuple(other for other in there if folder / other != path)
    what = " and no ".join(USUAL) if name is None else shorten(name)
    others = f"; it has {', '.join(there)}" if there else ""
    advice = "choose one of these by its name" if there else f"make one: graphsurgery export {folder}"
    raise FolderError(f"{folder} has no {what}{others}", advice)


def list_onnx_files(folder: Path) -> tuple[str, ...]:
    """The ONNX files of a model folder, in the folder itself and in ``onnx/``, relative to it."""
    if not is_folder(folder):
        raise FolderError(f"{folder} is no folder", "give the folder of a model")
    found = (path for place in FOLDERS for path in sorted((folder / place).glob("*.onnx")))
    there = (path for path in found if is_inside(path, folder) and path.is_file())
    return tuple(path.relative_to(folder).as_posix() for path in islice(there, MOST_VARIANTS))
