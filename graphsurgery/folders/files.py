"""Files of other people's model folders: which may be opened, and JSON read within bounds.

A folder comes from anywhere: names in its configs may point out of it, its files may be pipes that never end, JSON may be
nested or large enough to fill the memory. Every refusal names the file and what to do.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from graphsurgery.errors import FolderError, GraphSurgeryError
from graphsurgery.model.locations import stays_inside, why_misspelt
from graphsurgery.model.parsing import shown
from graphsurgery.model.records import Span, payloads_fingerprint
from graphsurgery.model.sources import FileBytes

LARGEST_CONFIG = 8 << 20
"""Bytes of a config. The largest seen, with 21 000 labels, has 1 MiB; parsed, JSON can take 25 times its size."""
LARGEST_VOCABULARY = 256 << 20
"""Bytes of a config that holds a vocabulary, as those of WordWeights and BoW do: some 20 bytes for each word."""
DOWNLOAD = "download the model folder again, whole"
TYPE_NAMES: dict[type, str] = {dict: "a JSON object", list: "a JSON list"}


def inside(folder: Path, name: str, what: str) -> Path:
    """The path that ``name``, found in ``what``, means in ``folder``; there may be nothing at it.

    FolderError when it is absolute, climbs with ``..``, holds a NUL or a backslash, or reaches out of the folder through a
    symlink (but for the Hugging Face cache's own links).
    """
    why = "holds a backslash" if "\\" in name else why_misspelt(name)
    if why is None:
        path = folder / name
        try:
            if stays_inside(path, folder):
                return path
            why = "leads out of the folder through a symlink"
        except (OSError, ValueError) as error:  # ValueError: what no file system can spell
            why = f"cannot be looked at: {getattr(error, 'strerror', None) or error}"
    raise FolderError(f"{what}: the path {shown(name)!r} {why}", f"what it names must lie in {folder}")


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


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    file = open_file(path)
    return payloads_fingerprint([Span(file, 0, file.size)])


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
        raise FolderError(f"{path} is not JSON: {shown(str(error))}", DOWNLOAD) from error
    if not isinstance(found, kind):
        raise FolderError(f"{path} holds {described(found)}, not {TYPE_NAMES[kind]}", DOWNLOAD)
    return found


def setting(config: dict[str, Any], key: str, kind: type | tuple[type, ...], path: Path, default: Any = None) -> Any:
    """``config[key]`` of type ``kind``, or ``default`` where it is absent or null; FolderError when it is anything else."""
    value = config.get(key)
    if value is None:
        return default
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join(one.__name__ for one in kinds)
        raise FolderError(f"{path}: {key!r} is {described(value)}, where a value of type {wanted} belongs", DOWNLOAD)
    return value


def described(value: object) -> str:
    """How messages name what a JSON value is; short values as they are."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return shown(repr(value))
    return TYPE_NAMES.get(type(value), type(value).__name__)
