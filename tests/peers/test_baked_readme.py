"""The program in a baked folder's README, against sentence-transformers' own encode: tokenisation, cutting, prompts and all."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from saved_folders import TEXTS, make_encoder, save
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from graphsurgery.baking.bake import bake

GIVEN = '["How are you?", "It is cold today."]'
ALLOWED = 4e-6
"""Unit vectors; the encoder's own float32 rounding is in it."""


def from_readme(folder: Path) -> np.ndarray:
    program = (folder / "README.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    assert GIVEN in program
    scope: dict = {}
    with contextlib.chdir(folder), contextlib.redirect_stdout(None):
        exec(program.replace(GIVEN, repr(list(TEXTS))), scope)
    return scope["sentence_embedding"]


@pytest.mark.parametrize("how", ["plain", "cut", "prompt", "prompt left out", "special prompt left out", "lowercase"])
@pytest.mark.parametrize(("name", "side"), [("bert", "right"), ("xlmr", "right"), ("qwen3", "left"), ("t5", "right")])
def test_the_program_gives_what_encode_gives(name: str, side: str, how: str, tmp_path: Path, worst) -> None:
    encoder = make_encoder(name, tmp_path)
    if how == "special prompt left out":
        config = json.loads((encoder.folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        config["eos_token"] = {"bert": "[SEP]", "qwen3": "<|endoftext|>"}.get(name, "</s>")
        (encoder.folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    options = {"cut": {"max_seq_length": 6}, "lowercase": {"do_lower_case": True}}.get(how, {})
    first = Transformer(str(encoder.folder), **options)
    first.tokenizer.padding_side = side
    prompts = {"query": "A search of words: ", "plain": ""} if "prompt" in how else None
    model = SentenceTransformer(
        modules=[first, Pooling(first.get_embedding_dimension(), "mean", include_prompt="left out" not in how), Normalize()],
        device="cpu", prompts=prompts, default_prompt_name="query" if prompts else None,
    )  # fmt: skip
    folder = save(model, tmp_path / "model", encoder.onnx)
    wanted = SentenceTransformer(str(folder), device="cpu", backend="torch").encode(list(TEXTS))
    bake(folder)
    worst.within("README's program against encode", from_readme(tmp_path / "model-baked"), wanted, ALLOWED, f"{name}, {how}")
