"""Hostile and broken files are refused: by a typed error, with little work, within 256 MiB, and no other file is opened."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import hostile
import onnx
import pytest
from conftest import ROOT, corpus_params
from effort import MOST_CALLS, at_most_calls
from hostile import BENIGN, CASES, build_in, floats, model_of, outside
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from graphsurgery.errors import (
    ExternalDataError,
    GraphSurgeryError,
    MalformedModelError,
    SourceChangedError,
    SurroundingsError,
    UnsafeLocationError,
)
from graphsurgery.model.dtypes import count_elements
from graphsurgery.model.loading import load
from graphsurgery.model.model import Model

pytestmark = pytest.mark.usefixtures("loaded_anew")
MOST_MIB = 256
LONGEST_MESSAGE = 1000


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Every hostile file by name, each in a folder of its own."""
    folder = tmp_path_factory.mktemp("hostile")
    yield hostile.build_all(folder)
    shutil.rmtree(folder)


def test_files_of_onnx_runtimes_own_format_are_called_so(tmp_path: Path) -> None:
    path = tmp_path / "model.ort"
    path.write_bytes(b"\x14\0\0\0ORTM" + bytes(24))
    with pytest.raises(MalformedModelError, match=r"own format \(.ort\)") as refused:
        load(path)
    assert ".onnx file" in refused.value.advice


# --- the error --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_refused(name: str, built: dict[str, Path]) -> None:
    case = CASES[name]
    with pytest.raises(GraphSurgeryError) as caught:
        load(built[name])
    assert type(caught.value) is case.error, caught.value
    message = str(caught.value)
    assert [word for word in case.words if word not in message] == [], message
    assert len(message) < LONGEST_MESSAGE
    assert caught.value.advice


