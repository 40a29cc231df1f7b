"""Folders of rerankers that answer yes or no, as sentence-transformers 6 saves them: a causal language model and LogitScore."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from baked_folders import Entry, put_json, run_model, transformer, write_folder, write_tokenizer
from encoders import VOCABULARY, tiny_encoder
from test_bake import command, run_program

from graphsurgery.cli.main import OK, WRONG

NEW = "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"
YES, NO = 6, 9
IDS = np.array([[0, 0, 2, 4, 5], [2, 7, 8, 9, 3]])
MASK = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])


def reranker(folder: Path, activation: str | None = None, modalities: dict[str, Any] | None = None, **config: Any) -> Path:
    """A folder with LogitScore behind the tiny encoder, whose logits are as many as its vocabulary."""
    settings = {"transformer_task": "text-generation"} | ({"modality_config": modalities} if modalities else {})
    score = Entry("LogitScore", "1_LogitScore", {"true_token_id": YES, "false_token_id": NO} | config)
    encoder = tiny_encoder(hidden=VOCABULARY, names={"last_hidden_state": "logits"})
    write_folder(folder, (transformer(**settings), score), encoder)
    listed = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    listed[1]["type"] = NEW
    put_json(folder / "modules.json", listed)
    write_tokenizer(folder, padding_side="left")
    put_json(folder / "config_sentence_transformers.json", {"model_type": "CrossEncoder", "activation_fn": activation})
    put_json(folder / "config.json", {"model_type": "qwen3", "num_labels": 5})
    return folder


def last_logits(folder: Path) -> np.ndarray:
    """The logits behind each text, ``[batch, vocabulary]``."""
    return run_model(folder, "logits", input_ids=IDS, attention_mask=MASK)[:, -1].astype(np.float64)


@pytest.mark.parametrize("activation", [None, "torch.nn.modules.activation.Sigmoid", "torch.nn.modules.linear.Identity"])
@pytest.mark.parametrize("no", [NO, None])
def test_scores(activation: str | None, no: int | None, tmp_path: Path, capsys) -> None:
    """The log-odds of yes, or its logit, through the activation: a sigmoid unless the folder names another."""
    folder = reranker(tmp_path / "model", activation, false_token_id=no)
    code, told = command("bake", folder, capsys=capsys)
    assert code == OK and told["report"]["verdict"] == "PASSED", told
    assert [value["name"] for value in told["interface"]["after"]["outputs"]] == ["scores"]
    logits = last_logits(folder)
    wanted = logits[:, YES] - (logits[:, no] if no is not None else 0)
    wanted = wanted if "Identity" in str(activation) else 1 / (1 + np.exp(-wanted))
    found = run_model(tmp_path / "model-baked", "scores", input_ids=IDS, attention_mask=MASK)
    assert found.shape == (2, 1) and np.allclose(found[:, 0], wanted, atol=1e-5)


def test_the_logits_stay_if_they_are_asked_for(tmp_path: Path, capsys) -> None:
    folder = reranker(tmp_path / "model")
    code, told = command("bake", folder, "--keep-output", "logits", capsys=capsys)
    assert code == OK and [value["name"] for value in told["interface"]["after"]["outputs"]] == ["scores", "logits"]
    code, told = command("bake", folder, "--keep-output", "token_embeddings", "--force", capsys=capsys)
    assert code == WRONG and told["error"]["advice"] == "choose from logits"


def test_the_readme(tmp_path: Path, capsys) -> None:
    """Pairs; where a chat template joins them, the program does not pretend to tokenise."""
    text = {"method": "forward", "method_output_name": "logits"}
    for name, modalities in (("plain", None), ("chat", {"text": text, "message": {**text, "format": "structured"}})):
        folder = reranker(tmp_path / name, modalities=modalities)
        assert command("bake", folder, capsys=capsys)[0] == OK
        readme = (tmp_path / f"{name}-baked" / "README.md").read_text(encoding="utf-8")
        assert "Transformer, LogitScore" in readme and "pipeline_tag: text-ranking" in readme and "pair of texts" in readme
        assert ("chat template" in readme) == ("made-up tokens" in readme) == (name == "chat")
        assert run_program(tmp_path / f"{name}-baked")["scores"].shape[1] == 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"true_token_id": None}, "has no true_token_id"),
        ({"true_token_id": -1}, "has no true_token_id of 0 or more"),
        ({"false_token_id": -1}, "or a false_token_id of less"),
        ({"true_token_id": "yes"}, "'true_token_id' is 'yes'"),
        ({"true_token_id": VOCABULARY}, f"logits has {VOCABULARY} words, and none of them is {VOCABULARY}"),
        ({"false_token_id": YES}, f"both tokens are {YES}"),
        ({"module_input_name": "token_embeddings"}, "reads 'token_embeddings', which no module before it makes"),
    ],
)
def test_configs_that_do_not_fit(config: dict[str, Any], message: str, tmp_path: Path, capsys) -> None:
    folder = reranker(tmp_path / "model", **config)
    code, told = command("bake", folder, capsys=capsys)
    assert code == WRONG and message in told["error"]["message"] and "1_LogitScore" in told["error"]["message"], told


def test_an_export_without_the_logits(tmp_path: Path, capsys) -> None:
    folder = reranker(tmp_path / "model")
    (folder / "onnx" / "model.onnx").write_bytes(tiny_encoder().SerializeToString())
    code, told = command("bake", folder, capsys=capsys)
    assert code == WRONG and "needs the output logits" in told["error"]["message"]
    assert "text-generation" in told["error"]["advice"]
