"""The rewrite pooled-token: the same vectors, the operations it saves, faults planted in it, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from conftest import FIXTURES
from fusions import require_optimizer
from onnx import TensorProto, helper, numpy_helper

import graphsurgery
from graphsurgery import AddNormalize, AddPooling, Fuse, Half, PooledToken, Rename, Simplify
from graphsurgery.cli.main import OK, WRONG, run
from graphsurgery.errors import NothingToOptimizeError, UnsupportedModelError, VerificationFailed
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.flops import count_flops
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.sizes import Layout
from graphsurgery.model.model import Model
from graphsurgery.rewrites.narrow import building, rules
from graphsurgery.rewrites.narrow.positions import Position, find_takings
from graphsurgery.rewrites.narrow.rules import Step, find_axes
from graphsurgery.runtime.session import Session

pytestmark = pytest.mark.usefixtures("loaded_anew")
require_optimizer()

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
FORMS = ("bert", "xlmr", "modernbert", "qwen3", "t5", "bert-dynamo", "modernbert-dynamo", "qwen3-dynamo")
TOKENS = 32


def source(name: str) -> Path:
    return FIXTURES / name / "model.onnx"


def narrowed(path: Path, tmp_path: Path, steps: Sequence[Any], **options: Any) -> graphsurgery.Outcome:
    return graphsurgery.run([*steps, PooledToken()], path, output=tmp_path / "narrowed.onnx", **options)


def saveable(name: str, tokens: int) -> int:
    """The operations of the last layer for all positions but one, without those of keys and values, by the config."""
    config = json.loads((FIXTURES / name / "config.json").read_text(encoding="utf-8"))
    hidden = config.get("hidden_size") or config["d_model"]
    heads = config.get("num_attention_heads") or config["num_heads"]
    width = heads * (config.get("head_dim") or config.get("d_kv") or hidden // heads)
    inner = config.get("intermediate_size") or config["d_ff"]
    matrices = 3 if config["model_type"] in ("modernbert", "qwen3", "t5") else 2
    queries_and_output, scores_and_values = 2 * 2 * hidden * width, 2 * 2 * tokens * width
    return (tokens - 1) * (queries_and_output + scores_and_values + matrices * 2 * hidden * inner)


# --- the same vectors, and what is saved ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMS)
def test_the_last_layer_computes_one_token(name: str, tmp_path: Path) -> None:
    mode = "lasttoken" if name.startswith(("qwen3", "xlmr", "modernbert-")) else "cls"
    steps = [AddPooling(mode), AddNormalize()]
    made = narrowed(source(name), tmp_path, steps)
    assert made.report
    before, after = (count_flops(Graph.of(one), 1, TOKENS) for one in (_pool(source(name), mode), made.model))
    assert before and after and before - after == saveable(name, TOKENS)


def _pool(path: Path, mode: str) -> Model:
    return graphsurgery.add_pooling(path, mode=mode)


@pytest.mark.parametrize(
    "steps",
    [
        [AddPooling("cls"), Fuse()],
        [AddPooling("cls"), Rename(("input_ids=ids", "attention_mask=mask", "sentence_embedding=vector"))],
    ],
    ids=str,
)  # fmt: skip
def test_it_is_combined_with_other_steps(steps: list[Any], tmp_path: Path, capsys) -> None:
    made = narrowed(source("bert"), tmp_path, steps)
    assert made.report and any("fewer operations" in note for note in made.notes)
    capsys.readouterr()
    assert run(["recipe", "show", str(made.output)]) == OK
    (tmp_path / "shown.toml").write_text(capsys.readouterr().out, encoding="utf-8")
    again = graphsurgery.run_recipe(tmp_path / "shown.toml", source("bert"), output=tmp_path / "again.onnx")
    assert again.output.read_bytes() == made.output.read_bytes()


def test_other_rewrites_follow_it(tmp_path: Path) -> None:
    steps = [AddPooling("lasttoken"), Simplify(), AddNormalize(), PooledToken(), Fuse(), Half()]
    assert graphsurgery.run(steps, source("xlmr"), output=tmp_path / "made.onnx").report


def test_a_mask_of_ones_has_the_shape_of_the_hidden_state(tmp_path: Path) -> None:
    """The position is computed from the shape of the value that is narrowed."""
    made = narrowed(source("bert"), tmp_path, [AddPooling("lasttoken", mask="ones")])
    assert made.report and count_flops(Graph.of(made.model), 1, TOKENS) == count_flops(
        Graph.of(narrowed(source("bert"), tmp_path, [AddPooling("cls")], verify=False, force=True).model), 1, TOKENS
    )


def test_verify_holds_it_against_its_source(tmp_path: Path) -> None:
    made = narrowed(source("xlmr"), tmp_path, [AddPooling("cls")], goldens=True)
    assert graphsurgery.verify(made.output, against=_pool(source("xlmr"), "cls"))
    assert graphsurgery.verify_itself(made.output)
    assert not graphsurgery.verify(made.output, against=_pool(source("xlmr"), "lasttoken"))


# --- heads of other programs ----------------------------------------------------------------------------------------------


def layer(
    taking: list[onnx.NodeProto], *, batch: int | str = "batch", seq: int | str = "seq", before: str = ""
) -> onnx.ModelProto:
    """A layer of one head, and ``taking`` nodes that make ``y`` of its output ``h [batch, seq, 4]``; ``p`` is an input.

    ``before`` is an operator between the layer and ``h``.
    """
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((4, 4)).astype(np.float32) for name in ("wq", "wk", "wv", "wo")}
    numbers = {"zero": 0, "one": 1, "four": 4}
    vectors = {"ints0": [0], "ints1": [1], "ints2": [2], "join": [-1, 4], "last": [-1], "end": [2**31]}
    nodes = [
        *(helper.make_node("MatMul", ["x", f"w{one}"], [one]) for one in "qkv"),
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "v"], ["mixed"]),
        helper.make_node("MatMul", ["mixed", "wo"], ["o"]),
        helper.make_node("Add", ["o", "x"], ["sum"]),
        helper.make_node(before, ["sum", "one"], ["h"]) if before else helper.make_node("Tanh", ["sum"], ["h"]),
        *taking,
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    tensors += [numpy_helper.from_array(np.array(number, np.int64), name) for name, number in (numbers | vectors).items()]
    graph = helper.make_graph(
        nodes, "layer",
        [helper.make_tensor_value_info("x", FLOAT, [batch, seq, 4]), helper.make_tensor_value_info("p", INT64, [batch, seq])],
        [helper.make_tensor_value_info("y", FLOAT, None)], tensors,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], **attributes)


SHAPE = [node("Shape", "h", "shape"), node("Gather", "shape zero", "rows")]
RANGE = node("Range", "zero rows one", "range")
PICKED = node("ArgMax", "p", "at", axis=1, keepdims=0)
TAKINGS: dict[str, list[onnx.NodeProto]] = {
    "class token": [node("Gather", "h zero", "y", axis=1)],
    "a slice of one": [node("Slice", "h ints1 ints2 ints1", "y")],
    "the last one": [node("Slice", "h last end ints1", "y")],
    "vectors by pairs": [
        *SHAPE, RANGE, PICKED, node("Unsqueeze", "range ints1", "r"), node("Unsqueeze", "at ints1", "i"),
        node("Concat", "r i", "pairs", axis=1), node("GatherND", "h pairs", "y"),
    ],
    "vectors by rows": [node("ArgMax", "p", "i", axis=1, keepdims=1), node("GatherND", "h i", "y", batch_dims=1)],
    "a flattened value": [
        *SHAPE, RANGE, PICKED, node("Gather", "shape one", "seq"), node("Mul", "range seq", "start"),
        node("Add", "start at", "i"), node("Reshape", "h join", "flat"), node("Gather", "flat i", "y"),
    ],
}  # fmt: skip
NOT_TAKINGS: dict[str, list[onnx.NodeProto]] = {
    "two positions": [node("Slice", "h ints0 ints2 ints1", "y")],
    "pairs of the wrong rows": [
        *SHAPE, node("Sub", "rows one", "last_row"), node("Range", "last_row last_one minus", "range"), PICKED,
        node("Unsqueeze", "range ints1", "r"), node("Unsqueeze", "at ints1", "i"),
        node("Concat", "r i", "pairs", axis=1), node("GatherND", "h pairs", "y"),
    ],
    "rows that start elsewhere": [
        *SHAPE, RANGE, PICKED, node("Mul", "range four", "start"), node("Add", "start at", "i"),
        node("Reshape", "h join", "flat"), node("Gather", "flat i", "y"),
    ],
    "the mean as well": [
        node("Gather", "h zero", "first", axis=1), node("ReduceMean", "h", "mean", axes=[1], keepdims=0),
        node("Add", "first mean", "y"),
    ],
}  # fmt: skip


def outputs(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    return Session(model.SerializeToString(), threads=1, plain=True).run(feeds, ["y"])["y"]


def draw(batch: int = 3, seq: int = 7) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "x": rng.standard_normal((batch, seq, 4)).astype(np.float32),
        "p": rng.permuted(np.tile(np.arange(seq), (batch, 1)), axis=1),
    }


def apply(model: onnx.ModelProto) -> onnx.ModelProto:
    from graphsurgery.rewrites.apply import apply_rewrite
    from graphsurgery.rewrites.rewrite import Context

    loaded = graphsurgery.load(model)
    PooledToken().check(loaded)
    return apply_rewrite(PooledToken(), loaded, Context(lambda _: [])).after.to_proto()


@pytest.mark.parametrize("name", TAKINGS)
def test_it_narrows_heads_of_other_programs(name: str) -> None:
    model = layer(TAKINGS[name])
    made = apply(model)
    feeds = draw()
    np.testing.assert_allclose(outputs(made, feeds), outputs(model, feeds), atol=1e-6)
    saved = [count_flops(Graph(one), 3, 7) for one in (model, made)]
    assert saved[0] == 3 * (4 * 2 * 7 * 4 * 4 + 2 * 2 * 7 * 7 * 4) and saved[0] - (saved[1] or 0) == 3 * 6 * (
        2 * 2 * 4 * 4 + 2 * 2 * 7 * 4
    )


def test_a_fixed_number_of_tokens_is_a_class_token() -> None:
    model = layer([node("Gather", "h zero", "y", axis=1)], seq=7)
    made = apply(model)
    np.testing.assert_allclose(outputs(made, draw()), outputs(model, draw()), atol=1e-6)
    assert (count_flops(Graph(made), 1, 7) or 0) < (count_flops(Graph(model), 1, 7) or 0)


@pytest.mark.parametrize("name", NOT_TAKINGS)
def test_it_refuses_what_needs_more_than_one_position(name: str) -> None:
    model = layer(NOT_TAKINGS[name])
    model.graph.initializer.extend([numpy_helper.from_array(np.array(-1, np.int64), one) for one in ("last_one", "minus")])
    with pytest.raises(UnsupportedModelError):
        apply(model)


def test_an_operator_that_mixes_positions_is_computed_whole(monkeypatch) -> None:
    """A running sum before the head: everything below it is needed whole, and taking it for a token-wise operator is caught."""
    model = layer([node("Gather", "h one", "y", axis=1)], before="CumSum")
    with pytest.raises(UnsupportedModelError, match="no product of matrices"):
        apply(model)
    monkeypatch.setitem(rules.RULES, "CumSum", rules._take_same)
    made = apply(model)
    assert np.abs(outputs(made, draw()) - outputs(model, draw())).max() > 0.1


@pytest.mark.parametrize("mode", ["cls", "lasttoken"])
def test_an_input_with_a_sequence_of_its_own(mode: str) -> None:
    """Tokens attend to another sequence, of another length, whose dims come first."""
    model = onnx.parser.parse_model("""
    <ir_version: 8, opset_import: ["" : 17]>
    m (float[batch, other, 4] z, int64[batch, seq] input_ids, int64[batch, seq] attention_mask)
    => (float[batch, seq, 4] last_hidden_state) {
        x = Gather(table, input_ids) q = MatMul(x, w) k = MatMul(z, w) kt = Transpose<perm = [0, 2, 1]>(k) s = MatMul(q, kt)
        a = Softmax<axis = -1>(s) c = MatMul(a, z) o = MatMul(c, w) last_hidden_state = Add(x, o)
    }
    """)
    rng = np.random.default_rng(0)
    for name, shape in (("table", (20, 4)), ("w", (4, 4))):
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    pooled = graphsurgery.add_pooling(model, mode=mode)
    made = apply(pooled.to_proto())
    assert (count_flops(Graph(made), 1, 9) or 0) < (count_flops(Graph(pooled.to_proto()), 1, 9) or 0)
    feed = {"z": rng.standard_normal((2, 3, 4)).astype(np.float32), "input_ids": rng.integers(0, 20, (2, 7))}
    feed["attention_mask"] = np.array([[1] * 7, [1] * 5 + [0] * 2])
    wanted, found = (
        Session(one.SerializeToString(), threads=1).run(feed, ["sentence_embedding"]) for one in (pooled.to_proto(), made)
    )
    np.testing.assert_allclose(found["sentence_embedding"], wanted["sentence_embedding"], atol=1e-6)


# --- planted faults -------------------------------------------------------------------------------------------------------


def _of_neighbor(find: Callable[[building.Builder], ir.Value]) -> Callable[[building.Builder], ir.Value]:
    """The positions of the rows, moved by one row of the batch."""

    def find_wrong(self: building.Builder) -> ir.Value:
        rows = find(self)
        ends = self.add("Slice", [rows, self.add_integers([1]), self.add_integers([2**31]), self.add_integers([0])], "fault")
        first = self.add("Slice", [rows, self.add_integers([0]), self.add_integers([1]), self.add_integers([0])], "fault")
        return self.add("Concat", [ends, first], "fault", attributes={"axis": 0})

    return find_wrong


def _of_next_token(find: Callable[[building.Builder], ir.Value]) -> Callable[[building.Builder], ir.Value]:
    """The positions before those that the head takes."""
    return lambda self: self.add("Sub", [find(self), self.add_integers([1])], "fault")


@pytest.mark.parametrize("fault", [_of_neighbor, _of_next_token])
def test_a_wrong_row_is_caught(fault: Callable[..., Any], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(building.Builder, "_find_rows", fault(building.Builder._find_rows))
    with pytest.raises(VerificationFailed):
        narrowed(source("xlmr"), tmp_path, [AddPooling("lasttoken")])
    assert not (tmp_path / "narrowed.onnx").exists()


def test_the_first_token_instead_of_the_last_is_caught(tmp_path: Path, monkeypatch) -> None:
    import graphsurgery.rewrites.narrow.search as module

    def find_wrong(graph: Graph, layout: Layout) -> list[Any]:
        return [replace(one, position=Position(0)) for one in find_takings(graph, layout)]

    monkeypatch.setattr(module, "find_takings", find_wrong)
    with pytest.raises(VerificationFailed):
        narrowed(source("xlmr"), tmp_path, [AddPooling("lasttoken")])


def test_narrowed_keys_are_caught(monkeypatch) -> None:
    """The keys of one token, seen by its query alone."""

    def take_both(step: Step, axis: int) -> rules.Axes | None:
        found = rules._take_product(step, axis)
        second = step.dims(1) or ()
        places = [place for place, dim in enumerate(second) if dim == step.size]
        return found | {1: places[0]} if found and places else found

    model = layer([node("Gather", "h one", "y", axis=1)])
    monkeypatch.setitem(rules.RULES, "MatMul", take_both)
    made = apply(model)
    assert np.abs(outputs(made, draw()) - outputs(model, draw())).max() > 1e-3


# --- refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([AddPooling("mean")], "no output takes one token of each text: sentence_embedding"),
        ([AddPooling("cls,mean")], "but the output sentence_embedding needs every token"),
        ([AddPooling("cls,lasttoken")], "2 different tokens of each text from last_hidden_state"),
        ([AddPooling("cls", keep_output=("last_hidden_state",))], "but the output last_hidden_state needs every token"),
        ([], "no output takes one token of each text: last_hidden_state"),
    ],
)  # fmt: skip
def test_it_refuses_in_words(steps: list[Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=said) as caught:
        narrowed(source("bert"), tmp_path, steps)
    assert "cls, lasttoken" in caught.value.advice and not list(tmp_path.iterdir())


def test_positions_by_row_need_an_opset() -> None:
    model = layer(TAKINGS["a flattened value"])
    model.opset_import[0].version = 11
    with pytest.raises(UnsupportedModelError, match="opset 11"):
        apply(model)


def test_a_sum_over_tokens_is_no_token() -> None:
    """A product of the doubled mask and the tokens, of which the first row is taken, as in heads that pool by the mean."""
    doubled = [
        node("Cast", "p", "mask", to=FLOAT), node("Unsqueeze", "mask ints1", "row"), node("Concat", "row row", "rows", axis=1),
        node("MatMul", "rows h", "sums"), node("Gather", "sums zero", "y", axis=1),
    ]  # fmt: skip
    with pytest.raises(UnsupportedModelError, match="no output takes one token"):
        apply(layer(doubled))


def test_it_is_applied_once(tmp_path: Path) -> None:
    made = narrowed(source("bert"), tmp_path, [AddPooling("cls")], verify=False)
    with pytest.raises(NothingToOptimizeError, match="already"):
        graphsurgery.run([PooledToken()], made.output, output=tmp_path / "again.onnx")


def test_the_head_of_a_narrowed_file_stays_on(tmp_path: Path, capsys) -> None:
    """Its encoder gives one token at every position."""
    made = narrowed(source("bert"), tmp_path, [AddPooling("cls")], verify=False)
    capsys.readouterr()
    assert run(["strip-head", str(made.output), "-o", str(tmp_path / "encoder.onnx")]) == WRONG
    assert "computes only the token that its head takes" in " ".join(capsys.readouterr().err.split())


# --- rules, dims and counts -----------------------------------------------------------------------------------------------

S, B = "seq", "batch"
IDS_INFO = helper.make_tensor_value_info("ids", INT64, [B, S])
"""An input by which the dims are known."""
OPERATORS: list[tuple[str, list[list[str | int]], int, dict[int, int] | None, dict[str, Any]]] = [
    ("Add", [[B, S, 4], [4]], 1, {0: 1}, {}), ("Add", [[B, S, 4], [B, S, 4]], 1, {0: 1, 1: 1}, {}),
    ("Add", [[B, 2, S, S], [B, 1, 1, S]], 2, {0: 2}, {}), ("Mul", [[S, 4], [B, S, 4]], 1, {0: 0, 1: 1}, {}),
    ("Where", [[B, 1, S, S], [1], [B, 2, S, S]], 2, {0: 2, 2: 2}, {}),
    ("MatMul", [[B, S, 4], [4, 6]], 1, {0: 1}, {}), ("MatMul", [[B, 2, S, 4], [B, 2, 4, S]], 2, {0: 2}, {}),
    ("MatMul", [[B, 2, S, 4], [B, 2, 4, S]], 3, None, {}),
    ("Gemm", [[S, 4], [4, 6]], 0, {0: 0}, {}), ("Gemm", [[4, S], [4, 6]], 0, None, {"transA": 1}),
    ("Einsum", [[B, S, 2, 4], [B, S, 2, 4]], 2, {0: 1}, {"equation": "bqhd,bkhd->bhqk"}),
    ("Softmax", [[B, S, S]], 1, {0: 1}, {"axis": -1}), ("Softmax", [[B, S, S]], 2, None, {"axis": -1}),
    ("LayerNormalization", [[B, S, 4], [4]], 1, {0: 1}, {}), ("LayerNormalization", [[B, S, 4], [S, 4]], 1, None, {"axis": 1}),
    ("Transpose", [[B, S, 2, 4]], 2, {0: 1}, {"perm": [0, 2, 1, 3]}), ("ReduceMax", [[B, S, 4]], 1, {0: 1}, {"axes": [2]}),
    ("ReduceMax", [[B, 4, S]], 1, {0: 2}, {"axes": [1], "keepdims": 0}), ("ReduceMax", [[B, S, 4]], 1, None, {"axes": [1]}),
    ("Gather", [[9, 4], [B, S]], 1, {1: 1}, {}), ("Gather", [[3, B, S, 4], []], 1, {0: 2}, {}),
    ("GatherElements", [[B, S, 5], [B, S, 5]], 1, {0: 1, 1: 1}, {"axis": 2}),
    ("GatherElements", [[B, S, 5], [B, S, 5]], 1, None, {"axis": 1}),
    ("Concat", [[B, S, 4], [B, S, 4]], 1, {0: 1, 1: 1}, {"axis": 2}), ("Concat", [[B, S, 4], [B, S, 4]], 1, None, {"axis": 1}),
    ("Split", [[B, S, 4]], 1, {0: 1}, {"axis": -1}), ("CumSum", [[B, S, 4], [1]], 1, None, {}),
    ("InstanceNormalization", [[B, S, 4], [S], [S]], 1, None, {}),
]  # fmt: skip


@pytest.mark.parametrize("case", OPERATORS, ids=lambda case: f"{case[0]} {case[1]}")
def test_the_rule_of_an_operator(case: tuple[str, list[list[str | int]], int, dict[int, int] | None, dict[str, Any]]) -> None:
    """By hand; and computing one position by the rule gives that position of the whole result."""
    operator, shapes, axis, expected, attributes = case
    kinds = [
        INT64 if is_index(operator, place) else TensorProto.BOOL if (operator, place) == ("Where", 0) else FLOAT
        for place in range(len(shapes))
    ]
    names = [f"i{place}" for place in range(len(shapes))]
    given = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in zip(names, kinds, shapes, strict=True)]
    made = ["y", "z"] if operator == "Split" else ["y"]
    graph = helper.make_graph(
        [helper.make_node(operator, names, made, **attributes)], "one", [*given, IDS_INFO], [onnx.ValueInfoProto(name="y")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    read = Graph(model)
    layout = Layout(read)
    out = layout.dims(read.value("y"))
    model.graph.input.pop()
    assert out is not None and out[axis] is not None
    found = find_axes(Step(next(read.nodes), layout, 17, out, out[axis]), axis)
    assert found == expected
    if found is None:
        return
    rng = np.random.default_rng(2)
    sizes = {B: 2, S: 5}
    arrays = {}
    for name, kind, shape in zip(names, kinds, shapes, strict=True):
        dims = [sizes.get(one, one) if isinstance(one, str) else one for one in shape]
        drawn = rng.integers(0, 2, dims) if kind != FLOAT else rng.standard_normal(dims)
        arrays[name] = np.asarray(drawn, helper.tensor_dtype_to_np_dtype(kind))
    whole = outputs(model, arrays)
    for place, own in found.items():
        arrays[f"i{place}"] = np.take(arrays[f"i{place}"], [3], own)
    for info in model.graph.input:
        info.CopyFrom(helper.make_tensor_value_info(info.name, info.type.tensor_type.elem_type, arrays[info.name].shape))
    np.testing.assert_allclose(outputs(model, arrays), np.take(whole, [3], axis), atol=1e-6)


def is_index(operator: str, place: int) -> bool:
    return (operator, place) in {("Gather", 1), ("GatherElements", 1), ("CumSum", 1)}


def test_dims_at_other_sizes() -> None:
    """Facts with given dims, and how each dim grows with the batch and the tokens."""
    read = Graph(layer(TAKINGS["class token"]))
    facts = Facts(read, {"x": (2, 5, 4)})
    assert facts[read.value("scores")].dims == (2, 5, 5) and facts[read.value("y")].dims == (2, 4)
    read = Graph.of(graphsurgery.load(source("bert-dynamo")))
    assert Layout(read).dims(read.value("last_hidden_state")) == ((3, 2), (11, 17), (32, 32))


def test_what_is_counted() -> None:
    """Products by hand: 2 m k n each; nodes without readers do not count."""
    nodes = [node("MatMul", "x w", "a"), node("Gemm", "a w", "y", transB=1), node("MatMul", "x w", "unread")]
    graph = helper.make_graph(
        nodes, "products", [helper.make_tensor_value_info("x", FLOAT, [2, 3])], [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(np.ones((3, 3), np.float32), "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    assert count_flops(Graph(model), 1, 1) == 2 * 2 * 3 * 3 + 2 * 2 * 3 * 3


def test_fused_operators_are_counted_as_their_parts(tmp_path: Path) -> None:
    made = graphsurgery.run([Fuse()], source("bert"), output=tmp_path / "fused.onnx", verify=False)
    assert count_flops(Graph.of(made.model), 2, 9) == count_flops(Graph.of(graphsurgery.load(source("bert"))), 2, 9)
