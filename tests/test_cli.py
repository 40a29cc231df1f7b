"""The command line: what it prints, what it returns, what it leaves behind."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import ROOT, corpus_params, fixture_names
from printed_programs import run_program

import graphsurgery
from graphsurgery.cli import editing
from graphsurgery.cli.main import BUG, INTERRUPTED, OK, VERBS, VERDICT, WRONG, main, run
from graphsurgery.edits import pooling_graph

WRITERS = ("add-pooling", "add-normalize", "strip-head")


def call(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of one command line."""
    code = run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def as_json(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict]:
    code, out, _ = call(*arguments, "--json", capsys=capsys)
    return code, json.loads(out)


@pytest.mark.parametrize("name", fixture_names())
def test_the_main_job(name: str, fixture_copy, capsys) -> None:
    """inspect, add-pooling --mode auto, verify, strip-head on every fixture; the snippet runs the output."""
    model = fixture_copy(name)
    assert as_json("inspect", model, capsys=capsys)[1]["hidden_state"]["name"] == "last_hidden_state"
    code, done = as_json("add-pooling", model, "--normalize", capsys=capsys)
    assert code == OK and done["report"]["verdict"] == "PASSED"
    assert done["report"]["cases"] > 100
    output = Path(done["output"])
    assert output.name == "model.pooled.onnx"
    scope = run_program(done["snippet"])
    assert np.linalg.norm(scope["sentence_embedding"], axis=1) == pytest.approx(1, abs=1e-6)
    code, report = as_json("verify", output, "--against", model, capsys=capsys)
    assert code == OK and {check["name"] for check in report["report"]["checks"]} == {
        "encoder untouched", "head proof", "whole proof",
    }  # fmt: skip
    assert call("strip-head", output, "-q", capsys=capsys) == (OK, "", "")
    assert (model.parent / "model.encoder.onnx").read_bytes() == model.read_bytes()


def test_output_names(fixture_copy, capsys) -> None:
    model = fixture_copy("bert")
    assert call("add-pooling", model, "--mode", "mean", "-q", capsys=capsys)[0] == OK
    assert call("add-normalize", model.parent / "model.pooled.onnx", "-q", capsys=capsys)[0] == OK
    assert (model.parent / "model.normalized.onnx").exists()
    assert call("add-pooling", model, "--mode", "mean", capsys=capsys)[0] == WRONG
    assert call("add-pooling", model, "--mode", "cls", "--force", "-q", capsys=capsys)[0] == OK
    assert call("add-pooling", model, "--mode", "cls", "--force", "-o", model, capsys=capsys)[0] == WRONG


def test_dry_run_writes_nothing(fixture_copy, capsys) -> None:
    model = fixture_copy("bert")
    before = sorted(model.parent.rglob("*"))
    code, done = as_json("add-pooling", model, "--mode", "max", "--dry-run", capsys=capsys)
    assert (code, done["output"], done["report"]["verdict"]) == (OK, None, "PASSED")
    assert done["interface"]["after"]["outputs"][0]["dims"] == ["batch_size", 32]
    assert sorted(model.parent.rglob("*")) == before


def test_contradicting_the_folder_is_warned_about(fixture_copy, capsys) -> None:
    model = fixture_copy("xlmr")
    _, done = as_json("add-pooling", model, "--mode", "mean", capsys=capsys)
    assert any("cls" in one for one in done["warnings"])
    _, done = as_json("add-pooling", model, "--mode", "cls", "--normalize", "--force", capsys=capsys)
    assert not done["warnings"]


def test_what_is_shown_after_success(fixture_copy, capsys) -> None:
    code, out, _ = call("add-pooling", fixture_copy("bert"), "--mode", "mean", "-v", capsys=capsys)
    assert code == OK
    for part in ("sentence_embedding", "PASSED", "onnxruntime.InferenceSession", "text-embeddings-inference", "batch_size"):
        assert part in out


