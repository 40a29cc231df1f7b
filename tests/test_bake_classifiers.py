"""Cross-encoders whose ONNX file is the encoder alone: the head comes from the weights of the whole model beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from baked_folders import HIDDEN, drawn, put_json, run_model, write_folder, write_tokenizer
from encoders import tiny_encoder
from safetensors.numpy import save_file
from test_bake import certificate, command

import graphsurgery
from graphsurgery.cli.main import OK, WRONG
from graphsurgery.recipe import read_recorded_recipe, to_toml
from graphsurgery.references.activation import ACTIVATIONS

IDS = np.array([[2, 4, 5, 6, 3], [2, 7, 3, 0, 0]])
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
ENCODER = "encoder.layer.0.attention.self.query"
LINEAR, NORM = (HIDDEN, HIDDEN), (HIDDEN,)
Layers = dict[str, tuple[int, ...]]
"""The layers of a head by their names in the weights file, and the shapes of their weights."""


def classifier(folder: Path, model_type: str, layers: Layers, biased: bool = True, **config: Any) -> dict[str, np.ndarray]:
    """Write a folder as transformers saves a classifier, with the tiny encoder as ONNX file. Return the weights."""
    rng = np.random.default_rng(5)
    weights = {f"{name}.weight": drawn(rng, shape) for name, shape in layers.items()}
    weights |= {f"{name}.bias": drawn(rng, shape[:1]) for name, shape in layers.items()} if biased else {}
    encoder = {f"{model_type}.{ENCODER}{number}.weight": drawn(rng, (2, 2)) for number in range(9)}
    write_folder(folder, (), tiny_encoder())
    (folder / "modules.json").unlink()
    write_tokenizer(folder)
    labels = list(layers.values())[-1][0]
    names = dict.fromkeys(map(str, range(labels)), "x")
    said = {"model_type": model_type, "architectures": ["SomeForSequenceClassification"], "id2label": names}
    put_json(folder / "config.json", said | config)
    save_file(weights | encoder, folder / "model.safetensors")
    return {name: value.astype(np.float64) for name, value in weights.items()}


def linear(weights: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)


def normal(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def gelu(x: np.ndarray) -> np.ndarray:
    return ACTIVATIONS["gelu"](x)


KINDS: dict[str, tuple[Layers, dict[str, Any], Any]] = {
    "bert": (
        {"bert.pooler.dense": LINEAR, "classifier": (1, HIDDEN)}, {},
        lambda w, h: linear(w, "classifier", np.tanh(linear(w, "bert.pooler.dense", h[:, 0]))),
    ),
    "albert": (
        {"albert.pooler": LINEAR, "classifier": (1, HIDDEN)}, {},
        lambda w, h: linear(w, "classifier", np.tanh(linear(w, "albert.pooler", h[:, 0]))),
    ),
    "xlm-roberta": (
        {"classifier.dense": LINEAR, "classifier.out_proj": (1, HIDDEN)}, {},
        lambda w, h: linear(w, "classifier.out_proj", np.tanh(linear(w, "classifier.dense", h[:, 0]))),
    ),
    "electra": (
        {"classifier.dense": LINEAR, "classifier.out_proj": (1, HIDDEN)}, {},
        lambda w, h: linear(w, "classifier.out_proj", gelu(linear(w, "classifier.dense", h[:, 0]))),
    ),
    "distilbert": (
        {"pre_classifier": LINEAR, "classifier": (1, HIDDEN)}, {},
        lambda w, h: linear(w, "classifier", np.maximum(linear(w, "pre_classifier", h[:, 0]), 0)),
    ),
    "deberta-v2": (
        {"pooler.dense": LINEAR, "classifier": (1, HIDDEN)}, {"pooler_hidden_act": "relu"},
        lambda w, h: linear(w, "classifier", np.maximum(linear(w, "pooler.dense", h[:, 0]), 0)),
    ),
    "modernbert": (
        {"head.dense": LINEAR, "head.norm": NORM, "classifier": (1, HIDDEN)},
        {"classifier_pooling": "mean", "classifier_activation": "gelu", "norm_eps": 1e-5},
        lambda w, h: linear(w, "classifier", normal(gelu(linear(w, "head.dense", mean(h)))) * w["head.norm.weight"]
                            + w.get("head.norm.bias", 0)),
    ),
    "qwen3": (
        {"score": (1, HIDDEN)}, {},
        lambda w, h: linear(w, "score", np.stack([h[0, 4], h[1, 2]])),
    ),
    "llama": (  # the closing token pads as well, so the token before it is the last one
        {"score": (1, HIDDEN)}, {"pad_token_id": 3},
        lambda w, h: linear(w, "score", np.stack([h[0, 3], h[1, 4]])),
    ),
}  # fmt: skip
"""For each model type the head's layers, settings, and the logits that it gives, in numpy."""


def mean(h: np.ndarray) -> np.ndarray:
    return (h * MASK[:, :, None]).sum(axis=1) / MASK.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("model_type", KINDS)
