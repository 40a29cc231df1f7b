"""Arguments of the wrong type: each public function raises a typed error that names the argument."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FIXTURES

import graphsurgery as gs
from graphsurgery.argument_types import require_type
from graphsurgery.errors import WrongTypeError

BERT = FIXTURES / "bert" / "model.onnx"
FOLDER = FIXTURES / "bert"
POOLING = gs.AddPooling("mean")
WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "a verb as a step": (lambda: gs.run(["add-pooling"], BERT), "run: steps[0] must be an Edit or a Rewrite, got 'add"),
    "a class as a step": (lambda: gs.run([gs.AddPooling], BERT), "run: steps[0] must be an Edit or a Rewrite"),
    "a step, not a list": (lambda: gs.run(POOLING, BERT), "run: steps must be a list of Edit or Rewrite"),
    "no steps": (lambda: gs.run(None, BERT), "run: steps must be a list"),
    "a number as a file": (lambda: gs.run([POOLING], 5), "run: source must be a path, a ModelProto, a Graph or a Model, got 5"),
    "a text as a number": (lambda: gs.run([POOLING], BERT, atol="x"), "run: atol must be a number or None, got 'x'"),
    "a number as progress": (lambda: gs.run([POOLING], BERT, progress=5), "run: progress must be a function, got 5"),
    "load": (lambda: gs.load([BERT]), "load: source must be a path"),
    "save": (lambda: gs.save(BERT, "x.onnx"), "save: model must be a Model"),
    "inspect": (lambda: gs.inspect(None), "inspect: source must be a path"),
    "verify": (lambda: gs.verify(BERT, against=BERT, texts=["a"]), "verify: texts must be a path or None, got ['a'] (list)"),
    "verify_itself": (lambda: gs.verify_itself(5), "verify_itself: model"),
    "optimize": (lambda: gs.optimize(BERT, heads="four"), "optimize: heads must be a whole number or None, got 'four'"),
    "quantize": (lambda: gs.quantize(BERT, min_cosine="high"), "quantize: min_cosine must be a number, got 'high'"),
    "bake": (lambda: gs.bake(FOLDER, keep_output=5), "bake: keep_output must be a list of texts, got 5"),
    "bench": (lambda: gs.bench([BERT], batches=("a",)), "bench: batches[0] must be a whole number, got 'a'"),
    "bench nothing": (lambda: gs.bench(5), "bench: models must be a path, a ModelProto, a Graph, a Model or a list of paths"),
    "export": (lambda: gs.export(5), "export: folder must be a path"),
    "run_recipe": (lambda: gs.run_recipe({"steps": []}, BERT), "run_recipe: recipe must be a path"),
    "an edit's flag": (lambda: gs.add_pooling(BERT, "mean", normalize="yes"), "add_pooling: normalize must be True or False"),
    "an edit's list": (lambda: gs.add_pooling(BERT, "mean", keep_output=5), "add_pooling: keep_output must be a list of texts"),
    "an edit's path": (lambda: gs.add_dense(BERT, 5), "add_dense: weights must be a path, got 5"),
    "an edit's model": (lambda: gs.add_normalize(5), "add_normalize: model must be a path"),
    "a field of an edit": (lambda: gs.AddPooling(5).apply(gs.load(BERT)), "add-pooling: mode must be text, got 5"),
    "a path for apply": (lambda: POOLING.apply(BERT), "add-pooling: model must be a Model"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_an_argument_of_the_wrong_type_is_named(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a RequestError and a TypeError, raised before anything is written."""
    monkeypatch.chdir(tmp_path)
    call, said = WRONG[case]
    with pytest.raises(WrongTypeError) as refused:
        call()
    assert str(refused.value).startswith(said)
    assert isinstance(refused.value, gs.GraphSurgeryError) and isinstance(refused.value, TypeError)
    assert not list(tmp_path.iterdir())


def test_a_verb_in_place_of_an_edit_is_told_what_to_give() -> None:
    with pytest.raises(WrongTypeError) as refused:
        gs.run(["add-pooling"], BERT)
    assert "graphsurgery.AddPooling(" in refused.value.advice


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (np.int64(3), int), (np.float32(0.5), float), (3, float), (True, bool), (None, int | None), ("a", str | int),
        (print, Any), (np.array([1, 2]), tuple[int, ...]), ([1, 2], tuple[int, ...]), ("text", tuple[str, ...]),
    ],
)  # fmt: skip
def test_values_that_fit(value: object, wanted: Any) -> None:
    """Numbers of numpy are numbers, an array is a list, and one text stands for a list of one."""
    require_type(value, wanted, "value")


def test_a_missing_argument_is_pythons_own_error() -> None:
    with pytest.raises(TypeError, match=r"^run\(\) missing a required argument: 'source'$"):
        gs.run([POOLING])  # type: ignore[call-arg]