def test_a_failed_proof_leaves_nothing_behind(fixture_copy, capsys, monkeypatch) -> None:
    """A head that is wrong: exit code 1, no output; with --keep-failed the output stays; with --no-verify nobody notices."""
    monkeypatch.setitem(pooling_graph.MODES, "mean", pooling_graph.MODES["max"])
    model = fixture_copy("bert")
    before = sorted(path.name for path in model.parent.iterdir())
    code, failure = as_json("add-pooling", model, "--mode", "mean", capsys=capsys)
    assert (code, failure["error"]["type"]) == (VERDICT, "VerificationFailed")
    assert sorted(path.name for path in model.parent.iterdir()) == before
    assert call("add-pooling", model, "--mode", "mean", "--keep-failed", capsys=capsys)[0] == VERDICT
    assert (model.parent / "model.pooled.onnx").exists()
    assert call("add-pooling", model, "--mode", "mean", "--no-verify", "--force", capsys=capsys)[0] == OK
    assert call("verify", model.parent / "model.pooled.onnx", "--against", model, capsys=capsys)[0] == VERDICT


def test_nothing_to_check_is_no_success(fixture_copy, capsys) -> None:
    """Two files without an output in common: exit code 1."""
    model = fixture_copy("bert")
    call("add-pooling", model, "--mode", "mean", "--no-verify", "-q", capsys=capsys)
    pooled = model.parent / "model.pooled.onnx"
    code, done = as_json("verify", model, "--against", pooled, capsys=capsys)
    assert (code, done["report"]["verdict"]) == (VERDICT, "NOT CHECKED")


def test_same_file_agrees_with_itself(fixture_copy, capsys) -> None:
    model = fixture_copy("t5")
    code, done = as_json("verify", model, "--against", model, "--atol", "1e-7", capsys=capsys)
    assert (code, done["report"]["verdict"]) == (OK, "PASSED")


def test_verify_with_texts(fixture_copy, capsys, tmp_path) -> None:
    model = fixture_copy("bert")
    texts = tmp_path / "texts.txt"
    texts.write_text("one text\nanother one\n\n", encoding="utf-8")
    call("add-pooling", model, "--mode", "mean", "-q", capsys=capsys)
    _, done = as_json("verify", model.parent / "model.pooled.onnx", "--against", model, "--texts", texts, capsys=capsys)
    whole = next(check for check in done["report"]["checks"] if check["name"] == "whole proof")
    assert next(one["cases"] for one in whole["comparisons"] if one["kind"] == "real text") == 2
    texts.write_text("", encoding="utf-8")
    assert call("verify", model, "--against", model, "--texts", texts, capsys=capsys)[0] == WRONG


