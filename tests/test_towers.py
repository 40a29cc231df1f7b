"""extract-tower: what is kept, what is dropped, when a tower counts as normalised, and the faults that its proof catches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from faults import Fault
from joints import BIAS, PICTURES, PIXELS, SCALE, TEXT_INPUTS, WORDS, joint
from planting import Plant
from tower_faults import ADDED, PICTURE, PLAIN, TOWER_FAULTS, UNIT, Taken

import graphsurgery
from graphsurgery.encoder.towers import find_logits
from graphsurgery.errors import NoHeadError, RequestError, UnsupportedModelError
from graphsurgery.model.model import Model
from graphsurgery.report import Verdict
from graphsurgery.runtime.session import open_session

FORMS = {
    "clip": {}, "l2": {"form": "l2"}, "cast": {"form": "cast"}, "shared, with a bias": {"shared": True, "bias": True},
    "scaled first": {"scale_first": True}, "dotted names": {"text": "outputs.text.embeds", "image": "linear_5"},
    "not normalised": {"form": None, "logits": False},
}  # fmt: skip


def draw(rows: int, kind: str, seed: int = 0) -> dict[str, np.ndarray]:
    """A feed of one tower; the last text is shorter than the others."""
    rng = np.random.default_rng(seed)
    if kind == "image":
        return {PICTURES: rng.standard_normal((rows, 3, PIXELS, PIXELS)).astype(np.float32)}
    mask = np.ones((rows, 5), np.int64)
    mask[-1, 3:] = 0
    return dict(zip(TEXT_INPUTS, (rng.integers(0, WORDS, (rows, 5)), mask), strict=True))


def compute(model: Model, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return open_session(model).run(feed)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_tower_computes_what_the_joint_model_computes(kind: str, form: str) -> None:
    """The same direction with unequal batches, bit for bit where it was only cut; and nothing of the other tower is kept."""
    source = graphsurgery.load(joint(**FORMS[form]))
    tower = graphsurgery.extract_tower(source, kind)
    (output,) = tower.interface.outputs
    both = compute(source, draw(3, "text") | draw(2, "image"))[output.name]
    alone = compute(tower, draw(3 if kind == "text" else 2, kind))[output.name]
    if form == "not normalised":
        assert np.array_equal(alone, both)
    unit = alone / np.linalg.norm(alone, axis=-1, keepdims=True)
    assert np.allclose(unit, both / np.linalg.norm(both, axis=-1, keepdims=True), atol=1e-6)
    assert np.allclose(np.linalg.norm(both, axis=-1), 1, atol=1e-6) is (form != "not normalised")
    other = {"text": "image", "image": "text"}[kind]
    names = {value.name for value in tower.proto.graph.initializer} | {node.name for node in tower.proto.graph.node}
    assert not {name for name in names if name.startswith(f"{other}/") or name.startswith(f"{other}_")}
    assert output.dims[0] == tower.interface.inputs[0].dims[0] == f"{kind}_batch"
    assert graphsurgery.verify(tower, against=source)


@pytest.mark.parametrize(("form", "bias"), [("clip", None), ("shared, with a bias", repr(BIAS)), ("scaled first", None)])
def test_scale_and_bias_are_recorded(form: str, bias: str | None) -> None:
    tower = graphsurgery.extract_tower(joint(**FORMS[form]), "image")
    parameters = tower.recorded[-1].parameters
    assert float(parameters["scale"]) == pytest.approx(SCALE, rel=1e-6) and parameters["bias"] == bias


def test_both_directions_of_the_logits_are_found() -> None:
    found = find_logits(graphsurgery.load(joint()), "text_embeds", "image_embeds")
    assert {one.output: one.text_first for one in found} == {"logits_per_text": True, "logits_per_image": False}


def test_a_weight_that_both_towers_use_goes_into_both() -> None:
    source = joint(shared=True)
    for kind in ("text", "image"):
        tower = graphsurgery.extract_tower(source, kind)
        assert "shared_bias" in {one.name for one in tower.proto.graph.initializer}


def test_names_do_not_decide() -> None:
    """Where the runs and the graph disagree, nothing is guessed."""
    source = joint()
    source.graph.node[[node.name for node in source.graph.node].index("text_embeds")].op_type = "Mul"
    with pytest.raises(UnsupportedModelError, match="not clear whether text_embeds is normalised"):
        graphsurgery.extract_tower(source, "text")


def test_a_tower_cannot_be_put_back() -> None:
    tower = graphsurgery.extract_tower(joint(), "text")
    with pytest.raises(NoHeadError, match="extract-tower dropped nodes and weights"):
        graphsurgery.strip_head(tower)
    normalized = graphsurgery.add_normalize(tower)
    assert graphsurgery.strip_head(normalized).fingerprint == tower.fingerprint
    with pytest.raises(RequestError):
        graphsurgery.extract_tower(tower, "text")


def test_our_normalisation_can_be_added_once() -> None:
    normalized = graphsurgery.add_normalize(graphsurgery.extract_tower(joint(), "image"))
    with pytest.raises(RequestError, match="already"):
        graphsurgery.add_normalize(normalized)


@pytest.mark.parametrize("name", ["clip", "chinese-clip", "siglip"])
def test_recipes_of_text_towers(name: str, tmp_path: Path) -> None:
    onnx.save(joint(bias=True), tmp_path / "model.onnx")
    made = graphsurgery.run_recipe(name, tmp_path / "model.onnx", output=tmp_path / "text.onnx")
    (vectors,) = compute(made.model, draw(3, "text")).values()
    assert np.allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-6) and made.report


def test_subgraphs_that_read_a_value_keep_it() -> None:
    """A value that only a branch of an If reads is kept with the tower."""
    source = joint()
    add_branch(source)
    tower = graphsurgery.extract_tower(source, "text")
    onnx.checker.check_model(tower.to_proto(), full_check=True)
    assert "text_bias" in {one.name for one in tower.proto.graph.initializer}
    assert graphsurgery.verify(tower, against=source)


def add_branch(source: onnx.ModelProto) -> None:
    """The bias is added in the branches of an If."""
    nodes = source.graph.node
    place = [node.name for node in nodes].index("text/biased")
    made = onnx.helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, None)
    branches = [
        onnx.helper.make_graph([onnx.helper.make_node("Add", ["text/dense", "text_bias"], ["inner"])], name, [], [made])
        for name in ("then", "else")
    ]
    true = onnx.helper.make_node("Constant", [], ["true"], "true", value=onnx.numpy_helper.from_array(np.array(True), "true"))
    chosen = onnx.helper.make_node(
        "If", ["true"], ["text/biased"], "text/biased", then_branch=branches[0], else_branch=branches[1]
    )
    nodes.remove(nodes[place])
    nodes.insert(place, chosen)
    nodes.insert(place, true)


@pytest.mark.parametrize("case", [ADDED, PICTURE, UNIT, PLAIN], ids=str)
def test_right_towers_pass(case: Taken) -> None:
    report = graphsurgery.verify(case.output, against=case.loaded)
    assert report and all(check.verdict is Verdict.PASSED for check in report.checks), report.to_json()


@pytest.mark.parametrize("fault", TOWER_FAULTS, ids=str)
def test_faults_of_towers(fault: Fault) -> None:
    assert graphsurgery.verify(fault.spoilt(), against=fault.case.loaded).verdict is Verdict.FAILED


def test_a_tower_without_its_record_is_not_proven() -> None:
    spoilt = onnx.ModelProto()
    spoilt.CopyFrom(ADDED.output)
    Plant(spoilt).forget()
    assert graphsurgery.verify(spoilt, against=ADDED.loaded).verdict is Verdict.NOT_CHECKED


def test_there_are_enough_faults() -> None:
    names: list[Any] = [str(fault) for fault in TOWER_FAULTS]
    assert len(set(names)) == len(names) >= 25
