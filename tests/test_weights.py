"""Weights files: what is in them is read bit for bit, and nothing that they say is run."""

from __future__ import annotations

import json
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch_files as tf
from effort import at_most_calls
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch_files import View, name, number, program, state, storage, tensor, text, together, whole

from graphsurgery.errors import FolderError, GraphSurgeryError, WeightsError
from graphsurgery.folders.stored_tensor import SAFETENSORS_DTYPES, StoredTensor, to_dtype
from graphsurgery.folders.torch_pickle import MOST_OPERATIONS
from graphsurgery.folders.weights import read_weights, require_tensor
from graphsurgery.model.sources import FileBytes

pytestmark = pytest.mark.usefixtures("loaded_anew")
ONES = whole("0", np.ones(4, np.float32))
LONGEST_MESSAGE = 1000


def values(dtype: str, count: int = 6) -> np.ndarray:
    """Values that every dtype tells apart, in one dim."""
    numbers = np.arange(count) % 2 if dtype == "bool" else np.arange(count) - (0 if dtype.startswith("u") else 2)
    return numbers.astype(to_dtype(dtype))


def same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype and found.shape == expected.shape
    assert found.tobytes() == np.ascontiguousarray(expected).tobytes()
    assert found.flags.c_contiguous and not found.flags.writeable


# --- what is written is read ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", SAFETENSORS_DTYPES.values())
def test_safetensors(dtype: str, tmp_path: Path) -> None:
    matrix = values(dtype).reshape(2, 3)
    expected = {"m": matrix, "scalar": matrix[0, 1], "empty": np.zeros((0, 3), to_dtype(dtype))}
    safetensors.numpy.save_file({key: np.asarray(one) for key, one in expected.items()}, tmp_path / "model.safetensors")
    found = read_weights(tmp_path)
    assert set(found) == set(expected) and len(found) == 3 and "x" not in found
    for key, one in expected.items():
        same(found[key], one)


@pytest.mark.parametrize("write", [tf.write_zip, tf.write_legacy], ids=["zip", "legacy"])
@pytest.mark.parametrize("dtype", tf.STORAGES)
def test_torch(dtype: str, write: Callable[..., Path], tmp_path: Path) -> None:
    matrix = values(dtype).reshape(2, 3)
    transposed = View("0", matrix.reshape(-1), (3, 2), (1, 3))
    repeated = View("1", values(dtype, 2), (3, 2), (0, 1))
    views = {
        "m": whole("0", matrix),
        "t": transposed,
        "r": repeated,
        "e": whole("2", matrix[:0]),
        "s": whole("3", matrix[0, 0]),
    }
    found = read_weights(write(tmp_path / "pytorch_model.bin", views))
    same(found["m"], matrix)
    same(found["t"], matrix.T)
    same(found["r"], np.tile(values(dtype, 2), (3, 1)))
    same(found["e"], matrix[:0])
    same(found["s"], np.asarray(matrix[0, 0]))


@pytest.mark.parametrize("dtype", tf.STORAGES)
def test_the_other_byte_order(dtype: str, tmp_path: Path) -> None:
    matrix = values(dtype).reshape(2, 3)
    swapped = matrix.view(f"u{matrix.itemsize}").byteswap().view(matrix.dtype)
    same(read_weights(tf.write_zip(tmp_path / "a", {"m": whole("0", swapped)}, "big"))["m"], matrix)
    same(read_weights(tf.write_zip(tmp_path / "b", {"m": whole("0", matrix)}, None))["m"], matrix)


