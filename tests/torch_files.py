"""PyTorch's weights files, written byte by byte without PyTorch: benign ones, and whatever else a pickle can say."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

STORAGES = {
    "float64": "DoubleStorage", "float32": "FloatStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage",
    "int64": "LongStorage", "int32": "IntStorage", "int16": "ShortStorage", "int8": "CharStorage", "uint8": "ByteStorage",
    "bool": "BoolStorage",
}  # fmt: skip
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


@dataclass(frozen=True)
class View:
    """A tensor to write: a view of ``storage``, an array of one dim; ``key`` tells storages apart."""

    key: str
    storage: np.ndarray
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0


def whole(key: str, array: np.ndarray) -> View:
    """A contiguous tensor with a storage of its own."""
    array = np.asarray(array, order="C")
    return View(key, array.reshape(-1), array.shape, tuple(step // array.itemsize for step in array.strides))


# --- pickle operations, protocol 2 --------------------------------------------------------------------------------------


def program(*operations: bytes) -> bytes:
    """A whole pickle."""
    return b"\x80\x02" + b"".join(operations) + b"."


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    if 0 <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def together(*items: bytes) -> bytes:
    """A tuple."""
    return b"(" + b"".join(items) + b"t"


def numbers(values: tuple[int, ...]) -> bytes:
    return together(*map(number, values))


def storage(kind: str, key: str, numel: int, *more: bytes) -> bytes:
    return together(text("storage"), name("torch", kind), text(key), text("cpu"), number(numel), *more) + b"Q"


def rebuilt(made: bytes, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    hooks = name("collections", "OrderedDict") + b")R"
    arguments = together(made, number(offset), numbers(shape), numbers(strides), b"\x89", hooks)
    return name("torch._utils", "_rebuild_tensor_v2") + arguments + b"R"


def tensor(view: View, *more: bytes) -> bytes:
    kind = STORAGES[view.storage.dtype.name]
    return rebuilt(storage(kind, view.key, view.storage.size, *more), view.offset, view.shape, view.strides)


def state(tensors: Mapping[str, bytes]) -> bytes:
    """The operations that make a state dict."""
    items = b"".join(text(key) + value for key, value in tensors.items())
    return name("collections", "OrderedDict") + b")R(" + items + b"u"


# --- files ----------------------------------------------------------------------------------------------------------------


def write_zip(path: Path, views: Mapping[str, View], order: str | None = "little") -> Path:
    """A file as PyTorch 1.6 or newer writes it; ``order`` is that of the storages' bytes."""
    pickled = program(state({key: tensor(view) for key, view in views.items()}))
    return zip_of(path, pickled, {view.key: view.storage.tobytes() for view in views.values()}, order)


def zip_of(
    path: Path, pickled: bytes, data: Mapping[str, bytes], order: str | None = "little", compressed: bool = False
) -> Path:
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("archive/data.pkl", pickled)
        if order is not None:
            archive.writestr("archive/byteorder", order)
        for key, values in data.items():
            archive.writestr(f"archive/data/{key}", values)
        archive.writestr("archive/version", "3\n")
    return path


def write_legacy(path: Path, views: Mapping[str, View]) -> Path:
    """A file as PyTorch before 1.6 wrote it."""
    storages = {view.key: view.storage for view in views.values()}
    pickled = program(state({key: tensor(view, b"N") for key, view in views.items()}))
    return legacy_of(path, pickled, {key: (one.size, one.tobytes()) for key, one in storages.items()})


def legacy_of(path: Path, pickled: bytes, data: Mapping[str, tuple[int, bytes]], magic: int = MAGIC) -> Path:
    stream = io.BytesIO()
    for value in (magic, PROTOCOL, {"little_endian": True}):
        pickle.dump(value, stream, 2)
    stream.write(pickled)
    pickle.dump(list(data), stream, 2)
    for count, values in data.values():
        stream.write(struct.pack("<q", count) + values)
    path.write_bytes(stream.getvalue())
    return path
