"""What the report says of the transformer optimizer: layer by layer what should have fused, what did, and why not the rest.

Counts are held against the operators that are in the fused graph; reasons are planted, each in one layer alone.
"""

from __future__ import annotations

import contextlib
import functools
import io
import tempfile
from collections import Counter
from collections.abc import Callable

import onnx
import pytest
from conftest import FIXTURES, fixture_names
from fusion_plants import (
    in_layer_1,
    keys_of_another_value,
    makers,
    mapped_embeddings,
    norm_by_reduce_l2,
    position_bias,
    without_bias,
)
from fusions import require_optimizer

import graphsurgery
from graphsurgery.rewrites.fuse.adjustments import BIASED_NORM, add_missing_biases
from graphsurgery.rewrites.fuse.fusions import find_fusable, report_fusions
from graphsurgery.rewrites.fuse.report import COLUMNS, FusionReport
from graphsurgery.rewrites.fuse.runner import Fusing, run_optimizer

require_optimizer()

OPERATORS = {
    "attention": {"Attention", "MultiHeadAttention"},
    "skip norm": {"SkipLayerNormalization", "SkipSimplifiedLayerNormalization"},
    "gelu": {"BiasGelu", "FastGelu", "Gelu"},
    "embedding norm": {"EmbedLayerNormalization"},
    "rotary": {"RotaryEmbedding"},
}
NO_PATTERN = "the optimizer has no pattern for that"
NO_BIAS = "no bias in queries, keys, values, output projection: the pattern looks for one"
ROTARY = "rotary positions between projection and scores"
FIXED = "its halves are cut at constant places: the pattern computes them from the shape"
RMS = "an RMS norm follows: the optimizer starts its search at layer norms"
PACKED = "one product makes queries, keys and values: the pattern looks for three"
WINDOW = f"attention is limited to a local window: {NO_PATTERN}"
BIAS = f"a position bias is added to the scores: {NO_PATTERN}"
ROWS = "one side of the sum is a table lookup by computed ids: the optimizer leaves such a sum to the embeddings"
NOT_FIRST = "the first layer's attention is not fused: the optimizer starts there to look for embeddings"
SECOND = "it is the second operand of a sum whose first operand is a sum, too: the optimizer follows the first"
POSITIONS = "positions are computed from the ids: the pattern expects them to count up from 0"
ALL = "attention 3/3 · skip norm 6/6 · gelu 3/3 · embedding norm 1/1"
TWO = "attention 2/2 · skip norm 4/4 · gelu 2/2 · embedding norm 1/1"
REPORTS: dict[tuple[str, str], tuple[str, list[tuple[str, str, str]]]] = {
    ("bert", "bert"): (ALL, []),
    ("bert-external", "bert"): (TWO, []),
    ("bert-fp16", "bert"): (TWO, []),
    ("xlmr", "bert"): (TWO.replace("norm 1/1", "norm 0/1"), [("embeddings", "embedding norm", POSITIONS)]),
    ("modernbert", "bert"): (
        "attention 0/3 · skip norm 6/6 · gelu 3/3 · rotary 0/6",
        [
            ("0-2", "rotary", "the rotated value is made by Squeeze: the pattern looks for Transpose or Slice"),
            ("0, 2", "attention", f"{ROTARY}; {PACKED}; {NO_BIAS}"),
            ("1", "attention", f"{WINDOW}; {ROTARY}; {PACKED}; {NO_BIAS}"),
        ],
    ),
    ("qwen3", "bert"): (
        "attention 0/2 · skip norm 4/4 · rotary 4/4 · norm 5/5",
        [
            (
                "0-1",
                "attention",
                f"{ROTARY}; keys are repeated for groups of heads: 2 for 4; queries and keys are normalised; Where between the "
                f"softmax and the product with values; {RMS}; {NO_BIAS}",
            )
        ],
    ),
    ("bert-dynamo", "bert"): (
        "attention 0/2 · skip norm 4/4 · gelu 2/2 · embedding norm 0/1",
        [
            ("embeddings", "embedding norm", NOT_FIRST),
            ("0-1", "attention", "Where between the softmax and the product with values"),
        ],
    ),
    ("modernbert-dynamo", "bert"): (
        "attention 0/3 · skip norm 6/6 · gelu 3/3 · rotary 0/6",
        [
            ("0-2", "rotary", FIXED),
            ("0, 2", "attention", f"{ROTARY}; {PACKED}; {NO_BIAS}"),
            ("1", "attention", f"{WINDOW}; {ROTARY}; {PACKED}; {NO_BIAS}"),
        ],
    ),
    ("qwen3-dynamo", "bert"): (
        "attention 0/2 · skip norm 4/4 · rotary 0/4 · norm 5/5",
        [
            ("0-1", "rotary", FIXED),
            (
                "0-1",
                "attention",
                f"{ROTARY}; keys are repeated for groups of heads: 2 for 4; queries and keys are normalised; {RMS}; {NO_BIAS}",
            ),
        ],
    ),
    ("t5", "bert"): (
        "attention 0/3 · skip norm 5/6 · gelu 3/3 · norm 1/1",
        [
            ("0-2", "attention", f"{BIAS}; {RMS}; {NO_BIAS}"),
            ("0", "skip norm", f"only as SimplifiedLayerNormalization: {ROWS}"),
        ],
    ),
    ("t5", "t5"): (
        "attention 3/3 · skip norm 5/6 · gelu 3/3 · norm 1/1",
        [("0", "skip norm", f"only as SimplifiedLayerNormalization: {ROWS}")],
    ),
}
"""By fixture and the optimizer's model type."""


