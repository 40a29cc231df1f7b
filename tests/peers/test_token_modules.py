"""Modules over token embeddings, and SPLADE pooling, against sentence-transformers' own, which also write the weights.

Token embeddings come from a model that hands its input on, so that all that differs is what was added; the float64 references
are held against the same modules. Hidden layers come from small encoders, and are those of transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from exports import COMMITTED, FIXTURES, ON_REQUEST, export_folder
from installed import HAS_OPTIMUM, count_positions, weights_from
from onnx import ModelProto, TensorProto, helper
from saved_folders import ARCHITECTURES, encoders, make_encoder, make_tokenizer, write_tokenizer
from sentence_transformers.sentence_transformer.modules import CNN, LSTM, Pooling, WeightedLayerPooling, WordWeights
from sentence_transformers.sparse_encoder.modules import SpladePooling
from transformers import BertConfig, BertForMaskedLM

import graphsurgery
from graphsurgery.edits.edit import Edit
from graphsurgery.model.provenance import read_steps
from graphsurgery.references.chain import Chain
from graphsurgery.references.recorded_weights import RecordedWeights
from graphsurgery.references.reference import expect_exactly

RELATIVE, UNIT = 1e-5, 1e-6
OPSETS = (11, 13, 18)
RIGHT, ANYWHERE = "right", "anywhere"
VOCABULARY = 200
Array = np.ndarray
Feed = dict[str, Array]


def nothing(
    width: int, opset: int, layers: int = 1, name: str = "last_hidden_state", dtype: int = TensorProto.FLOAT
) -> ModelProto:
    """``x_0, x_1, ... [batch, seq, width]`` handed on as ``hidden_states.0``, ..., the last one as ``name``; ids and mask."""
    inputs = [
        helper.make_tensor_value_info(one, TensorProto.INT64, ["batch", "seq"]) for one in ("input_ids", "attention_mask")
    ]
    inputs += [helper.make_tensor_value_info(f"x_{layer}", dtype, ["batch", "seq", width]) for layer in range(layers)]
    names = [*(f"hidden_states.{layer}" for layer in range(layers) if layers > 1), name]
    nodes = [helper.make_node("Identity", [f"x_{min(place, layers - 1)}"], [one]) for place, one in enumerate(names)]
    outputs = [helper.make_tensor_value_info(one, dtype, ["batch", "seq", width]) for one in names]
    opsets = [helper.make_opsetid("", opset)]
    version = helper.find_min_ir_version_for(opsets)
    return helper.make_model(helper.make_graph(nodes, "nothing", inputs, outputs), opset_imports=opsets, ir_version=version)


def feeds(width: int, padding: str, layers: int = 1) -> list[Feed]:
    """Ragged batches, the embeddings of all sizes from 1e-3 to 30, at padding too."""
    found = []
    for seed, (batch, length) in enumerate(((1, 1), (1, 12), (6, 9), (5, 40), (3, 130))):
        rng = np.random.default_rng(seed)
        lengths = np.concatenate([[length], rng.integers(1, length + 1, batch - 1)])
        mask = np.arange(length) < lengths[:, None]
        if padding == ANYWHERE:
            mask = np.stack([rng.permutation(row) for row in mask])
        feed = {"input_ids": rng.integers(0, VOCABULARY, mask.shape), "attention_mask": mask.astype(np.int64)}
        for layer in range(layers):
            x = rng.standard_normal((*mask.shape, width)) * 10.0 ** rng.uniform(-3, 1.5, (batch, 1, 1))
            feed[f"x_{layer}"] = x.astype(np.float32)
        found.append(feed)
    return found


def features(feed: Feed, x: str = "x_0") -> dict[str, torch.Tensor]:
    """As sentence-transformers' modules take them."""
    given = {"token_embeddings": x, "input_ids": "input_ids", "attention_mask": "attention_mask"}
    found = {name: torch.from_numpy(feed[key].copy()) for name, key in given.items()}
    return found | {"sentence_lengths": torch.from_numpy(feed["attention_mask"].sum(axis=1))}


