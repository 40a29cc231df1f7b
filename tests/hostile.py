"""Hostile and broken model files, one builder per kind, and the look-alikes that must load.

Each builder writes a model into a folder of its own and returns the path to load. `CASES` holds what must be refused, with the
error's type and words of its message (the tensor's name and the reason); `BENIGN` what must load, with words of its notes.
Protobuf that no library would write is put together by `varint` and `field`.

Run as a script (``python hostile.py PATHS.json [together]``) it loads every model named in the file and reports on standard
output: see `measure` and `open_all`.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from effort import count_calls, counting
from onnx import TensorProto, helper, numpy_helper

from graphsurgery.errors import (
    ExternalDataError,
    GraphSurgeryError,
    MalformedModelError,
    SurroundingsError,
    TensorDataError,
    UnsafeLocationError,
)
from graphsurgery.model.loading import load

Builder = Callable[[Path], Path]
HUGE = 1 << 40
PETABYTE = 10**15
SECRET = b"not yours"


@dataclass(frozen=True)
class Case:
    """A file to refuse: who builds it, the error it must meet, and words that the message must contain."""

    build: Builder
    error: type[GraphSurgeryError]
    words: tuple[str, ...]


@dataclass(frozen=True)
class Benign:
    """A file that must load: who builds it, and words that its notes must contain (no words: no notes)."""

    build: Builder
    notes: tuple[str, ...]


CASES: dict[str, Case] = {}
BENIGN: dict[str, Benign] = {}


def refused(error: type[GraphSurgeryError], *words: str) -> Callable[[Builder], Builder]:
    def register(build: Builder) -> Builder:
        CASES[build.__name__] = Case(build, error, words)
        return build

    return register


def loads(*notes: str) -> Callable[[Builder], Builder]:
    def register(build: Builder) -> Builder:
        BENIGN[build.__name__] = Benign(build, notes)
        return build

    return register


# --- protobuf by hand -------------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def in_graph(content: bytes) -> bytes:
    """A ModelProto whose graph has this content."""
    return b"\x08\x0a" + field(7, content)


def node(content: bytes) -> bytes:
    return field(1, content)


# --- models and folders -----------------------------------------------------------------------------------------------


def graph_of(
    initializers: Sequence[TensorProto] = (), nodes: Sequence[onnx.NodeProto] = (), name: str = "graph"
) -> onnx.GraphProto:
    value = helper.make_tensor_value_info
    x, y = value("x", TensorProto.FLOAT, ["batch", 4]), value("y", TensorProto.FLOAT, ["batch", 4])
    return helper.make_graph(nodes or [helper.make_node("Relu", ["x"], ["y"], name="relu")], name, [x], [y], initializers)


def model_of(*initializers: TensorProto, nodes: Sequence[onnx.NodeProto] = ()) -> onnx.ModelProto:
    graph = graph_of(initializers, nodes)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def floats(count: int, name: str = "w") -> TensorProto:
    return numpy_helper.from_array(np.arange(count, dtype=np.float32), name)


def integers(*values: int, name: str = "shape") -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def outside(
    location: str | bytes = "weights.bin", name: str = "w", dims: Sequence[int] = (4,), **entries: object
) -> TensorProto:
    """A float tensor whose data lie outside, with further external_data entries."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value if isinstance(value, str) else str(value))
    return tensor


def write(folder: Path, model: onnx.ModelProto | bytes, data: bytes | None = bytes(16)) -> Path:
    """``model.onnx``, and ``weights.bin`` beside it, in a folder of their own below ``folder``; a secret lies above."""
    (folder / "secret.bin").write_bytes(SECRET)
    home = folder / "model"
    home.mkdir()
    if data is not None:
        (home / "weights.bin").write_bytes(data)
    path = home / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def located(folder: Path, location: str) -> Path:
    """A model with one tensor, ``w``, whose data lie at ``location``."""
    return write(folder, model_of(outside(location)))


def linked(folder: Path, target: str | Path, location: str = "link.bin") -> Path:
    """A model whose data file is a symlink."""
    path = located(folder, location)
    (path.parent / location).symlink_to(target)
    return path


def constant(output: str = "c", **value: object) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [output], **value)


def branching(then: onnx.GraphProto) -> onnx.NodeProto:
    otherwise = helper.make_graph([constant("o", value=floats(1))], "otherwise", [], [])
    return helper.make_node("If", ["x"], ["y"], name="if", then_branch=then, else_branch=otherwise)


def branch(*nodes: onnx.NodeProto, initializers: Sequence[TensorProto] = ()) -> onnx.GraphProto:
    return helper.make_graph(nodes, "then", [], [], initializers)


# --- locations that leave the folder ----------------------------------------------------------------------------------


@refused(UnsafeLocationError, "'w'", "'..'")
def parent_folder(folder: Path) -> Path:
    """CVE-2022-25882: ``../secret``."""
    return located(folder, "../secret.bin")


@refused(UnsafeLocationError, "'w'", "'..'")
def parent_behind_a_folder(folder: Path) -> Path:
    """CVE-2024-27318: the climb does not stand at the start."""
    return located(folder, "sub/../../secret.bin")


@refused(UnsafeLocationError, "'w'", "'..'")
def parent_to_write_to(folder: Path) -> Path:
    """CVE-2025-51480: saving would overwrite what the location names; it need not exist to be loaded."""
    return located(folder, "../../victim.bin")


@refused(UnsafeLocationError, "'w'", "absolute")
def absolute_path(folder: Path) -> Path:
    return located(folder, str((folder / "secret.bin").resolve()))


@refused(UnsafeLocationError, "'w'", "absolute")
def absolute_path_of_this_folder(folder: Path) -> Path:
    return located(folder, str((folder / "model" / "weights.bin").resolve()))


@refused(UnsafeLocationError, "'w'", "absolute")
def windows_drive(folder: Path) -> Path:
    return located(folder, "C:\\secret.bin")


@refused(UnsafeLocationError, "'w'", "absolute")
def windows_drive_without_root(folder: Path) -> Path:
    return located(folder, "C:secret.bin")


@refused(UnsafeLocationError, "'w'", "absolute")
def windows_share(folder: Path) -> Path:
    return located(folder, "\\\\server\\share\\secret.bin")


@refused(UnsafeLocationError, "'w'", "'..'")
def windows_parent_folder(folder: Path) -> Path:
    return located(folder, "..\\secret.bin")


@refused(UnsafeLocationError, "'w'", "symlink")
def symlink_out(folder: Path) -> Path:
    """CVE-2026-34447."""
    return linked(folder, "../secret.bin")


@refused(UnsafeLocationError, "'w'", "symlink")
def symlinked_folder_out(folder: Path) -> Path:
    """CVE-2026-27489: the last part of the path is a plain file, a folder above it is the symlink."""
    path = located(folder, "sub/secret.bin")
    (path.parent / "sub").symlink_to("..")
    return path


@refused(UnsafeLocationError, "'w'", "symlink")
def symlink_to_symlink_out(folder: Path) -> Path:
    path = linked(folder, "second.bin")
    (path.parent / "second.bin").symlink_to(folder / "secret.bin")
    return path


@refused(UnsafeLocationError, "'w'", "symlink")
def symlink_out_to_nothing(folder: Path) -> Path:
    return linked(folder, "../absent.bin")


