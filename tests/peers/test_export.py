"""export, and bake --export: from a folder that has no ONNX file yet."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from saved_folders import feed_of, make_encoder, run_onnx, save
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling
from test_bake import command

UNIT = 1e-6


@pytest.mark.parametrize("name", ["bert", "t5", "qwen3"])
def test_export_and_bake(name: str, tmp_path: Path, capsys, worst) -> None:
    torch.manual_seed(5)
    first = make_encoder(name, tmp_path).module("left" if name == "qwen3" else "right")
    width = first.get_embedding_dimension()
    model = SentenceTransformer(modules=[first, Pooling(width, "mean"), Dense(width, 24), Normalize()], device="cpu")
    folder = save(model, tmp_path / "model", None)
    before = sorted(path.name for path in folder.rglob("*"))
    code, told = command("bake", folder, "--export", capsys=capsys)
    assert code == 0 and told["report"]["verdict"] == "PASSED", told
    assert sorted(path.name for path in folder.rglob("*")) == before, "the folder itself stays as it is"
    assert [step["parameters"].get("weights") for step in told["steps"]][1] == "../2_Dense"
    feed = feed_of(model)
    with torch.no_grad():
        wanted = model.eval()(dict(feed))["sentence_embedding"].numpy()
    found = run_onnx(tmp_path / "model-baked" / "onnx" / "model.onnx", feed)["sentence_embedding"]
    worst.within("bake --export", found, wanted, UNIT * 3, name)
    code, told = command("export", folder, capsys=capsys)
    assert code == 0 and told["max_abs_diff_from_pytorch"] < 1e-3, told
    assert (folder / "onnx" / "model.onnx").is_file()
    code, told = command("export", folder, capsys=capsys)
    assert code == 2 and told["error"]["type"] == "OutputExistsError"
    code, told = command("bake", folder, "-o", tmp_path / "again", capsys=capsys)
    assert code == 0, told
    again = run_onnx(tmp_path / "again" / "onnx" / "model.onnx", feed)["sentence_embedding"]
    assert np.array_equal(found, again)


def test_a_folder_that_is_none(tmp_path: Path, capsys) -> None:
    code, told = command("export", tmp_path, capsys=capsys)
    assert (code, told["error"]["type"]) == (2, "FolderError")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no such"}), encoding="utf-8")
    code, told = command("export", tmp_path, capsys=capsys)
    assert (code, told["error"]["type"]) == (2, "UnsupportedModelError")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.json"], "nothing is left behind"