def optimized(model: onnx.ModelProto, model_type: str = "bert") -> onnx.ModelProto:
    """The optimizer's fusions, masks as they are."""
    from onnxruntime.transformers.fusion_options import AttentionMaskFormat, FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    options = FusionOptions(model_type)
    options.attention_mask_format = AttentionMaskFormat.AttentionMask
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        return optimize_model(copy, model_type, 0, 0, optimization_options=options, opt_level=0).model


def report_of(model: onnx.ModelProto, model_type: str = "bert") -> FusionReport:
    return report_fusions(find_fusable(graphsurgery.load(model), model_type), model, optimized(model, model_type))


def proto(name: str) -> onnx.ModelProto:
    """A fixture's model, with the bias of its layer norms that `optimize` adds for the optimizer."""
    return add_missing_biases(onnx.load(FIXTURES / name / "model.onnx"), BIASED_NORM)


@functools.cache
def of_fixture(name: str, model_type: str = "bert") -> tuple[FusionReport, onnx.ModelProto]:
    """The report of a fixture, and its fused graph."""
    model = proto(name)
    fused = optimized(model, model_type)
    return report_fusions(find_fusable(graphsurgery.load(model), model_type), model, fused), fused


@pytest.mark.parametrize(("name", "model_type"), REPORTS)
def test_what_is_said_of_each_fixture(name, model_type):
    report, _ = of_fixture(name, model_type)
    assert (report.summary, list(report.misses())) == REPORTS[name, model_type]
    assert report.complete == (not REPORTS[name, model_type][1])


@pytest.mark.parametrize(("name", "model_type"), REPORTS)
def test_counts_are_those_of_the_fused_graph(name, model_type):
    report, fused = of_fixture(name, model_type)
    kinds, counts = Counter(node.op_type for node in fused.graph.node), report.counts
    for kind, operators in OPERATORS.items():
        assert counts.get(kind, (0, 0))[0] == sum(kinds[operator] for operator in operators), kind


def test_every_fixture_is_looked_at():
    assert {name for name, _ in REPORTS} == set(fixture_names())


