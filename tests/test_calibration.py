"""int8 by the ranges of a user's own texts."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from conftest import FIXTURES
from encoders import tiny_encoder
from tokenizers import Tokenizer

import graphsurgery
from graphsurgery.errors import RequestError, SurroundingsError

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
