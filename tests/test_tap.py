"""`tap`: which value is a hidden layer, counted backwards by the edit and forwards by its reference, and what goes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import FIXTURES
from faults import Fault
from fusions import require_optimizer
from onnx import numpy_helper
from tap_faults import ADDED, HIDDEN, POST, PRE, TAP_FAULTS

import graphsurgery
from graphsurgery import AddPooling, InputType, Tap
from graphsurgery.encoder.hidden_layers import find_last_sum, list_hidden_layers
from graphsurgery.encoder.hidden_state import find_hidden_state
from graphsurgery.errors import NoHeadError, RequestError, UnsupportedModelError
from graphsurgery.graph.graph import Graph
from graphsurgery.model.model import Model
from graphsurgery.recipe import read_recorded_recipe
from graphsurgery.references.hidden_layers import find_layer, find_stretch, find_sum_before_end, skip_copies
from graphsurgery.report import Verdict
from graphsurgery.rewrites.fuse_encoder import Fuse
from graphsurgery.rewrites.pack_tokens import PaddingFree
from graphsurgery.runtime.session import open_session

COMMITTED = sorted(path.parent.name for path in FIXTURES.glob("*/model.onnx"))


def require_same_layers(model: Model) -> int:
    """Count the hidden layers both ways, and return their number."""
    graph, proto, name = Graph.of(model), model.proto.graph, find_hidden_state(model).name
    layers = list_hidden_layers(graph, name)
    stretch = find_stretch(proto, name)
    assert stretch is not None and len(stretch.starts) == len(layers) - 1
    for number, value in enumerate(layers[:-1]):
        assert [skip_copies(proto, one) for one in find_layer(proto, stretch, number)] == [skip_copies(proto, value.name)]
    last = find_last_sum(graph, layers)
    if last is not None:
        found = last.terms if last.value is None else [last.value]
        assert [skip_copies(proto, one.name) for one in found] == [
            skip_copies(proto, one) for one in find_sum_before_end(stretch)
        ]
    return len(layers)


@pytest.mark.parametrize("name", COMMITTED)
def test_both_ways_find_the_same_layers(name: str) -> None:
    model = graphsurgery.load(FIXTURES / name / "model.onnx")
    assert require_same_layers(model) == graphsurgery.inspect(model).layers + 1
    assert len(graphsurgery.inspect(model).hidden_layers) == graphsurgery.inspect(model).layers + 1


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_both_ways_find_the_same_layers_of_fused_graphs(name: str, tmp_path: Path) -> None:
    require_optimizer()
    path = tmp_path / "fused.onnx"
    graphsurgery.run([Fuse()], FIXTURES / name / "model.onnx", output=path, verify=False)
    fused = graphsurgery.load(path)
    assert require_same_layers(fused) == len(graphsurgery.inspect(FIXTURES / name / "model.onnx").hidden_layers)
    done = graphsurgery.run([Tap("1")], path, output=tmp_path / "tapped.onnx")
    assert done.report


@pytest.mark.parametrize("case", list(dict.fromkeys(fault.case for fault in TAP_FAULTS)), ids=str)
def test_what_is_spoilt_was_right(case) -> None:
    report = graphsurgery.verify(case.output, against=case.loaded)
    assert report and all(check.verdict is Verdict.PASSED for check in report.checks), report.to_json()


@pytest.mark.parametrize("fault", TAP_FAULTS, ids=str)
def test_faults_are_caught(fault: Fault) -> None:
    assert graphsurgery.verify(fault.spoilt(), against=fault.case.loaded, head_only=True).verdict is Verdict.FAILED


def test_there_are_enough() -> None:
    names = [str(fault) for fault in TAP_FAULTS]
    assert len(set(names)) == len(names) >= 50


def test_layers_are_counted_from_the_end() -> None:
    fixture = FIXTURES / "bert" / "model.onnx"
    layers = graphsurgery.inspect(fixture).hidden_layers
    for number in range(len(layers) - 1):
        from_start, from_end = graphsurgery.tap(fixture, number), graphsurgery.tap(fixture, number - len(layers))
        assert from_start.fingerprint == from_end.fingerprint
        assert layers[number] in from_start.proto.graph.node[-1].input


@pytest.mark.parametrize("text", ["4", "-5", "1.5", "", "one", "9" * 5000])
def test_no_such_layer(text: str) -> None:
    with pytest.raises(RequestError, match="layer"):
        graphsurgery.tap(FIXTURES / "bert" / "model.onnx", text)


def test_the_layers_above_are_gone() -> None:
    """Their nodes and weights are no longer in the file; the note tells how many bytes."""
    source = graphsurgery.load(FIXTURES / "bert" / "model.onnx")
    tapped = graphsurgery.tap(source, 1)
    assert not [node for node in tapped.proto.graph.node if "layer.1" in node.name or "layer.2" in node.name]
    assert not [name for name in tapped.initializers if "layer.1" in name or "layer.2" in name]
    gone = source.weight_bytes - tapped.weight_bytes
    assert gone > source.weight_bytes / 3
    before, after = (
        sum(numpy_helper.to_array(one).nbytes for one in model.to_proto().graph.initializer) for model in (source, tapped)
    )
    assert any(f"{before - after:,} of {before:,} bytes" in one for one in tapped.remarks)


def test_an_inner_layer_of_another_type_is_cast() -> None:
    """The output keeps its declared type, whatever the layers compute in."""
    proto = onnx.ModelProto()
    proto.CopyFrom(POST.source)
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    node = proto.graph.node[-1]
    node.output[0] = "half"
    proto.graph.node.append(onnx.helper.make_node("Cast", ["half"], [HIDDEN], "cast", to=onnx.TensorProto.FLOAT))
    tapped = graphsurgery.tap(proto, 1)
    assert tapped.interface.outputs == graphsurgery.load(proto).interface.outputs
    assert graphsurgery.verify(tapped, against=proto)


def test_what_was_tapped_cannot_be_undone() -> None:
    tapped = Tap("1").apply(POST.loaded)
    with pytest.raises(NoHeadError, match="tap dropped nodes and weights"):
        graphsurgery.strip_head(tapped)
    pooled = graphsurgery.add_pooling(tapped, "mean", normalize=True)
    assert graphsurgery.strip_head(pooled).fingerprint == tapped.fingerprint


def test_a_tapped_and_pooled_file_is_optimized(tmp_path: Path) -> None:
    """The record keeps the tap, and the recipe that the file records gives it again."""
    require_optimizer()
    folder = shutil.copytree(FIXTURES / "bert", tmp_path / "bert")
    source, pooled, fast = (folder / name for name in ("model.onnx", "pooled.onnx", "fast.onnx"))
    graphsurgery.run([Tap("2"), AddPooling("mean")], source, output=pooled)
    assert graphsurgery.optimize(pooled, output=fast, time=False).report
    steps = [getattr(step, "verb", "rewrite") for step in read_recorded_recipe(graphsurgery.load(fast)).steps]
    assert steps[:2] == ["tap", "add-pooling"]
    layer = graphsurgery.inspect(source).hidden_layers[2]
    feed = {name: np.ones((2, 7), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    wanted = open_session(graphsurgery.load(source), extra_outputs=(layer,)).run(feed, [layer])[layer].mean(axis=1)
    assert np.abs(open_session(graphsurgery.load(fast)).run(feed)["sentence_embedding"] - wanted).max() < 1e-5


def test_external_weights(tmp_path: Path) -> None:
    """Beside the source they stay where they are; in another folder only those that are needed are copied."""
    folder = shutil.copytree(FIXTURES / "bert-external", tmp_path / "bert")
    beside = graphsurgery.run([Tap("1")], folder / "model.onnx", output=folder / "tapped.onnx")
    away = graphsurgery.run([Tap("1")], folder / "model.onnx", output=tmp_path / "tapped.onnx")
    assert beside.report and away.report
    sizes = [graphsurgery.load(path / "tapped.onnx").weight_bytes for path in (folder, tmp_path)]
    assert sizes[0] == sizes[1] < graphsurgery.load(folder / "model.onnx").weight_bytes


def with_node(proto: onnx.ModelProto, op: str, *more: str, **attributes: object) -> onnx.ModelProto:
    """``proto`` with one more node behind its last hidden state."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    name = changed.graph.output[0].name
    node = next(node for node in changed.graph.node if name in node.output)
    node.output[0] = "before"
    changed.graph.node.append(onnx.helper.make_node(op, ["before", *more], [name], "behind", **attributes))
    return changed