@refused(UnsafeLocationError, "'w'", "symlink")
def symlink_to_a_device(folder: Path) -> Path:
    return linked(folder, "/dev/zero")


@refused(UnsafeLocationError, "'w'", "not a plain file")
def symlink_to_itself(folder: Path) -> Path:
    return linked(folder, "link.bin")


@refused(UnsafeLocationError, "'w'", "leads nowhere")
def symlink_below_a_file(folder: Path) -> Path:
    return linked(folder, "weights.bin/inner.bin")


@refused(UnsafeLocationError, "'w'", "hard link")
def hard_link(folder: Path) -> Path:
    """CVE-2026-34446: a hard link looks like any other file."""
    path = located(folder, "hard.bin")
    os.link(folder / "secret.bin", path.parent / "hard.bin")
    return path


@refused(UnsafeLocationError, "'w'", "symlink")
def hub_cache_of_another_repository(folder: Path) -> Path:
    """Only blobs of the model's own repository may be linked to."""
    stranger = folder / "models--other" / "blobs" / "0123"
    stranger.parent.mkdir(parents=True)
    stranger.write_bytes(bytes(16))
    return hub_cache(folder, outside(), {"weights.bin": stranger})


@refused(UnsafeLocationError, "'w'", "symlink")
def hub_cache_with_a_symlinked_blob(folder: Path) -> Path:
    (folder / "secret.bin").write_bytes(SECRET)
    (folder / "blob").symlink_to(folder / "secret.bin")
    return hub_cache(folder, outside(), {"weights.bin": folder / "blob"})


@refused(UnsafeLocationError, "'w'", "symlink")
def hub_cache_whose_own_blob_is_a_symlink_out(folder: Path) -> Path:
    (folder / "secret.bin").write_bytes(SECRET)
    path = hub_cache(folder, outside(), {"weights.bin": folder / "models--me" / "blobs" / "c3d4"})
    (folder / "models--me" / "blobs" / "c3d4").symlink_to(folder / "secret.bin")
    return path


@refused(UnsafeLocationError, "'w'", "symlink")
def hub_cache_with_a_model_that_is_no_link(folder: Path) -> Path:
    """ONNX Runtime refuses it, too: no other program would read the data of this file."""
    path = hub_cache(folder, outside(), {"weights.bin": folder / "models--me" / "blobs" / "c3d4"})
    (folder / "models--me" / "blobs" / "c3d4").write_bytes(bytes(16))
    return unlinked(path)


@refused(UnsafeLocationError, "'w'", "symlink")
def hub_cache_with_a_model_from_elsewhere(folder: Path) -> Path:
    path = hub_cache(folder, outside(), {"weights.bin": folder / "models--me" / "blobs" / "c3d4"})
    (folder / "models--me" / "blobs" / "c3d4").write_bytes(bytes(16))
    (folder / "models--me" / "blobs" / "a1b2").rename(folder / "elsewhere")
    path.unlink()
    path.symlink_to(folder / "elsewhere")
    return path


@refused(UnsafeLocationError, "'w'", "symlink")
def hub_store_with_a_model_that_is_no_link(folder: Path) -> Path:
    return unlinked(hub_store(folder, STORED))


@refused(UnsafeLocationError, "'w'", "symlink")
def hub_store_of_another_cache(folder: Path) -> Path:
    return hub_store(folder, f"../other/blobs/{STORED}")


@refused(UnsafeLocationError, "'w'", "symlink")
def hub_store_with_a_file_of_another_name(folder: Path) -> Path:
    return hub_store(folder, "ab/secret.bin")


@refused(UnsafeLocationError, "'w'", "symlink")
def hub_store_with_a_deeper_file(folder: Path) -> Path:
    return hub_store(folder, f"ab/cd/{STORED[3:]}")


@refused(UnsafeLocationError, "'w'", "symlink")
def hub_store_with_a_list_of_links(folder: Path) -> Path:
    """The hub's library keeps one beside each file."""
    return hub_store(folder, f"{STORED}.refs")


@refused(UnsafeLocationError, "'w'", "symlink")
def hub_store_of_a_folder_that_is_no_repository(folder: Path) -> Path:
    return hub_store(folder, STORED, repository="me")


@refused(UnsafeLocationError, "'w'", "symlink")
def hub_store_with_a_symlinked_file(folder: Path) -> Path:
    path = hub_store(folder, STORED)
    (folder / "blobs" / STORED).rename(folder / "secret.bin")
    (folder / "blobs" / STORED).symlink_to(folder / "secret.bin")
    return path


@refused(UnsafeLocationError, "'w'", "symlink")
def hub_store_with_a_symlinked_folder(folder: Path) -> Path:
    path = hub_store(folder, STORED)
    (folder / "blobs" / "ab").rename(folder / "secrets")
    (folder / "blobs" / "ab").symlink_to(folder / "secrets")
    return path


@refused(UnsafeLocationError, "'w'", "hard link")
def hub_store_with_a_hard_link(folder: Path) -> Path:
    path = hub_store(folder, STORED)
    os.link(folder / "blobs" / STORED, folder / "secret.bin")
    return path


@refused(UnsafeLocationError, "'w'", "not a plain file")
def hub_store_with_a_folder(folder: Path) -> Path:
    path = hub_store(folder, STORED)
    (folder / "blobs" / STORED).unlink()
    (folder / "blobs" / STORED).mkdir()
    return path


# --- locations that name no data file ---------------------------------------------------------------------------------


@refused(UnsafeLocationError, "'w'", "memory address")
def memory_address(folder: Path) -> Path:
    """ONNX Runtime's mark for data that lie in its own memory, offset being the address."""
    return write(folder, model_of(outside("*/_ORT_MEM_ADDR_/*", offset=0x7FFF_0000_0000, length=16)))


@refused(UnsafeLocationError, "'w'", "the model file itself")
def own_file(folder: Path) -> Path:
    return located(folder, "model.onnx")


@refused(UnsafeLocationError, "'w'", "the model file itself")
def own_file_with_a_dot(folder: Path) -> Path:
    return located(folder, "./model.onnx")


@refused(UnsafeLocationError, "'w'", "the model file itself")
def own_file_behind_a_symlink(folder: Path) -> Path:
    return linked(folder, "model.onnx")


@refused(UnsafeLocationError, "'w'", "the model file itself")
def own_file_in_the_hub_cache(folder: Path) -> Path:
    return hub_cache(folder, outside("model.onnx"), {})


@refused(UnsafeLocationError, "'w'", "empty")
def empty_location(folder: Path) -> Path:
    return located(folder, "")


@refused(UnsafeLocationError, "'w'", "empty")
def no_location(folder: Path) -> Path:
    tensor = outside()
    del tensor.external_data[:]
    return write(folder, model_of(tensor))


@refused(UnsafeLocationError, "'w'", "not a plain file")
def the_folder_itself(folder: Path) -> Path:
    return located(folder, ".")


@refused(UnsafeLocationError, "'w'", "not a plain file")
def a_folder(folder: Path) -> Path:
    path = located(folder, "sub")
    (path.parent / "sub").mkdir()
    return path


@refused(UnsafeLocationError, "'w'", "names a folder")
def trailing_slash(folder: Path) -> Path:
    return located(folder, "weights.bin/")


@refused(UnsafeLocationError, "'w'", "cannot be examined")
def below_a_file(folder: Path) -> Path:
    return located(folder, "weights.bin/inner.bin")


