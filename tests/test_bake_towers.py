"""Folders whose first module takes text by a tower of its model (CLIP, SigLIP): the ONNX file of the text tower is baked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from baked_folders import Entry, normalize, transformer, write_folder
from encoders import tiny_encoder
from onnx import TensorProto, helper
from test_bake import command, embed
from test_bake_own_class import encoder_that_pools

from graphsurgery.cli.main import OK, WRONG

METHODS = {"text": {"method": "get_text_features", "method_output_name": "pooler_output"}}
NEWER = transformer(modality_config=METHODS, module_output_name="sentence_embedding")
OLDER = Entry("CLIPModel")


@pytest.mark.parametrize("first", [NEWER, OLDER], ids=["Transformer", "CLIPModel"])
def test_a_text_tower(first: Entry, tmp_path: Path, capsys) -> None:
    folder = write_folder(tmp_path / "model", (first, normalize("1_Normalize")), encoder_that_pools("text_embeds"))
    code, told = command("bake", folder, capsys=capsys)
    assert code == OK and told["report"]["verdict"] == "PASSED", told
    before = embed(folder, "text_embeds")[0]
    assert np.allclose(embed(tmp_path / "model-baked")[0], before / np.linalg.norm(before), atol=1e-6)


def joint() -> onnx.ModelProto:
    """A file of both towers: two embeddings, and pictures as an input."""
    model = encoder_that_pools("text_embeds")
    model.graph.input.append(helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3]))
    model.graph.node.append(helper.make_node("Neg", ["pixel_values"], ["image_embeds"]))
    model.graph.output.append(helper.make_tensor_value_info("image_embeds", TensorProto.FLOAT, ["batch", 3]))
    return model


def picture_tower() -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("pixel_values", "image_embeds")]
    graph = helper.make_graph([helper.make_node("Neg", ["pixel_values"], ["image_embeds"])], "tower", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("encoder", [joint, picture_tower, tiny_encoder], ids=["both towers", "pictures", "no tower"])
def test_files_of_something_else(encoder, tmp_path: Path, capsys) -> None:
    folder = write_folder(tmp_path / "model", (NEWER, normalize("1_Normalize")), encoder())
    code, told = command("bake", folder, capsys=capsys)
    assert (code, told["error"]["type"]) == (WRONG, "NothingToPoolError"), told
    assert "is not the file of a text tower" in told["error"]["message"]
    assert told["error"]["advice"].endswith("--tower text") and not (tmp_path / "model-baked").exists()
