"""Decoders as embedders: caches, tasks and flags that nobody feeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from decoders import CACHES, FLAG, HEADS, PRESENT, SIZE, TASK, compute_hidden, tiny_decoder
from encoders import HIDDEN, IDS, MASK, tiny_encoder
from onnx import TensorProto, helper, numpy_helper

import graphsurgery
from graphsurgery import AddPooling, DropInput, KeepOutputs
from graphsurgery.encoder.attention import COUNTED
from graphsurgery.errors import RequestError, UnsupportedModelError
from graphsurgery.recipe import read_recorded_recipe
from graphsurgery.report import Verdict
from graphsurgery.snippet import make_snippet

PLAIN = [DropInput("past_key_values.*"), DropInput(TASK, value="3"), DropInput(FLAG, value="false")]


def test_a_decoder_becomes_an_encoder(tmp_path: Path) -> None:
    """The file gives what the decoder gives for empty caches; nothing of the cache is left in the interface."""
    done = graphsurgery.run([*PLAIN, KeepOutputs((HIDDEN,))], tiny_decoder(), output=tmp_path / "out.onnx")
    assert done.report.verdict is Verdict.PASSED
    assert [(value.name, value.dims) for value in done.interface.inputs] == [
        (IDS, ("batch", "sequence")), (MASK, ("batch", "sequence")),
    ]  # fmt: skip
    ids = np.array([[3, 1, 4, 1], [5, 9, 2, 6]])
    session = onnxruntime.InferenceSession(done.output)
    (found,) = session.run(None, {IDS: ids, MASK: np.ones_like(ids)})
    np.testing.assert_allclose(found, compute_hidden(ids, task=3), rtol=0, atol=1e-5)
    empty = np.zeros((2, HEADS, 0, SIZE), np.float32)
    feed = {IDS: ids, MASK: np.ones_like(ids), TASK: np.array(3), FLAG: np.array([False])} | dict.fromkeys(CACHES, empty)
    source = onnxruntime.InferenceSession(tiny_decoder().SerializeToString())
    np.testing.assert_array_equal(found, source.run([HIDDEN], feed)[0])


@pytest.mark.parametrize("flag", ["true", "0"])
def test_a_flag_chooses_a_branch(tmp_path: Path, flag: str) -> None:
    edits = [*PLAIN[:2], DropInput(FLAG, value=flag), AddPooling("mean")]
    done = graphsurgery.run(edits, tiny_decoder(), output=tmp_path / "out.onnx")
    ids = np.array([[3, 1, 4, 1]])
    (found,) = onnxruntime.InferenceSession(done.output).run(None, {IDS: ids, MASK: np.array([[1, 1, 0, 0]])})
    wanted = compute_hidden(ids, task=3, is_cached=flag == "true")[:, :2].mean(axis=1)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def merge(model: onnx.ModelProto) -> onnx.ModelProto:
    """The whole graph in both branches of an If, as Optimum merges a decoder with and one without caches."""
    made = {name for node in model.graph.node for name in node.output}

    def branch(prefix: str) -> onnx.GraphProto:
        graph = onnx.GraphProto(name=prefix)
        for node in model.graph.node:
            copy = graph.node.add()
            copy.CopyFrom(node)
            copy.input[:] = [prefix + name if name in made else name for name in node.input]
            copy.output[:] = [prefix + name for name in node.output]
        graph.output.extend(
            helper.make_tensor_value_info(prefix + one.name, one.type.tensor_type.elem_type, None) for one in model.graph.output
        )
        return graph

    names = [one.name for one in model.graph.output]
    closed = helper.make_node("If", [FLAG], names, "merged", then_branch=branch("then."), else_branch=branch("else."))
    merged = onnx.ModelProto()
    merged.CopyFrom(model)
    merged.graph.ClearField("value_info")
    merged.graph.ClearField("node")
    merged.graph.node.append(closed)
    merged.graph.input.append(helper.make_tensor_value_info(FLAG, TensorProto.BOOL, [1]))
    return merged


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("pooled", [False, True])
def test_a_merged_decoder_is_not_optimized_until_its_flag_is_fixed(tmp_path: Path, portable: bool, pooled: bool) -> None:
    path, fixed, opened = (tmp_path / f"{name}.onnx" for name in ("merged", "fixed", "open"))
    model = graphsurgery.load(merge(tiny_encoder()))
    graphsurgery.save(graphsurgery.add_pooling(model, mode="mean") if pooled else model, path)
    with pytest.raises(UnsupportedModelError, match=f"branches of the If node 'merged'.* the input {FLAG} chooses") as error:
        graphsurgery.optimize(path, output=opened, portable=portable)
    assert f"drop-input --input {FLAG} --value false" in error.value.advice
    head = [AddPooling("mean")] if pooled else []
    graphsurgery.run([DropInput(FLAG, value="false"), *head], model, output=fixed)
    if not portable:
        with pytest.raises(UnsupportedModelError, match=f"the value {FLAG} chooses"):
            graphsurgery.optimize(fixed, output=opened)
        return
    done = graphsurgery.optimize(fixed, output=opened, portable=True)
    assert done.report.verdict is Verdict.PASSED
    assert not any(node.op_type == "If" for node in graphsurgery.load(opened).proto.graph.node)


@pytest.mark.parametrize("options", [{"fill": "zeros"}, {"value": "0"}])
def test_a_cache_of_unknown_size_is_advised_to_be_empty(options: dict[str, str]) -> None:
    with pytest.raises(RequestError, match=r"the sizes of .* are not known") as error:
        DropInput("past_key_values.*", **options).apply(graphsurgery.load(tiny_decoder()))
    assert "leave out --fill and --value: a cache is empty then" in error.value.advice


def test_new_caches_stay_and_lose_the_dim() -> None:
    """What the decoder gives is kept until it is asked to go. No dim is named after the caches any more."""
    model = PLAIN[0].apply(graphsurgery.load(tiny_decoder()))
    assert [value.dims for value in model.interface.outputs[1:]] == [("batch", HEADS, "sequence", SIZE)] * 2
    assert model.interface.input(MASK).dims == ("batch", "sequence")
    assert any(f"the outputs {PRESENT[0]} and 1 more stay" in note for note in model.notes)


def test_one_cache_after_the_other_is_the_same() -> None:
    """The dim that both caches have goes with the second."""
    model = DropInput(CACHES[0]).apply(graphsurgery.load(tiny_decoder()))
    assert model.interface.input(MASK).dims == ("batch", "past + sequence")
    model = DropInput(CACHES[1]).apply(model)
    assert model.interface == PLAIN[0].apply(graphsurgery.load(tiny_decoder())).interface
    assert graphsurgery.verify(model, against=tiny_decoder(), head_only=True).verdict is Verdict.PASSED


def test_the_recorded_recipe_makes_the_same_file() -> None:
    model = graphsurgery.load(tiny_decoder())
    for edit in PLAIN:
        model = edit.apply(model)
    again = graphsurgery.load(tiny_decoder())
    for edit in read_recorded_recipe(model).steps:
        again = edit.apply(again)
    assert again.fingerprint == model.fingerprint


def test_the_snippet_feeds_empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines that a verb prints run the file, and give what a decoder gives that has read nothing yet."""
    monkeypatch.chdir(tmp_path)
    graphsurgery.save(DropInput(TASK, value="3").apply(graphsurgery.load(tiny_decoder())), "model.onnx")
    model = graphsurgery.load("model.onnx")
    scope: dict[str, np.ndarray] = {}
    exec(make_snippet(model, tmp_path / "model.onnx"), scope)
    np.testing.assert_allclose(scope[HIDDEN], compute_hidden(np.arange(3)[None], task=3), rtol=0, atol=1e-5)