@st.composite
def views(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    return shape, tuple(draw(st.integers(0, 9)) for _ in shape), draw(st.integers(0, 9))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layout=views(), dtype=st.sampled_from(["float32", "bfloat16", "int64", "uint8"]))
@example(layout=((1, 3), (10**15, 1), 0), dtype="float32")
def test_any_view_is_read_as_numpy_reads_it(layout: tuple, dtype: str, tmp_path: Path) -> None:
    shape, strides, offset = layout
    array = np.arange(120).astype(to_dtype(dtype))
    room = array[offset:]
    steps = [0 if dim == 1 else stride * array.itemsize for dim, stride in zip(shape, strides, strict=True)]
    expected = np.lib.stride_tricks.as_strided(room, shape, steps)
    end = offset + 1 + sum((dim - 1) * stride for dim, stride in zip(shape, strides, strict=True))
    path = tf.write_zip(tmp_path / "a.bin", {"v": View("0", array, shape, strides, offset)})
    if 0 not in shape and end > array.size:
        with pytest.raises(WeightsError, match="reaches to byte"):
            read_weights(path)
    else:
        same(read_weights(path)["v"], expected)


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"a": ONES.storage}, tmp_path / "weights.bin")
    tf.write_zip(tmp_path / "weights.safetensors", {"a": ONES})
    tf.write_legacy(tmp_path / "weights", {"a": ONES})
    for path in tmp_path.iterdir():
        same(read_weights(path)["a"], ONES.storage)


