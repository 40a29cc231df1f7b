"""Names that are nearly right, British spellings, click's errors in our voice, and files that are no ONNX models."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from encoders import tiny_encoder

import graphsurgery
from graphsurgery.cli.main import VERBS, WRONG, run
from graphsurgery.errors import MalformedModelError, NameNotFoundError, RecipeError
from graphsurgery.recipe import find_recipe, parse_recipe
from graphsurgery.suggestions import find_nearest, find_spelling


def test_nearest_names_and_spellings() -> None:
    assert find_nearest("add-poling", VERBS) == "add-pooling" and find_nearest("xyzzy", VERBS) is None
    assert find_nearest("OPTIMISE", VERBS) == "optimize" and find_nearest("Sentence_embeding", ["sentence_embedding"])
    assert [find_spelling(one, VERBS) for one in ("optimise", "quantise", "add-normalise")] == [
        "optimize", "quantize", "add-normalize"]  # fmt: skip
    assert find_spelling("noise", ["noize"]) == "noise" and find_spelling("optimise", ["optimise", "optimize"]) == "optimise"


@pytest.mark.parametrize(
    ("arguments", "message", "advice"),
    [
        (["optimze", "x"], "there is no verb 'optimze'", "did you mean optimize?"),
        (["add-pooling", "x", "--mdoe", "mean"], "graphsurgery add-pooling has no option --mdoe", "did you mean --mode?"),
        (["add-pooling"], "missing argument 'MODEL'", "`graphsurgery add-pooling --help`"),
        (["optimize", "x", "--for", "tpu"], "invalid value for '--for'", "`graphsurgery optimize --help`"),
    ],
)  # fmt: skip
def test_wrong_usage_is_told_as_all_errors_are(arguments: list[str], message: str, advice: str, capsys) -> None:
    assert run(arguments) == WRONG
    told = capsys.readouterr()
    first, second = told.err.splitlines()[:2]
    assert not told.out and first.startswith(f"error: {message}") and second.startswith("what to do: ") and advice in second
    assert run([*arguments, "--json"]) == WRONG
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["message"].startswith(message) and advice in error["advice"]


def test_british_spellings_are_heard(tmp_path: Path, capsys) -> None:
    source = tmp_path / "m.onnx"
    source.write_bytes(tiny_encoder().SerializeToString())
    pooled = tmp_path / "p.onnx"
    assert run(["add-pooling", str(source), "--mode", "mean", "--normalise", "-o", str(pooled), "--no-verify", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"][0]["parameters"]["normalize"] is True
    for verb in ("add-normalise", "normalise", "normalize"):
        assert run([verb, str(pooled), "--json"]) == WRONG
        assert json.loads(capsys.readouterr().out)["error"]["type"] == "AlreadyAppliedError"
    assert parse_recipe({"steps": [{"edit": "add-normalise"}]}, "r").steps[0] == graphsurgery.AddNormalize()


NAMES: dict[str, Callable[[], object]] = {
    "an output": lambda: graphsurgery.add_normalize(tiny_encoder(), target="last_hiden_state"),
    "an output to keep": lambda: graphsurgery.keep_outputs(tiny_encoder(), ["last_hidden_stat"]),
    "a hidden state": lambda: graphsurgery.add_pooling(tiny_encoder(), mode="mean", hidden_state="last_hiden_state"),
    "a mask": lambda: graphsurgery.add_pooling(tiny_encoder(), mode="mean", mask="attention_maks"),
    "an input": lambda: graphsurgery.drop_input(tiny_encoder(), "attention_maks"),
    "a name to change": lambda: graphsurgery.rename(tiny_encoder(), {"input_id": "ids"}),
    "a recipe": lambda: find_recipe("minlm"),
    "an edit": lambda: parse_recipe({"steps": [{"edit": "add-poling"}]}, "r"),
    "a rewrite": lambda: parse_recipe({"steps": [{"rewrite": "simplfy"}]}, "r"),
    "a key": lambda: parse_recipe({"setps": []}, "r"),
}


@pytest.mark.parametrize("call", NAMES.values(), ids=NAMES)
def test_what_was_probably_meant_is_said(call: Callable[[], object]) -> None:
    with pytest.raises((NameNotFoundError, RecipeError)) as caught:
        call()
    assert caught.value.advice.startswith("did you mean "), caught.value.advice


def make_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    return buffer.getvalue()


KINDS = {
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "a web page": b"<html><head><title>Not found</title></head></html>",
    "a JSON text": b'{"error": "Repository not found", "code": 404}',
    "a gzip archive": b"\x1f\x8b\x08" + bytes(40),
    "a zip archive": make_zip(),
    "a pickle": pickle.dumps({"weight": list(range(20))}, protocol=2),
    "a safetensors file": (60).to_bytes(8, "little") + b'{"__metadata__":{}}' + bytes(60),
    "a GGUF file": b"GGUF" + bytes(60),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_kind_is_called_what_it_is(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(KINDS[kind])
    with pytest.raises(MalformedModelError, match=f"the file is {kind}") as caught:
        graphsurgery.load(path)
    assert str(path) in str(caught.value) and caught.value.advice
