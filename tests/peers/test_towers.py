"""split-towers on joint models as exporters write them: vectors and similarities against the PyTorch model's."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from installed import HAS_OPTIMUM
from saved_folders import encoders, sizes
from transformers import (
    BlipConfig,
    BlipModel,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPModel,
    SiglipConfig,
    SiglipModel,
)

import graphsurgery
from graphsurgery.errors import WeightsError
from graphsurgery.recipe import list_recipes
from graphsurgery.report import Verdict
from graphsurgery.runtime.session import open_session

NEAR = 1e-5
SMALL = sizes(32, 2)
PICTURES = SMALL | {"image_size": 32, "patch_size": 8}
WORDS, POSITIONS, END = 99, 16, 98
TEXTS = SMALL | {"vocab_size": WORDS, "max_position_embeddings": POSITIONS, "bos_token_id": 1, "eos_token_id": END}
OUTPUTS = ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds")
INPUTS = ("input_ids", "attention_mask", "pixel_values")
DIMS = {"input_ids": ("texts", "tokens"), "attention_mask": ("texts", "tokens"), "pixel_values": ("pictures",)}
SCALE, BIAS = 1.3, -2.5
"""The logarithm of the scale of the similarities, and the bias: numbers that matter."""


def make_model(kind: str) -> torch.nn.Module:
    configs = {"text_config": TEXTS, "vision_config": PICTURES, "projection_dim": 24}
    classes = {
        "clip": (CLIPModel, CLIPConfig), "chinese-clip": (ChineseCLIPModel, ChineseCLIPConfig),
        "siglip": (SiglipModel, SiglipConfig), "blip": (BlipModel, BlipConfig),
    }  # fmt: skip
    model, config = classes[kind]
    if kind == "siglip":
        del configs["projection_dim"]
    made = model(config(**configs))
    encoders.randomise(made, 5)
    with torch.no_grad():
        made.logit_scale.fill_(SCALE)
        if kind == "siglip":
            made.logit_bias.fill_(BIAS)
    return made.eval()


class Joint(torch.nn.Module):
    """The model with its four outputs alone, in the usual order."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, pixel_values: torch.Tensor) -> tuple:
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, pixel_values=pixel_values)
        return tuple(found[name] for name in OUTPUTS)


