"""External data: where a tensor's bytes lie beside the .onnx file, and whether they may be read there.

Nothing is opened here: paths are resolved and files looked at with ``lstat`` and ``stat`` only. The rules follow what current
onnx refuses (path traversal, symlinks, hard links, unknown keys) and the Hugging Face cache layout that it must allow.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import onnx

from graphsurgery.errors import ExternalDataError, UnsafeLocationError
from graphsurgery.interface import type_name
from graphsurgery.model.dtypes import payload_size
from graphsurgery.model.locations import stays_inside, why_misspelt
from graphsurgery.model.parsing import shown
from graphsurgery.model.sources import Identity

KNOWN_KEYS = ("location", "offset", "length", "checksum", "basepath")
LARGEST_FILE = 1 << 48
"""Bytes; no file system in use holds larger files, so what claims to lie beyond is broken even where its file is absent."""


@dataclass(frozen=True, slots=True)
class ExternalFile:
    """A data file: the location as the model spells it, its path, and its state when the model was loaded (None: absent)."""

    location: str
    path: Path
    identity: Identity | None


@dataclass(frozen=True, slots=True)
class ExternalTensor:
    """Where one tensor's bytes lie: ``length`` bytes at ``offset`` of ``file``."""

    tensor: str
    file: ExternalFile
    offset: int
    length: int


def is_external(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def entries(tensor: onnx.TensorProto, name: str) -> dict[str, str]:
    """The external_data of ``tensor`` as a mapping; ExternalDataError on unknown or repeated keys."""
    found: dict[str, str] = {}
    for entry in tensor.external_data:
        if isinstance(entry.key, bytes) or isinstance(entry.value, bytes):
            raise ExternalDataError(f"tensor {name!r}: external_data is not UTF-8", "export the model again")
        if entry.key in found:
            what = f"tensor {name!r}: external_data names {shown(entry.key)!r} twice"
            raise ExternalDataError(what, "export the model again")
        if entry.key not in KNOWN_KEYS and not entry.key.startswith("prepacked_"):
            raise ExternalDataError(
                f"tensor {name!r}: external_data has the unknown key {shown(entry.key)!r}",
                f"known keys are {', '.join(KNOWN_KEYS)}",
            )
        found[entry.key] = entry.value
    return found


def place(tensor: onnx.TensorProto, name: str) -> tuple[str, int, int]:
    """(location, offset, length) that ``tensor`` claims, the length checked against its dims and element type."""
    found = entries(tensor, name)
    size = payload_size(tensor.data_type, tensor.dims)
    if size is None:
        what = f"tensor {name!r}: elements of type {type_name(tensor.data_type)} cannot lie in external data"
        raise ExternalDataError(what, "store this tensor inside the .onnx file")
    offset = _non_negative(found.get("offset", "0"), "offset", name)
    length = _non_negative(found.get("length", str(size)), "length", name)
    if length != size:
        raise ExternalDataError(
            f"tensor {name!r}: external data of {length} bytes, but {type_name(tensor.data_type)} of dims "
            f"{list(tensor.dims)} takes {size}",
            "the .onnx file and its data file do not belong together: export the model again",
        )
    if offset + length > LARGEST_FILE:
        raise ExternalDataError(f"tensor {name!r}: external data at offset {offset}, beyond any file", "export the model again")
    return found.get("location", ""), offset, length


def locate(location: str, model: Path | None, folder: Path, name: str) -> ExternalFile:
    """The data file that ``location`` means for a model in ``folder``.

    Raises UnsafeLocationError when it is empty, absolute, climbs with ``..``, is a memory address, is the model itself, is no
    plain file, is a hard link, or reaches outside the folder through a symlink (but for the Hugging Face cache's own links).
    """
    _check_spelling(location, name)
    path = folder / location
    found = _status(path, folder, location, name)
    if found is None:
        return ExternalFile(location, path, None)
    if not stat.S_ISREG(found.st_mode):
        raise _unsafe(name, location, "is not a plain file")
    if found.st_nlink > 1:
        raise _unsafe(name, location, f"is a hard link (the file has {found.st_nlink} names)")
    if model is not None and model.exists() and model.samefile(path):
        raise _unsafe(name, location, "is the model file itself")
    return ExternalFile(location, path, Identity.of(found))


def _status(path: Path, folder: Path, location: str, name: str) -> os.stat_result | None:
    """What ``path`` is, or what the symlink there leads to inside the folder; None where there is nothing."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _unsafe(name, location, f"cannot be looked at: {getattr(error, 'strerror', error)}") from error
    if not stays_inside(path, folder):
        raise _unsafe(name, location, "leads out of the model's folder through a symlink")
    if not stat.S_ISLNK(found.st_mode):
        return found
    try:
        return Path(os.path.realpath(path)).lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unsafe(name, location, f"is a symlink that leads nowhere: {error.strerror}") from error


def check_ranges(tensors: list[ExternalTensor]) -> None:
    """Every range lies in its file, and no two overlap; two tensors may share exactly the same bytes (tied weights)."""
    ordered = sorted(tensors, key=lambda one: (_file_key(one.file), one.offset, one.length))
    for one in ordered:
        if one.file.identity is not None and one.offset + one.length > one.file.identity.size:
            raise ExternalDataError(
                f"tensor {one.tensor!r}: bytes {one.offset} to {one.offset + one.length} of {shown(one.file.location)!r}, "
                f"which has {one.file.identity.size}",
                "the data file is truncated or belongs to another model: download or export it again",
            )
    filled = [one for one in ordered if one.length]
    for first, second in pairwise(filled):
        same = (first.offset, first.length) == (second.offset, second.length)
        one_file = _file_key(first.file) == _file_key(second.file)
        if one_file and second.offset < first.offset + first.length and not same:
            what = f"tensors {first.tensor!r} and {second.tensor!r} overlap in {shown(first.file.location)!r}"
            raise ExternalDataError(what, "export the model again")


def _file_key(file: ExternalFile) -> tuple[int, int, str]:
    """What is equal for two spellings of one file: ``weights.bin``, ``./weights.bin``, a symlink to it."""
    if file.identity is None:
        return (0, 0, str(file.path))
    return (file.identity.device, file.identity.inode, "")


def _check_spelling(location: str, name: str) -> None:
    why = why_misspelt(location)
    if why is not None:
        raise _unsafe(name, location, why)


def _non_negative(text: str, what: str, name: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ExternalDataError(
            f"tensor {name!r}: external data {what} {text[:40]!r} is not a non-negative integer", "export the model again"
        )
    if len(text) > 19:
        raise ExternalDataError(f"tensor {name!r}: external data {what} {text[:40]} is beyond any file", "export it again")
    return int(text)


def _unsafe(name: str, location: str, why: str) -> UnsafeLocationError:
    return UnsafeLocationError(
        f"tensor {name!r}: its external data location {location[:200]!r} {why}",
        "external data must be plain files in the model's own folder",
    )