@pytest.mark.parametrize("length", [0x80, 0x180, 0x8080])
def test_a_header_whose_length_looks_like_a_pickle(length: int, tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode().ljust(length)
    (tmp_path / "a").write_bytes(struct.pack("<Q", length) + header + ONES.storage.tobytes())
    same(read_weights(tmp_path / "a")["a"], ONES.storage)


def test_safetensors_come_first(tmp_path: Path) -> None:
    tf.write_zip(tmp_path / "pytorch_model.bin", {"bin": ONES})
    assert list(read_weights(tmp_path)) == ["bin"]
    safetensors.numpy.save_file({"safe": ONES.storage}, tmp_path / "model.safetensors")
    assert list(read_weights(tmp_path)) == ["safe"]


def test_the_versions_in_a_state_dict_are_left_out(tmp_path: Path) -> None:
    metadata = name("collections", "OrderedDict") + b")R(" + text("") + b"}(" + text("version") + number(1) + b"uu"
    built = state({"a": tensor(ONES)}) + b"}" + text("_metadata") + metadata + b"sb"
    assert list(read_weights(tf.zip_of(tmp_path / "a", program(built), {"0": ONES.storage.tobytes()}))) == ["a"]


def test_reading_one_tensor_reads_no_other(tmp_path: Path) -> None:
    large = np.zeros(16 << 20, np.float32)
    safetensors.numpy.save_file({"large": large, "small": ONES.storage}, tmp_path / "a")
    tf.write_zip(tmp_path / "b", {"large": whole("1", large), "small": ONES})
    for path in (tmp_path / "a", tmp_path / "b"):
        tracemalloc.start()
        same(read_weights(path)["small"], ONES.storage)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
        tracemalloc.stop()


def test_a_file_that_changes_meanwhile(tmp_path: Path) -> None:
    path = tf.write_zip(tmp_path / "a", {"a": ONES})
    found = read_weights(path)
    with path.open("ab") as file:
        file.write(b"x")
    with pytest.raises(GraphSurgeryError, match="changed"):
        found["a"]


# --- what is asked for ----------------------------------------------------------------------------------------------------


def test_tensor_of(tmp_path: Path) -> None:
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    bad = np.array([1.0, np.inf], np.float32)
    half = np.array([1.0, np.nan], ml_dtypes.bfloat16)
    saved = {"linear.weight": matrix, "bad": bad, "half": half, "whole": np.arange(2), "none": np.zeros((0, 3), np.float32)}
    safetensors.numpy.save_file(saved, tmp_path / "a")
    weights = read_weights(tmp_path / "a")
    same(require_tensor(weights, "linear.weight", (2, 3)), matrix)
    same(require_tensor(weights, "linear.weight", (None, 3)), matrix)
    for key, shape, words in (
        ("linear.bias", (2,), ("linear.bias", "linear.weight", "half")),
        ("linear.weight", (3, 2), ("[2, 3]", "[3, 2]")),
        ("linear.weight", (6,), ("[2, 3]", "[6]")),
        ("none", (None, 3), ("[0, 3]", "[any, 3]")),
        ("bad", (2,), ("not finite",)),
        ("half", (2,), ("not finite",)),
        ("whole", (2,), ("int64",)),
    ):
        with pytest.raises(WeightsError) as refused:
            require_tensor(weights, key, shape)
        assert all(word in str(refused.value) for word in words), refused.value


# --- attacks --------------------------------------------------------------------------------------------------------------

SYSTEM = "touch canary"


class Runs:
    """What pickles to a call of a function."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self._call


def call(module: str, attribute: str, *arguments: bytes) -> bytes:
    return name(module, attribute) + together(*arguments) + b"R"


def on_stack(module: str, attribute: str, *arguments: bytes) -> bytes:
    return text(module) + text(attribute) + b"\x93" + together(*arguments) + b"R"


def tuples(depth: int) -> bytes:
    """Tuples of two references to the one before: hashing the last takes 2^depth steps."""
    return b")q\x00" + b"".join(b"h\x00h\x00\x86q\x00" for _ in range(depth))


FLOATS = storage("FloatStorage", "0", 4)
PICKLES: dict[str, tuple[bytes, str]] = {
    "os.system": (program(call("os", "system", text(SYSTEM))), "os.system"),
    "posix.system": (program(call("posix", "system", text(SYSTEM))), "posix.system"),
    "eval": (program(call("builtins", "eval", text("open('canary', 'w')"))), "builtins.eval"),
    "getattr": (program(call("builtins", "getattr", name("torch", "FloatStorage"), text("x"))), "builtins.getattr"),
    "by stack": (program(on_stack("os", "system", text(SYSTEM))), "os.system"),
    "by dotted name": (program(on_stack("collections", "OrderedDict.fromkeys.__globals__", text("x"))), "fromkeys"),
    "module of torch": (program(call("torch.serialization", "load", text("x"))), "torch.serialization.load"),
    "hub": (program(call("torch.hub", "load", text("x"))), "torch.hub.load"),
    "never called": (program(name("subprocess", "Popen") + b"0}"), "subprocess.Popen"),
    "as an argument": (program(call("torch", "Size", call("os", "system", text(SYSTEM)))), "os.system"),
    "within a state dict": (program(state({"a": tensor(ONES), "b": call("os", "system", text(SYSTEM))})), "os.system"),
    "in a storage": (program(together(text("storage"), name("os", "system"), text("0")) + b"Q"), "os.system"),
    "in metadata": (program(state({"a": tensor(ONES)}) + b"}" + text("x") + call("os", "getcwd") + b"sb"), "os.getcwd"),
    "a name with a space": (program(b"cos system\n x\n"), "os.system  x"),
    "INST": (program(b"(" + text(SYSTEM) + b"ios\nsystem\n"), "INST"),
    "OBJ": (program(b"(" + name("torch", "Size") + b"o"), "OBJ"),
    "NEWOBJ": (program(name("torch", "Size") + b")\x81"), "NEWOBJ"),
    "EXT1": (program(b"\x82\x01"), "EXT1"),
    "BUILD on a class": (program(name("torch", "Size") + b"}" + text("__reduce__") + number(1) + b"sb"), "not a state dict"),
    "BUILD on a tensor": (program(tensor(ONES) + b"}b"), "not a state dict"),
    "BUILD with a tuple": (program(b"})b"), "not a state dict"),
    "call of a number": (program(number(1) + b")R"), "not a function"),
    "call of a storage class": (program(name("torch", "FloatStorage") + b")R"), "never writes"),
    "call of a dict": (program(b"})R"), "not a function"),
    "call with a list": (program(name("torch", "Size") + b"]R"), "not a function"),
    "tensor of nothing": (program(call("torch._utils", "_rebuild_tensor_v2")), "never writes"),
    "tensor of a text": (program(call("torch._utils", "_rebuild_tensor_v2", text("x"), number(0), b")", b")")), "never writes"),
    "parameter of a number": (program(call("torch._utils", "_rebuild_parameter", number(1))), "never writes"),
    "dict of pairs": (program(call("collections", "OrderedDict", b"]")), "never writes"),
    "persistent id: a number": (program(number(1) + b"Q"), "not name a storage"),
    "persistent id: a tuple": (program(b")Q"), "not name a storage"),
    "persistent id: a module": (program(together(text("module"), b"N", b"N", b"N") + b"Q"), "not name a storage"),
    "persistent id: text": (program(b"Px\n"), "PERSID"),
    "storage of a function": (
        program(together(text("storage"), name("torch", "Size"), text("0"), text("cpu"), number(4)) + b"Q"),
        "",
    ),
    "storage of -4": (program(storage("FloatStorage", "0", -4)), "not name a storage"),
    "storage whose key is a number": (
        program(together(text("storage"), name("torch", "FloatStorage"), number(0), text("cpu"), number(4)) + b"Q"),
        "not name a storage",
    ),
    "unhashable key": (program(b"}}" + number(1) + b"s"), "dict key"),
    "key that takes for ever to hash": (program(b"}" + tuples(100) + number(1) + b"s"), ""),
    "float key": (program(b"}G" + bytes(8) + number(1) + b"s"), "dict key"),
    "memo index of 4 billion": (program(b"}r\xff\xff\xff\xff0"), "POP"),
    "unknown memo": (program(b"h\x07"), "7"),
    "no mark": (program(b"t"), "mark"),
    "empty stack": (program(b"R"), "stack"),
    "two results": (program(b"}}"), "unpack"),
    "no end": (b"\x80\x02}", "STOP"),
    "nothing": (b"", "STOP"),
    "no operation": (program(b"\xff"), "xff"),
    "text beyond the end": (program(b"X\xff\xff\xff\x7fabc"), ""),
    "bytes beyond the end": (program(b"\x8e" + struct.pack("<Q", 1 << 60)), ""),
    "byte array of 4 GiB": (program(b"\x96" + struct.pack("<Q", 1 << 32)), ""),
    "half a character": (program(b"X\x01\x00\x00\x00\xff"), "utf-8"),
    "number of many digits": (program(b"L" + b"9" * 100_000 + b"L\n"), ""),
    "frozenset": (b"\x80\x04(\x91.", "FROZENSET"),
    "a list": (program(b"]"), "a list"),
    "a tensor alone": (program(tensor(ONES)), "Tensor"),
    "a checkpoint": (program(b"}" + text("epoch") + number(3) + b"s"), "'epoch'"),
    "nested state dicts": (program(b"}" + text("model") + state({"a": tensor(ONES)}) + b"s"), "'model'"),
    "a number for a name": (program(b"}" + number(1) + tensor(ONES) + b"s"), "'1'"),
    "too many operations": (program(b"}0" * MOST_OPERATIONS + b"}"), "POP"),
    "too many numbers": (program(b"](" + b"K\x01" * MOST_OPERATIONS + b"e"), "operations"),
    "a storage that is not there": (program(state({"a": tensor(whole("../../etc/passwd", np.ones(4, np.float32)))})), "passwd"),
    "negative offset": (program(state({"a": tf.rebuilt(FLOATS, -1, (1,), (1,))})), "reaches"),
    "offset beyond": (program(state({"a": tf.rebuilt(FLOATS, 4, (1,), (1,))})), "byte 20"),
    "huge offset": (program(state({"a": tf.rebuilt(FLOATS, 1 << 2000, (1,), (1,))})), "reaches"),
    "negative dim": (program(state({"a": tf.rebuilt(FLOATS, 0, (-1, -4), (1, 1))})), "negative"),
    "negative stride": (program(state({"a": tf.rebuilt(FLOATS, 3, (4,), (-1,))})), "negative"),
    "dims and strides": (program(state({"a": tf.rebuilt(FLOATS, 0, (2, 2), (1,))})), "strides"),
    "many dims": (program(state({"a": tf.rebuilt(FLOATS, 0, (1,) * 33, (1,) * 33)})), "33 dims"),
    "a dim that is a text": (
        program(
            state({"a": call("torch._utils", "_rebuild_tensor_v2", FLOATS, number(0), together(text("x")), tf.numbers((1,)))})
        ),
        "not a whole number",
    ),
    "too large a shape": (program(state({"a": tf.rebuilt(FLOATS, 0, (5,), (1,))})), "reaches"),
    "too long a stride": (program(state({"a": tf.rebuilt(FLOATS, 0, (2, 2), (3, 1))})), "reaches"),
    "more elements than the storage has": (
        program(state({"a": tf.rebuilt(storage("FloatStorage", "0", 9), 0, (9,), (1,))})),
        "",
    ),
    "wider elements than the storage has": (
        program(state({"a": tf.rebuilt(storage("DoubleStorage", "0", 4), 0, (4,), (1,))})),
        "",
    ),
    "empty and huge": (program(state({"a": tf.rebuilt(FLOATS, 0, (0, 1 << 40, 1 << 40), (1, 1, 1))})), "more elements"),
    "one value a billion times": (program(state({"a": tf.rebuilt(FLOATS, 0, (1 << 30,), (0,))})), "would take"),
    "one tensor a thousand times": (
        program(state({str(one): tf.rebuilt(FLOATS, 0, (1 << 17,), (0,)) for one in range(1000)})),
        "would take",
    ),
}


@pytest.mark.parametrize("case", PICKLES)
def test_a_pickle_is_refused_and_nothing_runs(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pickled, word = PICKLES[case]
    monkeypatch.chdir(tmp_path)
    path = tf.zip_of(tmp_path / "a.bin", pickled, {"0": ONES.storage.tobytes()})
    with pytest.raises(WeightsError) as refused:
        read_weights(path)
    assert word in str(refused.value) and str(path) in str(refused.value) and refused.value.advice
    assert len(str(refused.value)) < LONGEST_MESSAGE
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.bin"]


@pytest.mark.parametrize("case", PICKLES)
def test_work_and_memory(case: str, tmp_path: Path) -> None:
    path = tf.zip_of(tmp_path / "a.bin", PICKLES[case][0], {"0": ONES.storage.tobytes()})
    with at_most_calls(), pytest.raises(WeightsError):
        read_weights(path)
    many = case.startswith("too many")  # half a million operations: slow to trace, and each adds an element to a list
    if not many:
        tracemalloc.start()
        with pytest.raises(WeightsError):
            read_weights(path)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
        tracemalloc.stop()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("legacy", [True, False])
def test_the_canary_dies_in_pickle_and_not_here(
    legacy: bool, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted call works: Python's own unpickler runs it."""
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps(Runs(os.mkdir, "canary"), protocol)
    path = tf.legacy_of(tmp_path / "a", pickled, {}) if legacy else tf.zip_of(tmp_path / "a", pickled, {})
    with pytest.raises(WeightsError):
        read_weights(path)
    (tmp_path / "plain").write_bytes(pickled)
    with pytest.raises(WeightsError):
        read_weights(tmp_path / "plain")
    assert not (tmp_path / "canary").exists()
    pickle.loads(pickled)
    assert (tmp_path / "canary").exists()


def sparse_zip(path: Path) -> None:
    """A directory of 20 MiB, as a million entries have."""
    with zipfile.ZipFile(path, "w") as archive:
        for number_ in range(300):
            archive.writestr("x" * 60_000 + str(number_), b"")


def beyond(path: Path) -> None:
    """An entry that claims to start far behind the end."""
    tf.write_zip(path, {"a": ONES})
    data = path.read_bytes()
    at = data.rindex(b"PK\1\2", 0, data.index(b"archive/data/0", data.index(b"PK\1\2")))
    path.write_bytes(data[: at + 42] + struct.pack("<I", len(data) + 1000) + data[at + 46 :])


def before_the_start(path: Path) -> None:
    """A directory that claims to stand further back, so that what its entries start at is negative."""
    tf.write_zip(path, {"a": ONES})
    data = path.read_bytes()
    at = data.rindex(b"PK\5\6") + 16
    (place,) = struct.unpack("<I", data[at : at + 4])
    path.write_bytes(data[:at] + struct.pack("<I", place + 65536) + data[at + 4 :])


def twice(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("archive/data.pkl", program(state({})))
        archive.writestr("archive/data.pkl", program(state({"a": tensor(ONES)})))


def two_archives(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", program(state({})))
        archive.writestr("b/data.pkl", program(state({})))


def bomb(path: Path) -> None:
    tf.zip_of(path, program(state({"a": tensor(ONES)})), {"0": bytes(64 << 20)}, compressed=True)


def header(text_: str | bytes, data: bytes = b"", length: int | None = None) -> Callable[[Path], object]:
    raw = text_ if isinstance(text_, bytes) else text_.encode()
    return lambda path: path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)


def entry(dtype: str = "F32", shape: object = (1,), offsets: object = (0, 4)) -> str:
    return json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}})