def draw(texts: int, pictures: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Texts of different lengths with padding behind them, each with the end of text at its end, and pictures."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 90, (texts, 9), generator=generator)
    lengths = [9 - 2 * row for row in range(texts)]
    mask = (torch.arange(9) < torch.tensor(lengths)[:, None]).long()
    ids[torch.arange(texts), torch.tensor(lengths) - 1] = END
    drawn = torch.randn((pictures, 3, 32, 32), generator=generator)
    return dict(zip(INPUTS, (torch.where(mask > 0, ids, END), mask, drawn), strict=True))


def export_by_optimum(model: torch.nn.Module, folder: Path) -> None:
    from optimum.exporters.onnx import onnx_export_from_model

    onnx_export_from_model(model, folder, task="zero-shot-image-classification", do_validation=False, opset=17)


def export_as_script(model: torch.nn.Module, folder: Path) -> None:
    axes = {name: dict(enumerate(dims)) for name, dims in DIMS.items()}
    torch.onnx.export(
        Joint(model), tuple(draw(2, 3).values()), folder / "model.onnx", input_names=list(INPUTS), output_names=list(OUTPUTS),
        dynamic_axes=axes, dynamo=False, opset_version=17,
    )  # fmt: skip


def export_as_graph(model: torch.nn.Module, folder: Path) -> None:
    """With the names that the exporter chooses."""
    free = torch.export.Dim.DYNAMIC
    shapes = tuple(dict.fromkeys(range(len(dims)), free) for dims in DIMS.values())
    torch.onnx.export(
        Joint(model), tuple(draw(2, 3).values()), folder / "model.onnx", dynamic_shapes=shapes, dynamo=True, verbose=False,
        external_data=False,
    )  # fmt: skip


@pytest.mark.skipif(not HAS_OPTIMUM, reason="about what Optimum leaves out")
def test_a_projection_that_an_export_left_out(tmp_path: Path, worst) -> None:
    """It is taken from the folder's safetensors."""
    from optimum.exporters.onnx import onnx_export_from_model

    model = make_model("clip")
    model.save_pretrained(tmp_path / "folder")
    onnx_export_from_model(model.vision_model, tmp_path, task="feature-extraction", do_validation=False, opset=17)
    found = graphsurgery.add_dense(
        tmp_path / "model.onnx", tmp_path / "folder", activation="identity", layer="visual_projection", target="pooler_output"
    )
    image = graphsurgery.keep_outputs(graphsurgery.add_normalize(found, target="pooler_output"), "pooler_output")
    assert graphsurgery.verify(image, against=tmp_path / "model.onnx")
    feed = draw(1, 3)
    with torch.no_grad():
        wanted = model(**feed).image_embeds.numpy()
    vectors = open_session(image).run({"pixel_values": feed["pixel_values"].numpy()})["pooler_output"]
    worst.within("towers against PyTorch", vectors, wanted, NEAR, "a projection of the folder")
    with pytest.raises(WeightsError, match=r"has no .projection\.weight."):
        graphsurgery.add_dense(
            tmp_path / "model.onnx", tmp_path / "folder", activation="identity", layer="projection", target="pooler_output"
        )


Export = Callable[[torch.nn.Module, Path], None]
EXPORTS: list[tuple[str, Export]] = (
    [
        ("clip", export_by_optimum),
        ("chinese-clip", export_by_optimum),
        ("siglip", export_by_optimum),
        ("blip", export_as_script),
    ]
    if HAS_OPTIMUM
    else [("clip", export_as_graph), ("siglip", export_as_graph)]
)


@pytest.mark.parametrize(("kind", "export"), EXPORTS, ids=[f"{kind}, {export.__name__}" for kind, export in EXPORTS])
def test_towers_of(kind: str, export: Export, tmp_path: Path, worst) -> None:
    """Vectors of length one, as PyTorch gives them, for unequal batches of ragged texts; and the similarities of both."""
    model = make_model(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export(model, tmp_path)
    split = graphsurgery.split_towers(tmp_path / "model.onnx", tmp_path / "towers")
    assert split.report and split.report.checks[0].verdict is Verdict.PASSED
    sessions = {
        name: onnxruntime.InferenceSession(one.output, providers=["CPUExecutionProvider"]) for name, one in split.towers.items()
    }
    if kind in list_recipes():
        made = graphsurgery.run_recipe(kind, tmp_path / "model.onnx", output=tmp_path / "recipe.onnx", verify=False)
        assert list(made.model.proto.graph.node) == list(split.towers["text"].model.proto.graph.node)
    parameters = split.towers["text"].steps[0]["parameters"]
    scale, bias = float(parameters["scale"]), float(parameters["bias"] or 0)
    assert scale == pytest.approx(np.exp(SCALE), rel=1e-6) and bias == (BIAS if kind == "siglip" else 0)
    for texts, pictures in ((3, 2), (1, 4)):
        feed = draw(texts, pictures, seed=texts)
        if kind == "siglip":
            feed["attention_mask"] = torch.ones_like(feed["attention_mask"])  # its exports take none
        with torch.no_grad():
            wanted = model(**feed)
        vectors = {}
        for name, session in sessions.items():
            (vectors[name],) = session.run(None, {one.name: feed[one.name].numpy() for one in session.get_inputs()})
            expected = wanted[f"{name}_embeds"].numpy()
            worst.within("towers against PyTorch", vectors[name], expected, NEAR, f"{kind} {name}")
        products = scale * vectors["text"] @ vectors["image"].T + bias
        expected = wanted.logits_per_text.numpy()
        worst.within("similarities against PyTorch", products, expected, NEAR * np.abs(expected).max(), kind)
