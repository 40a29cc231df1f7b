"""External data: where a tensor's bytes lie beside the .onnx file, and whether they may be read there.

Nothing is opened here: paths are resolved, and files are looked at with ``lstat`` and ``stat`` only. The rules follow the
refusals of current onnx (path traversal, symlinks, hard links, unknown keys), except that the links of the Hugging Face cache
are followed (see `hub_cache`).
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx

from graphsurgery.errors import ExternalDataError, UnsafeLocationError
from graphsurgery.interface import type_name
from graphsurgery.model.dtypes import compute_payload_size
from graphsurgery.model.hub_cache import leads_to_blob, lies_in
from graphsurgery.model.parsing import shorten
from graphsurgery.model.sources import Identity

LONGEST_LOCATION = 4096
MEMORY_ADDRESS_MARK = "ORT_MEM_ADDR"


def explain_bad_location(location: str) -> str | None:
    """Return why the spelling of ``location`` is not allowed, or None. It must be relative on every system and must not use
    '..'."""
    wrong = {
        "is empty": not location,
        f"has {len(location)} characters, more than a path can have": len(location) > LONGEST_LOCATION,
        "is a memory address of another process": MEMORY_ADDRESS_MARK in location,
        "holds a NUL byte": "\0" in location,
        "names a folder": location.endswith(("/", "\\")),
    }
    for why in (why for why, found in wrong.items() if found):
        return why
    for flavour in (PurePosixPath(location), PureWindowsPath(location)):
        if flavour.is_absolute() or flavour.drive or flavour.root:
            return "is an absolute path"
        if ".." in flavour.parts:
            return "climbs out of its folder with '..'"
    return None


KNOWN_KEYS = ("location", "offset", "length", "checksum", "basepath")
LARGEST_FILE = 1 << 48
"""Bytes. No file system in use holds larger files, so a tensor that claims to lie beyond is broken even if its file is
absent."""


@dataclass(frozen=True, slots=True)
class ExternalFile:
    """A data file: the location as the model spells it, its path, and its identity when the model was loaded (None if
    absent)."""

    location: str
    path: Path
    identity: Identity | None


@dataclass(frozen=True, slots=True)
class ExternalTensor:
    """One tensor's place: ``length`` bytes at ``offset`` of ``file``."""

    tensor: str
    file: ExternalFile
    offset: int
    length: int


