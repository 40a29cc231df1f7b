"""The help: ten verbs in the order of use, all of them on request, and examples that run."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import FIXTURES
from golden import CASES
from joints import joint
from module_folders import drawn
from safetensors.numpy import save_file
from speech import make_speech_encoder

import graphsurgery as gs
from graphsurgery.cli.main import FIRST, OK, VERBS, WRONG, run

UNPROVEN = {"verify", "bench", "deploy", "embed", "serve", "inspect", "recipe", "export"}
"""Verbs without an option --no-verify."""
MADE_BY = {"add-pooling": "model.pooled.onnx", "bake": "my-model-baked"}
"""What other examples need and these verbs make."""
SHORTER = {
    "bench": ["--batches", "1", "--lengths", "8", "--seconds", "0.01"],
    "serve": ["--port", "0", "--max-batch-tokens", "64"],
    "quantize": ["--no-timing", "--texts", "texts.txt", "--calibrate", "texts.txt"],
}
"""Options that make an example run in a second. The last one counts where the example gives it, too."""
VOCABULARY = 10_000
MODULES: Mapping[str, tuple[dict[str, tuple[int, ...]], dict[str, object]]] = {
    "2_Dense": ({"linear.weight": (16, 32), "linear.bias": (16,)}, {"activation_function": "torch.nn.modules.activation.Tanh"}),
    "2_LayerNorm": ({"norm.weight": (32,), "norm.bias": (32,)}, {"dimension": 32}),
    "1_CNN": (
        {"convs.0.weight": (8, 32, 3), "convs.0.bias": (8,)},
        {"in_word_embedding_dimension": 32, "out_channels": 8, "kernel_sizes": [3], "stride_sizes": [1]},
    ),
    "1_LSTM": (
        {
            f"encoder.{kind}_{side}_l0{way}": (32, *more)
            for kind, side, more in (("weight", "ih", (32,)), ("weight", "hh", (8,)), ("bias", "ih", ()), ("bias", "hh", ()))
            for way in ("", "_reverse")
        },
        {"word_embedding_dimension": 32, "hidden_dim": 8, "num_layers": 1, "dropout": 0, "bidirectional": True},
    ),
    "1_WordWeights": ({}, {"vocab": ["a", "b"], "word_weights": {"a": 2.0}, "unknown_word_weight": 1.0}),
    "1_WeightedLayerPooling": (
        {"layer_weights": (4,)}, {"word_embedding_dimension": 32, "layer_start": 0, "num_hidden_layers": 3},
    ),
}  # fmt: skip
"""The module folders that examples take weights from: tensors and config."""
SCORES = """
<ir_version: 8, opset_import: ["" : 17]>
scorer (int64[batch, seq] input_ids, int64[batch, seq] attention_mask) => (float[batch, seq, VOCABULARY] logits)
{ rows = Gather (table, input_ids)  turned = Tanh (rows)  logits = MatMul (turned, words) }
""".replace("VOCABULARY", str(VOCABULARY))
RERANKER = """
<ir_version: 8, opset_import: ["" : 17]>
reranker (int64[batch, seq] input_ids, int64[batch, seq] attention_mask) => (float[batch, 1] logits)
{ both = Add (input_ids, attention_mask)
  numbers = Cast<to = 1> (both)  logits = ReduceMean<axes = [1], keepdims = 1> (numbers) }
