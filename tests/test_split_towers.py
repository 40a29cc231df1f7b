"""split-towers: two files, the weights where they should be, similarities that are compared, and nothing left behind."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import FIXTURES
from joints import BIAS, PIXELS, SCALE, joint
from onnx import numpy_helper
from planting import Plant
from test_bake import command
from test_towers import compute, draw

import graphsurgery
from graphsurgery.baking import split_towers as module
from graphsurgery.baking.similarities import check_similarities
from graphsurgery.cli.main import OK, VERDICT, WRONG
from graphsurgery.errors import OutputExistsError, StrictError, UnsupportedModelError, VerificationFailed
from graphsurgery.report import Check, Report, Verdict

KINDS = ("text", "image")


def write_joint(folder: Path, external: bool = False, **options: object) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    more = {"save_as_external_data": True, "location": "model.onnx.data", "size_threshold": 64} if external else {}
    onnx.save(joint(**options), path, **more)
    return path


def read_folder(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "options",
    [{"bias": True}, {"form": "l2", "shared": True}, {"form": None, "logits": False}],
    ids=["clip", "shared", "plain"],
)
def test_both_files(options: dict[str, object], tmp_path: Path) -> None:
    """Each takes its own inputs alone and gives vectors of length one in the direction of the joint model's."""
    source = write_joint(tmp_path / "source", **options)
    split = graphsurgery.split_towers(source, tmp_path / "towers")
    assert split.files == ("image.onnx", "text.onnx") == tuple(sorted(read_folder(tmp_path / "towers")))
    both = compute(graphsurgery.load(source), draw(3, "text") | draw(2, "image"))
    for kind, rows in (("text", 3), ("image", 2)):
        tower = graphsurgery.load(split.towers[kind].output)
        (output,) = tower.interface.outputs
        vectors, wanted = compute(tower, draw(rows, kind))[output.name], both[output.name]
        assert np.allclose(vectors, wanted / np.linalg.norm(wanted, axis=-1, keepdims=True), atol=1e-6)
        assert output.dims == (f"{kind}_batch", 6) and split.towers[kind].report
        assert graphsurgery.verify(tower, against=source)
    assert tower.interface.inputs[0].dims == ("image_batch", 3, PIXELS, PIXELS)
    assert split.report is not None and bool(split.report) is ("logits" not in options)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_the_towers_of_an_export(name: str, tmp_path: Path) -> None:
    """Both files give what PyTorch gave, and the similarities with the recorded scale and bias."""
    golden = np.load(FIXTURES / "towers" / f"{name}.npz")
    split = graphsurgery.split_towers(FIXTURES / "towers" / f"{name}.onnx", tmp_path / "towers")
    assert split.report and not split.towers["image"].warnings
    vectors = {}
    for kind, one in split.towers.items():
        assert one.interface.outputs[0].dims[0] == one.interface.inputs[0].dims[0]
        feed = {value.name: golden[value.name] for value in one.interface.inputs}
        vectors[kind] = compute(graphsurgery.load(one.output), feed)[f"{kind}_embeds"]
        assert np.allclose(vectors[kind], golden[f"{kind}_embeds"], atol=1e-6)
    assert split.towers["image"].interface.inputs[0].dims[1:] == (3, 16, 16)
    parameters = split.towers["text"].steps[0]["parameters"]
    logits = float(parameters["scale"]) * vectors["text"] @ vectors["image"].T + float(parameters["bias"] or 0)
    assert np.allclose(logits, golden["logits_per_text"], atol=1e-5 * np.abs(golden["logits_per_text"]).max())
    assert (parameters["bias"] is not None) is (name == "siglip")


def test_raw_vectors_are_not_normalised(tmp_path: Path) -> None:
    split = graphsurgery.split_towers(write_joint(tmp_path / "source"), tmp_path / "towers", raw=True)
    for kind in KINDS:
        (vectors,) = compute(graphsurgery.load(split.towers[kind].output), draw(3, kind)).values()
        assert not np.allclose(np.linalg.norm(vectors, axis=-1), 1, atol=0.1)
    assert split.report


