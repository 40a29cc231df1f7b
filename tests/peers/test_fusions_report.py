"""As tests/test_fusions_report.py, on the architectures and opsets that the repository has no files of."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections import Counter
from pathlib import Path

import onnx
import pytest
from exports import ON_REQUEST, OPSETS
from fusions import require_optimizer

import graphsurgery
from graphsurgery.rewrites.detect_architecture import detect_architecture
from graphsurgery.rewrites.fuse.fusions import find_fusable, report_fusions
from graphsurgery.rewrites.fuse.report import FusionReport

require_optimizer()

OPERATORS = {
    "attention": {"Attention"},
    "skip norm": {"SkipLayerNormalization", "SkipSimplifiedLayerNormalization"},
    "gelu": {"BiasGelu", "FastGelu", "Gelu"},
    "embedding norm": {"EmbedLayerNormalization"},
    "rotary": {"RotaryEmbedding"},
}
ALL = "attention 3/3 · skip norm 6/6 · gelu 3/3 · embedding norm 1/1"
NO_EMBEDDINGS = ALL.replace("norm 1/1", "norm 0/1")
NO_PATTERN = "the optimizer has no pattern for that"
NOT_FIRST = "the first layer's attention is not fused: the optimizer starts there to look for embeddings"
POSITIONS = ("embeddings", "embedding norm", "positions are computed from the ids: the pattern expects them to count up from 0")
REPORTS: dict[str, tuple[str, list[tuple[str, str, str]]]] = {
    "albert": (
        "attention 2/3 · skip norm 6/6 · gelu 3/3 · embedding norm 0/1",
        [
            ("embeddings", "embedding norm", NOT_FIRST),
            (
                "0",
                "attention",
                "it is the second operand of a sum whose first operand is a sum, too: the optimizer follows the first",
            ),
        ],
    ),
    "camembert": (NO_EMBEDDINGS, [POSITIONS]),
    "deberta-v2": (
        "attention 0/3 · skip norm 6/6 · gelu 3/3",
        [
            (
                "0-2",
                "attention",
                f"terms made of queries and keys are added to the scores: {NO_PATTERN}; "
                "Reshape between the softmax and the product with values",
            )
        ],
    ),
    "distilbert": (ALL, []),
    "electra": (ALL, []),
    "mistral": (
        "attention 0/3 · skip norm 6/6 · rotary 6/6 · norm 1/1",
        [
            (
                "0-2",
                "attention",
                f"attention is limited to a local window: {NO_PATTERN}; rotary positions between projection and scores; "
                "keys are repeated for groups of heads: 2 for 4; Where between the softmax and the product with values; an RMS "
                "norm follows: the optimizer starts its search at layer norms; no bias in queries, keys, values, output "
                "projection: the pattern looks for one",
            )
        ],
    ),
    "mpnet": (
        "attention 0/3 · skip norm 6/6 · gelu 3/3 · embedding norm 0/1",
        [
            ("embeddings", "embedding norm", f"only as SkipLayerNormalization: {NOT_FIRST}"),
            ("0-2", "attention", f"a position bias is added to the scores: {NO_PATTERN}"),
        ],
    ),
    "roberta": (NO_EMBEDDINGS, [POSITIONS]),
}
ADDED = {
    "deberta-v2": ("padding mask", "terms of queries and keys"),
    "mistral": ("padding mask", "causal mask", "local window"),
    "mpnet": ("padding mask", "position bias"),
}


def optimized(model: onnx.ModelProto) -> onnx.ModelProto:
    """The optimizer's fusions, masks as they are."""
    from onnxruntime.transformers.fusion_options import AttentionMaskFormat, FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    options = FusionOptions("bert")
    options.attention_mask_format = AttentionMaskFormat.AttentionMask
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        return optimize_model(copy, "bert", 0, 0, optimization_options=options, opt_level=0).model


