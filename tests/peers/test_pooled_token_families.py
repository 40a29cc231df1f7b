"""The rewrite pooled-token on exports of families that are not among the fixtures: text, pictures, and the towers of CLIP.

Each keeps its vectors, and all operations of the last layer are left out but those of one token and of keys and values.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from exports import ON_REQUEST, export_folder
from installed import HAS_OPTIMUM
from saved_folders import ARCHITECTURES, make_tokenizer, sizes, write_tokenizer
from test_export import TOWERS, saved_model
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

import graphsurgery
from graphsurgery import AddPooling, PooledToken
from graphsurgery.exporting.exporters import write_onnx
from graphsurgery.exporting.subject import load_subject
from graphsurgery.folders.files import read_json
from graphsurgery.graph.flops import count_flops
from graphsurgery.graph.graph import Graph

TOKENS = 24
PATCHES = 4 * 4 + 1
"""Of pictures of 32 x 32 in patches of 8 x 8, and the class token."""
GATED = ("mistral", "modernbert", "qwen3")
"""The feed-forward part has three matrices."""
NOT_COUNTED = ("deberta-v2",)
"""Shape inference does not find the sizes of all its products."""


def count_saveable(config: dict, tokens: int) -> int:
    """The operations of the last layer for all positions but one, without those of keys and values."""
    hidden = config.get("hidden_size") or config["dim"]
    width = (config.get("num_attention_heads") or config["n_heads"]) * config.get("head_dim", 0) or hidden
    matrices = 3 if config["model_type"] in GATED else 2
    inner = config.get("intermediate_size") or config["hidden_dim"]
    return (tokens - 1) * (4 * hidden * width + 4 * tokens * width + matrices * 2 * hidden * inner)


def check(path: Path, folder: Path, config: dict, tokens: int, *steps: AddPooling) -> None:
    made = graphsurgery.run([*steps, PooledToken()], path, output=folder / "narrowed.onnx")
    assert made.report
    if config["model_type"] in NOT_COUNTED:
        return
    source = graphsurgery.run(steps, path, output=folder / "unused.onnx", dry_run=True, verify=False).model if steps else path
    before, after = (count_flops(Graph.of(graphsurgery.load(one)), 1, tokens) for one in (source, made.output))
    assert before and after and before - after == count_saveable(config, tokens)


@pytest.mark.skipif(not HAS_OPTIMUM, reason="the families are exported by Optimum")
@pytest.mark.parametrize("family", ON_REQUEST)
def test_a_family_of_text(family: str, on_request: Path, tmp_path: Path) -> None:
    pooling = AddPooling("lasttoken" if family == "mistral" else "cls", normalize=True)
    config = read_json(on_request / family / "config.json")
    check(on_request / family / "model.onnx", tmp_path, config, TOKENS, pooling)


def test_the_class_token_of_pictures(tmp_path: Path) -> None:
    config = ViTConfig(**sizes(32, 3, image_size=32, patch_size=8))
    saved_model(ViTModel(config, add_pooling_layer=False), tmp_path)
    path = export_folder(tmp_path, tmp_path / "onnx" / "model.onnx")
    check(path, tmp_path, config.to_dict(), PATCHES, AddPooling("cls", mask="ones"))


@pytest.mark.parametrize(("tower", "tokens"), [("text", TOKENS), ("image", PATCHES)])
def test_a_tower(tower: str, tokens: int, tmp_path: Path) -> None:
    """The heads are those of the export: the end of the text, and the class token."""
    tokenizer = make_tokenizer(ARCHITECTURES["bert"].tokens)
    text = TOWERS["text_config"] | {"vocab_size": tokenizer.get_vocab_size(), "eos_token_id": 3, "bos_token_id": 2}
    model = saved_model(CLIPModel(CLIPConfig(**TOWERS | {"text_config": text}, projection_dim=24)), tmp_path)
    write_tokenizer(ARCHITECTURES["bert"], tokenizer, tmp_path)
    write_onnx(load_subject(tmp_path, "feature-extraction", tower), tmp_path / "model.onnx")
    part = model.config.text_config if tower == "text" else model.config.vision_config
    check(tmp_path / "model.onnx", tmp_path, part.to_dict(), tokens)
