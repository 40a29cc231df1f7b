"""int8 by the ranges of a user's own texts."""

from __future__ import annotations

import gc
import shutil
import weakref
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from conftest import FIXTURES
from encoders import tiny_encoder
from onnx import numpy_helper
from tokenizers import Tokenizer

import graphsurgery
from graphsurgery.edits import output_precision
from graphsurgery.encoder.head import read_head_steps
from graphsurgery.errors import RecipeError, RequestError, SurroundingsError
from graphsurgery.recipe import parse_recipe
from graphsurgery.runtime.measure import measure_ranges

pytestmark = pytest.mark.usefixtures("loaded_anew")
TEXTS = Path(__file__).parent / "data" / "sentences.txt"


def embeddings(path: Path, texts: list[str]) -> np.ndarray:
    """Each text embedded by itself."""
    tokenizer = Tokenizer.from_file(str(FIXTURES / "bert" / "tokenizer.json"))
    tokenizer.enable_truncation(62)  # what the position table surely serves
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = []
    for text in texts:
        one = tokenizer.encode(text)
        feed = {"input_ids": one.ids, "attention_mask": one.attention_mask, "token_type_ids": one.type_ids}
        found.append(session.run(["sentence_embedding"], {name: np.array([value]) for name, value in feed.items()})[0][0])
    return np.array(found)


def test_ranges_of_texts(tmp_path: Path) -> None:
    """The ranges are those of the texts' own embeddings, so that the bytes are those of quantize_embeddings."""
    folder = Path(shutil.copytree(FIXTURES / "bert", tmp_path / "bert"))
    texts = [line for line in TEXTS.read_text(encoding="utf-8").splitlines() if line][:120]
    (tmp_path / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
    pooling = graphsurgery.AddPooling("mean", normalize=True)
    graphsurgery.run([pooling], folder / "model.onnx", output=folder / "float.onnx")
    steps = [pooling, graphsurgery.OutputPrecision("uint8", str(tmp_path / "texts.txt"))]
    outcome = graphsurgery.run(steps, folder / "model.onnx", output=folder / "bytes.onnx")
    assert outcome.report and outcome.saved
    plain, found = (embeddings(folder / name, texts) for name in ("float.onnx", "bytes.onnx"))
    low, high = plain.min(axis=0), plain.max(axis=0)
    wanted = np.clip(np.floor((plain - low) / ((high - low) / 255)), 0, 255)
    assert found.dtype == np.uint8 and found.min() == 0 and found.max() == 255
    assert np.abs(found - wanted).max() <= 1 and (found != wanted).mean() < 0.02, (
        "the batch a text is in makes a rounding's difference"
    )


def test_texts_that_are_too_few_or_none(tmp_path: Path) -> None:
    pooled = graphsurgery.add_pooling(FIXTURES / "bert" / "model.onnx", "mean")
    (tmp_path / "few.txt").write_text("one\ntwo\n", encoding="utf-8")
    with pytest.raises(RequestError, match="has 2 texts"):
        graphsurgery.output_precision(pooled, "int8", ranges=tmp_path / "few.txt")
    with pytest.raises(SurroundingsError):
        graphsurgery.output_precision(pooled, "int8", ranges=tmp_path / "none.txt")
    with pytest.raises(RequestError, match="no tokenizer"):
        graphsurgery.output_precision(graphsurgery.add_pooling(tiny_encoder(), "mean"), "int8", ranges=TEXTS)


def test_texts_that_change_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ranges, and the digest that is recorded, are those of the file as it is, and are taken once for each application."""
    folder = Path(shutil.copytree(FIXTURES / "bert", tmp_path / "bert"))
    lines = [line for line in TEXTS.read_text(encoding="utf-8").splitlines() if line]
    pooled = graphsurgery.add_pooling(folder / "model.onnx", "mean")
    taken: list[np.ndarray] = []

    def counted(*given: object) -> np.ndarray:
        taken.append(measure_ranges(*given))
        return taken[-1]

    monkeypatch.setattr(output_precision, "measure_ranges", counted)
    digests = []
    for texts in (lines[:100], lines[100:200]):
        (tmp_path / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
        made = graphsurgery.output_precision(pooled, "uint8", ranges=tmp_path / "texts.txt")
        digests.append(read_head_steps(made)[-1].parameters["digests"])
        held = [numpy_helper.to_array(node.attribute[0].t) for node in made.proto.graph.node if node.name.endswith("/ranges")]
        assert len(held) == 1 and np.array_equal(held[0], taken[-1])
    assert digests[0] != digests[1]
    assert len(taken) == 2


def test_no_model_is_kept(tmp_path: Path) -> None:
    """Ranges of texts keep neither the model nor its file open."""
    folder = Path(shutil.copytree(FIXTURES / "bert", tmp_path / "bert"))
    pooled = graphsurgery.add_pooling(folder / "model.onnx", "mean")
    graphsurgery.output_precision(pooled, "int8", ranges=TEXTS)
    gone = weakref.ref(pooled)
    del pooled
    gc.collect()
    assert gone() is None


def test_what_is_read_is_no_parameter() -> None:
    """The ranges themselves go from `resolve` to `change`; they are neither recorded nor given."""
    pooled = graphsurgery.add_pooling(FIXTURES / "bert" / "model.onnx", "mean")
    result = graphsurgery.OutputPrecision("uint8", str(TEXTS)).resolve(pooled)
    assert result.found.ranges is not None and result.found.ranges.shape == (2, result.found.width)
    assert set(result.edit.parameters()) == {"to", "ranges", "target", "digests"}
    with pytest.raises(RecipeError, match="read"):
        parse_recipe({"steps": [{"edit": "output-precision", "to": "uint8", "read": [1]}]}, "here")