@pytest.mark.parametrize("layer", [0, 1, 2, -1])
def test_what_follows_the_last_layer_is_not_cut_off(layer: int) -> None:
    """A projection or an upsampling, as SEW has one, belongs to every hidden layer."""
    for changed in (with_node(POST.source, "MatMul", "square"), with_node(POST.source, "Tanh")):
        with pytest.raises(UnsupportedModelError, match="no hidden layers lead to 'last_hidden_state'"):
            graphsurgery.tap(changed, layer)


def test_layers_behind_a_change_of_width() -> None:
    """A layer that attention of another stage comes before is not counted: Swin's stages."""
    proto = onnx.ModelProto()
    proto.CopyFrom(POST.source)
    index = next(place for place, node in enumerate(proto.graph.node) if node.name == "layer_1")
    proto.graph.node[index].output[0] = "narrow"
    proto.graph.node.insert(index + 1, onnx.helper.make_node("MatMul", ["narrow", "square"], ["layer_1"], "merged"))
    with pytest.raises(UnsupportedModelError, match="other attention comes before 'layer_1'"):
        graphsurgery.tap(proto, 1)


def test_a_padding_free_encoder_is_refused(tmp_path: Path) -> None:
    require_optimizer()
    path = tmp_path / "packed.onnx"
    steps = [AddPooling("mean"), Fuse(), PaddingFree("rows")]
    graphsurgery.run(steps, FIXTURES / "bert" / "model.onnx", output=path, verify=False)
    with pytest.raises(UnsupportedModelError, match="only some of its positions"):
        graphsurgery.tap(graphsurgery.strip_head(path), 1)


