"""What saving refuses, what it never overwrites, and what it leaves when the world changes under it."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import exotic
import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import FIXTURES
from keeping import add_two_data_files
from onnx import TensorProto, helper

import graphsurgery
from graphsurgery.errors import GraphSurgeryError, OutputExistsError, SourceChangedError, SurroundingsError
from graphsurgery.model import saving
from graphsurgery.model.atomic import ignore_progress, make_temporary_name
from graphsurgery.model.loading import load
from graphsurgery.model.model import Model
from graphsurgery.model.saving import plan_output, save
from graphsurgery.model.sources import FileBytes
from graphsurgery.model.staging import Saved, Stage, stage_output


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A model with weights inside and in two data files, alone in its folder."""
    folder = tmp_path / "source"
    folder.mkdir()
    model = exotic.plain([exotic.constant("c", exotic.tensor("c", 700))])
    add_two_data_files(model, folder)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where to save to, in another folder."""
    (tmp_path / "target").mkdir()
    return tmp_path / "target" / "saved.onnx"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# The input is never written


def the_path_itself(path: Path) -> Path:
    return path


def a_symlink(path: Path) -> Path:
    path.with_name("link.onnx").symlink_to(path)
    return path.with_name("link.onnx")


def a_hard_link(path: Path) -> Path:
    path.with_name("hard.onnx").hardlink_to(path)
    return path.with_name("hard.onnx")


def a_relative_path(path: Path) -> Path:
    return Path(os.path.relpath(path))


def through_a_linked_folder(path: Path) -> Path:
    link = path.parent.with_name("folder")
    link.symlink_to(path.parent, target_is_directory=True)
    return link / path.name


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", ["model.onnx", "a.bin"])
@pytest.mark.parametrize("way", [the_path_itself, a_symlink, a_hard_link, a_relative_path, through_a_linked_folder])
def test_the_input_is_never_written(way: Callable[[Path], Path], name: str, force: bool, source: Path) -> None:
    model = load(source)
    output = way(source.with_name(name))
    before = contents(source.parent)
    with pytest.raises(OutputExistsError, match="never overwritten"):
        save(model, output, force=force)
    assert contents(source.parent) == before


@pytest.mark.parametrize("force", [False, True])
def test_absent_data_are_not_filled_with_the_model(source: Path, force: bool) -> None:
    """Where data are missing, nothing else may take their name: the model would be its own data."""
    source.with_name("a.bin").unlink()
    with pytest.raises(OutputExistsError, match="never overwritten"):
        save(load(source), source.with_name("a.bin"), force=force)


# Nothing of others is overwritten


def test_an_existing_output_needs_force(source: Path, target: Path) -> None:
    for make in (target.touch, lambda: target.symlink_to("nowhere")):
        make()
        with pytest.raises(OutputExistsError, match="already exists"):
            save(load(source), target)
        target.unlink()
    target.write_bytes(b"old")
    assert load(save(load(source), target, force=True).path).missing_data == ()


def test_force_replaces_a_symlink_and_not_its_target(source: Path, target: Path) -> None:
    other = target.with_name("other.onnx")
    other.write_bytes(b"other")
    target.symlink_to(other)
    save(load(source), target, force=True)
    assert not target.is_symlink() and other.read_bytes() == b"other"


@pytest.mark.parametrize("force", [False, True])
def test_only_regular_files_are_replaced(source: Path, target: Path, force: bool) -> None:
    target.mkdir()
    with pytest.raises(OutputExistsError, match="is a folder"):
        save(load(source), target, force=force)
    os.mkfifo(target.with_name("fifo"))
    with pytest.raises(OutputExistsError, match="not a regular file"):
        save(load(source), target.with_name("fifo"), force=force)
    assert target.with_name("fifo").is_fifo()


def test_a_folder_that_is_not_there(source: Path, target: Path) -> None:
    for output in (target.parent / "nowhere" / "saved.onnx", source / "saved.onnx"):
        with pytest.raises(SurroundingsError):
            save(load(source), output)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_without_permission(source: Path, target: Path) -> None:
    for mode in (0o500, 0o000):
        target.parent.chmod(mode)
        try:
            with pytest.raises(SurroundingsError, match="Permission denied"):
                save(load(source), target)
        finally:
            target.parent.chmod(0o700)
        assert contents(target.parent) == {}


def test_a_name_that_is_too_long(source: Path, target: Path) -> None:
    """255 bytes are what a file system takes: of the output's name, not of what saving makes of it for a while."""
    with pytest.raises(SurroundingsError, match="name too long"):
        save(load(source), target.with_name("x" * 256))
    longest = source.with_name("ö" * 125 + ".onnx")
    assert save(load(source), longest).path == longest and longest.exists()