@refused(UnsafeLocationError, "'w'", "NUL")
def nul_in_location(folder: Path) -> Path:
    return located(folder, "weights.bin\0.txt")


@refused(UnsafeLocationError, "'w'", "1000000 characters")
def location_of_a_megabyte(folder: Path) -> Path:
    return located(folder, "a/" * 500_000)


@refused(UnsafeLocationError, "'w'", "cannot be examined")
def location_longer_than_a_name(folder: Path) -> Path:
    return located(folder, "w" * 300)


@refused(UnsafeLocationError, "'w'", "not a plain file")
def data_file_is_a_fifo(folder: Path) -> Path:
    path = located(folder, "fifo.bin")
    os.mkfifo(path.parent / "fifo.bin")
    return path


@refused(ExternalDataError, "'w8192'", "8192 data files")
def thousands_of_data_files(folder: Path) -> Path:
    return write(folder, model_of(*(outside(f"{index}.bin", f"w{index}") for index in range(8193))))


# --- external_data entries that are wrong -----------------------------------------------------------------------------


@refused(ExternalDataError, "'w'", "unknown key", "__class__")
def unknown_key(folder: Path) -> Path:
    """CVE-2026-34445: every key became an attribute of a Python object."""
    return write(folder, model_of(outside(__class__="x")))


@refused(ExternalDataError, "'w'", "'offset' twice")
def key_told_twice(folder: Path) -> Path:
    tensor = outside(offset=0)
    tensor.external_data.add(key="offset", value="8")
    return write(folder, model_of(tensor))


@refused(ExternalDataError, "'w'", "not UTF-8")
def location_not_utf8(folder: Path) -> Path:
    return write(folder, model_of(outside("weights?bin")).SerializeToString().replace(b"weights?bin", b"weights\xffbin"))


@refused(ExternalDataError, "'w'", "not UTF-8")
def key_not_utf8(folder: Path) -> Path:
    return write(folder, model_of(outside(checksum="x")).SerializeToString().replace(b"checksum", b"check\xff\xfem"))


@refused(ExternalDataError, "'w'", "offset", "'-8'", "non-negative")
def negative_offset(folder: Path) -> Path:
    return write(folder, model_of(outside(offset=-8)))


@refused(ExternalDataError, "'w'", "length", "'-16'", "non-negative")
def negative_length(folder: Path) -> Path:
    return write(folder, model_of(outside(length=-16)))


@refused(ExternalDataError, "'w'", "offset", "non-negative")
def offset_in_words(folder: Path) -> Path:
    return write(folder, model_of(outside(offset="0x10")))


@refused(ExternalDataError, "'w'", "offset", "non-negative")
def offset_in_other_digits(folder: Path) -> Path:
    """Digits to Python's ``int``, not to others."""
    return write(folder, model_of(outside(offset="\u0661\u0662")))


@refused(ExternalDataError, "'w'", "offset", "beyond any file")
def offset_of_5000_digits(folder: Path) -> Path:
    return write(folder, model_of(outside(offset="9" * 5000)))


@refused(ExternalDataError, "'w'", str(PETABYTE), "beyond any file")
def offset_of_a_petabyte(folder: Path) -> Path:
    return write(folder, model_of(outside(offset=PETABYTE)))


@refused(ExternalDataError, "'w'", str(PETABYTE), "beyond any file")
def offset_of_a_petabyte_in_absent_data(folder: Path) -> Path:
    return write(folder, model_of(outside("absent.bin", offset=PETABYTE)))


@refused(ExternalDataError, "'w'", str(PETABYTE), "takes 16")
def length_of_a_petabyte(folder: Path) -> Path:
    """CVE-2026-34445 too: memory was allocated for whatever length the file claimed."""
    return write(folder, model_of(outside(length=PETABYTE)))


@refused(ExternalDataError, "'w'", "12 bytes", "takes 16")
def length_short_of_the_dims(folder: Path) -> Path:
    return write(folder, model_of(outside(length=12)))


@refused(ExternalDataError, "'w'", "20 bytes", "takes 16")
def length_beyond_the_dims(folder: Path) -> Path:
    return write(folder, model_of(outside(length=20)), bytes(20))


@refused(ExternalDataError, "'w'", "'weights.bin'", "which has 15")
def data_file_too_short(folder: Path) -> Path:
    return write(folder, model_of(outside()), bytes(15))


@refused(ExternalDataError, "'w'", "'weights.bin'", "which has 0")
def data_file_empty(folder: Path) -> Path:
    return write(folder, model_of(outside()), b"")


@refused(ExternalDataError, "'w'", "'weights.bin'", "which has 16")
def offset_beyond_the_data_file(folder: Path) -> Path:
    return write(folder, model_of(outside(offset=4096, length=16)))


@refused(ExternalDataError, "'v'", "'w'", "overlap")
def overlapping(folder: Path) -> Path:
    return write(folder, model_of(outside(name="v"), outside(offset=12)), bytes(64))


@refused(ExternalDataError, "'v'", "'w'", "overlap")
def one_within_another(folder: Path) -> Path:
    return write(folder, model_of(outside(name="v", dims=[16]), outside(offset=16), outside(name="z", offset=16)), bytes(64))


@refused(ExternalDataError, "'v'", "'w'", "overlap")
def overlapping_by_another_spelling(folder: Path) -> Path:
    return write(folder, model_of(outside(name="v"), outside("./weights.bin", offset=12)), bytes(64))


@refused(ExternalDataError, "'v'", "'w'", "overlap")
def overlapping_through_a_symlink(folder: Path) -> Path:
    path = write(folder, model_of(outside(name="v"), outside("other.bin", offset=12)), bytes(64))
    (path.parent / "other.bin").symlink_to("weights.bin")
    return path


@refused(ExternalDataError, "'v'", "'w'", "overlap")
def overlapping_in_absent_data(folder: Path) -> Path:
    return write(folder, model_of(outside(name="v"), outside(offset=12)), None)


@refused(ExternalDataError, "'w'", "string", "cannot lie in external data")
def strings_outside(folder: Path) -> Path:
    tensor = outside(length=16)
    tensor.data_type = TensorProto.STRING
    return write(folder, model_of(tensor))


@refused(TensorDataError, "'w'", "unknown element type 0")
def undefined_type_outside(folder: Path) -> Path:
    tensor = outside(length=16)
    tensor.data_type = TensorProto.UNDEFINED
    return write(folder, model_of(tensor))


@refused(TensorDataError, "'w'", "negative dim")
def negative_dims_outside(folder: Path) -> Path:
    """Their product is positive."""
    return write(folder, model_of(outside(dims=[-2, -2])))


@refused(TensorDataError, "'w'", str(HUGE))
def huge_dims_in_absent_data(folder: Path) -> Path:
    return write(folder, model_of(outside("absent.bin", dims=[1 << 20, 1 << 20])))


@refused(TensorDataError, "'w'", "elements")
def overflowing_dims_outside(folder: Path) -> Path:
    """The product is 4 where it is taken in 64 bits."""
    return write(folder, model_of(outside(dims=[1 << 32, 1 << 32, 4])))


@refused(ExternalDataError, "'w'", "holds data of its own in raw_data")
def data_inside_and_outside(folder: Path) -> Path:
    tensor = outside()
    tensor.raw_data = bytes(16)
    return write(folder, model_of(tensor))