def test_refused_from_memory_too(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    (tmp_path / "model").mkdir()
    with pytest.raises(UnsafeLocationError, match="'w'"):
        load(model_of(outside("../secret.bin")), folder=tmp_path / "model")


@pytest.mark.parametrize("name", BENIGN)
def test_look_alike_loads_and_loses_nothing(name: str, tmp_path: Path) -> None:
    path = build_in(tmp_path, name, BENIGN[name].build)
    model = load(path)
    assert contents(model) == path.read_bytes()
    notes = " ".join(model.remarks)
    assert bool(notes) == bool(BENIGN[name].notes)
    assert [word for word in BENIGN[name].notes if word not in notes] == []
    read_everything(model)


@pytest.mark.parametrize("path", corpus_params())
def test_third_party_model_loads(path: Path) -> None:
    assert load(path).document.size == path.stat().st_size


# --- work and memory --------------------------------------------------------------------------------------------------


def test_little_work_and_within_256_mib(built: dict[str, Path], tmp_path: Path) -> None:
    """Each in a process of its own, forked from one that has imported the loader already."""
    measured = measure(built, tmp_path)
    assert {name: one["error"] for name, one in measured.items()} == {name: case.error.__name__ for name, case in CASES.items()}
    assert {name: one["calls"] for name, one in measured.items() if one["calls"] > MOST_CALLS} == {}
    assert {name: one["mib"] for name, one in measured.items() if one["mib"] >= MOST_MIB} == {}


def measure(paths: dict[str, Path], folder: Path) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    for line in in_a_process(paths, folder).splitlines():
        one = json.loads(line)
        found.setdefault(one["name"], {}).update(one)
    assert set(found) == set(paths)
    return found


def in_a_process(paths: dict[str, Path], folder: Path, *arguments: str, under: Sequence[str] = ()) -> str:
    """The standard output of ``hostile.py`` over ``paths``."""
    listed = folder / "paths.json"
    listed.write_text(json.dumps({name: str(path) for name, path in paths.items()}))
    command = [*under, sys.executable, str(Path(hostile.__file__)), str(listed), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=120).stdout


# --- what is opened ---------------------------------------------------------------------------------------------------

OPENED = re.compile(r'\b(?:open|openat|openat2|creat)\([^"]*"((?:[^"\\]|\\.)*)"')


def opened_by_case(trace: str, marker: str) -> dict[str, set[str]]:
    """The paths that were opened, or tried, after each marker, by the name behind the marker."""
    found: dict[str, set[str]] = {}
    current: set[str] = set()
    for path in OPENED.findall(trace):
        if path.startswith(marker):
            current = found.setdefault(path.removeprefix(marker), set())
        else:
            current.add(path)
    found.pop("end")
    return found


def test_a_trace_is_read_right() -> None:
    trace = (
        '7 openat(AT_FDCWD, "/lib/python/os.py", O_RDONLY|O_CLOEXEC) = 3\n'
        '7 openat(AT_FDCWD, "/marker-a", O_RDONLY|O_CLOEXEC) = -1 ENOENT (No such file or directory)\n'
        '7 openat(AT_FDCWD, "/here/model.onnx", O_RDONLY|O_NONBLOCK) = 3\n'
        '8 openat(3, "../secret.bin", O_RDONLY <unfinished ...>\n'
        '7 open("/marker-end", O_RDONLY) = -1 ENOENT (No such file or directory)\n'
    )
    assert opened_by_case(trace, "/marker-") == {"a": {"/here/model.onnx", "../secret.bin"}}


def test_nothing_but_the_model_is_opened(built: dict[str, Path], tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed (Debian: apt-get install strace)")
    if subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace may not trace here (ptrace is forbidden)")
    log, marker = tmp_path / "trace", str(tmp_path / "marker-")
    strace = ["strace", "-f", "--seccomp-bpf", "-s", "4096", "-o", str(log), "-e", "trace=?open,openat,?openat2,?creat"]
    in_a_process(built, tmp_path, marker, under=strace)
    opened = opened_by_case(log.read_text(), marker)
    assert opened == {name: {str(path)} if is_regular(path) else set() for name, path in built.items()}


def is_regular(path: Path) -> bool:
    return "\0" not in str(path) and path.is_file()


# --- files that change under the loader -------------------------------------------------------------------------------


def test_model_changed_after_loading(tmp_path: Path) -> None:
    path = hostile.write(tmp_path, model_of(floats(5000)))
    model = load(path)
    with path.open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"\xff" * 200)
    with pytest.raises(SourceChangedError, match=r"model\.onnx"):
        model.values(model.initializers["w"])


def test_model_replaced_after_loading(tmp_path: Path) -> None:
    """What was loaded stays readable: it is the file that was opened, whatever bears its name now."""
    path = hostile.write(tmp_path, model_of(floats(5000)))
    model = load(path)
    path.with_suffix(".new").write_bytes(b"other")
    path.with_suffix(".new").replace(path)
    assert model.values(model.initializers["w"])[-1] == 4999


@pytest.mark.parametrize("how", ["rewritten", "truncated", "replaced", "symlink", "fifo", "folder"])
def test_data_changed_after_loading(how: str, tmp_path: Path) -> None:
    path = hostile.located(tmp_path, "weights.bin")
    model = load(path)
    change(path.parent / "weights.bin", how)
    with pytest.raises((SourceChangedError, SurroundingsError), match=r"weights\.bin"):
        model.values(model.initializers["w"])


def change(data: Path, how: str) -> None:
    if how == "rewritten":
        data.write_bytes(b"x" * 17)
    elif how == "truncated":
        os.truncate(data, 8)
    elif how == "replaced":
        data.with_suffix(".new").write_bytes(bytes(16))
        data.with_suffix(".new").replace(data)
    else:
        data.unlink()
        make = {"symlink": lambda: data.symlink_to("../secret.bin"), "fifo": lambda: os.mkfifo(data), "folder": data.mkdir}
        make[how]()


# --- anything else ----------------------------------------------------------------------------------------------------


def valid_models() -> list[bytes]:
    """Small models of every structure that the loader walks."""
    builders = [BENIGN[name].build for name in ("payloads_in_every_place", "every_known_key", "typed_halves", "strings")]
    models = [model_of(floats(3), hostile.integers(2, 3)).SerializeToString()]
    for build in builders:
        with tempfile.TemporaryDirectory() as folder:
            models.append(build(Path(folder)).read_bytes())
    return models


VALID = valid_models()
NASTY_BYTES = [b"\0", b"\xff", b"\x80" * 10, b"\x0a\x00", b"\x3a\x00", b"\xff\xff\xff\xff\x07", b"\xff" * 9 + b"\x01"]
NASTY_LOCATIONS = [
    "",
    ".",
    "..",
    "/",
    "a/../..",
    "../secret.bin",
    "model.onnx",
    "weights.bin",
    "./weights.bin",
    "~",
    "\0",
    "\\",
]
NASTY_NUMBERS = ["0", "-1", "16", "17", "1e3", " 1", "+1", "0x1", "1_0", "\u0661", str(1 << 63), str(1 << 64), "9" * 5000]
KEYS = ["location", "offset", "length", "checksum", "basepath", "prepacked_1", "__class__", ""]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A valid model after a few cuts, flips, insertions and splices."""
    data = draw(st.sampled_from(VALID))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(start + 64, len(data))))
        other = draw(st.sampled_from(VALID))
        at = draw(st.integers(0, len(other)))
        piece = draw(st.one_of(st.sampled_from(NASTY_BYTES), st.binary(max_size=8), st.just(other[at : at + 200])))
        data = draw(st.sampled_from([data[:start], data[:start] + piece + data[end:], data[:start] + data[end:]]))
    return data


@st.composite
def odd_tensors(draw: st.DrawFn) -> TensorProto:
    """A tensor whose dims, type, data and external_data need not agree."""
    dims = st.one_of(st.integers(0, 5), st.sampled_from([-1, 1 << 20, 1 << 40, 1 << 62, (1 << 63) - 1]))
    tensor = TensorProto(name=draw(st.sampled_from(["w", "", "\u00e4"])), dims=draw(st.lists(dims, max_size=4)))
    tensor.data_type = draw(st.one_of(st.integers(0, 27), st.sampled_from([-1, 99, (1 << 31) - 1])))
    tensor.data_location = draw(st.sampled_from([TensorProto.DEFAULT, TensorProto.EXTERNAL]))
    values = st.one_of(st.sampled_from(NASTY_LOCATIONS + NASTY_NUMBERS), st.text(max_size=20))
    for key, value in draw(st.lists(st.tuples(st.sampled_from(KEYS), values), max_size=4)):
        tensor.external_data.add(key=key, value=value)
    if draw(st.booleans()):
        tensor.raw_data = bytes(draw(st.sampled_from([0, 1, 4, 16, 1023, 1024, 4096])))
    if draw(st.booleans()):
        field = draw(st.sampled_from(["float_data", "int32_data", "int64_data", "double_data", "uint64_data"]))
        getattr(tensor, field).extend([1] * draw(st.sampled_from([0, 1, 4, 300, 1024])))
    return tensor


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data file and a place for a model."""
    return hostile.write(tmp_path_factory.mktemp("fuzz"), b"").parent


many = settings(max_examples=200, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])