def report_of(model: onnx.ModelProto) -> FusionReport:
    """The report, its counts held against the operators of the fused graph."""
    fused = optimized(model)
    report = report_fusions(find_fusable(graphsurgery.load(model), "bert"), model, fused)
    kinds = Counter(node.op_type for node in fused.graph.node)
    for kind, operators in OPERATORS.items():
        more = int(kind == "skip norm" and ("only as SkipLayerNormalization" in str(report.misses())))
        assert report.counts.get(kind, (0, 0))[0] + more == sum(kinds[operator] for operator in operators), kind
    return report


@pytest.mark.parametrize("name", ON_REQUEST)
def test_what_is_said(on_request, name):
    report = report_of(onnx.load(on_request / name / "model.onnx"))
    assert (report.summary, list(report.misses())) == REPORTS[name]


@pytest.mark.parametrize("name", ON_REQUEST)
def test_the_architecture(on_request, name):
    from graphsurgery.encoder.architecture import find_architecture
    from graphsurgery.encoder.blocks import find_blocks

    model = graphsurgery.load(on_request / name / "model.onnx")
    one = detect_architecture(model)
    assert (one.model_type, one.name, one.heads, one.hidden, one.layers) == ("bert", name, 4, 32, 3) and not one.notes
    likes = {"albert": "ALBERT", "camembert": "RoBERTa", "deberta-v2": "DeBERTa", "distilbert": "DistilBERT"}
    likes |= {"electra": "ELECTRA", "mistral": "Llama", "mpnet": "MPNet", "roberta": "RoBERTa"}
    assert find_architecture(model).name == f"like {likes[name]}"
    for attention in find_blocks(model).attentions:
        assert attention.added == ADDED.get(name, ("padding mask",))
        assert attention.key_heads == (2 if name == "mistral" else 4)


@pytest.mark.parametrize("opset", OPSETS)
def test_older_opsets(bert_exports, opset):
    """Norms are in pieces below 17."""
    model = onnx.load(bert_exports[opset][0])
    report = report_of(model)
    assert report.complete and report.summary == ALL
    assert detect_architecture(graphsurgery.load(bert_exports[opset][0])).heads == 4


def test_without_its_position_bias_mpnet_fuses(on_request):
    """The reason is the true one."""
    model = onnx.load(on_request / "mpnet" / "model.onnx")
    makers = {name: node for node in model.graph.node for name in node.output}
    for layer in range(3):
        path = f"/encoder/layer.{layer}/attention/attn"
        makers[f"{path}/Add_1_output_0"].input[0] = f"{path}/Div_output_0"
    assert report_of(model).complete


def test_with_its_first_sum_turned_albert_fuses(on_request):
    """The reason is the true one."""
    model = onnx.load(on_request / "albert" / "model.onnx")
    makers = {name: node for node in model.graph.node for name in node.output}
    added = makers["/encoder/albert_layer_groups.0/albert_layers.0/attention/Add_1_output_0"]
    added.input[:] = reversed(added.input)
    report = report_of(model)
    assert report.complete and report.summary == ALL


def test_with_what_it_rotates_transposed_modernbert_fuses_positions():
    """The reason is the true one: where a Transpose stands in place of the Squeeze's output, rotary positions fuse."""
    model = onnx.load(Path(__file__).resolve().parents[2] / "fixtures" / "modernbert" / "model.onnx")
    for node in [node for node in model.graph.node if node.op_type == "Squeeze" and node.output[0].startswith("/layers")]:
        name = node.output[0]
        node.output[0] = f"{name}.squeezed"
        same = onnx.helper.make_node("Transpose", [node.output[0]], [name], f"{name}.same", perm=[0, 1, 2, 3])
        model.graph.node.insert(list(model.graph.node).index(node) + 1, same)
    assert report_of(model).counts["rotary"] == (6, 6)


def test_the_real_one(minilm_export):
    """all-MiniLM-L6-v2, as it was trained."""
    report = report_of(onnx.load(minilm_export))
    assert report.complete and report.summary == "attention 6/6 · skip norm 12/12 · gelu 6/6 · embedding norm 1/1"
    one = detect_architecture(graphsurgery.load(minilm_export))
    assert (one.name, one.heads, one.hidden, one.layers, one.head_size) == ("bert", 12, 384, 6, 32)
