"""The files of other people's model folders: which may be opened, JSON within limits, and the ONNX file of the encoder.

A folder may come from anywhere. Names in its configs may point outside it, its files may be pipes that never end, and its JSON
may be nested or large enough to fill the memory. Every refusal names the file and the remedy.
"""

from __future__ import annotations

import json
import os
from itertools import islice
from pathlib import Path
from typing import Any

from graphsurgery.errors import FolderError, GraphSurgeryError
from graphsurgery.model.external import explain_bad_location
from graphsurgery.model.hub_cache import is_in_cache, leads_to_blob, lies_in
from graphsurgery.model.parsing import shorten
from graphsurgery.model.records import Span, hash_payloads
from graphsurgery.model.sources import FileBytes

LARGEST_CONFIG = 8 << 20
"""Upper limit on a config's bytes. The largest one seen, with 21 000 labels, has 1 MiB; parsed, JSON can take 25 times its
size."""
LARGEST_VOCABULARY = 256 << 20
"""Upper limit on the bytes of a config with a vocabulary, as WordWeights and BoW have: some 20 bytes for each word."""
DOWNLOAD = "download the model folder again, whole"
BAKED = "graphsurgery.json"
"""A file in every folder that graphsurgery baked: its certificate, which lists the other files."""
TYPE_NAMES: dict[type, str] = {dict: "a JSON object", list: "a JSON list"}


def resolve_inside(folder: Path, name: str, what: str) -> Path:
    """Return the path in ``folder`` that ``name``, found in ``what``, refers to. Nothing need exist there.

    Raises FolderError if the name is absolute, contains ``..``, a NUL or a backslash, or leads outside the folder through a
    symlink (the Hugging Face cache's own links are allowed).
    """
    why = "holds a backslash" if "\\" in name else explain_bad_location(name)
    if why is None:
        path = folder / name
        try:
            if _is_inside(path, folder):
                return path
            why = "leads out of the folder through a symlink"
        except (OSError, ValueError) as error:  # ValueError: what no file system can spell
            why = f"cannot be examined: {getattr(error, 'strerror', None) or error}"
    raise FolderError(f"{what}: the path {shorten(name)!r} {why}", f"it must lie in {folder}")


def _is_inside(path: Path, folder: Path) -> bool:
    return lies_in(path, folder) or leads_to_blob(path, folder)


def is_there(path: Path) -> bool:
    """Return whether anything is at ``path``: a file, a folder, or a dangling symlink (which opening then refuses)."""
    return os.path.lexists(path)


def list_model_folders(model: Path | None) -> tuple[Path, ...]:
    """Return the folders in which the configs of an ONNX file may lie: its own, and the one above (``onnx/model.onnx``)."""
    return () if model is None else (model.parent, model.parent.parent)


def find_model_folder(model: Path | None, name: str) -> Path | None:
    """Return the first of `list_model_folders` that holds something called ``name``, or None."""
    return next((folder for folder in list_model_folders(model) if is_there(folder / name)), None)


def is_folder(path: Path) -> bool:
    """Return whether ``path`` is a folder that may be looked into."""
    return os.path.isdir(path)  # noqa: PTH112 -- Path.is_dir raises where a parent may not be entered


def open_file(path: Path) -> FileBytes:
    """Open ``path`` for reading. Raise FolderError if it does not exist, may not be read, or is not a regular file."""
    try:
        return FileBytes(path)
    except GraphSurgeryError as error:
        raise FolderError(str(error), f"check the path; if the file belongs to a model folder, {DOWNLOAD}") from error


def hash_file(path: Path) -> str:
    """Return the sha256 (hex) of a file's bytes."""
    file = open_file(path)
    return hash_payloads([Span(file, 0, file.size)])


def read_json(path: Path, kind: type = dict, largest: int = LARGEST_CONFIG) -> Any:
    """Return the JSON at ``path``. Raise FolderError if it cannot be read or its top level is no ``kind``."""
    file = open_file(path)
    if file.size > largest:
        raise FolderError(
            f"{path} has {file.size} bytes, more than the {largest} that graphsurgery reads from such a file",
            "replace it with the model's own",
        )
    try:
        found = json.loads(file.read(0, file.size).decode("utf-8-sig"))  # with or without a byte order mark
    except RecursionError as error:
        raise FolderError(f"{path} nests too deeply to be read", "replace it with the model's own") from error
    except ValueError as error:  # not UTF-8, not JSON, or a number of thousands of digits
        raise FolderError(f"{path} is not JSON: {shorten(str(error))}", DOWNLOAD) from error
    if not isinstance(found, kind):
        raise FolderError(f"{path} holds {describe_value(found)}, not {TYPE_NAMES[kind]}", DOWNLOAD)
    return found


def read_setting(config: dict[str, Any], key: str, kind: type | tuple[type, ...], path: Path, default: Any = None) -> Any:
    """Return ``config[key]``, or ``default`` if it is absent or null. Raise FolderError if it is not of type ``kind``."""
    value = config.get(key)
    if value is None:
        return default
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join(one.__name__ for one in kinds)
        raise FolderError(f"{path}: {key!r} is {describe_value(value)}, and a value of type {wanted} is needed", DOWNLOAD)
    return value


def describe_value(value: object) -> str:
    """Return how messages name a JSON value. Short values are shown as they are."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return shorten(repr(value))
    return TYPE_NAMES.get(type(value), type(value).__name__)


USUAL = ("onnx/model.onnx", "model.onnx")
"""Where exporters put the file in full precision. The first that exists is used."""
FOLDERS = ("onnx", "")
MOST_VARIANTS = 100


def find_onnx(folder: Path, name: str | None = None) -> tuple[Path, tuple[str, ...]]:
    """Return (the encoder's ONNX file, the other ONNX files of the folder, relative to it).

    This is ``onnx/model.onnx``, else ``model.onnx``; with ``name`` it is that file, in the folder or in its ``onnx/``. Raises
    FolderError if there is none, or if it leads outside the folder.
    """
    there = list_onnx_files(folder)
    wanted = USUAL if name is None else (name, f"onnx/{name}")
    for one in wanted:
        path = resolve_inside(folder, one, str(folder) if name is None else "the ONNX file that was asked for")
        if is_there(path) and not is_folder(path):
            return path, tuple(other for other in there if folder / other != path)
    what = " and no ".join(USUAL) if name is None else shorten(name)
    others = f"; it has {', '.join(there)}" if there else ""
    export = "make one: graphsurgery bake with --export" if is_in_cache(folder) else f"make one: graphsurgery export {folder}"
    advice = "choose one of these by its name" if there else export
    raise FolderError(f"{folder} has no {what}{others}", advice)


def list_onnx_files(folder: Path) -> tuple[str, ...]:
    """Return the ONNX files in a model folder and in its ``onnx/``, relative to the folder."""
    if not is_folder(folder):
        raise FolderError(f"{folder} is not a folder", "give the folder of a model")
    found = (path for place in FOLDERS for path in sorted((folder / place).glob("*.onnx")))
    there = (path for path in found if _is_inside(path, folder) and path.is_file())
    return tuple(path.relative_to(folder).as_posix() for path in islice(there, MOST_VARIANTS))