def is_external(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def read_entries(tensor: onnx.TensorProto, name: str) -> dict[str, str]:
    """Return the external_data of ``tensor`` as a mapping. Raise ExternalDataError on unknown or repeated keys."""
    found: dict[str, str] = {}
    for entry in tensor.external_data:
        if isinstance(entry.key, bytes) or isinstance(entry.value, bytes):
            raise ExternalDataError(f"tensor {name!r}: external_data is not UTF-8", "export the model again")
        if entry.key in found:
            what = f"tensor {name!r}: external_data names {shorten(entry.key)!r} twice"
            raise ExternalDataError(what, "export the model again")
        if entry.key not in KNOWN_KEYS and not entry.key.startswith("prepacked_"):
            raise ExternalDataError(
                f"tensor {name!r}: external_data has the unknown key {shorten(entry.key)!r}",
                f"known keys are {', '.join(KNOWN_KEYS)}",
            )
        found[entry.key] = entry.value
    return found


def read_place(tensor: onnx.TensorProto, name: str) -> tuple[str, int, int]:
    """Return (location, offset, length) as ``tensor`` claims them. The length is checked against its dims and element type."""
    found = read_entries(tensor, name)
    size = compute_payload_size(tensor.data_type, tensor.dims)
    if size is None:
        what = f"tensor {name!r}: elements of type {type_name(tensor.data_type)} cannot lie in external data"
        raise ExternalDataError(what, "store this tensor inside the .onnx file")
    offset = _parse_non_negative(found.get("offset", "0"), "offset", name)
    length = _parse_non_negative(found.get("length", str(size)), "length", name)
    if length != size:
        raise ExternalDataError(
            f"tensor {name!r}: external data of {length} bytes, but {type_name(tensor.data_type)} of dims "
            f"{list(tensor.dims)} takes {size}",
            "the .onnx file and its data file do not belong together: export the model again",
        )
    if offset + length > LARGEST_FILE:
        raise ExternalDataError(f"tensor {name!r}: external data at offset {offset}, beyond any file", "export the model again")
    return found.get("location", ""), offset, length


def locate_file(location: str, model: Path | None, folder: Path, name: str) -> ExternalFile:
    """Return the data file that ``location`` means for a model in ``folder``.

    Raises UnsafeLocationError if the location is empty, absolute, contains ``..`` or is a memory address; if the file is the
    model itself, no plain file or a hard link; or if a symlink leads outside the folder. The Hugging Face cache's own links may
    do so, if ``model`` is behind one of them as well.
    """
    why = explain_bad_location(location)
    if why is not None:
        raise _make_location_error(name, location, why)
    path = folder / location
    found = _read_status(path, model, folder, location, name)
    if found is None:
        return ExternalFile(location, path, None)
    if not stat.S_ISREG(found.st_mode):
        raise _make_location_error(name, location, "is not a plain file")
    if found.st_nlink > 1:
        raise _make_location_error(name, location, f"is a hard link (the file has {found.st_nlink} names)")
    if model is not None and model.exists() and model.samefile(path):
        raise _make_location_error(name, location, "is the model file itself")
    return ExternalFile(location, path, Identity.of(found))


def _read_status(path: Path, model: Path | None, folder: Path, location: str, name: str) -> os.stat_result | None:
    """Return the status of ``path``, or of the file that the symlink leads to. Return None if nothing is there."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _make_location_error(name, location, f"cannot be examined: {getattr(error, 'strerror', error)}") from error
    if not lies_in(path, folder) and not (leads_to_blob(path, folder) and (model is None or leads_to_blob(model, folder))):
        raise _make_location_error(name, location, "leads out of the model's folder through a symlink")
    if not stat.S_ISLNK(found.st_mode):
        return found
    try:
        return Path(os.path.realpath(path)).lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _make_location_error(name, location, f"is a symlink that leads nowhere: {error.strerror}") from error


def check_ranges(tensors: list[ExternalTensor]) -> None:
    """Check that every range lies in its file and no two overlap. Two tensors may share exactly the same bytes (tied
    weights)."""
    ordered = sorted(tensors, key=lambda one: (_identify_file(one.file), one.offset, one.length))
    for one in ordered:
        if one.file.identity is not None and one.offset + one.length > one.file.identity.size:
            raise ExternalDataError(
                f"tensor {one.tensor!r}: bytes {one.offset} to {one.offset + one.length} of {shorten(one.file.location)!r}, "
                f"which has {one.file.identity.size}",
                "the data file is truncated or belongs to another model: download or export it again",
            )
    filled = [one for one in ordered if one.length]
    for first, second in pairwise(filled):
        same = (first.offset, first.length) == (second.offset, second.length)
        one_file = _identify_file(first.file) == _identify_file(second.file)
        if one_file and second.offset < first.offset + first.length and not same:
            what = f"tensors {first.tensor!r} and {second.tensor!r} overlap in {shorten(first.file.location)!r}"
            raise ExternalDataError(what, "export the model again")


def _identify_file(file: ExternalFile) -> tuple[int, int, str]:
    """Return a key that is equal for all spellings of one file: ``weights.bin``, ``./weights.bin``, a symlink to it."""
    if file.identity is None:
        return (0, 0, str(file.path))
    return (file.identity.device, file.identity.inode, "")


def _parse_non_negative(text: str, what: str, name: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ExternalDataError(
            f"tensor {name!r}: external data {what} {text[:40]!r} is not a non-negative integer", "export the model again"
        )
    if len(text) > 19:
        raise ExternalDataError(f"tensor {name!r}: external data {what} {text[:40]} is beyond any file", "export it again")
    return int(text)


def _make_location_error(name: str, location: str, why: str) -> UnsafeLocationError:
    return UnsafeLocationError(
        f"tensor {name!r}: its external data location {location[:200]!r} {why}",
        "external data must be plain files in the model's own folder, or links of the Hugging Face cache like the model itself",
    )