@refused(ExternalDataError, "'w'", "holds data of its own in raw_data")
def large_data_inside_and_outside(folder: Path) -> Path:
    tensor = outside(dims=[1024])
    tensor.raw_data = bytes(4096)
    return write(folder, model_of(tensor), bytes(4096))


@refused(ExternalDataError, "'w'", "holds data of its own in float_data")
def typed_data_inside_and_data_outside(folder: Path) -> Path:
    tensor = outside()
    tensor.float_data.extend([1.0] * 4)
    return write(folder, model_of(tensor))


# --- where external tensors hide --------------------------------------------------------------------------------------


def hidden(name: str) -> TensorProto:
    return outside("../secret.bin", name)


@refused(UnsafeLocationError, "'sparse_values'", "'..'")
def hidden_in_sparse_values(folder: Path) -> Path:
    model = model_of()
    model.graph.sparse_initializer.add(dims=[8], values=hidden("sparse_values"), indices=integers(0, 1, 2, 3, name="i"))
    return write(folder, model)


@refused(UnsafeLocationError, "'sparse_indices'", "'..'")
def hidden_in_sparse_indices(folder: Path) -> Path:
    model = model_of()
    model.graph.sparse_initializer.add(dims=[8], values=floats(4, "v"), indices=hidden("sparse_indices"))
    return write(folder, model)


@refused(UnsafeLocationError, "'in_attribute'", "'..'")
def hidden_in_an_attribute(folder: Path) -> Path:
    return write(folder, model_of(nodes=[constant(value=hidden("in_attribute"))]))


@refused(UnsafeLocationError, "'in_list'", "'..'")
def hidden_in_a_list_of_tensors(folder: Path) -> Path:
    return write(folder, model_of(nodes=[helper.make_node("Op", [], ["y"], domain="d", many=[floats(1), hidden("in_list")])]))


@refused(UnsafeLocationError, "'in_sparse'", "'..'")
def hidden_in_a_sparse_attribute(folder: Path) -> Path:
    sparse = onnx.SparseTensorProto(dims=[8], values=hidden("in_sparse"), indices=integers(0, 1, 2, 3))
    return write(folder, model_of(nodes=[constant(sparse_value=sparse)]))


@refused(UnsafeLocationError, "'in_branch'", "'..'")
def hidden_in_a_subgraph(folder: Path) -> Path:
    return write(folder, model_of(nodes=[branching(branch(initializers=[hidden("in_branch")]))]))


@refused(UnsafeLocationError, "'in_inner_branch'", "'..'")
def hidden_in_a_subgraph_of_a_subgraph(folder: Path) -> Path:
    inner = branching(branch(constant(value=hidden("in_inner_branch"))))
    return write(folder, model_of(nodes=[branching(branch(inner))]))


def function_of(*nodes: onnx.NodeProto, defaults: Sequence[onnx.AttributeProto] = ()) -> onnx.ModelProto:
    model = model_of(nodes=[helper.make_node("F", ["x"], ["y"], domain="local")])
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("local", "F", ["a"], ["b"], nodes, opsets, attribute_protos=defaults))
    return model


@refused(UnsafeLocationError, "'in_function'", "'..'")
def hidden_in_a_function(folder: Path) -> Path:
    return write(folder, function_of(constant(value=hidden("in_function"))))


@refused(UnsafeLocationError, "'in_default'", "'..'")
def hidden_in_a_function_default(folder: Path) -> Path:
    default = helper.make_attribute("weight", hidden("in_default"))
    return write(folder, function_of(constant(value=floats(1)), defaults=[default]))


@refused(UnsafeLocationError, "'in_training'", "'..'")
def hidden_in_training_info(folder: Path) -> Path:
    model = model_of()
    model.training_info.add().initialization.initializer.append(hidden("in_training"))
    return write(folder, model)


@refused(UnsafeLocationError, "graph.initializer[1]", "'..'")
def hidden_without_a_name(folder: Path) -> Path:
    return write(folder, model_of(floats(4), hidden("")))


# --- tensors that disagree with themselves ----------------------------------------------------------------------------


def raw(count: int, size: int) -> TensorProto:
    """A float tensor of ``count`` elements with ``size`` bytes of raw data."""
    return TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[count], raw_data=bytes(size))


def typed(data_type: int, count: int, **data: Sequence[float]) -> TensorProto:
    return TensorProto(name="w", data_type=data_type, dims=[count], **data)  # type: ignore[arg-type]


@refused(TensorDataError, "'w'", "12 bytes", "16 bytes are needed")
def raw_data_truncated(folder: Path) -> Path:
    return write(folder, model_of(raw(4, 12)))


@refused(TensorDataError, "'w'", "20 bytes", "16 bytes are needed")
def raw_data_too_long(folder: Path) -> Path:
    return write(folder, model_of(raw(4, 20)))


@refused(TensorDataError, "'w'", "4092 bytes", "4096 bytes are needed")
def large_raw_data_truncated(folder: Path) -> Path:
    return write(folder, model_of(raw(1024, 4092)))


@refused(TensorDataError, "'w'", "4097 bytes", "4096 bytes are needed")
def large_raw_data_too_long(folder: Path) -> Path:
    return write(folder, model_of(raw(1024, 4097)))


@refused(TensorDataError, "'w'", "0 elements", "4 elements are needed")
def no_data(folder: Path) -> Path:
    return write(folder, model_of(typed(TensorProto.FLOAT, 4)))


@refused(TensorDataError, "'w'", "3 elements", "4 elements are needed")
def typed_data_truncated(folder: Path) -> Path:
    return write(folder, model_of(typed(TensorProto.FLOAT, 4, float_data=[1, 2, 3])))


@refused(TensorDataError, "'w'", "1196 bytes of float_data")
def large_typed_floats_truncated(folder: Path) -> Path:
    return write(folder, model_of(typed(TensorProto.FLOAT, 300, float_data=[1] * 299)))


@refused(TensorDataError, "'w'", "599 elements", "600 elements are needed")
def large_typed_integers_truncated(folder: Path) -> Path:
    """Two bytes each: the number of bytes alone proves nothing."""
    return write(folder, model_of(typed(TensorProto.INT64, 600, int64_data=[300] * 599)))


@refused(TensorDataError, "'w'", "601 elements", "600 elements are needed")
def large_typed_halves_too_long(folder: Path) -> Path:
    return write(folder, model_of(typed(TensorProto.FLOAT16, 600, int32_data=[0x3C00] * 601)))


@refused(TensorDataError, "'w'", "elements")
def varints_without_an_end(folder: Path) -> Path:
    content = field(1, varint(1200)) + b"\x10\x07" + field(7, b"\x01" * 1200 + b"\x80") + field(8, b"w")
    return write(folder, in_graph(field(5, content)))


@refused(TensorDataError, "'w'", "2 bytes", "3 bytes are needed")
def int4_truncated(folder: Path) -> Path:
    return write(folder, model_of(TensorProto(name="w", data_type=TensorProto.INT4, dims=[5], raw_data=bytes(2))))


@refused(TensorDataError, "'w'", "twice", "float_data and raw_data")
def raw_and_typed_data(folder: Path) -> Path:
    tensor = typed(TensorProto.FLOAT, 2, float_data=[1, 2])
    tensor.raw_data = bytes(8)
    return write(folder, model_of(tensor))