@many
@given(data=damaged())
def test_damaged_model(home: Path, data: bytes) -> None:
    survives(home, data)


@many
@given(tensors=st.lists(odd_tensors(), min_size=1, max_size=3), where=st.sampled_from(["initializer", "attribute", "sparse"]))
def test_odd_tensors(home: Path, tensors: list[TensorProto], where: str) -> None:
    if where == "initializer":
        model = model_of(*tensors)
    elif where == "attribute":
        model = model_of(nodes=[hostile.constant(value=tensor) for tensor in tensors])
    else:
        model = model_of()
        model.graph.sparse_initializer.extend(onnx.SparseTensorProto(values=tensor) for tensor in tensors)
    survives(home, model.SerializeToString())


def survives(home: Path, data: bytes) -> None:
    """Loading gives a model, whole and with its files in its folder, or a typed error; nothing else, and soon."""
    path = home / "model.onnx"
    path.write_bytes(data)
    try:
        with at_most_calls():
            model = load(path)
    except GraphSurgeryError as error:
        assert len(str(error)) < LONGEST_MESSAGE
        return
    assert contents(model) == data
    assert all(file.path.resolve().is_relative_to(home.resolve()) for file in model.files.values())
    read_everything(model)


def contents(model: Model) -> bytes:
    return b"".join(chunk if isinstance(chunk, bytes) else chunk.read() for chunk in model.document.chunks())


def read_everything(model: Model) -> None:
    """What a loaded file promises: its interface, and every initializer of the shape it declares, or none for want of data."""
    assert model.interface is not None and model.fingerprint and model.weight_bytes >= 0
    for tensor in model.proto.graph.initializer:
        if count_elements(tensor.dims) > 1 << 20 or tensor.data_type == TensorProto.STRING:  # strings need not be UTF-8
            continue
        try:
            assert model.values(tensor).shape == tuple(tensor.dims)
        except ExternalDataError:
            assert model.missing_data
