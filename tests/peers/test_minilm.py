"""The real all-MiniLM-L6-v2, from the transformer-only export to embeddings, against sentence-transformers' `encode`.

The texts are real (tests/data/sentences.txt: many languages, one word to far beyond the 256 tokens that the model takes).
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

import graphsurgery

TEXTS = Path(__file__).resolve().parents[1] / "data" / "sentences.txt"
RELATIVE, UNIT = 1e-5, 1e-6
BATCHES = ((1, False), (32, False), (32, True))
"""Batch sizes, and whether texts of about one length share a batch, as in `encode` (else batches are ragged)."""


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    found = TEXTS.read_text(encoding="utf-8").splitlines()
    assert len(found) >= 300 and all(found)
    return found


@pytest.fixture(scope="module")
def reference(minilm) -> SentenceTransformer:
    """The whole pipeline: transformer, pooling, normalisation; in PyTorch, on the CPU."""
    model = SentenceTransformer(str(minilm), device="cpu", backend="torch")
    assert [type(module).__name__ for module in model] == ["Transformer", "Pooling", "Normalize"]
    return model


@pytest.fixture(scope="module")
def encoded(sentences, make_once, request: pytest.FixtureRequest) -> Callable[[int], np.ndarray]:
    """Gives what `encode` makes of the sentences, by batch size. It runs once, for all files and processes of tests."""

    def encode(size: int) -> np.ndarray:
        def fill(folder: Path) -> None:
            reference = request.getfixturevalue("reference")
            np.save(folder / "vectors.npy", reference.encode(sentences, batch_size=size))

        return np.load(make_once(f"encoded by {size}", fill) / "vectors.npy")

    return functools.cache(encode)


@pytest.fixture(scope="module")
def tokenizer(minilm) -> Tokenizer:
    """The folder's own tokenizer, set up as sentence-transformers does: texts cut at max_seq_length, batches padded."""
    found = Tokenizer.from_file(str(minilm / "tokenizer.json"))
    settings = json.loads((minilm / "sentence_bert_config.json").read_text(encoding="utf-8"))
    found.enable_truncation(max_length=settings["max_seq_length"])
    found.enable_padding(pad_id=found.token_to_id("[PAD]"), pad_token="[PAD]")
    return found


def feed_of(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, np.ndarray]:
    found = tokenizer.encode_batch(list(texts))
    names = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    return {name: np.array([getattr(one, attribute) for one in found]) for name, attribute in names.items()}


def embed(path: Path, tokenizer: Tokenizer, texts: Sequence[str], batch: int, by_length: bool) -> np.ndarray:
    """The texts' embeddings by an ONNX file, in the order of the texts; it is fed what it takes."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    order = np.argsort([-len(text) if by_length else 0 for text in texts], kind="stable")
    parts = [order[start : start + batch] for start in range(0, len(order), batch)]
    names = {value.name for value in session.get_inputs()}
    feeds = (
        {name: array for name, array in feed_of(tokenizer, [texts[i] for i in part]).items() if name in names} for part in parts
    )
    found = [session.run(["sentence_embedding"], feed)[0] for feed in feeds]
    return np.concatenate(found)[np.argsort(order)]


def label(what: str, batch: int, by_length: bool, reference_batch: int) -> str:
    batches = "1 by 1" if batch == 1 else f"{batch} by {batch}{', by length' * by_length}"
    return f"MiniLM, {what}, {batches}; encode with {reference_batch}"


def test_the_tokenizers_agree(reference, tokenizer, sentences):
    """The same ids, masks and types; some texts are cut."""
    longest = 0
    for start in range(0, len(sentences), 32):
        texts = sentences[start : start + 32]
        theirs, ours = reference.preprocess(texts), feed_of(tokenizer, texts)
        for name, array in ours.items():
            assert np.array_equal(theirs[name].numpy(), array)
        longest = max(longest, ours["input_ids"].shape[1])
    assert longest == reference.max_seq_length == 256


@pytest.fixture(scope="module")
def by_command(minilm_export, command_line, tmp_path_factory) -> Path:
    """Pooled and normalised on the command line, with its proof."""
    output = tmp_path_factory.mktemp("command") / "model.onnx"
    code, report = command_line("add-pooling", minilm_export, "--mode", "mean", "--normalize", "-o", output)
    assert code == 0 and report["report"]["verdict"] == "PASSED" and report["report"]["cases"] > 100
    return output


@pytest.mark.parametrize(("batch", "by_length"), BATCHES)
def test_the_command_line_gives_what_encode_gives(by_command, tokenizer, sentences, encoded, worst, batch, by_length):
    found = embed(by_command, tokenizer, sentences, batch, by_length)
    for size in (1, 32):
        worst.within(label("command line", batch, by_length, size), found, encoded(size), UNIT)


def test_the_library_gives_what_encode_gives(minilm_export, by_command, tokenizer, sentences, encoded, worst, tmp_path):
    model = graphsurgery.load(minilm_export)
    output = tmp_path / "model.onnx"
    graphsurgery.save(graphsurgery.add_pooling(model, mode="mean", normalize=True), output)
    report = graphsurgery.verify(output, against=minilm_export)
    assert report and report.cases > 100
    worst.within(label("library", 32, True, 32), embed(output, tokenizer, sentences, 32, True), encoded(32), UNIT)
    assert output.read_bytes() == by_command.read_bytes()


def test_two_steps_give_the_same(minilm_export, command_line, tokenizer, sentences, encoded, worst, tmp_path):
    """Normalisation as a step of its own."""
    pooled, output = tmp_path / "pooled.onnx", tmp_path / "normalized.onnx"
    code, report = command_line("add-pooling", minilm_export, "--mode", "mean", "-o", pooled)
    assert code == 0 and report["report"]["verdict"] == "PASSED"
    code, report = command_line("add-normalize", pooled, "-o", output)
    assert code == 0 and report["report"]["verdict"] == "PASSED"
    worst.within(label("in two steps", 32, True, 32), embed(output, tokenizer, sentences, 32, True), encoded(32), UNIT)


@pytest.fixture(scope="module")
def encoded_unnormalised(reference, sentences) -> np.ndarray:
    """`encode` without the last module of the pipeline."""
    found = SentenceTransformer(modules=[reference[0], reference[1]], device="cpu").encode(sentences, batch_size=32)
    assert not np.allclose(np.linalg.norm(found, axis=1), 1, atol=0.01)
    return found


@pytest.fixture(scope="module")
def unnormalised(minilm, minilm_export, tmp_path_factory) -> Path:
    """Pooled as the model's own 1_Pooling/config.json says, not normalised."""
    folder = tmp_path_factory.mktemp("auto")
    shutil.copytree(minilm / "1_Pooling", folder / "1_Pooling")
    shutil.copy(minilm_export, folder / "model.onnx")
    graphsurgery.save(graphsurgery.add_pooling(folder / "model.onnx", mode="auto"), folder / "pooled.onnx")
    return folder / "pooled.onnx"


@pytest.mark.parametrize(("batch", "by_length"), [BATCHES[0], BATCHES[-1]])
def test_without_normalisation(unnormalised, tokenizer, sentences, encoded_unnormalised, worst, batch, by_length):
    found = embed(unnormalised, tokenizer, sentences, batch, by_length)
    allowed = RELATIVE * np.maximum(1, np.abs(encoded_unnormalised))
    worst.within(label("not normalised", batch, by_length, 32), found, encoded_unnormalised, allowed)
