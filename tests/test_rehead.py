"""`optimize --rehead`: a pooled export of another program, whose head hides the encoder from the optimizer, given ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import FIXTURES
from fusions import require_optimizer, with_head
from onnx import TensorProto, helper, numpy_helper

import graphsurgery
from graphsurgery.encoder.head import read_head_steps
from graphsurgery.errors import NothingToPoolError, RequestError
from graphsurgery.runtime.session import Session

require_optimizer()

BERT = FIXTURES / "bert" / "model.onnx"
TOKENS, VECTOR = "token_embeddings", "sentence_embedding"
AXES = numpy_helper.from_array(np.array([1], np.int64), "own/axes")


def node(operator: str, inputs: Sequence[str], output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(operator, list(inputs), [output], output, **attributes)


def own_head(mode: str) -> list[onnx.NodeProto]:
    """A pooling head as another program writes it: the mask expanded, a vector ``own/<mode>``."""
    if mode == "cls":
        return [
            node("ArgMax", ["own/mask"], "own/first", axis=1, keepdims=0),
            node("GatherND", [TOKENS, "own/first"], "own/cls", batch_dims=1),
        ]
    if mode == "max":
        return [
            node("Where", ["own/tokens", TOKENS, "own/lowest"], "own/masked"),
            node("ReduceMax", ["own/masked", "own/axes"], "own/max", keepdims=0),
        ]
    return [
        node("Mul", [TOKENS, "own/mask"], "own/product"),
        node("ReduceSum", ["own/product", "own/axes"], "own/sum", keepdims=0),
        node("ReduceSum", ["own/mask", "own/axes"], "own/count", keepdims=0),
        node("Clip", ["own/count", "own/least"], "own/counted"),
        node("Div", ["own/sum", "own/counted"], "own/mean"),
    ]


def pooled(modes: Sequence[str], unit: bool, others: Sequence[str] = ()) -> onnx.ModelProto:
    """BERT with a head of its own, normalised by ReduceL2, which shape inference gives up on; as Optimum exports it."""
    model = onnx.load(BERT)
    graph = model.graph
    for one in graph.node:
        one.input[:] = [TOKENS if name == "last_hidden_state" else name for name in one.input]
        one.output[:] = [TOKENS if name == "last_hidden_state" else name for name in one.output]
    numbers = {"own/lowest": np.float32(-np.inf), "own/least": np.float32(1e-9)}
    graph.initializer.extend([AXES, *(numpy_helper.from_array(np.array(one), name) for name, one in numbers.items())])
    graph.node.extend([
        node("Unsqueeze", ["attention_mask", "own/last"], "own/column"), node("Cast", ["own/column"], "own/mask", to=1),
        node("Cast", ["own/column"], "own/tokens", to=TensorProto.BOOL),
    ])  # fmt: skip
    graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), "own/last"))
    for mode in modes:
        graph.node.extend(own_head(mode))
    made = "own/vector" if unit else VECTOR
    graph.node.append(node("Concat", [f"own/{mode}" for mode in modes], made, axis=-1))
    if unit:
        graph.node.extend([
            node("ReduceL2", [made, "own/axes"], "own/length", keepdims=1), node("Div", [made, "own/length"], VECTOR),
        ])  # fmt: skip
    graph.node.append(node("Tanh", [TOKENS], "bent"))
    graph.node.append(node("Neg", [VECTOR], "turned"))
    del graph.output[:]
    dims = {TOKENS: ["batch_size", "sequence_length", 32], "bent": ["batch_size", "sequence_length", 32]}
    wide = ["batch_size", 32 * len(modes)]
    outputs = [TOKENS, VECTOR, *others]
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims.get(name, wide)) for name in outputs)
    onnx.checker.check_model(model)
    return model


@pytest.mark.parametrize(
    ("modes", "unit"),
    [
        (("mean",), True),
        (("mean",), False),
        (("cls",), True),
        (("max",), False),
        (("cls", "mean"), False),
        (("mean", "max", "cls"), True),
    ],
)
def test_a_head_that_is_known(modes: tuple[str, ...], unit: bool, tmp_path: Path) -> None:
    """Hidden before, everything fuses after; the vectors are the same, and all of the outputs are there."""
    source = pooled(modes, unit)
    plain = graphsurgery.optimize(source, output=tmp_path / "plain.onnx", time=False)
    assert plain.fusions is not None and any("--rehead" in one for one in plain.warnings)
    done = graphsurgery.optimize(source, output=tmp_path / "made.onnx", rehead=True, strict=True, time=False)
    assert done.report and not done.attempts and done.fusions is not None and done.fusions.counts["attention"] == (3, 3)
    made = graphsurgery.load(done.output)
    assert [step.parameters["mode"] for step in read_head_steps(made)] == [",".join(modes)]
    assert {value.name for value in made.interface.outputs} == {TOKENS, VECTOR}
    assert any("a new order: sentence_embedding, token_embeddings" in note for note in done.notes)
    mask = np.array([[0, 0, 1, 1], [1, 1, 1, 1]], np.int64)
    feed = {"input_ids": np.arange(8).reshape(2, 4) + 4, "attention_mask": mask, "token_type_ids": np.zeros((2, 4), np.int64)}
    wanted, found = (session.run(feed)[VECTOR] for session in (Session(source.SerializeToString()), Session(done.output)))
    assert np.abs(wanted - found).max() < (1e-6 if unit else 1e-5)


def test_a_pooled_export_hides_its_encoder(tmp_path: Path) -> None:
    """Which is told, with the operator that shape inference gives up on."""
    done = graphsurgery.optimize(pooled(("mean",), unit=True), output=tmp_path / "plain.onnx", time=False)
    assert done.fusions is not None and done.fusions.counts["skip norm"][0] < done.fusions.counts["skip norm"][1]
    assert any("ReduceL2" in reason for _, _, reason in done.fusions.misses())


def test_other_outputs_stay(tmp_path: Path) -> None:
    done = graphsurgery.optimize(pooled(("mean",), True, ["bent"]), output=tmp_path / "made.onnx", rehead=True, time=False)
    assert done.report and [value.name for value in graphsurgery.load(done.output).interface.outputs] == [
        VECTOR,
        TOKENS,
        "bent",
    ]
    assert "bent" in next(check.detail for check in done.report.checks if check.name == "same outputs")


def test_rows_without_a_token_are_told_of(tmp_path: Path) -> None:
    """The first token of nothing is padding there, zeros here: a declared difference, and no fault."""
    done = graphsurgery.optimize(pooled(("cls",), False), output=tmp_path / "made.onnx", rehead=True, time=False)
    assert done.report and any("rows without a token" in line for line in done.report.not_checked)


def test_heads_that_cannot_be_replaced(tmp_path: Path) -> None:
    def refused(source: object, error: type[Exception], words: str) -> None:
        with pytest.raises(error, match=words):
            graphsurgery.optimize(source, output=tmp_path / "never.onnx", rehead=True)
        assert not (tmp_path / "never.onnx").exists()

    strange = pooled(("mean",), False)
    next(one for one in strange.graph.node if one.op_type == "Clip").op_type = "Identity"
    next(one for one in strange.graph.node if one.op_type == "Identity" and "own/least" in one.input).input.pop()
    next(one for one in strange.graph.node if VECTOR in one.output).output[0] = "own/raw"
    strange.graph.node.insert(len(strange.graph.node) - 2, helper.make_node("Tanh", ["own/raw"], [VECTOR], "own/bent"))
    refused(strange, NothingToPoolError, "is not made from token_embeddings by any pooling")
    refused(pooled(("mean",), False, ["turned"]), RequestError, "computed from sentence_embedding")
    refused(BERT, RequestError, "a head can be replaced if")
    own = with_head(BERT, tmp_path, "mean", normalize=True, keep_output=("last_hidden_state",))
    refused(own, RequestError, "made by graphsurgery already")
