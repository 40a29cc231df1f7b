"""PyTorch's weights files (``pytorch_model.bin``, ``*.pt``), read without PyTorch: where the tensors of a state dict lie.

Since PyTorch 1.6 a file is a zip of uncompressed entries: ``<name>/data.pkl`` (a pickle that refers to storages by key),
``<name>/data/<key>`` (their bytes), ``<name>/byteorder``. Before, it was three short pickles, the pickle of the state dict, the
pickled list of the storages' keys, and then each storage as its number of elements and its bytes, little-endian.
"""

from __future__ import annotations

import struct
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from graphsurgery.errors import WeightsError
from graphsurgery.folders.stored_tensor import StoredTensor, count_span, explain_impossible, to_dtype
from graphsurgery.folders.torch_globals import STORAGES, Global, Storage, Tensor
from graphsurgery.folders.torch_pickle import CONVERT, LARGEST_READ, BoundedStream, Unpickler
from graphsurgery.model.parsing import shorten
from graphsurgery.model.sources import FileBytes

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
LARGEST_PICKLE = 16 << 20
"""Upper limit on the bytes of the pickles. Each tensor takes about 150 and its name."""
LOCAL_HEADER = struct.Struct("<4s22xHH")
MOST_REUSE = 16
"""Upper limit on the memory of all tensors together, tied and repeated ones included, as a multiple of the file's size."""
SMALL = 1 << 20
DAMAGED = "the file is damaged: download it again"


@dataclass(frozen=True, slots=True)
class Extent:
    """The bytes of a storage in the file."""

    start: int
    size: int


def read_zip(file: FileBytes) -> dict[str, StoredTensor]:
    """Return the tensors of a file from PyTorch 1.6 or newer. Raise WeightsError for any other file."""
    path = file.path
    entries = _list_entries(file)
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise WeightsError(
            f"{path} is a zip file, but holds no PyTorch weights: {len(pickles)} entries are called data.pkl", DAMAGED
        )
    prefix = pickles[0].removesuffix("data.pkl")
    pickled = _find_extent(file, entries[pickles[0]])
    state = Unpickler(path, _parse_zip_storage).load(_open_stream(file, pickled.start, pickled.start + pickled.size))
    order = _read_entry(file, entries.get(f"{prefix}byteorder")) or b"little"
    if order not in (b"little", b"big"):
        raise WeightsError(f"{path}: its byte order is {shorten(order)!r}", DAMAGED)
    tensors = _require_state_dict(path, state)
    found: dict[str, Extent] = {}
    for tensor in tensors.values():
        entry = entries.get(f"{prefix}data/{tensor.storage.key}")
        if entry is not None and tensor.storage.key not in found:
            found[tensor.storage.key] = _find_extent(file, entry)
    return _place_tensors(file, tensors, found, swapped=order.decode() != sys.byteorder)


def read_legacy(file: FileBytes) -> dict[str, StoredTensor]:
    """Return the tensors of a file in the format before PyTorch 1.6, which newer ones can write, too. Raise WeightsError for
    any other file."""
    path = file.path
    declared: dict[str, Storage] = {}

    def storage(said: object) -> Storage | None:
        found = _parse_legacy_storage(said)
        return declared.setdefault(found.key, found) if found is not None else None

    stream = _open_stream(file, 0, file.size)
    magic, protocol, _ = (Unpickler(path, storage).load(stream) for _ in range(3))
    if (magic, protocol) != (MAGIC, PROTOCOL):
        raise WeightsError(f"{path} is a pickle, but holds no PyTorch weights", CONVERT)
    tensors = _require_state_dict(path, Unpickler(path, storage).load(stream))
    keys = Unpickler(path, storage).load(stream)
    return _place_tensors(
        file, tensors, _find_legacy_extents(file, keys, declared, stream.tell()), swapped=sys.byteorder != "little"
    )


def _find_legacy_extents(file: FileBytes, keys: object, declared: dict[str, Storage], at: int) -> dict[str, Extent]:
    """Return the place of each storage, from byte ``at`` on."""
    found: dict[str, Extent] = {}
    for key in keys if isinstance(keys, list) else [keys]:
        storage = declared.get(key) if isinstance(key, str) else None
        if storage is None or at + 8 > file.size:
            raise WeightsError(f"{file.path}: its list of storages does not fit its tensors or its size", DAMAGED)
        count = int.from_bytes(file.read(at, 8), "little")
        found[storage.key] = Extent(at + 8, count * to_dtype(storage.dtype).itemsize)
        at += 8 + found[storage.key].size
    return found


