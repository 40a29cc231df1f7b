"""From a transformer-only ONNX file to vectors: pool it, prove it, and embed a few texts.

python examples/pool_and_embed.py                       # the small model of this repository (random weights)
python examples/pool_and_embed.py MODEL.onnx --mode cls # your own, with its tokenizer.json beside it
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import tokenizers

import graphsurgery

SMALL = Path(__file__).resolve().parents[1] / "fixtures" / "bert" / "model.onnx"
TEXTS = ["The ferry waits at the old bridge.", "The old ferry waits beside the bridge.", "Salt dries the fish."]


def embed(session: onnxruntime.InferenceSession, tokenizer: tokenizers.Tokenizer, texts: list[str]) -> np.ndarray:
    """Return the vectors of ``texts``, ``[len(texts), dim]``, from one run of a pooled file."""
    encoded = tokenizer.encode_batch(texts)
    arrays = {
        "input_ids": [one.ids for one in encoded],
        "attention_mask": [one.attention_mask for one in encoded],
        "token_type_ids": [one.type_ids for one in encoded],
    }
    feeds = {one.name: np.array(arrays[one.name], np.int64) for one in session.get_inputs()}
    vectors: np.ndarray = session.run(["sentence_embedding"], feeds)[0]
    return vectors


def main() -> None:
    parser = argparse.ArgumentParser(description="Pool a transformer-only ONNX file, and embed three texts with the result.")
    parser.add_argument("model", nargs="?", type=Path, default=SMALL)
    parser.add_argument("--mode", default="mean", help="cls, mean, max, lasttoken, ... or auto: what the model's folder says")
    arguments = parser.parse_args()

    tokenizer = tokenizers.Tokenizer.from_file(str(arguments.model.parent / "tokenizer.json"))
    tokenizer.enable_padding()
    with tempfile.TemporaryDirectory() as folder:
        pooled = Path(folder) / "embedder.onnx"
        steps = [graphsurgery.AddPooling(mode=arguments.mode), graphsurgery.AddNormalize()]
        outcome = graphsurgery.run(steps, arguments.model, output=pooled)  # raises VerificationFailed if the proof fails
        print(outcome.report)
        vectors = embed(onnxruntime.InferenceSession(pooled), tokenizer, TEXTS)

    for text, vector in zip(TEXTS, vectors, strict=True):
        print(f"cosine {vector @ vectors[0]:.3f} with the first text: {text}")


if __name__ == "__main__":
    main()
