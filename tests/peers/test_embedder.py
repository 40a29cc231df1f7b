"""Embedder beside sentence-transformers' encode: the same vectors from the same folder, prompts and long texts included."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from saved_folders import TEXTS, make_encoder, save
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling

import graphsurgery
from graphsurgery import Embedder, TruncationWarning

CLOSE = 2e-5
LONG = " ".join(TEXTS) * 3
PROMPTS = {"query": "find this: ", "passage": ""}


@pytest.mark.parametrize(
    ("name", "side", "mode", "options"),
    [
        ("bert", "right", "mean", {}),
        ("bert", "right", "cls", {"include_prompt": False}),
        ("xlmr", "right", "mean", {"include_prompt": False}),
        ("qwen3", "left", "lasttoken", {}),
    ],
)
def test_the_vectors_are_those_of_encode(name: str, side: str, mode: str, options: dict, tmp_path: Path) -> None:
    encoder = make_encoder(name, tmp_path)
    first = encoder.module(side)
    first.max_seq_length = 20
    pooling = Pooling(first.get_embedding_dimension(), mode, **options)
    dense = Dense(pooling.get_embedding_dimension(), 24)
    model = SentenceTransformer(modules=[first, pooling, dense, Normalize()], prompts=PROMPTS, device="cpu")
    folder = save(model, tmp_path / "saved", encoder.onnx)
    given = {} if options.get("include_prompt", True) else {"skip_prompt": "input"}
    ours = Embedder(graphsurgery.bake(folder, verify=False, **given).folder)
    texts = [*TEXTS, LONG]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        for prompt in PROMPTS:
            wanted = model.encode(texts, prompt_name=prompt)
            np.testing.assert_allclose(ours.encode(texts, prompt), wanted, atol=CLOSE)
    np.testing.assert_allclose(ours.similarity(wanted, wanted), model.similarity(wanted, wanted).numpy(), atol=CLOSE)
    cut = model.encode(texts, truncate_dim=8)
    with pytest.warns(TruncationWarning, match="4 of 7 texts were cut at 20 tokens: 0, 2, 5, 6"):
        found = ours.encode(texts, dims=8)
    np.testing.assert_allclose(found, cut / np.linalg.norm(cut, axis=1, keepdims=True), atol=CLOSE)


def test_the_real_folder(minilm: Path, minilm_export: Path, tmp_path: Path) -> None:
    """Its tokenizer.json pads to 128 and cuts at 128, where its config says 256."""
    folder = Path(shutil.copytree(minilm, tmp_path / "minilm", symlinks=False))
    (folder / "onnx").mkdir(exist_ok=True)
    shutil.copyfile(minilm_export, folder / "onnx" / "model.onnx")
    ours = Embedder(graphsurgery.bake(folder, verify=False).folder, max_batch_tokens=2048)
    assert ours.max_length == 256
    assert [len(ids) for ids in ours.tokenize(["hello", LONG * 10])] == [3, 256]
    texts = [*(Path(__file__).parents[1] / "data" / "sentences.txt").read_text(encoding="utf-8").splitlines()[:64], LONG * 10]
    wanted = SentenceTransformer(str(minilm), device="cpu").encode(texts)
    with pytest.warns(TruncationWarning):
        np.testing.assert_allclose(ours.encode(texts), wanted, atol=CLOSE)