def _open_stream(file: FileBytes, start: int, end: int) -> BoundedStream:
    """Return a stream of pickles, which together may take `LARGEST_PICKLE` bytes."""
    return BoundedStream(file, start, min(end, start + LARGEST_PICKLE))


def _list_entries(file: FileBytes) -> dict[str, zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(BoundedStream(file, 0, file.size)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, EOFError, struct.error) as error:
        raise WeightsError(f"{file.path} is not a readable zip file: {shorten(str(error))}", DAMAGED) from error
    found = {entry.filename: entry for entry in entries}
    if len(found) != len(entries):
        raise WeightsError(f"{file.path} holds two entries of one name", DAMAGED)
    return found


def _find_extent(file: FileBytes, entry: zipfile.ZipInfo) -> Extent:
    """Return the place of a zip entry's bytes. PyTorch stores them uncompressed, so they can be read in place."""
    what = f"{file.path}: its entry {shorten(entry.filename)!r}"
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.compress_size != entry.file_size:
        raise WeightsError(f"{what} is compressed or encrypted, which PyTorch's never are", CONVERT)
    if not 0 <= entry.header_offset <= file.size - LOCAL_HEADER.size:
        raise WeightsError(f"{what} lies beyond the start or the end of the file", DAMAGED)
    mark, name_length, extra_length = LOCAL_HEADER.unpack(file.read(entry.header_offset, LOCAL_HEADER.size))
    start = entry.header_offset + LOCAL_HEADER.size + name_length + extra_length
    if mark != b"PK\3\4" or start + entry.file_size > file.size:
        raise WeightsError(f"{what} lies beyond the end of the file, or is not where the zip's directory says", DAMAGED)
    return Extent(start, entry.file_size)


def _read_entry(file: FileBytes, entry: zipfile.ZipInfo | None) -> bytes:
    if entry is None:
        return b""
    extent = _find_extent(file, entry)
    return file.read(extent.start, min(extent.size, LARGEST_READ))


def _parse_zip_storage(said: object) -> Storage | None:
    match said:
        case ("storage", Global(kind), str(key), str(), int(numel)) if kind in STORAGES and numel >= 0:
            return Storage(key, STORAGES[kind], numel)
    return None


def _parse_legacy_storage(said: object) -> Storage | None:
    match said:
        case ("storage", Global(kind), str(key), str(), int(numel), None) if kind in STORAGES and numel >= 0:
            return Storage(key, STORAGES[kind], numel)
    return None


def _require_state_dict(path: Path, state: object) -> dict[str, Tensor]:
    """Return ``state`` if it is a state dict, tensors by name and nothing else. Raise WeightsError otherwise."""
    advice = "save a state dict: torch.save(model.state_dict(), path)"
    if not isinstance(state, dict):
        raise WeightsError(f"{path} holds a {type(state).__name__}, not a state dict", advice)
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(f"{path}: {shorten(str(name))!r} is a {type(value).__name__}, not a tensor", advice)
    return state


def _place_tensors(
    file: FileBytes, tensors: dict[str, Tensor], extents: dict[str, Extent], swapped: bool
) -> dict[str, StoredTensor]:
    """Return every tensor at its bytes in the file, checked against the file's content."""
    found = {name: _place_tensor(file, name, tensor, extents, swapped) for name, tensor in tensors.items()}
    room = file.size + SMALL
    total = sum(one.nbytes for one in found.values())
    largest = max((one.nbytes for one in found.values()), default=0)
    if largest > room or total > MOST_REUSE * room:
        raise WeightsError(f"{file.path} has {file.size} bytes, but its tensors would take {total}", CONVERT)
    return found


def _place_tensor(file: FileBytes, name: str, tensor: Tensor, extents: dict[str, Extent], swapped: bool) -> StoredTensor:
    what = f"{file.path}: the tensor {shorten(name)!r}"
    wrong = explain_impossible(tensor.shape, tensor.strides)
    if wrong is not None:
        raise WeightsError(f"{what} has {wrong}", DAMAGED)
    extent = extents.get(tensor.storage.key)
    if extent is None:
        raise WeightsError(f"{what} lies in the storage {shorten(tensor.storage.key)!r}, which the file does not have", DAMAGED)
    dtype = to_dtype(tensor.dtype)
    room = min(extent.size, file.size - extent.start, tensor.storage.numel * to_dtype(tensor.storage.dtype).itemsize)
    end = (tensor.offset + count_span(tensor.shape, tensor.strides)) * dtype.itemsize
    if tensor.offset < 0 or end > room:
        raise WeightsError(f"{what} reaches to byte {end} of a storage of {max(room, 0)}", DAMAGED)
    return StoredTensor(dtype, tensor.shape, tensor.strides, extent.start + tensor.offset * dtype.itemsize, swapped)