def applied(model: ModelProto | Path, *edits: Edit) -> graphsurgery.Model:
    found = graphsurgery.load(model)
    for edit in edits:
        found = edit.apply(found)
    return found


def run(model: graphsurgery.Model, feed: Feed, name: str) -> Array:
    session = onnxruntime.InferenceSession(model.to_proto().SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = {value.name for value in session.get_inputs()}
    return session.run([name], {key: array for key, array in feed.items() if key in wanted})[0]


def reference(model: graphsurgery.Model, feed: Feed, values: Mapping[str, str], name: str) -> Array:
    """What the float64 references make of the feed, whose embeddings the model knows by other names."""
    weights = RecordedWeights.of(model, model.proto.graph.node)
    known = feed | {called: feed[key] for called, key in values.items()}
    return Chain(read_steps(model.proto)).compose(expect_exactly, weights)(known)[name].values


def allowed(expected: Array, *given: Array) -> Array:
    """1e-5 max(1, max|x|) over each row."""
    largest = [np.abs(one).reshape(len(one), -1).max(axis=1) for one in (expected, *given)]
    return RELATIVE * np.maximum(1, np.max(largest, axis=0)).reshape(-1, *[1] * (expected.ndim - 1))


def saved(module: torch.nn.Module, folder: Path) -> str:
    """The folder that the module writes, its weights drawn anew; it is in eval mode afterwards."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        if parameter.requires_grad and not isinstance(module, WordWeights):
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.4)
    module.eval().save(str(folder))
    return str(folder)


CNNS = (
    {"in_embedding_dimension": 16, "out_channels": 6},
    {"in_embedding_dimension": 24, "out_channels": 5, "kernel_sizes": [7]},
    {"in_embedding_dimension": 8, "out_channels": 3, "kernel_sizes": [5, 1, 3, 3, 9]},
    {"in_embedding_dimension": 384, "out_channels": 128, "kernel_sizes": [1, 3, 5]},
)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("config", CNNS, ids=str)
def test_cnn(config, opset, tmp_path, worst):
    tmp_path.joinpath("1_CNN").mkdir()
    module, width = CNN(**config), config["in_embedding_dimension"]
    model = applied(nothing(width, opset), graphsurgery.AddCnn(saved(module, tmp_path / "1_CNN")))
    for feed in feeds(width, ANYWHERE):
        with torch.no_grad():
            expected = module(features(feed))["token_embeddings"].numpy()
        limit = allowed(expected, feed["x_0"])
        worst.within("CNN", run(model, feed, "token_embeddings"), expected, limit, str(config))
        found = reference(model, feed, {"last_hidden_state": "x_0"}, "token_embeddings")
        worst.within("CNN, the reference", found, expected, limit, str(config))


LSTMS = (
    {"embedding_dimension": 16, "hidden_dim": 6},
    {"embedding_dimension": 16, "hidden_dim": 7, "bidirectional": False},
    {"embedding_dimension": 8, "hidden_dim": 4, "num_layers": 3, "dropout": 0.1},
    {"embedding_dimension": 12, "hidden_dim": 9, "num_layers": 2, "bidirectional": False},
    {"embedding_dimension": 384, "hidden_dim": 64, "num_layers": 2},
)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("config", LSTMS, ids=str)
def test_lstm(config, opset, tmp_path, worst):
    """The result of sentence-transformers is cut to the longest row: behind it there are zeros here."""
    tmp_path.joinpath("1_LSTM").mkdir()
    module, width = LSTM(**config), config["embedding_dimension"]
    model = applied(nothing(width, opset), graphsurgery.AddLstm(saved(module, tmp_path / "1_LSTM")))
    for feed in [*feeds(width, RIGHT), *feeds(width, ANYWHERE)]:
        with torch.no_grad():
            expected = module(features(feed))["token_embeddings"].numpy()
        found = run(model, feed, "token_embeddings")
        assert not found[:, expected.shape[1] :].any()
        limit = allowed(expected, feed["x_0"])
        worst.within("LSTM", found[:, : expected.shape[1]], expected, limit, str(config))
        found = reference(model, feed, {"last_hidden_state": "x_0"}, "token_embeddings")[:, : expected.shape[1]]
        worst.within("LSTM, the reference", found, expected, limit, str(config))


def word_weights(kind: str) -> WordWeights:
    rng = np.random.default_rng(5)
    words = [f"Word{place}" if place % 3 else f"word{place}" for place in range(VOCABULARY)]
    drawn = rng.uniform(0.05, 9, VOCABULARY) if kind != "of either sign" else rng.standard_normal(VOCABULARY)
    known = {
        word.lower() if place % 2 else word: float(weight)
        for place, (word, weight) in enumerate(zip(words, drawn, strict=True))
    }
    if kind == "many unknown":
        known = dict(list(known.items())[:60]) | {"never": 3.0, "Word100": 0}
    return WordWeights(words, known, {"many unknown": 0.25}.get(kind, 1))


SIX = ("cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
KINDS = ("all known", "many unknown", "of either sign")


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("kind", KINDS)
def test_word_weights(kind, opset, tmp_path, worst):
    module = word_weights(kind)
    edit = graphsurgery.AddWordWeights(saved(module, tmp_path))
    model = applied(nothing(16, opset), edit)
    for feed in feeds(16, ANYWHERE):
        with torch.no_grad():
            expected = module(features(feed))["token_embeddings"].numpy()
        worst.within("WordWeights", run(model, feed, "token_embeddings"), expected, allowed(expected), kind)
        found = reference(model, feed, {"last_hidden_state": "x_0"}, "token_embeddings")
        worst.within("WordWeights, the reference", found, expected, allowed(expected), kind)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("mode", [*SIX, "mean,weightedmean,cls"])
@pytest.mark.parametrize("kind", KINDS)
def test_pooling_of_weighted_words(kind, mode, opset, tmp_path, worst):
    """Means divide by the sum of the weights, as sentence-transformers' Pooling does with ``token_weights_sum``."""
    module = word_weights(kind)
    model = applied(
        nothing(16, opset),
        graphsurgery.AddWordWeights(saved(module, tmp_path)),
        graphsurgery.AddPooling(mode, weights_from=weights_from(mode)),
    )
    for feed in feeds(16, ANYWHERE):
        with torch.no_grad():
            given = module(features(feed))
            expected = Pooling(16, tuple(mode.split(",")))(given)["sentence_embedding"].numpy()
        limit = allowed(expected, given["token_embeddings"].numpy()) * np.concatenate(
            [np.repeat(magnified(one, feed, given), 16, axis=1) for one in mode.split(",")], axis=1
        )
        worst.within(f"WordWeights, {mode}", run(model, feed, "sentence_embedding"), expected, limit, kind)
        found = reference(model, feed, {"last_hidden_state": "x_0"}, "sentence_embedding")
        worst.within(f"WordWeights, {mode}, the reference", found, expected, limit, kind)


def magnified(mode: str, feed: Feed, given: Mapping[str, torch.Tensor]) -> Array:
    """How much an error in every token weighs in what a mode gives, ``[batch, 1]``: the number of tokens, or the sum of their
    positions, by the divisor; 1 at least. Weights of either sign may cancel each other, so that the divisor is small."""
    mask, total = feed["attention_mask"], np.maximum(given["token_weights_sum"].numpy(), 1e-9)
    amount = count_positions(mask).sum(axis=1) if mode == "weightedmean" else mask.sum(axis=1)
    divisor = {"mean": total, "mean_sqrt_len_tokens": np.sqrt(total), "weightedmean": total}.get(mode, amount)
    return np.maximum(amount / divisor, 1)[:, None]


LAYERS = ((12, 4), (3, 0), (6, 6), (2, 1))


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(("layers", "start"), LAYERS)
def test_weighted_layers(layers, start, opset, tmp_path, worst):
    """Of hidden layers that are outputs ``hidden_states.<n>``."""
    module = WeightedLayerPooling(16, layers, start)
    torch.nn.init.uniform_(module.layer_weights, 0.1, 2)
    module.save(str(tmp_path))
    source = nothing(16, opset, layers + 1)
    model = applied(source, graphsurgery.AddWeightedLayerPooling(str(tmp_path)))
    names = {f"hidden_states.{layer}": f"x_{layer}" for layer in range(layers + 1)}
    for feed in feeds(16, ANYWHERE, layers + 1):
        hidden = [torch.from_numpy(feed[name]) for name in names.values()]
        expected = module({"all_layer_embeddings": tuple(hidden)})["token_embeddings"].detach().numpy()
        limit = allowed(expected, *(feed[name] for name in names.values()))
        worst.within("WeightedLayerPooling", run(model, feed, "token_embeddings"), expected, limit, f"{layers}, {start}")
        found = reference(model, feed, names | {"last_hidden_state": f"x_{layers}"}, "token_embeddings")
        worst.within("WeightedLayerPooling, the reference", found, expected, limit, f"{layers}, {start}")


FLOAT32 = [
    name
    for name in (*COMMITTED, *(ON_REQUEST if HAS_OPTIMUM else ()))
    if name not in ("bert-fp16", "bert-external") and not name.endswith("-dynamo")
]
"""The architectures in float32; of BERT, the export that holds its weights. Where there is no Optimum, they are exported anew,
in dynamo form."""


@pytest.mark.parametrize("name", FLOAT32)
def test_hidden_layers_are_those_of_transformers(name, request, tmp_path, worst):
    """Each by itself, found by the structure of the graph: the mean of one layer is that layer.

    ModernBERT's last layer is not normalised in transformers 4, which ``before_norm`` asks for; in transformers 5 it is. ONNX
    Runtime's layers differ from PyTorch's by the encoder's own rounding. A seed gives other weights in transformers 5, so that
    the file is exported anew there.
    """
    parent = FIXTURES if name in COMMITTED else request.getfixturevalue("on_request")
    architecture = ARCHITECTURES[name]
    path = parent / name / "model.onnx" if HAS_OPTIMUM else make_encoder(name, tmp_path).onnx
    encoder = encoders.make_encoder(architecture, make_tokenizer(architecture.tokens).get_vocab_size())
    inputs = [value.name for value in graphsurgery.load(path).interface.inputs]
    with np.load(parent / name / "goldens.npz") as goldens:
        feed = {one: goldens[f"right/{one}"] for one in inputs}
    with torch.no_grad():
        given = {key: torch.from_numpy(array) for key, array in feed.items()}
        hidden = [one.numpy() for one in encoder(**given, output_hidden_states=True).hidden_states]
    for layer, expected in enumerate(hidden):
        module = WeightedLayerPooling(expected.shape[2], len(hidden) - 1, 0)
        with torch.no_grad():
            module.layer_weights.copy_(torch.eye(len(hidden))[layer])
        module.save(str(tmp_path))
        edit = graphsurgery.AddWeightedLayerPooling(str(tmp_path), before_norm=name == "modernbert" and HAS_OPTIMUM)
        found = run(applied(path, edit), feed, "token_embeddings")
        tokens = feed["attention_mask"] != 0
        limit = 1e-5 * np.maximum(1, np.abs(expected).max())
        worst.within("hidden layers of small encoders", found[tokens], expected[tokens], limit, f"{name}, layer {layer}")


STRATEGIES, ACTIVATIONS = ("max", "sum"), ("relu", "log1p_relu")


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_splade(strategy, activation, opset, worst):
    module = SpladePooling(strategy, activation).eval()
    model = applied(nothing(VOCABULARY, opset, name="logits"), graphsurgery.AddSpladePooling(strategy, activation))
    for feed in feeds(VOCABULARY, ANYWHERE):
        expected = module(features(feed))["sentence_embedding"].numpy()
        limit = allowed(expected)
        worst.within(f"SpladePooling, {strategy}, {activation}", run(model, feed, "sentence_embedding"), expected, limit)
        found = reference(model, feed, {"logits": "x_0"}, "sentence_embedding")
        worst.within(f"SpladePooling, {strategy}, {activation}, the reference", found, expected, limit)


@pytest.fixture(scope="module")
def masked_language_model(tmp_path_factory) -> tuple[Path, BertForMaskedLM]:
    """A small BERT with its masked-language-model head, exported with it."""
    torch.manual_seed(4)
    architecture = ARCHITECTURES["bert"]
    tokenizer = make_tokenizer(architecture.tokens)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    model = BertForMaskedLM(BertConfig(vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=64, **sizes)).eval()
    encoders.randomise(model, 4)
    folder = tmp_path_factory.mktemp("mlm")
    model.save_pretrained(folder)
    write_tokenizer(architecture, tokenizer, folder)
    return export_folder(folder, folder / "model.onnx", "fill-mask"), model


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_splade_of_an_export(masked_language_model, strategy, activation, tmp_path, worst):
    """The whole run passes its proof, and agrees with PyTorch's own scores pooled by sentence-transformers."""
    path, model = masked_language_model
    steps = [graphsurgery.AddSpladePooling(strategy, activation)]
    outcome = graphsurgery.run(steps, path, output=tmp_path / "splade.onnx")
    assert outcome.report and outcome.interface.outputs[0].dims[-1] == model.config.vocab_size
    for feed in feeds(1, RIGHT)[:4]:
        given = {"input_ids": feed["input_ids"], "attention_mask": feed["attention_mask"]}
        given["token_type_ids"] = np.zeros_like(given["input_ids"])
        with torch.no_grad():
            logits = model(**{key: torch.from_numpy(array) for key, array in given.items()}).logits
        mask = torch.from_numpy(feed["attention_mask"])
        expected = SpladePooling(strategy, activation).eval()({"token_embeddings": logits, "attention_mask": mask})
        found = run(graphsurgery.load(tmp_path / "splade.onnx"), given, "sentence_embedding")
        rows = expected["sentence_embedding"].numpy()
        worst.within(f"SPLADE of a BERT, {strategy}, {activation}", found, rows, 2 * allowed(rows, logits.numpy()))


@pytest.mark.parametrize("modules", [("cnn", "lstm"), ("words", "cnn"), ("lstm", "words")], ids="-".join)
def test_chains_of_modules(modules: Sequence[str], tmp_path, worst):
    """Behind each other, then pooled and normalised, each proven on the way."""
    made = {"cnn": CNN(16, 8, [1, 3]), "lstm": LSTM(16, 8), "words": word_weights("all known")}
    kinds = {"cnn": graphsurgery.AddCnn, "lstm": graphsurgery.AddLstm, "words": graphsurgery.AddWordWeights}
    edits: list[Edit] = []
    for name in modules:
        (tmp_path / name).mkdir()
        edits.append(kinds[name](saved(made[name], tmp_path / name)))
    edits.append(graphsurgery.AddPooling("mean", normalize=True))
    source = nothing(16, 17)
    outcome = graphsurgery.run(edits, source, output=tmp_path / "out.onnx")
    assert outcome.report, json.dumps(outcome.report.to_json())
    for feed in feeds(16, RIGHT):
        given = features(feed)
        with torch.no_grad():
            for name in modules:
                given = made[name](given)
            expected = torch.nn.functional.normalize(Pooling(16, "mean")(given)["sentence_embedding"]).numpy()
        worst.within(" ".join(modules), run(outcome.model, feed, "sentence_embedding"), expected, 5 * UNIT)