@pytest.mark.parametrize("force", [False, True])
def test_a_file_that_appears_meanwhile(source: Path, target: Path, force: bool) -> None:
    """Between the look at the output's name and the moment it is taken: only force replaces it."""
    with stage_output(plan_output(load(source), target, force=force), force=force) as stage:
        target.write_bytes(b"another's")
        if force:
            stage.commit()
        else:
            with pytest.raises(OutputExistsError, match="already exists"):
                stage.commit()
    assert (target.read_bytes() == b"another's") != force
    assert sorted(contents(target.parent)) == (["saved.onnx", "saved.onnx.data"] if force else ["saved.onnx"])


def test_it_is_noticed_without_links_too(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", link)
    with stage_output(plan_output(load(source), target)) as stage:
        target.write_bytes(b"another's")
        with pytest.raises(OutputExistsError):
            stage.commit()
    assert contents(target.parent) == {"saved.onnx": b"another's"}
    save(load(source), target.with_name("second.onnx"))
    assert sorted(contents(target.parent)) == ["saved.onnx", "second.onnx", "second.onnx.data"]


def test_a_data_name_in_use_is_left_alone(source: Path, target: Path) -> None:
    for name in ("saved.onnx.data", "saved.onnx.1.data"):
        target.with_name(name).write_bytes(b"another's")
    target.with_name("saved.onnx.2.data").symlink_to("nowhere")
    saved = save(load(source), target)
    assert saved.data == target.with_name("saved.onnx.3.data")
    assert load(target).missing_data == ()
    assert target.with_name("saved.onnx.1.data").read_bytes() == b"another's"


def test_a_data_name_taken_meanwhile_is_left_alone(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unused(output: Path) -> Path:
        output.with_name("taken.data").write_bytes(b"another's")
        return output.with_name("taken.data")

    monkeypatch.setattr(saving, "choose_data_name", unused)
    with pytest.raises(SurroundingsError, match="File exists"):
        save(load(source), target)
    assert contents(target.parent) == {"taken.data": b"another's"}


# The source changes


def rewritten(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(bytes(len(data)))
    os.utime(path, ns=(0, 0))


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("change", [rewritten, cut_short])
@pytest.mark.parametrize("name", ["model.onnx", "a.bin"])
@pytest.mark.parametrize("when", ["before", "while copying"])
def test_a_source_that_changes_is_noticed(
    name: str, change: Callable[[Path], None], when: str, source: Path, target: Path
) -> None:
    model = load(source)

    def progress(_: int) -> None:
        if when == "while copying":
            change(source.with_name(name))

    if when == "before":
        change(source.with_name(name))
    with pytest.raises(SourceChangedError, match=name):
        save(model, target, progress=progress)
    assert contents(target.parent) == {}


@pytest.mark.parametrize("change", [rewritten, cut_short, Path.unlink])
def test_data_that_stay_must_be_what_they_were(change: Callable[[Path], None], source: Path) -> None:
    """They are not copied, but the output would be made of others than the edit was made for."""
    model = load(source)
    change(source.with_name("a.bin"))
    with pytest.raises(SurroundingsError if change is Path.unlink else SourceChangedError, match=r"a\.bin"):
        save(model, source.with_name("saved.onnx"))
    assert sorted(contents(source.parent)) == [
        name for name in ("a.bin", "b.bin", "model.onnx") if (source.parent / name).exists()
    ]


def test_a_source_that_was_replaced_is_still_the_one_that_was_loaded(source: Path, target: Path) -> None:
    """Renaming another file over it is how good programs write: what was loaded is still open."""
    before = source.read_bytes()
    model = load(source)
    source.with_name("new").write_bytes(b"new")
    source.with_name("new").replace(source)
    save(model, source.with_name("saved.onnx"))
    assert source.with_name("saved.onnx").read_bytes() == before
    save(model, target)
    assert load(target).missing_data == ()


# What is written


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(mask: int, source: Path, target: Path) -> None:
    before = os.umask(mask)
    try:
        saved = save(load(source), target)
    finally:
        os.umask(before)
    for path in (saved.path, saved.data):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
        assert path.stat().st_nlink == 1


@pytest.mark.parametrize("kernel", [True, False])
def test_progress_tells_every_byte(kernel: bool, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kernel copying, and on a system where it cannot."""
    if not kernel:
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    told: list[int] = []
    saved = save(load(source), target, progress=told.append)
    assert sum(told) == saved.bytes_written == target.stat().st_size + 2 * 2400
    model = load(target)
    assert [model.values(model.initializers[name]).tobytes() for name in "ab"] == [
        exotic.tensor(name, 600).raw_data for name in "ab"
    ]
    assert model.values(model.proto.graph.node[0].attribute[0].t).tobytes() == exotic.tensor("c", 700).raw_data


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_while_copying_leaves_nothing(error: type[BaseException], source: Path, target: Path) -> None:
    """After each piece of data file and model in turn."""
    pieces: list[int] = []
    save(load(source), target.with_name("whole.onnx"), progress=pieces.append)
    whole = contents(target.parent)
    for last in range(len(pieces)):
        left = iter(range(last))

        def progress(_: int, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise error

        with pytest.raises(error):
            save(load(source), target, progress=progress)
        assert contents(target.parent) == whole


def test_a_stage_that_is_not_committed_leaves_nothing(source: Path, target: Path) -> None:
    with stage_output(plan_output(load(source), target)) as stage:
        assert load(stage.path).missing_data == () and stage.path.name.startswith(".")
    assert contents(target.parent) == {}


# Above 2 GiB


def saved_as_if_larger(model: Model, output: Path, largest: int) -> Saved:
    """Save as if protobuf ended at ``largest`` bytes."""
    stage = Stage(make_temporary_name(output), plan_output(model, output, largest=largest))
    stage.write(ignore_progress)
    return stage.commit()


def outputs_of(path: Path) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = {value.name: np.arange(12, dtype=np.int64).reshape(2, 6) % 2 for value in session.get_inputs()}
    return session.run(None, feed)


@pytest.mark.parametrize("name", ["bert", "bert-fp16", "bert-external"])
def test_too_large_for_one_file(name: str, tmp_path: Path) -> None:
    """The weights lie in external data then: for graphsurgery, for onnx and for ONNX Runtime the same model."""
    shutil.copytree(FIXTURES / name, tmp_path / "source")
    model = load(tmp_path / "source" / "model.onnx")
    saved = saved_as_if_larger(model, tmp_path / "saved.onnx", largest=1000)
    assert saved.data == tmp_path / "saved.onnx.data" and any("protobuf is limited to 2 GiB" in note for note in saved.notes)
    again = load(saved.path)
    assert {one.file.path for one in again.externals} == {saved.data} and again.missing_data == ()
    assert again.document.payload_bytes == 0 and model.document.payload_bytes + len(model.externals) > 0
    for key, tensor in model.initializers.items():
        assert again.values(again.initializers[key]).tobytes() == model.values(tensor).tobytes()
    for one, other in zip(outputs_of(saved.path), outputs_of(model.path), strict=True):
        np.testing.assert_array_equal(one, other)
    onnx.checker.check_model(saved.path)
    one, other = (onnx.load(path).graph for path in (saved.path, model.path))
    for weights in zip(one.initializer, other.initializer, strict=True):
        np.testing.assert_array_equal(*map(onnx.numpy_helper.to_array, weights))
    assert one.node == other.node


@pytest.mark.parametrize("name", ["bert", "bert-fp16", "bert-external"])
def test_back_from_too_large_for_one_file(name: str, tmp_path: Path) -> None:
    """A pooled file whose weights had to move out verifies, and strip-head gives the source back: its bytes, where it had
    all."""
    shutil.copytree(FIXTURES / name, tmp_path / "source")
    source = tmp_path / "source" / "model.onnx"
    pooled = graphsurgery.add_pooling(source, mode="mean", normalize=True)
    saved = saved_as_if_larger(pooled, tmp_path / "saved.onnx", largest=1000)
    report = graphsurgery.verify(saved.path, against=source)
    assert report, report.to_json()
    done = graphsurgery.run([graphsurgery.StripHead()], saved.path, output=tmp_path / "back.onnx")
    assert done.report
    if name == "bert-external":
        np.testing.assert_array_equal(outputs_of(done.output)[0], outputs_of(source)[0])
    else:
        assert done.output.read_bytes() == source.read_bytes()


def test_data_of_a_replaced_output_are_named(tmp_path: Path) -> None:
    """Another model may refer to them, so they stay; nobody must have to look for them."""
    model = load(FIXTURES / "bert-external" / "model.onnx")
    first = save(model, tmp_path / "a.onnx")
    second = save(model, tmp_path / "a.onnx", force=True)
    assert first.data is not None and second.data is not None and first.data != second.data
    assert not any("stay" in note or "are kept" in note for note in first.notes)
    assert any(first.data.name in note and "are kept" in note for note in second.notes)


def test_a_loaded_model_does_not_follow_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path means what it meant when it was loaded: the input is still known, and so are its data."""
    shutil.copytree(FIXTURES / "bert-external", tmp_path / "here")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    model = load("model.onnx")
    monkeypatch.chdir(tmp_path / "there")
    with pytest.raises(OutputExistsError):
        save(model, tmp_path / "here" / "model.onnx", force=True)
    save(model, "copy.onnx")
    np.testing.assert_array_equal(outputs_of(Path("copy.onnx"))[0], outputs_of(tmp_path / "here" / "model.onnx")[0])


def test_only_what_external_data_can_hold_moves(tmp_path: Path) -> None:
    """Floats and doubles in their own fields are little-endian bytes; varints are not, and stay."""
    model = exotic.plain()
    held = {
        "f": TensorProto(data_type=TensorProto.FLOAT, dims=[400], float_data=range(400)),
        "d": TensorProto(data_type=TensorProto.DOUBLE, dims=[400], double_data=range(400)),
        "l": TensorProto(data_type=TensorProto.INT64, dims=[2000], int64_data=range(2000)),
    }
    for name, tensor in held.items():
        tensor.name = name
        model.graph.initializer.append(tensor)
        model.graph.output.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    saved = saved_as_if_larger(load(tmp_path / "model.onnx"), tmp_path / "saved.onnx", largest=1000)
    assert {one.tensor for one in load(saved.path).externals} == {"w", "f", "d"}
    session = onnxruntime.InferenceSession(saved.path, providers=["CPUExecutionProvider"])
    results = session.run(list(held), {"x": np.zeros(400, np.float32)})
    for tensor, result in zip(held.values(), results, strict=True):
        np.testing.assert_array_equal(result, onnx.numpy_helper.to_array(tensor))


def test_what_cannot_move_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large constants in nodes stay in the file: if they alone are too large, there is no way."""
    (tmp_path / "model.onnx").write_bytes(exotic.plain([exotic.constant("c", exotic.tensor("c", 4000))]).SerializeToString())
    monkeypatch.setattr(saving, "LARGEST_PROTOBUF", 8000)
    with pytest.raises(GraphSurgeryError, match="protobuf is limited to 2 GiB"):
        plan_output(load(tmp_path / "model.onnx"), tmp_path / "saved.onnx", largest=8000)


def test_systems_without_positioned_reads_and_writes(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has no pread and no pwrite, macOS no copy_file_range: the files are the same, also from several threads."""
    encoder = FIXTURES / "bert" / "model.onnx"

    def saved(place: str) -> dict[str, bytes]:
        folder = tmp_path / place
        folder.mkdir()
        for name, path in (("encoder.onnx", encoder), ("with_data.onnx", source)):
            save(load(path), folder / name)
        graphsurgery.run([graphsurgery.AddPooling("mean")], encoder, output=folder / "pooled.onnx")
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    before, usual = source.read_bytes(), saved("usual")
    for name in ("pread", "pwrite", "copy_file_range", "O_NONBLOCK", "O_CLOEXEC"):
        monkeypatch.delattr(os, name, raising=False)
    assert saved("plain") == usual and len(usual) > 3

    data = encoder.read_bytes()
    file = FileBytes(encoder)

    def read(seed: int) -> bool:
        places = np.random.default_rng(seed).integers(0, len(data) - 64, 4000)
        return all(file.read(int(place), 64) == data[place : place + 64] for place in places)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))
    assert source.read_bytes() == before
