"""An ONNX file that does not lie in its model's folder, as where Optimum wrote it: `bake --onnx` and `add-pooling --like`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from baked_folders import external, normalize, pooling, put_json, transformer, write_folder
from encoders import tiny_encoder
from test_bake import certificate, command, embed

import graphsurgery
from graphsurgery.cli.main import OK, WRONG
from graphsurgery.errors import FolderError
from graphsurgery.model.certificate import ELSEWHERE


@pytest.fixture
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder ``st`` without an ONNX file, and an export in ``onnx``; the current folder holds both."""
    write_folder(tmp_path / "st", (transformer(), pooling("cls"), normalize("2_Normalize")), at="")
    put_json(tmp_path / "st" / "config_sentence_transformers.json", {"prompts": {"query": "query: ", "passage": ""}})
    write_folder(tmp_path / "whole", (transformer(), pooling("cls"), normalize("2_Normalize")))
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(tiny_encoder().SerializeToString())
    monkeypatch.chdir(tmp_path)
    return tmp_path


NAMES = {
    "from the current folder": "onnx/model.onnx", "from the model's": "../onnx/model.onnx", "the export's folder": "onnx",
}  # fmt: skip


@pytest.mark.parametrize("name", [*NAMES.values(), None], ids=[*NAMES, "absolute"])
def test_bake_takes_a_file_from_anywhere(name: str | None, apart: Path, capsys) -> None:
    """The result is that of a folder that holds the file, and the certificate says that the file was not the folder's."""
    code, told = command("bake", "st", "--onnx", name or apart / "onnx" / "model.onnx", "-o", "out", capsys=capsys)
    assert code == OK and told["report"]["verdict"] == "PASSED", told
    assert f"the encoder is {apart / 'onnx' / 'model.onnx'}, from outside of the folder" in told["notes"]
    assert command("bake", "whole", capsys=capsys)[0] == OK
    assert embed(apart / "out").tobytes() == embed(apart / "whole-baked").tobytes()
    sources = certificate(apart / "out")["sources"]
    assert f"{ELSEWHERE}model.onnx" in sources and "onnx/model.onnx" not in sources and "modules.json" in sources
    assert str(apart) not in (apart / "out" / "onnx" / "model.onnx").read_bytes().decode("latin-1")


def test_bake_takes_external_data_from_anywhere(apart: Path, capsys) -> None:
    external(apart / "whole")
    code, told = command("bake", "st", "--onnx", "whole/onnx", capsys=capsys)
    assert code == OK and told["report"]["verdict"] == "PASSED", told
    assert "onnx/model.onnx_data" in told["files"]


def test_a_name_that_can_be_two_files(apart: Path, capsys) -> None:
    code, told = command("bake", "whole", "--onnx", "onnx/model.onnx", capsys=capsys)
    assert code == WRONG and "can be" in told["error"]["message"] and told["error"]["advice"] == "give the whole path"
    os.chdir(apart / "whole")
    assert command("bake", ".", "--onnx", "onnx/model.onnx", "-o", apart / "out", capsys=capsys)[0] == OK


def test_add_pooling_takes_the_facts_of_a_folder(apart: Path, capsys) -> None:
    code, told = command("add-pooling", "onnx/model.onnx", capsys=capsys)
    assert code == WRONG and "--like" in told["error"]["advice"]
    code, told = command("add-pooling", "onnx/model.onnx", "--like", "st", capsys=capsys)
    assert code == OK and told["steps"][0]["parameters"]["mode"] == "cls" and told["output"].endswith("onnx/model.pooled.onnx")
    assert "prompt query: 'query: ' (put it before each text)" in told["notes"] and "passage" not in json.dumps(told["notes"])
    whole = f"`graphsurgery bake {apart / 'st'} --onnx {apart / 'onnx' / 'model.onnx'}` makes a file that has all modules"
    assert any("goes on with Normalize" in one and one.endswith(whole) for one in told["warnings"]), told["warnings"]
    assert str(apart / "st") not in (apart / "onnx" / "model.pooled.onnx").read_bytes().decode("latin-1")
    assert "st/tokenizer.json" in told["snippet"], "texts are tokenised by the folder's tokenizer"
    assert command("verify", "onnx/model.pooled.onnx", "--against", "onnx/model.onnx", capsys=capsys)[0] == OK


def test_like_no_folder(apart: Path) -> None:
    with pytest.raises(FolderError) as refused:
        graphsurgery.run([graphsurgery.AddPooling()], "onnx/model.onnx", like=apart / "none")
    assert "is not a folder" in str(refused.value) and "modules.json" in refused.value.advice
