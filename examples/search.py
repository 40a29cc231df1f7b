"""Search in a text file, offline and in a plan's batches: embed every line once, then rank the lines by a query.

    python examples/search.py MODEL.onnx LINES.txt "where does the ferry wait?"
    python examples/search.py                       # the small model of this repository (random weights) and its README

MODEL.onnx gives vectors of length one (`graphsurgery add-pooling MODEL.onnx --normalize`); its tokenizer.json is beside it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import tokenizers

import graphsurgery

ROOT = Path(__file__).resolve().parents[1]
LONGEST, SHOWN = 64, 3
"""Tokens of a line, and lines that are printed."""


class Embedder:
    """A pooled file with its tokenizer."""

    def __init__(self, model: Path, tokenizer: Path) -> None:
        self._session = onnxruntime.InferenceSession(model)
        self._names = [one.name for one in self._session.get_inputs()]
        self._tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(LONGEST)

    def embed(self, texts: list[str]) -> np.ndarray:
        """Return one vector per text, in the order of ``texts``. Texts of similar length run together."""
        encoded = self._tokenizer.encode_batch(texts)
        batches = graphsurgery.plan([len(one.ids) for one in encoded])
        vectors = [self._run([encoded[place] for place in batch]) for batch in batches]
        order = np.concatenate([np.array(batch) for batch in batches])
        return np.concatenate(vectors)[np.argsort(order)]

    def _run(self, encoded: list[tokenizers.Encoding]) -> np.ndarray:
        longest = max(len(one.ids) for one in encoded)
        for one in encoded:
            one.pad(longest)
        arrays = {
            "input_ids": [one.ids for one in encoded],
            "attention_mask": [one.attention_mask for one in encoded],
            "token_type_ids": [one.type_ids for one in encoded],
        }
        feeds = {name: np.array(arrays[name], np.int64) for name in self._names}
        vectors: np.ndarray = self._session.run(["sentence_embedding"], feeds)[0]
        return vectors


def search(embedder: Embedder, lines: list[str], query: str) -> None:
    """Print the lines whose vectors have the largest cosine with the query's."""
    cosines = embedder.embed(lines) @ embedder.embed([query])[0]
    for place in np.argsort(-cosines)[:SHOWN]:
        print(f"{cosines[place]:.3f}  {lines[place]}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Rank the lines of a text file by their similarity to a query.")
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("lines", nargs="?", type=Path, default=ROOT / "README.md")
    parser.add_argument("query", nargs="?", default="which programs can read the file?")
    arguments = parser.parse_args()
    lines = [line for line in arguments.lines.read_text(encoding="utf-8").splitlines() if line.strip()]

    if arguments.model is not None:
        search(Embedder(arguments.model, arguments.model.parent / "tokenizer.json"), lines, arguments.query)
        return
    source = ROOT / "fixtures" / "bert"
    with tempfile.TemporaryDirectory() as folder:
        pooled = Path(folder) / "model.onnx"
        graphsurgery.run([graphsurgery.AddPooling(normalize=True)], source / "model.onnx", output=pooled)
        search(Embedder(pooled, source / "tokenizer.json"), lines, arguments.query)


if __name__ == "__main__":
    main()
