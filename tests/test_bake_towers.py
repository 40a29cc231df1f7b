"""Folders whose first module takes text by a tower of its model (CLIP, SigLIP): the ONNX file of the text tower is baked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from baked_folders import Entry, normalize, transformer, write_folder
from encoders import tiny_encoder
from joints import joint
from onnx import TensorProto, helper
from test_bake import command, embed
from test_bake_own_class import encoder_that_pools
from test_towers import compute, draw

import graphsurgery
from graphsurgery.baking import bake as bake_module
from graphsurgery.cli.main import OK, VERDICT, WRONG
from graphsurgery.errors import VerificationFailed

METHODS = {"text": {"method": "get_text_features", "method_output_name": "pooler_output"}}
NEWER = transformer(modality_config=METHODS, module_output_name="sentence_embedding")
OLDER = Entry("CLIPModel")
OLDEST = Entry("CLIPModel", "0_CLIPModel")


@pytest.mark.parametrize("first", [NEWER, OLDER], ids=["Transformer", "CLIPModel"])
def test_a_text_tower(first: Entry, tmp_path: Path, capsys) -> None:
    folder = write_folder(tmp_path / "model", (first, normalize("1_Normalize")), encoder_that_pools("text_embeds"))
    code, told = command("bake", folder, capsys=capsys)
    assert code == OK and told["report"]["verdict"] == "PASSED", told
    before = embed(folder, "text_embeds")[0]
    assert np.allclose(embed(tmp_path / "model-baked")[0], before / np.linalg.norm(before), atol=1e-6)


@pytest.mark.parametrize(
    ("first", "unit"),
    [(NEWER, True), (OLDER, False), (OLDEST, False)],
    ids=["Transformer, Normalize", "CLIPModel", "0_CLIPModel"],
)
def test_a_joint_model_becomes_two_files(first: Entry, unit: bool, tmp_path: Path, capsys) -> None:
    """The modules decide whether the vectors are normalised, whatever the joint model does; both files are proven."""
    modules = (first, normalize("1_Normalize")) if unit else (first,)
    folder = write_folder(tmp_path / "model", modules, joint())
    code, told = command("bake", folder, capsys=capsys)
    assert code == OK and told["report"]["verdict"] == told["pictures"]["report"]["verdict"] == "PASSED", told
    assert {"onnx/model.onnx", "onnx/image.onnx"} <= set(told["files"])
    source = graphsurgery.load(joint())
    both = compute(source, draw(3, "text") | draw(2, "image"))
    for kind, file, rows in (("text", "model", 3), ("image", "image", 2)):
        path = tmp_path / "model-baked" / "onnx" / f"{file}.onnx"
        assert graphsurgery.verify_itself(path), kind
        (vectors,) = compute(graphsurgery.load(path), draw(rows, kind)).values()
        lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
        assert np.allclose(vectors / lengths, both[f"{kind}_embeds"], atol=1e-6)
        assert np.allclose(lengths, 1, atol=1e-6) is unit
    assert "`onnx/image.onnx` embeds pictures" in (tmp_path / "model-baked" / "README.md").read_text(encoding="utf-8")
    assert command("verify", tmp_path / "model-baked" / "onnx" / "image.onnx", "--self", capsys=capsys)[0] == OK


def test_a_wrong_picture_tower_leaves_nothing(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "model", (NEWER, normalize("1_Normalize")), joint())
    run_edits = bake_module.run

    def refuse(steps: object, source: object, *, output: Path, **options: object) -> object:
        if output.name == "image.onnx":
            raise VerificationFailed("planted")
        return run_edits(steps, source, output=output, **options)

    monkeypatch.setattr(bake_module, "run", refuse)
    assert command("bake", folder, capsys=capsys)[0] == VERDICT and not (tmp_path / "model-baked").exists()


def picture_tower() -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("pixel_values", "image_embeds")]
    graph = helper.make_graph([helper.make_node("Neg", ["pixel_values"], ["image_embeds"])], "tower", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("encoder", [picture_tower, tiny_encoder], ids=["pictures", "no tower"])
def test_files_of_something_else(encoder, tmp_path: Path, capsys) -> None:
    folder = write_folder(tmp_path / "model", (NEWER, normalize("1_Normalize")), encoder())
    code, told = command("bake", folder, capsys=capsys)
    assert (code, told["error"]["type"]) == (WRONG, "NothingToPoolError"), told
    assert "is not the file of a text tower" in told["error"]["message"]
    assert told["error"]["advice"].endswith("--tower text") and not (tmp_path / "model-baked").exists()