def test_beside_the_source_no_weight_is_written(tmp_path: Path) -> None:
    source = write_joint(tmp_path / "source", external=True, shared=True)
    before = read_folder(source.parent)
    split = graphsurgery.split_towers(source, source.parent)
    after = read_folder(source.parent)
    assert after.keys() - before.keys() == {"text.onnx", "image.onnx"} and before.items() <= after.items()
    offsets = {one.name: entries(one) for one in graphsurgery.load(source).proto.graph.initializer}
    for kind in KINDS:
        tower = graphsurgery.load(split.towers[kind].output)
        assert tower.files.keys() == {"model.onnx.data"}
        assert all(entries(one) == offsets[one.name] for one in tower.proto.graph.initializer)


def entries(tensor: onnx.TensorProto) -> dict[str, str]:
    return {one.key: one.value for one in tensor.external_data}


@pytest.mark.parametrize("exists", [False, True])
def test_in_another_folder_both_share_one_file(exists: bool, tmp_path: Path) -> None:
    """It holds the bytes of both, those that both use once."""
    source = write_joint(tmp_path / "source", external=True, shared=True)
    if exists:
        (tmp_path / "towers").mkdir()
    split = graphsurgery.split_towers(source, tmp_path / "towers")
    assert split.files == ("image.onnx", "text.onnx", "weights.data")
    written = {kind: graphsurgery.load(split.towers[kind].output) for kind in KINDS}
    ranges = {(one.offset, one.length) for model in written.values() for one in model.externals}
    size = (tmp_path / "towers" / "weights.data").stat().st_size
    assert sum(length for _, length in ranges) <= size <= (source.parent / "model.onnx.data").stat().st_size
    assert all(graphsurgery.verify(model, against=source, full=True) for model in written.values())


@pytest.mark.parametrize("beside", [False, True])
def test_separate_data_files(beside: bool, tmp_path: Path) -> None:
    """Each refers to its own file alone, and is right without the other."""
    source = write_joint(tmp_path / "source", external=True, shared=True)
    folder = source.parent if beside else tmp_path / "towers"
    split = graphsurgery.split_towers(source, folder, separate=True)
    assert split.files == ("image.onnx", "image.onnx.data", "text.onnx", "text.onnx.data")
    (folder / "text.onnx.data").unlink()
    assert graphsurgery.verify(split.towers["image"].output, against=source)


def test_nothing_is_written_over(tmp_path: Path) -> None:
    source = write_joint(tmp_path / "source")
    graphsurgery.split_towers(source, tmp_path / "towers", verify=False)
    before = read_folder(tmp_path / "towers")
    with pytest.raises(OutputExistsError, match=r"text\.onnx already exists"):
        graphsurgery.split_towers(source, tmp_path / "towers", raw=True, verify=False)
    assert read_folder(tmp_path / "towers") == before
    graphsurgery.split_towers(source, tmp_path / "towers", raw=True, verify=False, force=True)
    assert read_folder(tmp_path / "towers").keys() == before.keys() and read_folder(tmp_path / "towers") != before
    with pytest.raises(OutputExistsError, match="is not a folder"):
        graphsurgery.split_towers(source, source)