@pytest.mark.parametrize("case", [PRE, ADDED], ids=str)
def test_the_note_says_which_side_of_the_norm(case) -> None:
    tapped = case.edits[0].apply(case.loaded)
    said = [one for one in tapped.remarks if "final normalisation" in one]
    assert bool(said) is (case is ADDED)


def test_an_input_that_may_be_left_out_stays_one() -> None:
    """No layer below reads the mask, but callers may still feed it or leave it out."""
    lenient = graphsurgery.optional_input(POST.source, "attention_mask", fill="ones")
    tapped = graphsurgery.tap(lenient, 0)
    assert tapped.interface.optional == lenient.interface.optional != ()
    assert graphsurgery.verify(tapped, against=POST.loaded)
    assert open_session(tapped).run({"input_ids": np.ones((2, 3), np.int64)})[HIDDEN].shape == (2, 3, 4)


def test_behind_an_edit_of_the_ids(tmp_path: Path) -> None:
    """Nodes of an earlier edit make the ids that the embeddings look up."""
    steps = [InputType("int32"), Tap("1"), AddPooling("mean")]
    assert graphsurgery.run(steps, FIXTURES / "bert" / "model.onnx", output=tmp_path / "tapped.onnx").report


PATCHES = """
<ir_version: 9, opset_import: ["" : 18]>
pictures (float[batch, 3, 8, 8] pixel_values) => (float[batch, 4, 6] last_hidden_state)
<int64[3] shape = {0, 6, -1}>
{
   patches = Conv <kernel_shape = [4, 4], strides = [4, 4]> (pixel_values, filters)
   flat = Reshape (patches, shape)
   rows = Transpose <perm = [0, 2, 1]> (flat)
   placed = Add (rows, positions)
   turned_0 = Transpose <perm = [0, 2, 1]> (placed)
   scores_0 = MatMul (placed, turned_0)
   seen_0 = Softmax <axis = 2> (scores_0)
   attended_0 = MatMul (seen_0, placed)
   layer_1 = Add (placed, attended_0)
   turned_1 = Transpose <perm = [0, 2, 1]> (layer_1)
   scores_1 = MatMul (layer_1, turned_1)
   seen_1 = Softmax <axis = 2> (scores_1)
   attended_1 = MatMul (seen_1, layer_1)
   last_hidden_state = Add (layer_1, attended_1)
}
"""


def test_pictures_with_a_fixed_number_of_patches() -> None:
    model, rng = onnx.parser.parse_model(PATCHES), np.random.default_rng(0)
    for name, shape in {"filters": (6, 3, 4, 4), "positions": (1, 4, 6)}.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32) * 0.2, name))
    for layer in (0, 1):
        assert graphsurgery.verify(graphsurgery.tap(model, layer), against=model)