@refused(MalformedModelError, "'w'", "2 pieces")
def large_raw_and_typed_data(folder: Path) -> Path:
    tensor = typed(TensorProto.FLOAT, 300, float_data=[1] * 300)
    tensor.raw_data = bytes(1200)
    return write(folder, model_of(tensor))


@refused(MalformedModelError, "'w'", "2 pieces")
def large_data_and_a_little_more(folder: Path) -> Path:
    """Protobuf appends the one to the other; a reader that looks at large fields only would not see the second."""
    piece = field(4, bytes(1200)) + field(4, bytes(4))
    return write(folder, in_graph(field(5, field(1, varint(300)) + b"\x10\x01" + piece + field(8, b"w"))))


@refused(TensorDataError, "'w'", "int32_data", "float32")
def data_in_the_wrong_field(folder: Path) -> Path:
    return write(folder, model_of(typed(TensorProto.FLOAT, 2, int32_data=[1, 2])))


@refused(TensorDataError, "'w'", "raw_data", "string")
def strings_as_raw_data(folder: Path) -> Path:
    return write(folder, model_of(TensorProto(name="w", data_type=TensorProto.STRING, dims=[2], raw_data=b"ab")))


@refused(TensorDataError, "'w'", "unknown element type 0")
def undefined_type(folder: Path) -> Path:
    return write(folder, model_of(TensorProto(name="w", dims=[2], raw_data=bytes(8))))


@refused(TensorDataError, "'w'", "unknown element type 99")
def unknown_type(folder: Path) -> Path:
    return write(folder, model_of(TensorProto(name="w", data_type=99, dims=[2], raw_data=bytes(8))))


@refused(TensorDataError, "'w'", "negative dim")
def negative_dims(folder: Path) -> Path:
    return write(folder, model_of(TensorProto(name="w", data_type=1, dims=[-2, -2], raw_data=bytes(16))))


@refused(TensorDataError, "'w'", "elements")
def overflowing_dims(folder: Path) -> Path:
    return write(folder, model_of(TensorProto(name="w", data_type=1, dims=[1 << 62, 4])))


@refused(TensorDataError, "'w'", "elements")
def overflowing_dims_with_a_zero(folder: Path) -> Path:
    """No element, and yet numpy cannot make the array."""
    return write(folder, model_of(TensorProto(name="w", data_type=1, dims=[0, 1 << 40, 1 << 40])))


@refused(TensorDataError, "'w'", "5000 dims")
def thousands_of_dims(folder: Path) -> Path:
    return write(folder, model_of(TensorProto(name="w", data_type=1, dims=[1 << 62] * 5000)))


@refused(TensorDataError, "'w'", "1000000 dims")
def a_million_dims(folder: Path) -> Path:
    tensor = field(1, b"\x02" * 1_000_000) + b"\x10\x01" + field(8, b"w")
    return write(folder, in_graph(field(5, tensor)))


@refused(TensorDataError, "'w'", "segments")
def segments(folder: Path) -> Path:
    tensor = floats(2)
    tensor.segment.begin, tensor.segment.end = 0, 1
    return write(folder, model_of(tensor))


@refused(TensorDataError, "'nnnn", "...'")
def name_of_a_megabyte(folder: Path) -> Path:
    """CVE-2024-27319: an error message longer than its buffer. Here it must only stay readable."""
    tensor = raw(4, 12)
    tensor.name = "n" * 1_000_000
    return write(folder, model_of(tensor))


@refused(TensorDataError, "graph.node[0].attribute[0].t", "12 bytes")
def broken_without_a_name(folder: Path) -> Path:
    tensor = raw(4, 12)
    tensor.name = ""
    return write(folder, model_of(nodes=[constant(value=tensor)]))


# --- shapes that cannot exist -----------------------------------------------------------------------------------------


def shaped(op: str, *inputs: str) -> onnx.NodeProto:
    return helper.make_node(op, inputs, ["y"], name="bomb")


@refused(TensorDataError, "'x'", str(HUGE))
def input_of_2_to_the_40(folder: Path) -> Path:
    model = model_of()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = HUGE
    return write(folder, model)


@refused(TensorDataError, "'inner'", str(HUGE))
def value_info_of_2_to_the_40(folder: Path) -> Path:
    info = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [1 << 20, 1 << 20])
    then = branch(constant(value=floats(1)))
    then.value_info.append(info)
    return write(folder, model_of(nodes=[branching(then)]))


@refused(TensorDataError, "'inner'", "100000 dims")
def value_of_a_hundred_thousand_dims(folder: Path) -> Path:
    model = model_of()
    model.graph.value_info.append(helper.make_tensor_value_info("inner", TensorProto.FLOAT, [2] * 100_000))
    return write(folder, model)


@refused(TensorDataError, "'sparse'", str(HUGE))
def sparse_tensor_of_2_to_the_40(folder: Path) -> Path:
    model = model_of()
    model.graph.sparse_initializer.add(dims=[HUGE], values=floats(1, "sparse"), indices=integers(0))
    return write(folder, model)


@refused(TensorDataError, "'bomb'", "ConstantOfShape", str(HUGE))
def constant_of_shape(folder: Path) -> Path:
    return write(folder, model_of(integers(1 << 20, 1 << 20), nodes=[shaped("ConstantOfShape", "shape")]))


@refused(TensorDataError, "'bomb'", "ConstantOfShape", str(HUGE))
def constant_of_shape_of_a_constant_node(folder: Path) -> Path:
    return write(folder, model_of(nodes=[constant(value=integers(HUGE)), shaped("ConstantOfShape", "c")]))


@refused(TensorDataError, "'bomb'", "ConstantOfShape", str(HUGE))
def constant_of_shape_of_value_ints(folder: Path) -> Path:
    return write(folder, model_of(nodes=[constant(value_ints=[1 << 20, 1 << 20]), shaped("ConstantOfShape", "c")]))


@refused(TensorDataError, "'bomb'", "Expand", str(HUGE))
def expand(folder: Path) -> Path:
    return write(folder, model_of(integers(1, HUGE), nodes=[shaped("Expand", "x", "shape")]))


@refused(TensorDataError, "'bomb'", "Tile", str(HUGE))
def tile(folder: Path) -> Path:
    return write(folder, model_of(integers(1, HUGE), nodes=[shaped("Tile", "x", "shape")]))


@refused(TensorDataError, "'bomb'", "Range", str(HUGE))
def range_of_constants(folder: Path) -> Path:
    ends = [constant("start", value_int=0), constant("limit", value_int=HUGE), constant("step", value_int=1)]
    return write(folder, model_of(nodes=[*ends, shaped("Range", "start", "limit", "step")]))


@refused(TensorDataError, "'bomb'", "RandomNormal", str(HUGE))
def random_normal(folder: Path) -> Path:
    return write(folder, model_of(nodes=[helper.make_node("RandomNormal", [], ["y"], name="bomb", shape=[HUGE])]))


@refused(TensorDataError, "'bomb'", "ConstantOfShape", str(HUGE))
def constant_of_shape_in_a_branch(folder: Path) -> Path:
    then = branch(constant(value_ints=[HUGE]), shaped("ConstantOfShape", "c"))
    return write(folder, model_of(nodes=[branching(then)]))