PLANTED: dict[str, tuple[Callable[[onnx.ModelProto], None], str, str]] = {
    "values": (
        in_layer_1("attention/self/Transpose_1"), "attention",
        "values pass Add, Reshape, Transpose, Mul by a constant: the patterns have Add, Reshape, Transpose",
    ),
    "queries": (
        in_layer_1("attention/self/Transpose"), "attention",
        "queries pass Add, Reshape, Transpose, Mul by a constant, Mul: the patterns have Add, Reshape, Transpose or "
        "Add, Reshape, Transpose, Div or Add, Reshape, Transpose, Mul",
    ),
    "scores": (
        in_layer_1("attention/self/MatMul"), "attention",
        "scores are scaled twice, before and after the product of queries and keys: the patterns scale once",
    ),
    "weights": (in_layer_1("attention/self/Softmax"), "attention", "Mul between the softmax and the product with values"),
    "no bias": (without_bias, "attention", "no bias in values: the pattern looks for one"),
    "another value": (keys_of_another_value, "attention", "queries, keys and values are computed from different values"),
    "position bias": (position_bias, "attention", BIAS),
    "erf": (
        in_layer_1("intermediate/intermediate_act_fn/Erf"), "gelu", "no pattern matches the nodes after its erf",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", PLANTED)
def test_a_fault_in_one_layer_is_that_layers(what):
    plant, kind, reason = PLANTED[what]
    model = proto("bert")
    plant(model)
    report = report_of(model)
    assert report.misses() == (("1", kind, reason),)
    assert report.counts == {"attention": (3, 3), "skip norm": (6, 6), "gelu": (3, 3), "embedding norm": (1, 1)} | {
        kind: (2, 3)
    }


def test_a_table_lookup_by_ids_that_are_given_fuses():
    """T5's reason is the true one: with the ids as they are given, the first sum fuses as well."""
    model = proto("t5")
    makers(model)["/model/encoder/shared/Gather_output_0"].input[1] = "input_ids"
    assert report_of(model, "t5").complete


@pytest.mark.parametrize("first", [True, False], ids=["branch first", "branch second"])
def test_the_order_of_a_sum(first):
    """As in ALBERT: what flows into layer 0 is a sum itself. Only where it is first, the optimizer follows it."""
    model = proto("bert")
    mapped_embeddings(model, first)
    report = report_of(model)
    attention = [miss for miss in report.misses() if miss[1] == "attention"]
    assert attention == ([] if first else [("0", "attention", SECOND)])
    assert report.counts["attention"] == ((3, 3) if first else (2, 3))


def test_where_shape_inference_fails_is_said():
    model = proto("bert")
    norm_by_reduce_l2(model)
    made = run_optimizer(model, Fusing())
    report = report_fusions(find_fusable(graphsurgery.load(model)), model, made.model, shape_failure=made.shape_failure)
    failed = "symbolic shape inference failed at head/norm: ReduceL2"
    assert report.summary == "attention 0/3 · skip norm 0/6 · gelu 3/3 · embedding norm 0/1"
    assert report.misses() == (
        ("embeddings", "embedding norm", f"{NOT_FIRST}; {failed}"), ("0-2", "attention", failed), ("0-2", "skip norm", failed),
    )  # fmt: skip


def test_shapes_that_differ():
    """What may be [1, 1] is no input of EmbedLayerNormalization."""
    model = graphsurgery.optional_input(FIXTURES / "bert" / "model.onnx", "token_type_ids").to_proto()
    shapes = "[batch_size, sequence_length], [?, ?]"
    assert report_of(model).misses() == (("embeddings", "embedding norm", f"its operands can differ in shape: {shapes}"),)


@pytest.mark.parametrize("name", ["bert", "modernbert", "qwen3", "t5"])
def test_a_graph_that_is_fused_already(name):
    """Nothing is missed that is fused: the second run finds what the first one made, and may make more."""
    report, fused = of_fixture(name)
    first, second = report.counts, report_of(fused).counts
    for kind in OPERATORS.keys() & first.keys():
        assert second[kind][0] >= first[kind][0] and second[kind][1] == first[kind][1], kind


@pytest.mark.parametrize("mode", ["cls", "mean,max"])
def test_a_head_is_not_counted(mode):
    pooled = graphsurgery.add_pooling(FIXTURES / "bert" / "model.onnx", mode=mode, normalize=True).to_proto()
    assert report_of(pooled).summary == ALL


def test_renderings():
    report, _ = of_fixture("xlmr")
    rows = report.rows()
    assert all(len(row) == len(COLUMNS) for row in rows) and len(rows) == 9
    assert rows[0] == ("embeddings", "embedding norm", "EmbedLayerNormalization", "-", POSITIONS)
    assert rows[1] == ("0", "attention", "Attention", "Attention", "")
    assert [row[:2] for row in rows[1:5]] == [("0", "attention"), ("0", "skip norm"), ("0", "gelu"), ("0", "skip norm")]
    found = report.to_json()
    assert found["complete"] is False and found["summary"] == report.summary
    assert found["counts"]["embedding norm"] == {"fused": 0, "expected": 1}
    assert found["fusions"][0] == {
        "layer": None, "kind": "embedding norm", "expected": "EmbedLayerNormalization", "fused": False, "fused_as": None,
        "why_not": [POSITIONS],
    }  # fmt: skip


def test_what_the_caller_knows_comes_first():
    model = proto("bert")
    parts = find_fusable(graphsurgery.load(model))
    report = report_fusions(parts, model, model, {"gelu": "switched off"})
    assert [miss for miss in report.misses() if miss[1] == "gelu"] == [("0-2", "gelu", "switched off")]
    assert report.summary == "attention 0/3 · skip norm 0/6 · gelu 0/3 · embedding norm 0/1"


def test_nothing_expected_is_not_complete():
    report = FusionReport(())
    assert not report.complete and report.summary == "nothing that could fuse was found" and not report.misses()
