"""What is found in an encoder's graph by structure: attentions, norms, activations, layer by layer, and the architecture."""

from __future__ import annotations

import json
import random
import shutil

import numpy as np
import onnx
import pytest
from branches import with_branches
from conftest import FIXTURES, fixture_names
from effort import at_most_calls
from encoders import tiny_encoder
from onnx import TensorProto, helper, numpy_helper

import graphsurgery
from graphsurgery.encoder.architecture import find_architecture
from graphsurgery.encoder.blocks import Blocks, find_blocks
from graphsurgery.graph.editor import Editor
from graphsurgery.rewrites.detect_architecture import detect_architecture

pytestmark = pytest.mark.usefixtures("loaded_anew")
PADDING, CAUSAL, WINDOW, BIAS = "padding mask", "causal mask", "local window", "position bias"
ATTENTIONS = {
    "bert": [(4, 8, 4, (PADDING,))] * 3,
    "bert-external": [(4, 10, 4, (PADDING,))] * 2,
    "bert-fp16": [(4, 12, 4, (PADDING,))] * 2,
    "modernbert": [(4, 8, 4, (PADDING,)), (4, 8, 4, (PADDING, WINDOW)), (4, 8, 4, (PADDING,))],
    "qwen3": [(4, 16, 2, (PADDING, CAUSAL))] * 2,
    "t5": [(4, 10, 4, (PADDING, BIAS))] * 3,
    "xlmr": [(4, 10, 4, (PADDING,))] * 2,
}
ATTENTIONS |= {f"{name}-dynamo": ATTENTIONS[name] for name in ("modernbert", "qwen3")} | {"bert-dynamo": ATTENTIONS["bert"][:2]}
"""Each layer's heads, their size, heads of keys, and what is added to the scores."""
NORMS = {
    "bert": [None, 0, 0, 1, 1, 2, 2],
    "bert-external": [None, 0, 0, 1, 1],
    "bert-fp16": [None, 0, 0, 1, 1],
    "modernbert": [None, 0, 0, 1, 1, 2, 2],
    "qwen3": [0, 0, 0, 0, 0, 1, 1, 1, 1],
    "t5": [0, 0, 0, 1, 1, 2, 2],
    "xlmr": [None, 0, 0, 1, 1],
}
NORMS |= {f"{name}-dynamo": NORMS[name] for name in ("modernbert", "qwen3")} | {"bert-dynamo": NORMS["bert"][:5]}
"""The layer of each norm; Qwen3 has two more in each, of queries and of keys."""
ACTIVATIONS = {"modernbert": ("gelu", True), "qwen3": ("silu", True), "t5": ("tanh gelu", True)}
"""Kind, and whether it is gated; the others have a GELU that is not."""
ARCHITECTURES = {
    "bert": ("bert", "bert", 4, 32, 3, 8),
    "bert-external": ("bert", "bert", 4, 40, 2, 10),
    "bert-fp16": ("bert", "bert", 4, 48, 2, 12),
    "modernbert": ("bert", "modernbert", 4, 32, 3, 8),
    "qwen3": ("bert", "qwen3", 4, 48, 2, 16),
    "t5": ("t5", "t5", 4, 36, 3, 10),
    "xlmr": ("bert", "xlm-roberta", 4, 40, 2, 10),
    "bert-dynamo": ("bert", "bert", 4, 32, 2, 8),
    "modernbert-dynamo": ("bert", "modernbert", 4, 32, 3, 8),
    "qwen3-dynamo": ("bert", "qwen3", 4, 48, 2, 16),
}
"""The optimizer's model type, the name, heads, width, layers, size of a head."""
LIKE = {"modernbert": "ModernBERT", "qwen3": "Qwen3", "t5": "T5", "xlmr": "RoBERTa"}


def blocks(name: str) -> Blocks:
    return find_blocks(graphsurgery.load(FIXTURES / name / "model.onnx"))


def found(blocks: Blocks) -> list[tuple[object, ...]]:
    """All that the tables above say of attentions."""
    return [(one.heads, one.head_size, one.key_heads, one.added) for one in blocks.attentions]


def in_short(blocks: Blocks) -> tuple[object, ...]:
    """What is found, without any name."""
    attentions = [
        (
            one.heads,
            one.key_heads,
            one.added,
            one.score_steps,
            one.weight_steps,
            one.packed,
            len(one.sources),
            len(one.rotations),
        )
        for one in blocks.attentions
    ]
    norms = [
        (layer, one.kind, one.fused, len(one.summands), [rows.indexed_by for rows in one.lookups])
        for layer, one in blocks.norms
    ]
    return attentions, norms, [(layer, one.kind, one.biased, one.gated) for layer, one in blocks.activations]


def proto(name: str) -> onnx.ModelProto:
    return onnx.load(FIXTURES / name / "model.onnx")