@refused(TensorDataError, "'bomb'", "Expand", str(HUGE))
def expand_in_a_branch_to_an_outer_shape(folder: Path) -> Path:
    then = branch(branching(branch(shaped("Expand", "x", "shape"))))
    return write(folder, model_of(integers(HUGE), nodes=[branching(then)]))


@refused(TensorDataError, "'bomb'", "Tile", str(HUGE))
def tile_in_a_function(folder: Path) -> Path:
    return write(folder, function_of(constant(value_ints=[HUGE]), shaped("Tile", "a", "c")))


@refused(TensorDataError, "'bomb'", "ConstantOfShape", str(HUGE))
def constant_of_shape_in_training_info(folder: Path) -> Path:
    model = model_of()
    then = branch(constant(value_ints=[HUGE]), shaped("ConstantOfShape", "c"))
    model.training_info.add().algorithm.CopyFrom(then)
    return write(folder, model)


# --- protobuf that is none, or too much -------------------------------------------------------------------------------


@refused(MalformedModelError, "empty")
def empty_file(folder: Path) -> Path:
    return write(folder, b"")


@refused(MalformedModelError, "broken at byte")
def truncated_file(folder: Path) -> Path:
    data = model_of(floats(5000)).SerializeToString()
    return write(folder, data[: len(data) // 2])


@refused(MalformedModelError, "broken")
def truncated_in_a_header(folder: Path) -> Path:
    return write(folder, in_graph(b"")[:-1])


@refused(MalformedModelError, "broken at byte")
def truncated_download(folder: Path) -> Path:
    """The right length, zeros where the rest was to be."""
    data = model_of(floats(5000)).SerializeToString()
    return write(folder, data[: len(data) - 100] + bytes(100))


@refused(MalformedModelError, "broken")
def noise(folder: Path) -> Path:
    return write(folder, np.random.default_rng(0).bytes(4096))


@refused(MalformedModelError, "broken")
def zeros(folder: Path) -> Path:
    return write(folder, bytes(4096))


@refused(MalformedModelError, "Git LFS pointer")
def git_lfs_pointer(folder: Path) -> Path:
    """What a clone without git-lfs holds."""
    return write(folder, b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 90405214\n")


@refused(MalformedModelError, "is a web page (<!DOCTYPE")
def web_page(folder: Path) -> Path:
    return write(folder, b"<!DOCTYPE html><html><head><title>404</title></head></html>")


@refused(MalformedModelError, "gzip archive")
def compressed_file(folder: Path) -> Path:
    return write(folder, gzip.compress(model_of().SerializeToString(), mtime=0))


@refused(MalformedModelError, "no graph")
def tensor_file(folder: Path) -> Path:
    return write(folder, TensorProto(dims=[1], raw_data=b"1234").SerializeToString())


@refused(MalformedModelError, "no graph")
def model_without_a_graph(folder: Path) -> Path:
    return write(folder, b"\x08\x0a")


@refused(MalformedModelError, "more than one graph")
def two_graphs(folder: Path) -> Path:
    return write(folder, model_of().SerializeToString() + field(7, b""))


@refused(MalformedModelError, "more than one graph")
def graph_that_is_a_number(folder: Path) -> Path:
    return write(folder, b"\x08\x0a\x38\x01")


@refused(MalformedModelError, "no end")
def varint_without_an_end(folder: Path) -> Path:
    return write(folder, b"\x08" + b"\xff" * 32)


@refused(MalformedModelError, "wire type 3")
def group(folder: Path) -> Path:
    return write(folder, b"\x0b\x0c" + model_of().SerializeToString())


@refused(MalformedModelError, "field number 0")
def field_number_0(folder: Path) -> Path:
    return write(folder, b"\x02\x00" + model_of().SerializeToString())


@refused(MalformedModelError, "bytes")
def length_of_2_to_the_63(folder: Path) -> Path:
    return write(folder, b"\x08\x0a\x3a" + varint((1 << 63) - 1))


@refused(MalformedModelError, "bytes where")
def length_beyond_the_graph(folder: Path) -> Path:
    return write(folder, in_graph(b"\x0a\x7f") + field(20, bytes(200)))


@refused(MalformedModelError, "parse")
def length_beyond_a_node(folder: Path) -> Path:
    """Too small to be walked: protobuf's own parser says no."""
    return write(folder, in_graph(node(b"\x2a\x7f") + field(10, bytes(200))))


@refused(MalformedModelError, "AttributeProto.t", "more than once")
def tensor_attribute_told_twice(folder: Path) -> Path:
    """Protobuf merges both into one tensor; whoever takes them apart sees two."""
    tensor = field(5, floats(300).SerializeToString())
    return write(folder, in_graph(node(field(5, field(1, b"value") + tensor + tensor))))


@refused(MalformedModelError, "nest deeper")
def sixty_four_nested_ifs(folder: Path) -> Path:
    content = b""
    for _ in range(64):
        content = node(field(4, b"If") + field(5, field(1, b"then_branch") + field(6, content)))
    return write(folder, in_graph(content))


@refused(MalformedModelError, "nest deeper")
def sixty_four_large_nested_ifs(folder: Path) -> Path:
    content = field(10, bytes(2000))
    for _ in range(64):
        content = node(field(5, field(6, content)))
    return write(folder, in_graph(content))


@refused(MalformedModelError, "nest deeper")
def types_nested_a_thousand_deep(folder: Path) -> Path:
    content = b""
    for _ in range(1000):
        content = field(4, field(1, content))
    return write(folder, in_graph(field(11, field(1, b"x") + field(2, content))))


def sparse_string(folder: Path, before: bytes, number: int, size: int) -> Path:
    """A model with a string of ``size`` zero bytes in field ``number``; on disk it takes a block."""
    path = write(folder, before + varint(number << 3 | 2) + varint(size))
    os.truncate(path, path.stat().st_size + size)
    return path


@refused(MalformedModelError, "MiB beside tensor data")
def doc_string_of_300_mib(folder: Path) -> Path:
    return sparse_string(folder, in_graph(b""), 6, 300 << 20)


@refused(MalformedModelError, "MiB beside tensor data")
def doc_string_of_300_mib_in_a_node(folder: Path) -> Path:
    size = 300 << 20
    inner = varint(6 << 3 | 2) + varint(size)
    outer = varint(1 << 3 | 2) + varint(len(inner) + size) + inner
    return sparse_string(folder, b"\x08\x0a\x3a" + varint(len(outer) + size) + outer[: -len(inner)], 6, size)


@refused(MalformedModelError, "parts")
def a_million_nodes(folder: Path) -> Path:
    return write(folder, in_graph(node(b"") * 1_000_000))


@refused(MalformedModelError, "parts")
def a_million_metadata_entries(folder: Path) -> Path:
    return write(folder, in_graph(b"") + field(14, b"") * 1_000_000)


@refused(MalformedModelError, "parts")
def a_node_with_a_million_inputs(folder: Path) -> Path:
    return write(folder, in_graph(node(field(1, b"") * 1_000_000)))


@refused(MalformedModelError, "MiB of memory")
def a_million_attributes(folder: Path) -> Path:
    """In nodes too small to be walked: 2 MB of file, 200 MB once parsed."""
    return write(folder, in_graph(node(field(5, b"") * 500) * 2000))


@refused(MalformedModelError, "MiB of memory")
def ten_million_dims(folder: Path) -> Path:
    shape = field(2, field(1, b"") * 10_000_000)
    return write(folder, in_graph(field(13, field(1, b"v") + field(2, field(1, shape)))))


@refused(MalformedModelError, "MiB of memory")
def thirty_million_integers(folder: Path) -> Path:
    """One byte each in the file, eight and more in memory."""
    return write(folder, in_graph(node(field(5, field(8, b"\x01" * 30_000_000)))))


@refused(TensorDataError, "'w'", "12 bytes")
def broken_behind_30_mib_of_strings(folder: Path) -> Path:
    """As much as is let in, and then a reason to refuse it."""
    model = model_of(raw(4, 12))
    for _ in range(30):
        model.metadata_props.add(key="k", value="v" * (1 << 20))
    return write(folder, model)


@refused(MalformedModelError, "two inputs", "'x'")
def two_inputs_of_one_name(folder: Path) -> Path:
    model = model_of()
    model.graph.input.append(model.graph.input[0])
    return write(folder, model)


@refused(MalformedModelError, "not UTF-8", "\\xff")
def input_name_not_utf8(folder: Path) -> Path:
    model = model_of()
    model.graph.input[0].name = "input?"
    return write(folder, model.SerializeToString().replace(b"input?", b"input\xff"))


@refused(MalformedModelError, "not UTF-8", "\\xff")
def initializer_name_not_utf8(folder: Path) -> Path:
    return write(folder, model_of(floats(2, "weight?")).SerializeToString().replace(b"weight?", b"weight\xff"))


# --- paths that are no model file -------------------------------------------------------------------------------------


@refused(SurroundingsError, "cannot open", "absent.onnx")
def absent_path(folder: Path) -> Path:
    return folder / "absent.onnx"


@refused(SurroundingsError, "is a folder")
def folder_as_path(folder: Path) -> Path:
    return write(folder, model_of()).parent


@refused(SurroundingsError, "not a regular file")
def fifo_as_path(folder: Path) -> Path:
    os.mkfifo(folder / "model.onnx")
    return folder / "model.onnx"


@refused(SurroundingsError, "not a regular file")
def socket_as_path(folder: Path) -> Path:
    here = Path.cwd()
    os.chdir(folder)  # a socket's path has at most a hundred bytes
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("model.onnx")
    finally:
        os.chdir(here)
    return folder / "model.onnx"


@refused(SurroundingsError, "not a regular file")
def device_as_path(folder: Path) -> Path:
    return Path("/dev/zero")


@refused(SurroundingsError, "cannot open")
def path_with_a_nul(folder: Path) -> Path:
    return folder / "model\0.onnx"


# --- look-alikes that load --------------------------------------------------------------------------------------------


def hub_cache(folder: Path, tensor: TensorProto, links: dict[str, Path]) -> Path:
    """A model in the layout of the Hugging Face cache; ``links`` are further files of the snapshot and what they link to."""
    blobs, snapshot = folder / "models--me" / "blobs", folder / "models--me" / "snapshots" / "4f1c" / "onnx"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (blobs / "a1b2").write_bytes(model_of(tensor).SerializeToString())
    for name, target in {"model.onnx": blobs / "a1b2", **links}.items():
        (snapshot / name).symlink_to(os.path.relpath(target, snapshot))
    return snapshot / "model.onnx"


STORED = f"ab/ab{'0' * 62}"
"""A file in the store that all repositories of a cache share."""


def hub_store(folder: Path, target: str, repository: str = "models--me") -> Path:
    """A model in the cache whose data file links to ``target`` in the store that all repositories share."""
    (folder / "blobs" / target).parent.mkdir(parents=True)
    (folder / "blobs" / target).write_bytes(bytes(16))
    path = hub_cache(folder, outside(), {"weights.bin": folder / "blobs" / target})
    (folder / "models--me").rename(folder / repository)
    return folder / repository / path.relative_to(folder / "models--me")


def unlinked(path: Path) -> Path:
    """The file itself in the place of the link to it."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    return path


@loads()
def hugging_face_store(folder: Path) -> Path:
    return hub_store(folder, STORED)


@loads("'weights.bin'", "are missing")
def hugging_face_store_without_the_file(folder: Path) -> Path:
    path = hub_store(folder, STORED)
    (folder / "blobs" / STORED).unlink()
    return path


@loads()
def hugging_face_cache(folder: Path) -> Path:
    path = hub_cache(folder, outside("model.onnx_data"), {"model.onnx_data": folder / "models--me" / "blobs" / "c3d4"})
    (folder / "models--me" / "blobs" / "c3d4").write_bytes(bytes(16))
    return path


@loads()
def symlink_within_the_folder(folder: Path) -> Path:
    return linked(folder, "weights.bin")


@loads()
def model_behind_a_symlink(folder: Path) -> Path:
    path = located(folder, "weights.bin")
    (path.parent / "link.onnx").symlink_to(path)
    return path.parent / "link.onnx"


@loads()
def shared_bytes(folder: Path) -> Path:
    return write(folder, model_of(outside(name="a", offset=16), outside(name="b", offset=16)), bytes(32))


@loads()
def data_in_a_subfolder(folder: Path) -> Path:
    path = located(folder, "deep/er/weights.bin")
    (path.parent / "deep" / "er").mkdir(parents=True)
    (path.parent / "deep" / "er" / "weights.bin").write_bytes(bytes(16))
    return path


@loads("'weights.bin'", "are missing")
def absent_data(folder: Path) -> Path:
    return write(folder, model_of(outside()), None)


@loads("'WEIGHTS.BIN'", "are missing")
def location_in_another_case(folder: Path) -> Path:
    return located(folder, "WEIGHTS.BIN")


@loads("'link.bin'", "are missing")
def dangling_symlink_within_the_folder(folder: Path) -> Path:
    return linked(folder, "absent.bin")


@loads()
def location_alone(folder: Path) -> Path:
    """Offset and length are optional."""
    return located(folder, "weights.bin")


@loads()
def every_known_key(folder: Path) -> Path:
    more = {"offset": 0, "length": 16, "checksum": "0" * 40, "basepath": "x", "prepacked_0": "k|0|16|"}
    return write(folder, model_of(outside(**more)))


@loads()
def unused_bytes_in_the_data_file(folder: Path) -> Path:
    return write(folder, model_of(outside(offset=4096)), bytes(8192))


@loads()
def entries_left_over(folder: Path) -> Path:
    """Data inside, external_data forgotten: every reader goes by data_location."""
    tensor = floats(4)
    tensor.external_data.add(key="location", value="weights.bin")
    return write(folder, model_of(tensor))


@loads()
def empty_raw_data_beside_external_data(folder: Path) -> Path:
    tensor = outside()
    tensor.raw_data = b""
    return write(folder, model_of(tensor))


@loads()
def scalars(folder: Path) -> Path:
    return write(folder, model_of(numpy_helper.from_array(np.float32(1.5), "s"), outside(dims=[])))


@loads()
def empty_tensors(folder: Path) -> Path:
    raw_one = TensorProto(name="a", data_type=1, dims=[0, 4], raw_data=b"")
    return write(
        folder, model_of(raw_one, TensorProto(name="b", data_type=1, dims=[0]), outside(dims=[0], offset=16, length=0))
    )


@loads()
def int4(folder: Path) -> Path:
    packed = TensorProto(name="a", data_type=TensorProto.INT4, dims=[5], raw_data=bytes(3))
    return write(folder, model_of(packed, TensorProto(name="b", data_type=TensorProto.UINT4, dims=[3], int32_data=[0x21, 3])))


@loads()
def strings(folder: Path) -> Path:
    long = helper.make_tensor("long", TensorProto.STRING, [3], [b"x" * 2000, b"\xff\xfe", b""])
    return write(folder, model_of(helper.make_tensor("s", TensorProto.STRING, [2], [b"a", b"b"]), long))


@loads()
def typed_floats(folder: Path) -> Path:
    small = helper.make_tensor("small", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
    return write(folder, model_of(small, helper.make_tensor("large", TensorProto.FLOAT, [1000], [0.5] * 1000)))


@loads()
def typed_halves(folder: Path) -> Path:
    """fp16 in int32_data, as converters wrote it."""
    small = helper.make_tensor("small", TensorProto.FLOAT16, [3], [1.0, 2.0, 3.0])
    return write(folder, model_of(small, helper.make_tensor("large", TensorProto.FLOAT16, [1000], [0.5] * 1000)))


@loads()
def typed_integers(folder: Path) -> Path:
    """Negative varints take ten bytes each, small ones one."""
    large = helper.make_tensor("large", TensorProto.INT64, [1000], [*range(-500, 500)])
    unsigned = helper.make_tensor("unsigned", TensorProto.UINT32, [600], [*range(600)])
    return write(folder, model_of(large, unsigned, helper.make_tensor("bools", TensorProto.BOOL, [2], [True, False])))


@loads()
def every_element_type(folder: Path) -> Path:
    """As onnx itself stores them, raw and typed."""
    return write(folder, model_of(*_tensors_of_every_type()))


def _tensors_of_every_type() -> Iterator[TensorProto]:
    for name, number in TensorProto.DataType.items():
        if number not in (TensorProto.UNDEFINED, TensorProto.STRING):
            values = np.ones(8, helper.tensor_dtype_to_np_dtype(number))
            yield numpy_helper.from_array(values, f"raw {name}")
            yield helper.make_tensor(f"typed {name}", number, [8], values.tolist())


@loads()
def payloads_around_the_smallest(folder: Path) -> Path:
    """1023 bytes stay in the skeleton, 1024 are a payload."""
    around = [numpy_helper.from_array(np.zeros(count, np.uint8), str(count)) for count in (1022, 1023, 1024, 1025)]
    return write(folder, model_of(*around))


@loads()
def unsorted_nodes(folder: Path) -> Path:
    return write(folder, model_of(nodes=[helper.make_node("Relu", ["a"], ["y"]), helper.make_node("Relu", ["x"], ["a"])]))


@loads()
def thirty_nested_ifs(folder: Path) -> Path:
    then = branch(constant(value=floats(300)))
    for _ in range(29):
        then = branch(branching(then))
    return write(folder, model_of(nodes=[branching(then)]))


@loads()
def payloads_in_every_place(folder: Path) -> Path:
    """Tensors of a few kB in sparse initializers, attributes, subgraphs, functions and their defaults."""
    large = floats(500, "large")
    default = helper.make_attribute("weight", large)
    model = function_of(constant(value=large), branching(branch(constant(value=large))), defaults=[default])
    sparse = onnx.SparseTensorProto(dims=[500], values=large, indices=integers(*range(500), name="i"))
    model.graph.sparse_initializer.append(sparse)
    nodes = [constant("d", sparse_value=sparse), branching(branch(initializers=[large]))]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(floats(500, "w"))
    return write(folder, model)


@loads()
def unknown_fields(folder: Path) -> Path:
    """A later onnx may add fields; they are kept."""
    later = (
        field(900, b"later") + varint(901 << 3) + varint(7) + varint(902 << 3 | 5) + b"1234" + varint(903 << 3 | 1) + bytes(8)
    )
    graph = model_of(floats(500)).graph.SerializeToString()
    return write(folder, later + in_graph(graph + later) + field(8, field(1, b"") + b"\x10\x11") + later)


@loads()
def long_varints(folder: Path) -> Path:
    """Lengths that are written longer than need be, as streaming writers do."""
    graph = model_of(floats(500)).graph.SerializeToString()
    head = b"\x3a" + bytes([len(graph) & 0x7F | 0x80, len(graph) >> 7 & 0x7F | 0x80, 0x80, 0x00])
    return write(folder, b"\x08\x0a" + head + graph)


@loads()
def node_name_not_utf8(folder: Path) -> Path:
    """ONNX Runtime runs such a file."""
    return write(folder, model_of().SerializeToString().replace(b"relu", b"r\xff\xfeu"))


@loads()
def dims_of_minus_one(folder: Path) -> Path:
    """How some exporters declare an unknown dim."""
    model = model_of()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = -1
    return write(folder, model)


@loads("'weights.bin'", "are missing")
def large_vocabulary(folder: Path) -> Path:
    """A declared shape may be large; an embedding table that is absent too."""
    return write(folder, model_of(outside(dims=[256_000, 4096])), None)


@loads("'w'", "the last counts")
def initializer_told_twice(folder: Path) -> Path:
    """ONNX Runtime warns and uses the last."""
    return write(folder, model_of(floats(2), floats(3)))


@loads()
def initializers_without_names(folder: Path) -> Path:
    return write(folder, model_of(floats(2, ""), floats(3, "")))


@loads()
def stack_traces(folder: Path) -> Path:
    """The dynamo exporter writes kilobytes of metadata for each node."""
    nodes = [helper.make_node("Relu", [f"v{index}"], [f"v{index + 1}"]) for index in range(3000)]
    for one in nodes:
        one.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="File model.py, line 1\n" * 100)
    return write(folder, model_of(nodes=nodes))


# --- as a script: load them all where it can be watched ---------------------------------------------------------------


def build_all(folder: Path) -> dict[str, Path]:
    """Every hostile file, each in a folder of its own."""
    return {name: build_in(folder, name, case.build) for name, case in CASES.items()}


def build_in(folder: Path, name: str, build: Builder) -> Path:
    home = folder / name
    home.mkdir()
    return build(home)


def refuse(path: str) -> str:
    """The name of the error that ``load`` gives."""
    try:
        load(path)
    except GraphSurgeryError as error:
        return type(error).__name__
    return "loaded"


def measure(paths: dict[str, str]) -> None:
    """One forked child per file. Prints a JSON line for each: name, error, how many functions `load` calls, its MiB."""
    for name, path in paths.items():
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            with counting() as profile:
                error = refuse(path)
            print(json.dumps({"name": name, "error": error, "calls": count_calls(profile)}), flush=True)
            os._exit(0)
        _, status, usage = os.wait4(child, 0)
        unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
        print(json.dumps({"name": name, "status": status, "mib": usage.ru_maxrss / unit}), flush=True)


def open_all(paths: dict[str, str], marker: str) -> None:
    """Load every file twice in this process; the second time, try to open ``marker`` and its name before: a line in the trace.

    After the first time Python has imported whatever it imports late.
    """
    for path in paths.values():
        refuse(path)
    for name, path in paths.items():
        try_open(marker + name)
        refuse(path)
    try_open(f"{marker}end")


def try_open(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.close(os.open(path, os.O_RDONLY))


if __name__ == "__main__":
    named = json.loads(Path(sys.argv[1]).read_text())
    if len(sys.argv) > 2:
        open_all(named, sys.argv[2])
    else:
        measure(named)
