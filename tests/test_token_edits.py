"""Edits of tokens and of scores on the fixtures: proven, no hindrance to the optimizer, found by each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import FIXTURES, fixture_names
from encoders import tiny_encoder
from fusions import fused, fused_without_head, inferred_dims, require_optimizer
from module_folders import drawn, saved
from token_faults import lstm, words

import graphsurgery
from graphsurgery.edits.edit import Edit
from graphsurgery.encoder.hidden_layers import find_layers_by_structure
from graphsurgery.encoder.roles import find_roles
from graphsurgery.errors import AlreadyAppliedError, UnsupportedModelError
from graphsurgery.graph.graph import Graph
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.masks import make_mask
from graphsurgery.runtime.session import open_session

LAYERS = {
    "bert": 3, "bert-dynamo": 2, "bert-external": 2, "bert-fp16": 2, "modernbert": 3, "modernbert-dynamo": 3, "qwen3": 2,
    "qwen3-dynamo": 2, "t5": 3, "xlmr": 2,
}  # fmt: skip
WIDTHS = {
    "bert": 32, "bert-dynamo": 32, "bert-external": 40, "bert-fp16": 48, "modernbert": 32, "modernbert-dynamo": 32, "qwen3": 48,
    "qwen3-dynamo": 48, "t5": 36, "xlmr": 40,
}  # fmt: skip
WORDS = {"vocab": ["a", "b"], "word_weights": {"a": 2.0}, "unknown_word_weight": 0.5}


def layers_of(model: graphsurgery.Model) -> list[str]:
    graph = Graph.of(model)
    return [value.name for value in find_layers_by_structure(graph, graph.value("last_hidden_state"))]


def fixture(name: str) -> Path:
    return FIXTURES / name / "model.onnx"


def cnn(width: int) -> Edit:
    sizes = {"convs.0": 1, "convs.1": 3}
    shapes = {f"{name}.weight": (6, width, size) for name, size in sizes.items()} | {f"{name}.bias": (6,) for name in sizes}
    return graphsurgery.AddCnn(saved(drawn(shapes)))


def layer_pooling(layers: int, start: int = 0) -> Edit:
    weights = np.linspace(1, 2, layers + 1 - start, dtype=np.float32)
    config = {"num_hidden_layers": layers, "layer_start": start}
    return graphsurgery.AddWeightedLayerPooling(saved({"layer_weights": weights}, config))


def edits(name: str) -> dict[str, Edit]:
    """Every edit of tokens, for the encoder ``name``."""
    width = WIDTHS[name]
    return {
        "cnn": cnn(width),
        "lstm": graphsurgery.AddLstm(lstm(1, 2, width)),
        "words": graphsurgery.AddWordWeights(words(WORDS)),
        "layers": layer_pooling(LAYERS[name]),
    }


@pytest.mark.parametrize("kind", ["cnn", "lstm", "words", "layers"])
@pytest.mark.parametrize("name", fixture_names())
def test_every_fixture_is_proven(name: str, kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if kind == "layers":
        request.getfixturevalue("medium_texts")
    steps = [edits(name)[kind], graphsurgery.AddPooling("mean", normalize=True)]
    outcome = graphsurgery.run(steps, fixture(name), output=tmp_path / "model.onnx")
    assert outcome.report and {check.name for check in outcome.report.checks} >= {"head proof", "whole proof"}


@pytest.mark.parametrize("kind", ["cnn", "lstm", "words", "layers"])
@pytest.mark.parametrize("name", ["bert", "t5", "xlmr"])
def test_the_optimizer_fuses_the_same(name: str, kind: str, tmp_path: Path) -> None:
    require_optimizer()
    model = edits(name)[kind].apply(graphsurgery.load(fixture(name)))
    assert inferred_dims(model.to_proto()) == list(model.interface.outputs[0].dims)
    pooled = graphsurgery.add_pooling(model, "mean")
    graphsurgery.save(pooled, tmp_path / "model.onnx")
    assert fused(tmp_path / "model.onnx") == fused_without_head(fixture(name))


@pytest.mark.parametrize("strategy", ["max", "sum"])
def test_symbolic_shape_inference_reads_splade(strategy: str) -> None:
    require_optimizer()
    model = graphsurgery.add_splade_pooling(tiny_encoder(hidden=50, names={"last_hidden_state": "logits"}, opset=18), strategy)
    assert inferred_dims(model.to_proto()) == ["batch", 50]


@pytest.mark.parametrize("name", ["bert", "xlmr", "modernbert"])
def test_hidden_layers_of_an_optimized_graph(name: str, tmp_path: Path) -> None:
    """Fused attentions and skip-layer-norms tell as many layers, of the same numbers."""
    require_optimizer()
    from onnxruntime.transformers.optimizer import optimize_model  # needs sympy

    done = optimize_model(str(fixture(name)), model_type="bert", num_heads=4, hidden_size=WIDTHS[name], opt_level=0)
    done.save_model_to_file(str(tmp_path / "model.onnx"))
    plain, optimized = graphsurgery.load(fixture(name)), graphsurgery.load(tmp_path / "model.onnx")
    layers = [layers_of(model) for model in (plain, optimized)]
    assert len(layers[0]) == len(layers[1]) == LAYERS[name] + 1
    generator = FeedGenerator.for_model(plain, find_roles(plain.interface))
    feed = generator.generate(make_mask([9, 4]), seed=0)
    found = [open_session(model, extra_outputs=names) for model, names in zip((plain, optimized), layers, strict=True)]
    values = [session.run(feed, list(names)) for session, names in zip(found, layers, strict=True)]
    for one, other in zip(*layers, strict=True):
        assert np.allclose(values[0][one][0], values[1][other][0], atol=1e-4)


def test_the_newest_tokens_are_pooled_where_the_old_ones_are_kept() -> None:
    kept = graphsurgery.add_cnn(
        tiny_encoder(), saved(drawn({"convs.0.weight": (3, 8, 1), "convs.0.bias": (3,)})), keep_target=True
    )
    assert [value.name for value in kept.interface.outputs] == ["last_hidden_state", "token_embeddings"]
    assert graphsurgery.add_pooling(kept, "mean").interface.outputs[0].dims == ("batch", 3)


def test_token_weights_are_found_and_can_be_named() -> None:
    weighted = graphsurgery.add_word_weights(tiny_encoder(), words(WORDS), token_weights="idf")
    by_itself = graphsurgery.add_pooling(weighted, "mean")
    named = graphsurgery.add_pooling(weighted, "mean", token_weights="idf")
    assert by_itself.fingerprint == named.fingerprint
    assert "idf" not in str(graphsurgery.add_pooling(weighted, "cls").notes)
    assert graphsurgery.verify(by_itself, against=weighted) and graphsurgery.verify(by_itself, against=tiny_encoder())


def test_weights_of_words_are_those_of_the_ids() -> None:
    config = {
        "vocab": ["[PAD]", "Cat", "cat", "the"],
        "word_weights": {"cat": 2, "the": 0.5, "Cat": 3},
        "unknown_word_weight": 7,
    }
    model = graphsurgery.add_word_weights(tiny_encoder(), words(config))
    [table] = [node for node in model.proto.graph.node if node.name.endswith("word_weights/table")]
    assert list(model.values(table.attribute[0].t)) == [7, 3, 2, 0.5, *[7] * 46]


def test_another_number_of_layers_is_refused() -> None:
    for name in ("bert", "qwen3"):
        with pytest.raises(UnsupportedModelError, match=rf"asks for 10 hidden layers .* and {LAYERS[name] + 1} were found: "):
            layer_pooling(9).apply(graphsurgery.load(fixture(name)))


def test_splade_is_a_head() -> None:
    model = graphsurgery.add_splade_pooling(
        tiny_encoder(hidden=50, names={"last_hidden_state": "logits"}), output_name="sparse"
    )
    with pytest.raises(AlreadyAppliedError, match="add-splade-pooling with max pooling"):
        graphsurgery.add_pooling(model, "mean", hidden_state="token")


@pytest.mark.parametrize("first", [True, False], ids=["before", "behind"])
def test_word_weights_beside_an_input_of_another_type(first: bool, tmp_path: Path) -> None:
    """Ids that no vocabulary has are not looked up in a table of word weights."""
    steps = [graphsurgery.AddWordWeights(words(WORDS)), graphsurgery.InputType("int32")]
    assert graphsurgery.run(steps[:: 1 if first else -1], tiny_encoder(), output=tmp_path / "out.onnx").report
