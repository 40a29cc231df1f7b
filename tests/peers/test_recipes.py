"""Every recipe on a tiny export of its architecture, against sentence-transformers' own modules in its order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from exports import export_folder
from saved_folders import feed_of, make_encoder, run_onnx
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling
from sentence_transformers.sparse_encoder.modules import SpladePooling
from test_bake import command
from test_bake_modules import head_model
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from graphsurgery.edits.edit import Edit
from graphsurgery.recipe import Recipe, list_recipes, read_recipe

pytestmark = pytest.mark.usefixtures("short_texts")

RECIPES = list(list_recipes().values())
TINY = {
    "bert": "bert", "mpnet": "mpnet", "xlm-roberta": "xlmr", "t5": "t5", "qwen3": "qwen3", "gemma3_text": "gemma3",
    "nomic_bert": "bert",  # needs code of the model's own; the recipe says so
}  # fmt: skip
ELSEWHERE = ("bge-m3", "clip", "chinese-clip", "siglip", "hubert", "wav2vec2", "wavlm")
"""Recipes with a test of their own: below, those of towers in test_towers.py, those of speech in test_hidden_layers.py."""
RELATIVE, UNIT = 1e-5, 1e-6


def module_of(step: Edit, width: int, folder: Path) -> torch.nn.Module:
    """The module of sentence-transformers that a step stands for; a Dense with random weights is saved to where it looks."""
    if step.verb == "add-pooling":
        return Pooling(width, step.mode)
    if step.verb == "add-normalize":
        return Normalize()
    if step.verb == "add-splade-pooling":
        return SpladePooling(step.strategy, step.activation)
    assert step.verb == "add-dense", step.verb
    activation = {"identity": torch.nn.Identity(), "tanh": torch.nn.Tanh()}[step.activation]
    module = Dense(width, 20, bias=step.activation == "tanh", activation_function=activation)
    place = folder / Path(step.weights).name
    place.mkdir()
    module.save(str(place))
    return module


def source_of(recipe: Recipe, folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """(the ONNX file that the recipe is for, a feed of ragged texts padded on the recipe's side)."""
    encoder = make_encoder(TINY[recipe.architecture], folder)
    feed = feed_of(SentenceTransformer(modules=[encoder.module(recipe.padding_side)], device="cpu"))
    kinds = {
        "add-splade-pooling": (AutoModelForMaskedLM, "fill-mask"),
        "add-activation": (AutoModelForSequenceClassification, "sequence-classification"),
    }
    if recipe.steps[0].verb not in kinds:
        return encoder.onnx, feed
    kind, task = kinds[recipe.steps[0].verb]
    settings = {"num_labels": 1} if task == "sequence-classification" else {}
    source = head_model(kind, encoder.folder, folder / "head", **settings)
    return export_folder(source, folder / "export" / "model.onnx", task), feed


@pytest.mark.parametrize("path", [path for path in RECIPES if path.stem not in ELSEWHERE], ids=lambda path: path.stem)
def test_recipe(path: Path, tmp_path: Path, capsys, worst) -> None:
    torch.manual_seed(11)
    recipe = read_recipe(path)
    onnx, feed = source_of(recipe, tmp_path)
    before = run_onnx(onnx, feed)
    hidden = torch.from_numpy(next(iter(before.values())))
    features = feed | {"token_embeddings": hidden}
    if recipe.steps[0].verb == "add-activation":
        assert [step.verb for step in recipe.steps] == ["add-activation"]
        wanted = torch.sigmoid(hidden) if recipe.steps[0].activation == "sigmoid" else hidden
    else:
        width = hidden.shape[-1]
        for step in recipe.steps:
            module = module_of(step, width, onnx.parent).eval()
            with torch.no_grad():
                features = module(features)
            width = features["sentence_embedding"].shape[-1]
        wanted = features["sentence_embedding"]
    stands_in = ["--force-recipe"] if recipe.architecture == "nomic_bert" else []
    code, told = command("run", path, onnx, "-o", tmp_path / "out.onnx", *stands_in, capsys=capsys)
    assert code == 0 and told["report"]["verdict"] == "PASSED", told
    found = next(iter(run_onnx(tmp_path / "out.onnx", feed).values()))
    unit = recipe.steps[-1].verb == "add-normalize"
    allowed = UNIT if unit else RELATIVE * np.maximum(1, np.abs(hidden.numpy()).max())
    worst.within("recipes, unit vectors" if unit else "recipes, vectors and scores", found, wanted.numpy(), allowed, path.stem)


def test_bge_m3(tmp_path: Path, capsys, worst) -> None:
    """Three outputs, against the formulas of the paper in torch."""
    torch.manual_seed(12)
    path = RECIPES[[path.stem for path in RECIPES].index("bge-m3")]
    onnx, feed = source_of(read_recipe(path), tmp_path)
    hidden = torch.from_numpy(run_onnx(onnx, feed)["last_hidden_state"])
    sparse, colbert = torch.nn.Linear(hidden.shape[-1], 1), torch.nn.Linear(hidden.shape[-1], hidden.shape[-1])
    torch.save(sparse.state_dict(), onnx.parent / "sparse_linear.pt")
    torch.save(colbert.state_dict(), onnx.parent / "colbert_linear.pt")
    code, told = command("run", path, onnx, "-o", tmp_path / "out.onnx", capsys=capsys)
    assert code == 0 and told["report"]["verdict"] == "PASSED", told
    found = run_onnx(tmp_path / "out.onnx", feed)
    mask = feed["attention_mask"][:, :, None].float()
    with torch.no_grad():
        later = mask * (torch.arange(mask.shape[1])[None, :, None] > 0)
        wanted = {
            "sentence_embedding": torch.nn.functional.normalize(hidden[:, 0], dim=-1),
            "sparse_weights": torch.relu(sparse(hidden)) * mask,
            "colbert_vectors": torch.nn.functional.normalize(colbert(hidden), dim=-1) * later,
        }
    for name, values in wanted.items():
        worst.within("recipes, bge-m3", found[name], values.numpy(), RELATIVE * 4 if name == "sparse_weights" else UNIT, name)