@pytest.mark.parametrize("name", fixture_names())
def test_attentions(name):
    made, family = blocks(name), name.removesuffix("-dynamo")
    assert found(made) == ATTENTIONS[name]
    for one in made.attentions:
        assert one.operator == "Softmax" and one.sum is not None and len(one.sources) == 1
        assert one.packed == (family == "modernbert") and one.grouped == (family == "qwen3")
        assert len(one.rotations) == (2 if family in ("modernbert", "qwen3") else 0)
        assert one.queries.biased == name.startswith(("bert", "xlmr")) and one.queries.source_width == ARCHITECTURES[name][3]


@pytest.mark.parametrize("name", fixture_names())
def test_norms_and_activations(name):
    made, family = blocks(name), name.removesuffix("-dynamo")
    assert [layer for layer, _ in made.norms] == NORMS[name]
    assert {norm.kind for _, norm in made.norms} == {"rms norm" if family in ("qwen3", "t5") else "layer norm"}
    sums = [norm for layer, norm in made.norms if norm.summands and not norm.lookups]
    assert len(sums) == 2 * len(made.attentions)
    assert [(layer, one.kind, one.gated) for layer, one in made.activations] == [
        (layer, *ACTIVATIONS.get(family, ("gelu", False))) for layer in range(len(made.attentions))
    ]


@pytest.mark.parametrize(
    ("name", "ways"), [("bert", ["given", "given", "counted"]), ("xlmr", ["given", "counted", "computed"]), ("modernbert", [])]
)
def test_embeddings(name, ways):
    """How rows are chosen: words and types as given, positions counted or, in RoBERTa's kin, computed from the ids."""
    layer, norm = blocks(name).norms[0]
    assert layer is None and [one.indexed_by for one in norm.lookups] == ways


@pytest.mark.parametrize("name", fixture_names())
def test_the_find_architecture_a_folder(name):
    model = graphsurgery.load(FIXTURES / name / "model.onnx")
    one = detect_architecture(model)
    assert (one.model_type, one.name, one.heads, one.hidden, one.layers, one.head_size) == ARCHITECTURES[name]
    assert one.source == "the graph and config.json" and not one.notes
    alone = find_architecture(model)
    assert alone.name == f"like {LIKE.get(name.removesuffix('-dynamo'), 'BERT')}" and alone.source == "the graph"
    assert (alone.model_type, alone.heads, alone.hidden, alone.layers) == (one.model_type, one.heads, one.hidden, one.layers)


def test_a_config_above_the_file_and_one_that_disagrees(tmp_path):
    (tmp_path / "onnx").mkdir()
    shutil.copy(FIXTURES / "bert" / "model.onnx", tmp_path / "onnx" / "model.onnx")
    config = {"model_type": "bert", "num_attention_heads": 8, "hidden_size": 32, "num_hidden_layers": 12}
    (tmp_path / "config.json").write_text(json.dumps(config))
    one = detect_architecture(graphsurgery.load(tmp_path / "onnx" / "model.onnx"))
    assert (one.name, one.heads, one.layers) == ("bert", 4, 3)
    assert one.notes == (
        "config.json says 8 heads, the graph has 4: the graph counts",
        "config.json says 12 layers, the graph has 3: the graph counts",
    )
    (tmp_path / "config.json").write_text("{")
    one = detect_architecture(graphsurgery.load(tmp_path / "onnx" / "model.onnx"))
    assert one.name == "like BERT" and "config.json is not JSON" in one.notes[0]


def test_what_the_graph_leaves_open_is_taken_from_the_config():
    """Heads that are computed: the target of every Reshape comes from an input."""
    model = proto("bert")
    model.graph.input.append(helper.make_tensor_value_info("split", TensorProto.INT64, [4]))
    for node in model.graph.node:
        if node.op_type == "Reshape" and "attention/self" in node.output[0]:
            node.input[1] = "split"
    loaded = graphsurgery.load(model)
    assert find_architecture(loaded) is None
    one = find_architecture(loaded, {"n_heads": 4, "dim": 32})
    assert (one.heads, one.hidden, one.layers) == (4, 32, 3)
    assert one.notes == ("the graph does not tell heads: taken from config.json",)


def test_a_softmax_alone_is_no_attention():
    model = graphsurgery.load(tiny_encoder())
    assert any(node.op_type == "Softmax" for node in model.proto.graph.node)
    assert find_blocks(model).attentions == () and find_architecture(model) is None


@pytest.mark.parametrize("name", fixture_names())
def test_a_head_changes_nothing(name):
    pooled = graphsurgery.add_pooling(FIXTURES / name / "model.onnx", mode="mean,max,lasttoken", normalize=True)
    assert in_short(find_blocks(pooled)) == in_short(blocks(name))


@pytest.mark.parametrize("name", fixture_names())
def test_names_and_the_order_of_nodes_do_not_matter(name):
    model = proto(name)
    given = {info.name for info in (*model.graph.input, *model.graph.output)}
    every = dict.fromkeys(value for node in model.graph.node for value in (*node.input, *node.output) if value)
    new = {value: value if value in given else f"v{place}" for place, value in enumerate(every)}
    for node in model.graph.node:
        node.name = ""
        node.input[:] = [new.get(value, "") for value in node.input]
        node.output[:] = [new.get(value, "") for value in node.output]
    for tensor in model.graph.initializer:
        tensor.name = new[tensor.name]
    del model.graph.value_info[:]
    nodes = list(model.graph.node)
    random.Random(name).shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert in_short(find_blocks(graphsurgery.load(model))) == in_short(blocks(name))