def test_heads(model_type: str, biased: bool, tmp_path: Path, capsys) -> None:
    layers, config, formula = KINDS[model_type]
    folder = tmp_path / "model"
    weights = classifier(folder, model_type, layers, biased, **config)
    code, told = command("bake", folder, capsys=capsys)
    assert code == OK and told["report"]["verdict"] == "PASSED", told
    assert any("the file has no head" in note and list(layers)[-1] in note for note in told["notes"])
    hidden = run_model(folder, "last_hidden_state", input_ids=IDS, attention_mask=MASK).astype(np.float64)
    wanted = 1 / (1 + np.exp(-formula(weights, hidden)))
    found = run_model(tmp_path / "model-baked", "scores", input_ids=IDS, attention_mask=MASK)
    assert found.shape == (2, 1) and np.allclose(found, wanted, atol=1e-6)
    assert "model.safetensors" in certificate(tmp_path / "model-baked")["sources"]


def test_several_labels_and_the_hidden_state(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "model"
    weights = classifier(folder, "roberta", {"classifier.dense": LINEAR, "classifier.out_proj": (3, HIDDEN)})
    code, told = command("bake", folder, "--keep-output", "token_embeddings", capsys=capsys)
    assert code == OK
    assert [value["name"] for value in told["interface"]["after"]["outputs"]] == ["scores", "last_hidden_state"]
    hidden = run_model(tmp_path / "model-baked", "last_hidden_state", input_ids=IDS, attention_mask=MASK).astype(np.float64)
    logits = linear(weights, "classifier.out_proj", np.tanh(linear(weights, "classifier.dense", hidden[:, 0])))
    found = run_model(tmp_path / "model-baked", "scores", input_ids=IDS, attention_mask=MASK)
    assert np.allclose(found, logits, atol=1e-5)


BERT: Layers = {"bert.pooler.dense": LINEAR, "classifier": (1, HIDDEN)}
FAULTY: dict[str, tuple[str, Layers, dict[str, Any], str]] = {
    "an unknown type": ("xlnet", {"sequence_summary": LINEAR, "logits_proj": (1, HIDDEN)}, {}, "head of a xlnet classifier"),
    "another head than the type's": ("bert", {"classifier.dense": LINEAR, "classifier.out_proj": (1, HIDDEN)}, {},
                                     "no pooler.dense.weight of a bert"),
    "a layer more": ("bert", {"extra.dense": LINEAR} | BERT, {}, "extra.dense.bias, extra.dense.weight"),
    "other labels": ("bert", BERT, {"id2label": {"0": "a", "1": "b"}}, "says 2 labels"),
    "an activation that is none of ours": ("deberta-v2", {"pooler.dense": LINEAR, "classifier": (1, HIDDEN)},
                                           {"pooler_hidden_act": "gelu_new"}, "pooler_hidden_act is 'gelu_new'"),
    "another epsilon": ("modernbert", KINDS["modernbert"][0], {"norm_eps": 1e-12}, "norm_eps is 1e-12"),
    "an unknown pooling": ("modernbert", KINDS["modernbert"][0], {"classifier_pooling": "max"}, "classifier_pooling is 'max'"),
    "a layer of another shape": ("bert", BERT | {"bert.pooler.dense": (HIDDEN,)}, {}, "pooler.dense.weight"),
}  # fmt: skip


@pytest.mark.parametrize("how", FAULTY)
def test_heads_that_are_refused(how: str, tmp_path: Path, capsys) -> None:
    model_type, layers, config, message = FAULTY[how]
    folder = tmp_path / "model"
    classifier(folder, model_type, layers, **config)
    code, told = command("bake", folder, capsys=capsys)
    assert code == WRONG and message in told["error"]["message"], told
    assert not (tmp_path / "model-baked").exists()


def test_without_the_weights(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "model"
    classifier(folder, "bert", BERT)
    (folder / "model.safetensors").unlink()
    code, told = command("bake", folder, capsys=capsys)
    assert code == WRONG and "needs the output logits" in told["error"]["message"]
    assert "model.safetensors" in told["error"]["advice"]


def test_a_recipe_of_it_runs_again(tmp_path: Path, capsys) -> None:
    """Which layer of the file an edit took is recorded."""
    folder = tmp_path / "model"
    classifier(folder, "bert", BERT)
    assert command("bake", folder, capsys=capsys)[0] == OK
    steps = certificate(tmp_path / "model-baked")["steps"]
    assert [step["parameters"].get("layer") for step in steps] == [None, "bert.pooler.dense", "classifier", None]
    model = tmp_path / "model-baked" / "onnx" / "model.onnx"
    (tmp_path / "again.toml").write_text(to_toml(read_recorded_recipe(graphsurgery.load(model))), encoding="utf-8")
    assert 'layer = "bert.pooler.dense"' in (tmp_path / "again.toml").read_text(encoding="utf-8")
    code, told = command("run", tmp_path / "again.toml", folder, "-o", tmp_path / "again.onnx", capsys=capsys)
    assert code == OK, told