"""


PICTURES = """
<ir_version: 8, opset_import: ["" : 18]>
tower (float[batch, 3, 8, 8] pixel_values) => (float[batch, 1, 4, 4] patches)
<float[1, 3, 2, 2] kernel = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}> { patches = Conv<strides = [2, 2]> (pixel_values, kernel) }
"""


def write_model(text: str, path: Path) -> None:
    model = onnx.parser.parse_model(text)
    for name, shape in {"table": (VOCABULARY, 4), "words": (4, VOCABULARY)}.items() if "table" in text else ():
        model.graph.initializer.append(onnx.numpy_helper.from_array(drawn({name: shape})[name], name))
    onnx.save(model, path)


@pytest.fixture(scope="module")
def examples_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all files that the examples name."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(FIXTURES / "bert", folder, dirs_exist_ok=True)
    shutil.copytree(FIXTURES / "bert", folder / "my-model")
    for name, (shapes, config) in MODULES.items():
        (folder / "my-model" / name).mkdir()
        if shapes:
            save_file(drawn(shapes), folder / "my-model" / name / "model.safetensors")
        (folder / "my-model" / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
    gs.run([gs.AddPooling("mean")], folder / "model.onnx", output=folder / "model.pooled.onnx", verify=False)
    both = gs.AddPooling("cls", keep_output=("last_hidden_state",))
    gs.run([both], folder / "model.onnx", output=folder / "model.two-outputs.onnx", verify=False)
    gs.run(
        [gs.FixDim(("batch_size=2", "sequence_length=8"))], folder / "model.onnx", output=folder / "fixed.onnx", verify=False
    )
    gs.bake(folder / "my-model", folder / "my-model-baked", verify=False)
    onnx.save(joint(), folder / "joint.onnx")
    onnx.save(make_speech_encoder(), folder / "speech.onnx")
    onnx.save(make_speech_encoder("layer", misaligned=True), folder / "masked-frames.onnx")
    onnx.save(make_speech_encoder("layer", sizes=(1, 430)), folder / "fixed-speech.onnx")
    for name in ("masked-lm", "causal-lm"):
        write_model(SCORES, folder / f"{name}.onnx")
    write_model(RERANKER, folder / "reranker.onnx")
    write_model(PICTURES, folder / "vision.onnx")
    shutil.copy(CASES / "add_image_input" / "clip.json", folder / "preprocessor_config.json")
    np.save(folder / "ranges.npy", np.stack([np.full(32, -2.0, np.float32), np.full(32, 2.0, np.float32)]))
    (folder / "texts.txt").write_text(
        "\n".join(["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]),
        encoding="utf-8",
    )
    return folder


@pytest.mark.usefixtures("short_services")
@pytest.mark.parametrize("verb", VERBS)
def test_examples_run(verb: str, examples_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Both examples that a verb's help ends with, as they stand there, apart from proofs, which other tests are about."""
    shutil.copytree(examples_folder, tmp_path, dirs_exist_ok=True)
    if verb in MADE_BY:
        (tmp_path / MADE_BY[verb]).rename(tmp_path / "as before")
    monkeypatch.chdir(tmp_path)
    assert run([verb, "--help"]) == OK
    lines = [line.strip() for line in capsys.readouterr().out.partition("Examples:\n")[2].splitlines()]
    assert len(lines) == 2 and all(line.startswith(f"graphsurgery {verb} ") for line in lines)
    for line in lines:
        more = [*SHORTER.get(verb, []), *([] if verb in UNPROVEN else ["--no-verify"])]
        code = run([*shlex.split(line)[1:], *more])
        if verb == "export" and not find_spec("torch"):  # it needs PyTorch, which is in the environments of tests/peers
            assert code == WRONG and "pip install" in capsys.readouterr().err
        else:
            assert code == OK, line


def list_verbs(shown: str) -> list[str]:
    return re.findall(r"^  ([a-z][a-z-]+)  +\w", shown, flags=re.MULTILINE)


def test_help_shows_ten_verbs_in_order_of_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == OK
    shown = capsys.readouterr().out
    assert list_verbs(shown) == list(FIRST) and len(FIRST) == 10
    assert f"`graphsurgery --help-all` lists all {len(VERBS)} verbs" in " ".join(shown.split())


def test_help_all_shows_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help-all"]) == OK
    assert sorted(list_verbs(capsys.readouterr().out)) == sorted(VERBS)


def test_examples_are_not_wrapped(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """So that they can be copied from a narrow terminal, too."""
    monkeypatch.setenv("COLUMNS", "40")
    assert run(["truncate", "--help"]) == OK
    assert "\n  graphsurgery truncate model.pooled.onnx --dim 16 --keep-length -o small.onnx\n" in capsys.readouterr().out