def test_sums_that_double_and_chains_without_end():
    """A mask of 2^200 terms, and one behind 4,000 sums: looked at for a moment, not gone through."""
    for name, inputs in (("doubled", 2), ("long", 1)):
        model = proto("bert")
        scores = next(node for node in model.graph.node if node.output[0] == "/encoder/layer.1/attention/self/Add_output_0")
        place, value = list(model.graph.node).index(scores), scores.input[1]
        chain = []
        for step in range(200 if inputs == 2 else 4_000):
            chain.append(helper.make_node("Add", [value, value if inputs == 2 else scores.input[1]], [f"{name}.{step}"]))
            value = f"{name}.{step}"
        scores.input[1] = value
        nodes = list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend([*nodes[:place], *chain, *nodes[place:]])
        loaded = graphsurgery.load(model)
        with at_most_calls():
            assert found(find_blocks(loaded)) == ATTENTIONS["bert"]


def taken_to_pieces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Each LayerNormalization as exports below opset 17 have it."""
    graph = model.graph
    for name, value in (("two", 2.0), ("eps", 1e-12)):
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    graph.initializer.append(numpy_helper.from_array(np.array([-1]), "last_axis"))
    nodes = []
    for node in graph.node:
        if node.op_type != "LayerNormalization":
            nodes.append(node)
            continue
        (x, scale, bias), y = node.input, node.output[0]
        steps = [
            ("ReduceMean", [x, "last_axis"], "mean"), ("Sub", [x, f"{y}.mean"], "centred"),
            ("Pow", [f"{y}.centred", "two"], "square"), ("ReduceMean", [f"{y}.square", "last_axis"], "variance"),
            ("Add", [f"{y}.variance", "eps"], "shifted"), ("Sqrt", [f"{y}.shifted"], "root"),
            ("Div", [f"{y}.centred", f"{y}.root"], "divided"), ("Mul", [f"{y}.divided", scale], "scaled"),
        ]  # fmt: skip
        nodes += [helper.make_node(kind, inputs, [f"{y}.{name}"], f"{y}/{name}") for kind, inputs, name in steps]
        nodes.append(helper.make_node("Add", [f"{y}.scaled", bias], [y], f"{y}/biased"))
    del graph.node[:]
    graph.node.extend(nodes)
    return model


@pytest.mark.parametrize("name", ["bert", "xlmr"])
def test_norms_in_pieces(name):
    whole, pieces = blocks(name), find_blocks(graphsurgery.load(taken_to_pieces(proto(name))))
    assert found(pieces) == ATTENTIONS[name]
    assert {norm.operator for _, norm in pieces.norms} == {"pieces"}
    names = [
        [(layer, *(value.name for value in (norm.output, norm.source, norm.scale, norm.bias))) for layer, norm in made.norms]
        for made in (whole, pieces)
    ]
    assert names[0] == names[1]


@pytest.mark.parametrize(
    ("value", "local"),
    [
        ("/embeddings/LayerNorm/LayerNormalization_output_0", "/encoder/layer.0/attention/self/query/MatMul_output_0"),
        ("last_hidden_state", "own"),
    ],
)
def test_branches_in_the_middle(value, local):
    """An If that the encoder flows through, before the first layer or behind the last. Its branches take the value from around
    them, and give a value of their own the name of a later node's. That is valid, and no circle: nothing is left out."""
    model = with_branches(FIXTURES / "bert" / "model.onnx", value, local)
    onnx.checker.check_model(model, full_check=True)
    made = find_blocks(graphsurgery.load(model))
    assert len(list(made.flow.graph.nodes)) == len(model.graph.node) == len(list(Editor(model).nodes))
    assert in_short(made) == in_short(blocks("bert"))


def test_an_encoder_of_waveforms() -> None:
    """Its only input has two dims, as masks have. What the convolution makes of it are the tokens."""
    model = onnx.parser.parse_model("""
    <ir_version: 9, opset_import: ["" : 18]>
    waves (float[batch, samples] input_values) => (float[batch, frames, 8] last_hidden_state) {
        cut = Unsqueeze(input_values, one) frames_last = Conv<strides = [4]>(cut, filters)
        x = Transpose<perm = [0, 2, 1]>(frames_last) q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)
        kt = Transpose<perm = [0, 2, 1]>(k) s = MatMul(q, kt) w = Softmax<axis = -1>(s) o = MatMul(w, v)
        last_hidden_state = Add(x, o)
    }
    """)
    arrays = {name: np.ones((8, 8), np.float32) for name in ("wq", "wk", "wv")} | {"filters": np.ones((8, 1, 4), np.float32)}
    arrays |= {"one": np.array([1])}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    attentions = find_blocks(graphsurgery.load(model)).attentions
    assert len(attentions) == 1 and attentions[0].terms == ()
    queries, values = attentions[0].queries, attentions[0].values
    assert queries is not None and values is not None and (queries.output.name, values.output.name) == ("q", "v")
