"""No verb ends in a traceback on any third-party model: whatever is refused is refused by a message."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import corpus_params

from graphsurgery.cli.main import BUG, VERBS, run

WRITING = {
    "add-pooling": [["--mode", "mean"], ["--mode", "lasttoken,cls", "--mask", "ones", "--normalize"]],
    "add-normalize": [[]],
    "add-layer-norm": [["--weights", "absent"]],
    "add-dense": [["--weights", "absent"]],
    "add-logit-score": [["--true-token", "3"]],
    "add-activation": [["--activation", "sigmoid"]],
    "add-splade-pooling": [[]],
    "add-weighted-layer-pooling": [["--weights", "absent"]],
    "add-word-weights": [["--weights", "absent"]],
    "add-cnn": [["--weights", "absent"]],
    "add-lstm": [["--weights", "absent"]],
    "mask-tokens": [[]],
    "tap": [["--layer", "1"], ["--layer", "0"], ["--layer", "-1", "--norm", "before"]],
    "truncate": [["--dim", "2"]],
    "output-precision": [["--to", "ubinary"], ["--to", "int8", "--ranges", "absent.npy"]],
    "strip-head": [[]],
    "drop-input": [["--input", "attention_mask"], ["--input", "token_type_ids"]],
    "optional-input": [["--input", "token_type_ids"]],
    "input-type": [["--to", "int32"], ["--to", "float32"]],
    "add-waveform-normalize": [[], ["--mask", "attention_mask"]],
    "rename": [["--name", "input_ids=ids"], ["--dim", "batch=b"]],
    "dynamic-dim": [["--dim", "batch"], ["--dim", "sequence"]],
    "fix-dim": [["--dim", "batch=2"]],
    "align-mask": [[]],
    "relax-dim": [[], ["--dim", "batch"]],
    "fix": [[]],
    "add-input": [["--input", "token_type_ids"]],
    "add-image-input": [[], ["--config", "absent.json"]],
    "keep-outputs": [["--name", "last_hidden_state"]],
    "extract-tower": [["--tower", "text"]],
    "optimize": [["--portable", "--no-timing"]],
    "quantize": [["--scheme", "weights-8bit", "--no-timing", "--texts", "texts.txt"]],
}
"""The verbs that write a file, and plausible options of each."""
OTHERS = {"bake", "bench", "deploy", "embed", "export", "inspect", "recipe", "run", "serve", "split-towers", "verify"}


def test_every_verb_is_tried() -> None:
    assert set(WRITING) | OTHERS == set(VERBS)


@pytest.mark.parametrize("path", corpus_params())
@pytest.mark.usefixtures("short_services")
def test_no_verb_ends_in_a_traceback(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").write_text('[[steps]]\nedit = "add-pooling"\nmode = "mean"\n', encoding="utf-8")
    (tmp_path / "texts.txt").write_text("one text\nanother\n", encoding="utf-8")
    written = ["-o", str(tmp_path / "o.onnx"), "--force", "--no-verify", "--quiet"]
    calls = [[verb, str(path), *options, *written] for verb, all_options in WRITING.items() for options in all_options]
    calls += [
        ["inspect", str(path)],
        ["bench", str(path), "--batches", "1", "--lengths", "8", "--seconds", "0"],
        ["embed", "texts.txt", "--model", str(path), "-o", "vectors.npy"],
        ["serve", str(path), "--port", "0", "--max-batch-tokens", "64"],
        ["deploy", str(path.parent), "--for", "kserve", "-o", str(tmp_path / "deployed"), "--file", path.name],
        ["recipe", "show", str(path)],
        ["run", "recipe.toml", str(path), *written],
        ["bake", str(path.parent), "-o", str(tmp_path / "baked")],
        ["split-towers", str(path), "-o", str(tmp_path / "towers"), "--no-verify"],
        ["export", str(path), "-o", str(tmp_path / "e.onnx")],
        ["verify", str(path), "--self"],
        ["verify", str(path), "--against", str(path), "--texts", "texts.txt"],
    ]
    codes = {" ".join(call[:4]): run(call) for call in calls}
    assert not [call for call, code in codes.items() if code == BUG]
    assert codes[f"inspect {path}"] == 0
