"""`bake --for PROGRAM`: outputs, file names and settings as the program wants them."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import onnx
import pytest
from baked_folders import USUAL, external, write_folder
from encoders import FLOAT16, HIDDEN, POOLER, TYPE_IDS, tiny_encoder
from onnx import TensorProto, helper
from test_bake import command, embed

from graphsurgery.baking.targets import TARGETS
from graphsurgery.cli.main import OK, WRONG
from graphsurgery.consumers import CONSUMERS

WITH_TOKENS = {"sentence-transformers", "transformers.js"}
"""The programs that pool by themselves."""


def baked(tmp_path: Path, name: str, capsys, *options: object, **made: object) -> tuple[Path, dict]:
    folder = write_folder(tmp_path / "model", **made)
    code, told = command("bake", folder, "--for", name, *options, capsys=capsys)
    assert code == OK and told["report"]["verdict"] == "PASSED", told
    return tmp_path / "model-baked", told


def setting(folder: Path, name: str, language: str) -> str:
    """The block of code in the README's section on a program."""
    section = (folder / "README.md").read_text(encoding="utf-8").partition(f"## In {TARGETS[name].consumer}\n")[2]
    return section.partition(f"```{language}\n")[2].partition("\n```")[0]


def test_every_target_is_a_consumer() -> None:
    assert {one.consumer for one in TARGETS.values()} <= {one.name for one in CONSUMERS}


@pytest.mark.parametrize("name", TARGETS)
def test_the_program_can_run_it(name: str, tmp_path: Path, capsys) -> None:
    """Its outputs are those that the program looks for, and the modules are there for those that load them."""
    folder, told = baked(tmp_path, name, capsys)
    assert next(one for one in told["consumers"] if one["consumer"] == TARGETS[name].consumer)["reads"]
    outputs = [value["name"] for value in told["interface"]["after"]["outputs"]]
    assert outputs == ["sentence_embedding", *(["last_hidden_state"] if name in WITH_TOKENS else [])]
    assert ("modules.json" in told["files"]) == (name in WITH_TOKENS)
    assert "onnx/model.onnx" in told["files"] and (folder / "onnx" / "model.onnx").is_file()
    assert f"## In {TARGETS[name].consumer}\n" in (folder / "README.md").read_text(encoding="utf-8")


def test_vespa_is_told_the_names(tmp_path: Path, capsys) -> None:
    folder, _ = baked(tmp_path, "vespa", capsys)
    found = {one.tag: one.text or one.get("path") for one in ET.fromstring(setting(folder, "vespa", "xml"))}
    assert (folder / found["transformer-model"]).is_file() and (folder / found["tokenizer-model"]).is_file()
    assert (found["transformer-output"], found["pooling-strategy"], found["normalize"]) == (
        "sentence_embedding",
        "none",
        "false",
    )
    assert found["transformer-token-type-ids"] is None, "the model takes none"
    assert "tensor<float>(x[8])" in (folder / "README.md").read_text(encoding="utf-8")


def test_vespa_feeds_token_types_if_there_are_some(tmp_path: Path, capsys) -> None:
    folder, _ = baked(tmp_path, "vespa", capsys, encoder=tiny_encoder(inputs=[TYPE_IDS]))
    assert "<transformer-token-type-ids>token_type_ids<" in setting(folder, "vespa", "xml")


def test_opensearch_gets_a_config(tmp_path: Path, capsys) -> None:
    folder, _ = baked(tmp_path, "opensearch", capsys)
    config = json.loads(setting(folder, "opensearch", "json"))["model_config"]
    assert (config["embedding_dimension"], config["pooling_mode"], config["normalize_result"]) == (8, "NONE", False)


def test_opensearch_takes_one_output(tmp_path: Path, capsys) -> None:
    folder = write_folder(tmp_path / "model", encoder=tiny_encoder(outputs=[POOLER]))
    code, told = command("bake", folder, "--for", "opensearch", "--keep-output", POOLER, capsys=capsys)
    assert code == WRONG and "takes one output" in told["error"]["message"] and not (tmp_path / "model-baked").exists()


def test_fastembed_is_told_all_files(tmp_path: Path, capsys) -> None:
    """External data have the name that hub clients download, and the file still runs."""
    write_folder(tmp_path / "whole", USUAL)
    external(tmp_path / "whole")
    code, told = command("bake", tmp_path / "whole", "--for", "fastembed", capsys=capsys)
    folder = tmp_path / "whole-baked"
    assert code == OK and {"onnx/model.onnx", "onnx/model.onnx_data"} < set(told["files"])
    text = setting(folder, "fastembed", "python")
    compile(text, "README", "exec")
    assert 'additional_files=["onnx/model.onnx_data"]' in text and "dim=8" in text and "PoolingType.DISABLED" in text
    assert embed(folder).shape == (1, 8)
    located = {one.value for tensor in onnx.load(folder / "onnx" / "model.onnx", load_external_data=False).graph.initializer
               for one in tensor.external_data if one.key == "location"}  # fmt: skip
    assert located == {"model.onnx_data"}


def half_encoder() -> onnx.ModelProto:
    """An encoder that computes in float16 and gives float32, as `optimize --fp16` makes it."""
    model = tiny_encoder(dtype=FLOAT16, names={HIDDEN: "half"})
    model.graph.node.append(helper.make_node("Cast", ["half"], [HIDDEN], "widen", to=TensorProto.FLOAT))
    model.graph.output[0].name = HIDDEN
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    return model


def test_transformers_js_finds_float16_by_its_name(tmp_path: Path, capsys) -> None:
    folder, told = baked(tmp_path, "transformers.js", capsys, encoder=half_encoder())
    assert "onnx/model_fp16.onnx" in told["files"] and "onnx/model.onnx" not in told["files"]
    assert re.search(r'dtype: "fp16" \}', setting(folder, "transformers.js", "js"))
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert "onnx/model.onnx" not in readme and readme.count("onnx/model_fp16.onnx") >= 3
    assert np.isfinite(embed_file(folder / "onnx" / "model_fp16.onnx")).all()


def embed_file(path: Path) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["sentence_embedding"], {one.name: np.ones((1, 3), np.int64) for one in session.get_inputs()})[0]


@pytest.mark.parametrize("name", TARGETS)
def test_what_the_program_cannot_run_is_refused(name: str, tmp_path: Path, capsys) -> None:
    """A file of a fixed length: none of these programs pads to it. Nothing is left behind."""
    folder = write_folder(tmp_path / "model", encoder=tiny_encoder(dims=("batch", 16)))
    code, told = command("bake", folder, "--for", name, "--no-verify", capsys=capsys)
    assert code == WRONG and f"{name} cannot run the baked file" in told["error"]["message"], told
    assert "dynamic-dim" in told["error"]["message"] and not (tmp_path / "model-baked").exists()


def test_another_program(tmp_path: Path, capsys) -> None:
    code, told = command("bake", write_folder(tmp_path / "model"), "--for", "ollama", capsys=capsys)
    assert code == WRONG and "transformers.js" in told["error"]["message"]
