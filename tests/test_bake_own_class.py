"""Folders whose first module is a class of the model's own, such as custom_st.Transformer: the ONNX file is that module."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from baked_folders import HIDDEN, USUAL, Entry, normalize, pooling, put_json, transformer, write_folder
from encoders import tiny_encoder
from onnx import TensorProto, helper
from test_bake import command, embed, run_program

from graphsurgery.baking.bake import bake
from graphsurgery.cli.main import OK, WRONG
from graphsurgery.errors import FolderError
from graphsurgery.exporting import export_folder as exporting
from graphsurgery.folders.modules import read_modules

OWN = "custom_st.Transformer"


def own_folder(
    folder: Path, entries: tuple[Entry, ...] = USUAL, encoder: onnx.ModelProto | None = None, **entry: object
) -> Path:
    """A folder whose first module has the class `OWN`."""
    write_folder(folder, entries, encoder)
    listed = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    listed[0] |= {"type": OWN, **entry}
    put_json(folder / "modules.json", listed)
    return folder


def encoder_with_task() -> onnx.ModelProto:
    """The tiny encoder, its hidden state shifted by ``task_id`` int64 [], as adapters chosen by an input."""
    model = tiny_encoder()
    hidden = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["plain" if name == hidden else name for name in node.output]
    model.graph.node.extend([
        helper.make_node("Cast", ["task_id"], ["task"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["plain", "task"], [hidden]),
    ])  # fmt: skip
    model.graph.input.append(helper.make_tensor_value_info("task_id", TensorProto.INT64, []))
    return model


def encoder_that_pools(name: str) -> onnx.ModelProto:
    """The tiny encoder with its largest token values as its only output, ``name`` [batch, dim]."""
    model = tiny_encoder()
    model.graph.node.append(helper.make_node("ReduceMax", [model.graph.output[0].name], [name], axes=[1], keepdims=0))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", HIDDEN]))
    return model


def test_the_file_is_the_module(tmp_path: Path, capsys) -> None:
    bake(write_folder(tmp_path / "known"), verify=False)
    code, told = command("bake", own_folder(tmp_path / "own"), capsys=capsys)
    assert code == OK and told["report"]["verdict"] == "PASSED"
    assert np.array_equal(embed(tmp_path / "own-baked"), embed(tmp_path / "known-baked"))
    assert any(OWN in note and "the ONNX file is taken as that module" in note for note in told["notes"])
    readme = (tmp_path / "own-baked" / "README.md").read_text(encoding="utf-8")
    assert (
        f"the whole model: {OWN}, Pooling (mean), Normalize." in readme
        and "taken as that module; nothing compared the two." in readme
    )


def test_settings_that_change_its_values_are_named(tmp_path: Path, capsys) -> None:
    folder = own_folder(tmp_path / "model", encoder=encoder_with_task(), kwargs=["task"])
    put_json(folder / "config.json", {
        "lora_adaptations": ["retrieval.query", "separation"], "lora_rank": 4, "task_instructions": {}, "hidden_size": HIDDEN,
        "pad_token_id": 0,
    })  # fmt: skip
    put_json(folder / "sentence_bert_config.json", {"default_task": "separation", "max_seq_length": 16})
    code, told = command("bake", folder, capsys=capsys)
    assert code == OK and told["report"]["verdict"] == "PASSED"
    note = next(note for note in told["warnings"] if note.startswith("the argument task"))
    assert "lora_adaptations (retrieval.query, separation)" in note and "default_task separation" in note
    assert "rank" not in note and "instructions" not in note and "hidden_size" not in note
    assert any("task_id: int64[]" in note for note in told["notes"])
    readme = (tmp_path / "model-baked" / "README.md").read_text(encoding="utf-8")
    assert "lora_adaptations (retrieval.query, separation)" in readme and "16 tokens" in readme
    assert run_program(tmp_path / "model-baked")["sentence_embedding"].shape == (2, HIDDEN)


@pytest.mark.parametrize("name", ["sentence_embedding", "text_embeds"])
def test_a_module_that_pools(name: str, tmp_path: Path, capsys) -> None:
    """Where no module of the folder pools, the file's own vectors go on, under their usual name."""
    folder = own_folder(tmp_path / "model", (transformer(), normalize("1_Normalize")), encoder_that_pools(name))
    code, told = command("bake", folder, capsys=capsys)
    assert code == OK and told["report"]["verdict"] == "PASSED", told
    before = embed(folder, name)[0]
    assert np.allclose(embed(tmp_path / "model-baked")[0], before / np.linalg.norm(before), atol=1e-6)


def test_nothing_to_pool(tmp_path: Path, capsys) -> None:
    folder = own_folder(tmp_path / "model", (transformer(), pooling()), encoder_that_pools("sentence_embedding"))
    code, told = command("bake", folder, capsys=capsys)
    assert code == WRONG and str(folder / "onnx" / "model.onnx") in told["error"]["message"]


@pytest.mark.parametrize(("place", "name"), [(0, "sentence_transformers.models.Transformerr"), (0, "Transformer"), (1, OWN)])
def test_other_unknown_classes_are_refused(place: int, name: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    listed = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    listed[place]["type"] = name
    put_json(folder / "modules.json", listed)
    with pytest.raises(FolderError, match="unknown class"):
        read_modules(folder)


def test_its_code_is_not_exported(tmp_path: Path) -> None:
    folder = own_folder(tmp_path / "model")
    with pytest.raises(FolderError, match=r"custom_st\.Transformer.*export does not run it"):
        exporting.export(folder, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()
