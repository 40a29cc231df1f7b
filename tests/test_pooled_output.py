"""How outputs `[batch, dim]` of other programs are pooled: by which operator, with or without a mask, normalised or not.

What the graph says is held against a run: padding changes the vector of a text just where no mask is said to be used.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import FIXTURES
from encoders import HIDDEN, tiny_encoder
from onnx import helper, numpy_helper

import graphsurgery
from graphsurgery import AddNormalize, AddPooling
from graphsurgery.encoder.pooled_output import find_pooled_outputs
from graphsurgery.errors import AlreadyAppliedError, NothingToPoolError
from graphsurgery.runtime.session import Session

OUTPUT = "vectors"
MASKED_SUM = """m = Cast <to: int = 1> (attention_mask) m3 = Unsqueeze (m, last) masked = Mul (last_hidden_state, m3)
    sum = ReduceSum <keepdims: int = 0> (masked, sequence) """
MASKED_MEAN = MASKED_SUM + "count = ReduceSum <keepdims: int = 0> (m3, sequence) mean = Div (sum, count) "
MEAN = "mean = ReduceMean <axes: ints = [1], keepdims: int = 0> (last_hidden_state) "
FIRST = "first = Gather <axis: int = 1> (last_hidden_state, zero) "
UNIT = "squares = Mul ({0}, {0}) total = ReduceSum (squares, last) root = Sqrt (total) vectors = Div ({0}, root)"
HEADS = {
    "mean": (MEAN + "vectors = Identity (mean)", "mean", False, False, False),
    "masked mean": (MASKED_MEAN + "vectors = Identity (mean)", "mean", True, False, False),
    "masked sum": (MASKED_SUM + "vectors = Identity (sum)", "sum", True, False, False),
    "masked max": (
        "b = Cast <to: int = 9> (attention_mask) b3 = Unsqueeze (b, last) shown = Where (b3, last_hidden_state, least) "
        "vectors = ReduceMax <axes: ints = [1], keepdims: int = 0> (shown)",
        "max", True, False, False,
    ),
    "max": ("vectors = ReduceMax <axes: ints = [-2], keepdims: int = 0> (last_hidden_state)", "max", False, False, False),
    "product": (
        "m = Cast <to: int = 1> (attention_mask) row = Unsqueeze (m, sequence) s = MatMul (row, last_hidden_state) "
        "vectors = Squeeze (s, sequence)",
        "sum", True, False, False,
    ),
    "normalised mean": (MASKED_MEAN + UNIT.format("mean"), "mean", True, True, False),
    "normalised by one operator": (
        FIRST + "vectors = LpNormalization <axis: int = -1, p: int = 2> (first)", "the first position", None, True, False
    ),
    "first": (FIRST + "vectors = Identity (first)", "the first position", None, False, False),
    "pooler": (
        FIRST + "d = MatMul (first, weight) b2 = Add (d, bias) vectors = Tanh (b2)", "the first position", None, False, True
    ),
    "normalised, then dense": (MEAN + UNIT.format("mean").replace("vectors", "unit") + " vectors = MatMul (unit, weight)",
                               "mean", False, False, True),
}  # fmt: skip
"""The nodes behind the encoder, and what they are: pooled by, masked, normalised, with a dense layer."""


def make_pooled(nodes: str) -> onnx.ModelProto:
    """The tiny encoder whose only output is made by ``nodes``."""
    model = tiny_encoder()
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[b] x) => (float[b] y) {{ {nodes} y = Identity (x) }}'
    model.graph.node.extend(onnx.parser.parse_model(text).graph.node[:-1])
    for name, value in {"last": [-1], "sequence": [1], "zero": 0}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name + "_axis"))
        for node in model.graph.node:
            node.input[:] = [name + "_axis" if one == name else one for one in node.input]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(-1e30), "least"))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, ["batch", 8]))
    return model


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_described_as_a_run_shows_it(name: str) -> None:
    nodes, pooled_by, masked, normalized, dense = HEADS[name]
    model = make_pooled(nodes)
    (found,) = find_pooled_outputs(graphsurgery.load(model))
    assert found.pooled_by is not None and found.pooled_by.startswith(pooled_by)
    assert (found.masked, found.normalized, found.dense, found.hidden_state) == (masked, normalized, dense, HIDDEN)
    session = Session(model.SerializeToString(), threads=1)
    ids, ones = np.array([[3, 4, 5]]), np.ones((1, 3), np.int64)
    alone = session.run({"input_ids": ids, "attention_mask": ones})[OUTPUT]
    padded = {"input_ids": np.pad(ids, ((0, 0), (0, 3))), "attention_mask": np.pad(ones, ((0, 0), (0, 3)))}
    changes = float(np.abs(session.run(padded)[OUTPUT] - alone).max())
    assert (changes > 1e-2) if found.ignores_mask else (changes < 1e-5)
    assert bool(np.isclose(np.linalg.norm(alone), 1, atol=1e-5)) == normalized


def test_inspect_says_how_a_file_pools() -> None:
    found = graphsurgery.inspect(make_pooled(HEADS["mean"][0]))
    assert found.pools is None and found.to_json()["pooled_outputs"][0]["masked"] is False
    (warning,) = (line for line in found.warnings if "without a mask" in line)
    assert f"--hidden-state {HIDDEN}" in warning
    assert not [line for line in graphsurgery.inspect(make_pooled(HEADS["masked mean"][0])).warnings if "mask" in line]


def test_the_way_that_the_warning_names_gives_masked_vectors() -> None:
    mended = graphsurgery.add_pooling(make_pooled(HEADS["mean"][0]), mode="mean", hidden_state=HIDDEN)
    expected = graphsurgery.add_pooling(tiny_encoder(), mode="mean")
    sessions = [Session(model.to_proto().SerializeToString(), threads=1) for model in (mended, expected)]
    feed = {"input_ids": np.array([[3, 4, 0, 0], [5, 6, 7, 8]]), "attention_mask": np.array([[1, 1, 0, 0], [1, 1, 1, 1]])}
    one, other = (session.run(feed)["sentence_embedding"] for session in sessions)
    assert np.array_equal(one, other)


def test_edits_of_such_a_vector_warn() -> None:
    warnings = graphsurgery.add_normalize(make_pooled(HEADS["mean"][0])).warnings
    assert [one for one in warnings if "without a mask" in one]
    warnings = graphsurgery.truncate(make_pooled(HEADS["max"][0]), dim=4).warnings
    assert [one for one in warnings if "pooled by max" in one]
    assert not graphsurgery.add_normalize(make_pooled(HEADS["masked mean"][0])).warnings


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        (HEADS["normalised mean"][0], "its graph ends with a normalisation"),
        (f"{MASKED_MEAN} s = Hardmax <axis: int = 1> (mean) vectors = Sqrt (s)", "its vectors have length one in a run"),
    ],
    ids=["by the graph", "by a run"],
)
def test_vectors_of_length_one_are_normalised_only_again(nodes: str, why: str, tmp_path: Path) -> None:
    source = make_pooled(nodes)
    renamed = graphsurgery.rename(source, {graphsurgery.load(source).interface.outputs[0].name: "other"})
    for model in (source, renamed):
        with pytest.raises(AlreadyAppliedError, match="already normalised") as caught:
            graphsurgery.add_normalize(model)
        assert "--again" in caught.value.advice and caught.value.options == ("--again",)
        assert model is renamed or why in str(caught.value)
    done = graphsurgery.run([AddNormalize(again=True)], source, output=tmp_path / "again.onnx")
    assert done.report and any("changes nothing but rounding" in note for note in done.notes) and not done.warnings
    twice = graphsurgery.run(
        [AddPooling("mean", normalize=True), AddNormalize(again=True)], tiny_encoder(), output=tmp_path / "2.onnx"
    )
    assert twice.report and [step["edit"] for step in twice.steps] == ["add-pooling", "add-normalize"]


def test_a_refusal_says_what_is_pooled_already() -> None:
    with pytest.raises(NothingToPoolError) as refused:
        graphsurgery.add_pooling(make_pooled(HEADS["mean"][0]), mode="mean")
    assert f"{OUTPUT} is pooled by mean WITHOUT a mask, not normalised" in refused.value.advice


@pytest.mark.parametrize("labels", [2, 9])
def test_unnamed_scores_of_tokens_are_not_pooled_unless_named(labels: int, tmp_path: Path) -> None:
    model = tiny_encoder(hidden=64)
    scale = numpy_helper.from_array(np.ones(64, np.float32), "scale")
    head = numpy_helper.from_array(np.random.default_rng(0).standard_normal((64, labels)).astype(np.float32), "head")
    model.graph.initializer.extend([scale, head])
    model.graph.node.append(helper.make_node("LayerNormalization", [HIDDEN, "scale"], ["normed"], axis=-1))
    model.graph.node.append(helper.make_node("MatMul", ["normed", "head"], ["output_0"]))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("output_0", 1, ["batch", "sequence", labels]))
    with pytest.raises(NothingToPoolError) as refused:
        graphsurgery.add_pooling(model, mode="mean")
    assert "it could be normed" in refused.value.advice
    assert graphsurgery.add_pooling(model, mode="mean", hidden_state="output_0").interface.outputs[0].dims == ("batch", labels)


def test_towers_of_a_joint_model_are_described_by_what_they_take() -> None:
    """Pictures have no padding, and CLIP's texts are pooled at one token, which the ids alone decide."""
    joint = FIXTURES / "towers" / "clip.onnx"
    texts, pictures = (graphsurgery.inspect(graphsurgery.extract_tower(joint, kind)) for kind in ("text", "image"))
    assert [(one.pooled_by, one.masked) for one in texts.pooled] == [("one token", None)]
    assert [(one.pooled_by, one.masked) for one in pictures.pooled] == [("the first position", None)]
    assert not [line for line in pictures.warnings if "padding" in line]


def test_a_head_that_is_not_recognised_is_none_that_is_missing() -> None:
    odd = make_pooled('vectors = Einsum <equation: string = "bsd->bd"> (last_hidden_state)')
    found = graphsurgery.inspect(odd)
    assert not found.pooled
    assert "how it is pooled is not recognised" in str(found)