@pytest.mark.parametrize(
    "arguments",
    [
        ["add-pooling"], ["add-pooling", "no-such.onnx"], ["no-such-verb", "x"], ["inspect", "."], ["verify", "x.onnx"],
        ["add-pooling", "x.onnx", "--no-such-option"], ["inspect", "no-such.onnx"], ["strip-head", "no-such.onnx"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_requests(arguments: list[str], capsys) -> None:
    """A message and exit code 2, no traceback; with --json the error as JSON on stdout."""
    code, out, err = call(*arguments, capsys=capsys)
    assert code == WRONG and err and not out and "Traceback" not in err
    code, failure = as_json(*arguments, capsys=capsys)
    assert code == WRONG and set(failure["error"]) == {"type", "message", "advice"} and failure["error"]["message"]


def test_bugs_and_interruptions(fixture_copy, capsys, monkeypatch) -> None:
    model = fixture_copy("bert")

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(editing, "run", broken)
    code, out, err = call("strip-head", model, "--json", capsys=capsys)
    assert code == BUG and "Traceback" in err and json.loads(out)["error"]["type"] == "ZeroDivisionError"
    monkeypatch.setattr(editing, "run", interrupted)
    assert call("strip-head", model, capsys=capsys)[0] == INTERRUPTED


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys) -> None:
    code, out, _ = call(verb, "--help", capsys=capsys)
    assert code == OK and "--json" in out and "--quiet" in out
    if verb in WRITERS:
        for option in ("--output", "--force", "--dry-run", "--no-verify", "--full", "--keep-failed"):
            assert option in out


def test_main_exits_with_the_code() -> None:
    with pytest.raises(SystemExit) as left:
        main(["inspect", "no-such.onnx"])
    assert left.value.code == WRONG


@pytest.mark.parametrize("verb", ["add-pooling", "add-normalize", "optimize", "verify"])
@pytest.mark.parametrize("path", corpus_params())
def test_proofs_on_the_corpus(path: Path, verb: str, tmp_path: Path, capsys) -> None:
    """On whatever third-party file: a verdict or a typed error, and nothing left behind by an error.

    `test_corpus_verbs` tries every verb, without a proof.
    """
    output = tmp_path / "out.onnx"
    extra = {"verify": ["--against", path], "optimize": ["-o", output, "--no-timing"]}.get(verb, ["-o", output])
    extra += ["--mode", "mean"] if verb == "add-pooling" else []
    code, done = as_json(verb, path, *extra, capsys=capsys)
    assert code in (OK, VERDICT, WRONG)
    assert ("error" in done) == (code == WRONG or (code == VERDICT and verb != "verify"))
    assert code == OK or not list(tmp_path.iterdir())


def test_the_installed_command_runs() -> None:
    """As a process of its own, from the package's __main__."""
    done = subprocess.run(
        [sys.executable, "-m", "graphsurgery", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert graphsurgery.__version__ in done.stdout


def test_an_output_of_another_program_is_left_alone(fixture_copy, capsys, tmp_path) -> None:
    """A file that onnx wrote again after us still verifies, and strip-head says that it cannot go back byte for byte."""
    model = fixture_copy("bert")
    call("add-pooling", model, "--mode", "mean", "-q", capsys=capsys)
    rewritten = model.parent / "rewritten.onnx"
    proto = onnx.load(model.parent / "model.pooled.onnx")
    proto.producer_name = "another program"
    onnx.save(proto, rewritten)
    assert onnxruntime.InferenceSession(rewritten).get_outputs()[0].name == "sentence_embedding"
    code, done = as_json("strip-head", rewritten, capsys=capsys)
    assert (code, done["error"]["type"]) == (WRONG, "NoHeadError")


@pytest.mark.parametrize("mask", ["pad:\u00b2", "pad:99999999999999999999", "pad:3000000000", "pad:", "pad:-", "pad:1.5"])
def test_padding_ids_that_are_none(mask: str, fixture_copy, capsys) -> None:
    assert call("add-pooling", fixture_copy("bert"), "--mode", "mean", "--mask", mask, capsys=capsys)[0] == WRONG


def test_token_embeddings_can_be_normalised(fixture_copy, capsys) -> None:
    """An output of rank 3: every token's vector, over the last dim."""
    for name in ("bert", "t5", "bert-fp16"):
        model = fixture_copy(name)
        code, done = as_json("add-normalize", model, "--target", "last_hidden_state", capsys=capsys)
        assert (code, done["report"]["verdict"]) == (OK, "PASSED"), done


def test_strip_head_into_another_folder_with_external_data(fixture_copy, capsys, tmp_path) -> None:
    """The weights are copied, compared byte by byte, and the encoder runs."""
    model = fixture_copy("bert-external")
    assert call("add-pooling", model, "--mode", "mean", "-q", capsys=capsys)[0] == OK
    other = tmp_path / "other"
    other.mkdir()
    code, done = as_json("strip-head", model.parent / "model.pooled.onnx", "-o", other / "encoder.onnx", capsys=capsys)
    assert (code, done["report"]["verdict"]) == (OK, "PASSED"), done
    assert as_json("verify", other / "encoder.onnx", "--against", model, capsys=capsys)[0] == OK


def test_include_prompt_is_not_ignored(fixture_copy, capsys) -> None:
    model = fixture_copy("modernbert")
    config = model.parent / "1_Pooling" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text(encoding="utf-8")) | {"include_prompt": False}), encoding="utf-8")
    code, done = as_json("add-pooling", model, capsys=capsys)
    assert code == WRONG and "--skip-prompt" in done["error"]["advice"]
    code, done = as_json("add-pooling", model, "--mode", "mean", capsys=capsys)
    assert code == OK and any("include_prompt" in one for one in done["warnings"])
    code, done = as_json("add-pooling", model, "--skip-prompt", "input", "-o", model.with_name("out.onnx"), capsys=capsys)
    assert code == OK and not done["warnings"]
    assert done["interface"]["after"]["inputs"][-1] == {"name": "prompt_length", "dtype": "int64", "dims": [1]}


def test_a_prompt_left_out_against_the_config_is_warned_about(fixture_copy, capsys) -> None:
    code, done = as_json("add-pooling", fixture_copy("modernbert"), "--skip-prompt", "3", capsys=capsys)
    assert code == OK and any("prompt" in one for one in done["warnings"])


def test_texts_need_a_tokenizer(fixture_copy, capsys, tmp_path) -> None:
    model = fixture_copy("bert")
    (model.parent / "tokenizer.json").unlink()
    texts = tmp_path / "texts.txt"
    texts.write_text("one text", encoding="utf-8")
    assert call("verify", model, "--against", model, "--texts", texts, capsys=capsys)[0] == WRONG


@pytest.mark.parametrize("name", ["embeddings.word_embeddings.weight", "input_ids"])
def test_what_is_no_hidden_state(name: str, fixture_copy, capsys) -> None:
    """A constant, or integers, named as the hidden state."""
    code, done = as_json("add-pooling", fixture_copy("bert"), "--mode", "mean", "--hidden-state", name, capsys=capsys)
    assert (code, done["error"]["type"]) == (WRONG, "NothingToPoolError")


def test_a_failed_proof_says_what_failed_as_json(fixture_copy, capsys, monkeypatch) -> None:
    monkeypatch.setitem(pooling_graph.MODES, "mean", pooling_graph.MODES["max"])
    _, failure = as_json("add-pooling", fixture_copy("bert"), "--mode", "mean", capsys=capsys)
    assert failure["outcome"]["report"]["verdict"] == "FAILED"


def test_a_full_disk_under_stdout_is_no_bug(fixture_copy) -> None:
    """Printing to a device that is full: a message and exit code 2."""
    command = [sys.executable, "-m", "graphsurgery", "inspect", str(fixture_copy("bert"))]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == WRONG and "Traceback" not in done.stderr
    assert done.stderr == "error: the output cannot be printed: No space left on device\n"


@pytest.mark.parametrize("verb", [["--help"], ["inspect", "{model}"], ["inspect", "{model}", "--json"], ["verify", "no-such"]])
def test_a_reader_that_went_away(verb: list[str], fixture_copy) -> None:
    """As `| head` does: no message, no traceback. What goes to stderr is still told, with its own exit code."""
    model = fixture_copy("bert")
    arguments = [one.format(model=model) for one in verb]
    reading, writing_ = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "graphsurgery", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=writing_, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing_)
    assert done.returncode == (WRONG if "no-such" in verb else OK)
    assert done.stderr.startswith("error: ") if "no-such" in verb else not done.stderr