def written(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def legacy(
    data: dict, pickled: bytes = program(state({"a": tensor(ONES, b"N")})), magic: int = tf.MAGIC
) -> Callable[[Path], object]:
    return lambda path: tf.legacy_of(path, pickled, data, magic)


FOUR = ONES.storage.tobytes()
FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (written(b""), "neither"),
    "text": (written(b"hello"), "neither"),
    "Git LFS pointer": (written(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "Git LFS"),
    "zip: of something else": (lambda path: zipfile.ZipFile(path, "w").writestr("x", b"") or None, "zip"),
    "zip: cut": (lambda path: path.write_bytes(tf.write_zip(path, {"a": ONES}).read_bytes()[:-30]), "zip"),
    "zip: only its start": (written(b"PK\3\4" + bytes(100)), "zip"),
    "zip: compressed": (bomb, "compressed"),
    "zip: huge directory": (sparse_zip, "one piece"),
    "zip: entry beyond the end": (beyond, "beyond"),
    "zip: entry before the start": (before_the_start, "beyond the start"),
    "zip: two pickles of one name": (twice, "one name"),
    "zip: two archives": (two_archives, "2 entries"),
    "zip: strange byte order": (lambda path: tf.write_zip(path, {"a": ONES}, "middle"), "byte order"),
    "legacy: no storage": (legacy({}), "does not have"),
    "legacy: a key that nothing refers to": (legacy({"1": (4, FOUR)}), "list of storages"),
    "legacy: cut": (legacy({"0": (4, FOUR[:-1])}), "reaches"),
    "legacy: size cut": (
        lambda path: path.write_bytes(tf.write_legacy(path, {"a": ONES}).read_bytes()[:-20]),
        "list of storages",
    ),
    "legacy: huge storage": (legacy({"0": (1 << 62, FOUR)}, program(state({"a": tf.rebuilt(FLOATS, 0, (9,), (1,))}))), ""),
    "legacy: an empty storage": (legacy({"0": (0, b"")}), "reaches"),
    "legacy: a view": (legacy({"0": (4, FOUR)}, program(state({"a": tensor(ONES, text("x"))}))), "not name a storage"),
    "legacy: another pickle": (legacy({}, magic=1), "no PyTorch weights"),
    "pickle: a dict": (written(pickle.dumps({"a": 1})), ""),
    "safetensors: header beyond the end": (header("{", length=1 << 20), "neither"),
    "safetensors: huge header": (header(b"{" + b" " * (17 << 20)), "header"),
    "safetensors: not JSON": (header("{x"), "safetensors"),
    "safetensors: not UTF-8": (header(b"{\xff\xff\xff\xff\xff}"), "safetensors"),
    "safetensors: nested": (header('{"a":' + "[" * 100_000), "safetensors"),
    "safetensors: short": (header(entry(shape=[2], offsets=[0, 8]), bytes(4)), "safetensors"),
    "safetensors: over-long": (header(entry(), bytes(8)), "safetensors"),
    "safetensors: shape": (header(entry(shape=[1 << 62, 4]), bytes(4)), "safetensors"),
    "safetensors: negative": (header(entry(shape=[-1]), bytes(4)), "safetensors"),
    "safetensors: unknown type": (header(entry("X9"), bytes(4)), "safetensors"),
    "safetensors: type that is not read": (header(entry("F8_E4M3", [1], [0, 1]), bytes(1)), "F8_E4M3"),
    "safetensors: many dims": (header(entry(shape=[1] * 40), bytes(4)), "40 dims"),
    "safetensors: overlap": (
        header(
            '{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}',
            bytes(3),
        ),
        "safetensors",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_broken_file_is_refused(case: str, tmp_path: Path) -> None:
    make, word = FILES[case]
    path = tmp_path / "a.bin"
    make(path)
    with at_most_calls(), pytest.raises(WeightsError) as refused:
        read_weights(path)
    assert word in str(refused.value) and str(path) in str(refused.value) and refused.value.advice
    assert len(str(refused.value)) < LONGEST_MESSAGE


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "module").mkdir()
    (tmp_path / "sharded").mkdir()
    (tmp_path / "sharded" / "model.safetensors.index.json").write_text("{}")
    (tmp_path / "linked").mkdir()
    tf.write_zip(tmp_path / "outside.bin", {"a": ONES})
    (tmp_path / "linked" / "pytorch_model.bin").symlink_to(tmp_path / "outside.bin")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model.safetensors").mkdir()
    for place, word in (
        ("pipe", "regular"),
        ("absent", "No such file"),
        ("module", "pytorch_model.bin"),
        ("sharded", "several files"),
        ("linked", "symlink"),
        ("folder", "regular"),
    ):
        with pytest.raises(FolderError, match=word):
            read_weights(tmp_path / place)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_give_typed_errors(data: st.DataObject, tmp_path: Path) -> None:
    """Any bytes overwritten or cut off: a typed error, or tensors that can be read."""
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    write = data.draw(st.sampled_from([tf.write_zip, tf.write_legacy, save_safetensors]))
    path = write(tmp_path / "a", {"m": whole("0", matrix), "n": whole("1", matrix)})
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)) | st.just(len(raw)))])
    try:
        dict(read_weights(path))
    except GraphSurgeryError as error:
        assert error.advice and len(str(error)) < LONGEST_MESSAGE


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    operations=st.lists(
        st.sampled_from([*b"(.0123GIJKLMNPQRSTUVX]`abcdeghijlopqrstu})\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x93\x94\x95"])
    )
)
def test_any_operations_give_typed_errors(operations: list[int], tmp_path: Path) -> None:
    pickled = program(state({"a": tensor(ONES)}), bytes(operations))
    try:
        dict(read_weights(tf.zip_of(tmp_path / "a", pickled, {"0": FOUR})))
    except GraphSurgeryError as error:
        assert error.advice and len(str(error)) < LONGEST_MESSAGE


def save_safetensors(path: Path, views: dict[str, View]) -> Path:
    safetensors.numpy.save_file({key: view.storage.reshape(view.shape) for key, view in views.items()}, path)
    return path


def test_a_wrong_stride_is_caught(tmp_path: Path) -> None:
    """A planted fault: the comparison of `test_torch` sees a transposed tensor that is read as if it were contiguous."""
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    (tmp_path / "a").write_bytes(matrix.tobytes())
    wrong = StoredTensor(matrix.dtype, (3, 2), (2, 1), 0).read(FileBytes(tmp_path / "a"))
    with pytest.raises(AssertionError):
        same(wrong, matrix.T)
