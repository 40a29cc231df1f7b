"""Decoders as embedders: caches, tasks and flags that nobody feeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from decoders import CACHES, FLAG, HEADS, PRESENT, SIZE, TASK, compute_hidden, tiny_decoder
from encoders import HIDDEN, IDS, MASK

import graphsurgery
from graphsurgery import AddPooling, DropInput, KeepOutputs
from graphsurgery.recipe import read_recorded_recipe
from graphsurgery.report import Verdict
from graphsurgery.snippet import make_snippet

PLAIN = [DropInput("past_key_values.*"), DropInput(TASK, value="3"), DropInput(FLAG, value="false")]


@pytest.mark.usefixtures("short_texts")
def test_a_decoder_becomes_an_encoder(tmp_path: Path) -> None:
    """The file gives what the decoder gives for empty caches; nothing of the cache is left in the interface."""
    done = graphsurgery.run([*PLAIN, KeepOutputs((HIDDEN,))], tiny_decoder(), output=tmp_path / "out.onnx")
    assert done.report.verdict is Verdict.PASSED
    assert [(value.name, value.dims) for value in done.interface.inputs] == [
        (IDS, ("batch", "sequence")), (MASK, ("batch", "sequence")),
    ]  # fmt: skip
    ids = np.array([[3, 1, 4, 1], [5, 9, 2, 6]])
    session = onnxruntime.InferenceSession(done.output)
    (found,) = session.run(None, {IDS: ids, MASK: np.ones_like(ids)})
    np.testing.assert_allclose(found, compute_hidden(ids, task=3), rtol=0, atol=1e-5)
    empty = np.zeros((2, HEADS, 0, SIZE), np.float32)
    feed = {IDS: ids, MASK: np.ones_like(ids), TASK: np.array(3), FLAG: np.array([False])} | dict.fromkeys(CACHES, empty)
    source = onnxruntime.InferenceSession(tiny_decoder().SerializeToString())
    np.testing.assert_array_equal(found, source.run([HIDDEN], feed)[0])


@pytest.mark.usefixtures("short_texts")
@pytest.mark.parametrize("flag", ["true", "0"])
def test_a_flag_chooses_a_branch(tmp_path: Path, flag: str) -> None:
    edits = [*PLAIN[:2], DropInput(FLAG, value=flag), AddPooling("mean")]
    done = graphsurgery.run(edits, tiny_decoder(), output=tmp_path / "out.onnx")
    ids = np.array([[3, 1, 4, 1]])
    (found,) = onnxruntime.InferenceSession(done.output).run(None, {IDS: ids, MASK: np.array([[1, 1, 0, 0]])})
    wanted = compute_hidden(ids, task=3, is_cached=flag == "true")[:, :2].mean(axis=1)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def test_new_caches_stay_and_lose_the_dim() -> None:
    """What the decoder gives is kept until it is asked to go. No dim is named after the caches any more."""
    model = PLAIN[0].apply(graphsurgery.load(tiny_decoder()))
    assert [value.dims for value in model.interface.outputs[1:]] == [("batch", HEADS, "sequence", SIZE)] * 2
    assert model.interface.input(MASK).dims == ("batch", "sequence")
    assert any(f"the outputs {PRESENT[0]} and 1 more stay" in note for note in model.notes)


def test_one_cache_after_the_other_is_the_same() -> None:
    """The dim that both caches have goes with the second."""
    model = DropInput(CACHES[0]).apply(graphsurgery.load(tiny_decoder()))
    assert model.interface.input(MASK).dims == ("batch", "past + sequence")
    model = DropInput(CACHES[1]).apply(model)
    assert model.interface == PLAIN[0].apply(graphsurgery.load(tiny_decoder())).interface
    assert graphsurgery.verify(model, against=tiny_decoder(), head_only=True).verdict is Verdict.PASSED


def test_the_recorded_recipe_makes_the_same_file() -> None:
    model = graphsurgery.load(tiny_decoder())
    for edit in PLAIN:
        model = edit.apply(model)
    again = graphsurgery.load(tiny_decoder())
    for edit in read_recorded_recipe(model).steps:
        again = edit.apply(again)
    assert again.fingerprint == model.fingerprint


def test_the_snippet_feeds_empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines that a verb prints run the file, and give what a decoder gives that has read nothing yet."""
    monkeypatch.chdir(tmp_path)
    graphsurgery.save(DropInput(TASK, value="3").apply(graphsurgery.load(tiny_decoder())), "model.onnx")
    model = graphsurgery.load("model.onnx")
    scope: dict[str, np.ndarray] = {}
    exec(make_snippet(tmp_path / "model.onnx", model.interface), scope)
    np.testing.assert_allclose(scope["embedding"], compute_hidden(np.arange(3)[None], task=3), rtol=0, atol=1e-5)