def test_a_full_disk_under_stderr(fixture_copy) -> None:
    """A message that nobody can be told: exit code 2 all the same."""
    command = [sys.executable, "-m", "graphsurgery", "inspect", "no-such.onnx"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=full, text=True, check=False)
    assert (done.returncode, done.stdout) == (WRONG, "")


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (OSError(errno.EIO, "Input/output error"), WRONG, "cannot read"),
        (OSError(errno.ENOSPC, "No space left on device", "/a/folder"), WRONG, "/a/folder: No space left on device"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/a/file"), BUG, "this is a bug"),
    ],
)
def test_trouble_with_files_is_no_trouble_with_printing(error, code, told, fixture_copy, capsys, monkeypatch) -> None:
    """A disk that fails while the model is read, a full disk elsewhere; and what only a bug can be the reason of."""

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(
        "graphsurgery.model.sources.os.pread" if error.errno == errno.EIO else "graphsurgery.cli.inspecting.inspect", fails
    )
    with pytest.raises(SystemExit) as left:
        main(["inspect", str(fixture_copy("bert"))])
    printed = capsys.readouterr()
    assert left.value.code == code and told in printed.err
    assert "cannot be printed" not in printed.err and not printed.out


@pytest.mark.parametrize(
    "given", [["--texts", "t.txt"], ["--atol", "1"], ["--min-cosine", "5"], ["--full"], ["--atol", "0", "--full"]]
)
def test_what_does_not_go_with_self(given: list[str], fixture_copy, capsys) -> None:
    """An option without any use there is refused by its name, not ignored."""
    code, failure = as_json("verify", fixture_copy("bert"), "--self", *given, capsys=capsys)
    error = failure["error"]
    assert (code, error["type"]) == (WRONG, "RequestError")
    named = " and ".join(one for one in given if one.startswith("--"))
    assert error["message"].startswith(f"{named} cannot be given with --self") and named in error["advice"]