def grouped_attention() -> onnx.ModelProto:
    """One GroupQueryAttention without caches, as other programs write it: lengths are the sum of the mask, less one."""
    rng = np.random.default_rng(0)
    weights = {"word": rng.standard_normal((20, 16)), **{name: rng.standard_normal((16, 16)) / 4 for name in "qkv"}}
    nodes = [
        helper.make_node("Gather", ["word", IDS], ["x"]),
        *(helper.make_node("MatMul", ["x", name], [f"x{name}"]) for name in "qkv"),
        helper.make_node("ReduceSum", [MASK, "axis"], ["count"], keepdims=0),
        helper.make_node("Sub", ["count", "one"], ["less"]),
        helper.make_node("Cast", ["less"], ["lengths"], to=TensorProto.INT32),
        helper.make_node("Shape", [MASK], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["width"], axis=0),
        helper.make_node("Cast", ["width"], ["total"], to=TensorProto.INT32),
        helper.make_node(
            "GroupQueryAttention", ["xq", "xk", "xv", "", "", "lengths", "total"], ["mixed", "present_k", "present_v"],
            domain="com.microsoft", num_heads=2, kv_num_heads=2,
        ),
        helper.make_node("Add", ["x", "mixed"], [HIDDEN]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "grouped",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in (IDS, MASK)],
        [helper.make_tensor_value_info(HIDDEN, TensorProto.FLOAT, ["batch", "sequence", 16])],
        [
            *(numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()),
            numpy_helper.from_array(np.array([1]), "axis"), numpy_helper.from_array(np.array(1), "one"),
        ],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_grouped_attention_that_is_told_lengths_is_warned_of() -> None:
    """A text padded in front gets another vector, so `inspect` says so. Attention that masks scores is not warned of."""
    session = onnxruntime.InferenceSession(grouped_attention().SerializeToString())
    alone = session.run(None, {IDS: np.array([[3, 4, 5]]), MASK: np.ones((1, 3), np.int64)})[0]
    behind = session.run(None, {IDS: np.array([[3, 4, 5, 0]]), MASK: np.array([[1, 1, 1, 0]])})[0]
    front = session.run(None, {IDS: np.array([[0, 3, 4, 5]]), MASK: np.array([[0, 1, 1, 1]])})[0]
    np.testing.assert_allclose(behind[:, :3], alone, rtol=0, atol=1e-5)
    assert np.abs(front[:, 1:] - alone).max() > 0.1
    assert COUNTED in graphsurgery.inspect(grouped_attention()).warnings
    assert COUNTED not in graphsurgery.inspect(tiny_decoder()).warnings