def test_a_dry_run_leaves_nothing(tmp_path: Path) -> None:
    source = write_joint(tmp_path / "source", external=True)
    split = graphsurgery.split_towers(source, tmp_path / "towers", dry_run=True)
    assert split.report and split.towers["text"].report and split.files == ()
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("fault", ["similarities", "a tower", "strict", "the second name"])
def test_what_fails_leaves_nothing(fault: str, exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_joint(tmp_path / "source", external=True, activation="Sigmoid" if fault == "strict" else "Identity")
    if exists:
        (tmp_path / "towers").mkdir()
    wrong = Report((Check("planted", "planted", stated=Verdict.FAILED),))
    if fault == "similarities":
        monkeypatch.setattr(module, "check_similarities", lambda *_: wrong)
    elif fault == "a tower":
        monkeypatch.setattr(module, "verify_model", lambda *_, **__: wrong)
    elif fault == "the second name":
        commit = module.Stage.commit

        def refuse(stage: module.Stage) -> object:
            if stage.plan.output.name == "image.onnx":
                raise OutputExistsError("planted", "planted")
            return commit(stage)

        monkeypatch.setattr(module.Stage, "commit", refuse)
    kinds = {"strict": StrictError, "the second name": OutputExistsError}
    with pytest.raises(kinds.get(fault, VerificationFailed)):  # the scale of logits behind a sigmoid is not recognised
        graphsurgery.split_towers(source, tmp_path / "towers", strict=fault == "strict", verify=fault != "the second name")
    assert [path.name for path in tmp_path.rglob("*") if path.name not in ("source", "model.onnx", "model.onnx.data")] == (
        ["towers"] if exists else []
    )


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_joint(tmp_path / "source", bias=True)
    code, told = command("split-towers", source, "-o", tmp_path / "towers", capsys=capsys)
    assert code == OK and told["report"]["verdict"] == "PASSED" and set(told["towers"]) == set(KINDS)
    parameters = told["towers"]["image"]["steps"][0]["parameters"]
    assert float(parameters["scale"]) == pytest.approx(SCALE) and float(parameters["bias"]) == BIAS
    monkeypatch.setattr(module, "check_similarities", lambda *_: Report((Check("planted", "", stated=Verdict.FAILED),)))
    code, told = command("split-towers", source, "-o", tmp_path / "others", capsys=capsys)
    assert code == VERDICT and told["error"]["type"] == "VerificationFailed"
    code, told = command("split-towers", source, "-o", tmp_path / "o", "--text", "image_embeds", capsys=capsys)
    assert code == WRONG and told["error"]["message"] == "image_embeds is no embedding [batch, dim] of the text tower"


def test_a_file_of_one_tower_is_refused(tmp_path: Path) -> None:
    tower = graphsurgery.extract_tower(joint(), "text")
    with pytest.raises(UnsupportedModelError, match=r"no output \[batch, dim\] that depends on pictures alone"):
        graphsurgery.split_towers(tower, tmp_path / "towers")
    assert not (tmp_path / "towers").exists()


# --- the similarities -----------------------------------------------------------------------------------------------------


def scale_weight(name: str, factor: float) -> Callable[[Plant], None]:
    def plant(p: Plant) -> None:
        p.weight(name).CopyFrom(numpy_helper.from_array(numpy_helper.to_array(p.weight(name)) * np.float32(factor), name))

    return plant


def turn(name: str) -> Callable[[Plant], None]:
    """The vectors' numbers the other way round: every length stays, and both towers' products would, too."""

    def plant(p: Plant) -> None:
        turned = np.ascontiguousarray(numpy_helper.to_array(p.weight(name))[:, ::-1])
        p.weight(name).CopyFrom(numpy_helper.from_array(turned, name))

    return plant


def nothing(_: Plant) -> None:
    """The tower as it is."""


SPOILT = {
    "another scale": (lambda p: p.claim(scale="7.4"),) * 2,
    "another bias": (lambda p: p.claim(bias="-2.4"),) * 2,
    "no bias": (lambda p: p.claim(bias=None),) * 2,
    "different scales": (lambda p: p.claim(scale="7.4"), nothing),
    "a text tower turned round": (turn("text_projection"), nothing),
    "a picture tower turned round": (nothing, turn("image_projection")),
    "a word vector too long": (scale_weight("words", 1.001), nothing),
    "a vector in the opposite direction": (nothing, lambda p: p.after("image_projected", "Neg")),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_spoilt_similarities(fault: str) -> None:
    source = graphsurgery.load(joint(bias=True))
    towers = [graphsurgery.extract_tower(source, kind).to_proto() for kind in KINDS]
    right = check_similarities(source, *map(graphsurgery.load, towers))
    assert right and right.cases == 20 and right.margin <= 0.1
    for tower, plant in zip(towers, SPOILT[fault], strict=True):
        plant(Plant(tower))
    assert check_similarities(source, *map(graphsurgery.load, towers)).verdict is Verdict.FAILED


def test_towers_of_another_model_are_noticed() -> None:
    source, other = joint(), joint(seed=1)
    towers = [graphsurgery.extract_tower(other, kind) for kind in KINDS]
    assert check_similarities(graphsurgery.load(source), *towers).verdict is Verdict.FAILED


def test_an_optimized_tower_still_knows_the_scale(tmp_path: Path) -> None:
    split = graphsurgery.split_towers(write_joint(tmp_path / "source"), tmp_path / "towers", verify=False)
    simpler = graphsurgery.run([graphsurgery.Simplify()], split.towers["text"].output, output=tmp_path / "o.onnx", verify=False)
    (record,) = [one for one in simpler.model.rewrites[0].given["before"] if one["edit"] == "extract-tower"]
    assert float(record["scale"]) == pytest.approx(SCALE)
