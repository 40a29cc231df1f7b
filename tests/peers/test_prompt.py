"""add-pooling --skip-prompt against sentence-transformers' own Pooling with include_prompt=False, run here and now."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from exports import COMMITTED, FIXTURES
from installed import weights_from
from sentence_transformers.sentence_transformer.modules import Pooling

import graphsurgery

SIX = ("cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
PADDING = {
    "right": ("111111", "111100", "111000"),
    "left": ("111111", "001111", "000111"),
    "left alone": ("000111", "011111"),
    "mixed": ("011110", "111000", "000111"),
    "holes": ("110111", "011011", "101101"),
}
LENGTHS = (0, 1, 2, 3, 5, 6, 9)


def masks() -> dict[str, np.ndarray]:
    return {kind: np.array([[int(one) for one in row] for row in rows]) for kind, rows in PADDING.items()}


def by_sentence_transformers(hidden: np.ndarray, mask: np.ndarray, mode: str, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(``[batch, dim]``, which rows have any token behind the prompt)."""
    features = {
        "token_embeddings": torch.from_numpy(hidden), "attention_mask": torch.from_numpy(mask), "prompt_length": length,
    }  # fmt: skip
    module = Pooling(hidden.shape[-1], tuple(mode.split(",")), include_prompt=False)
    behind = module._exclude_prompt_from_mask(torch.from_numpy(mask).clone(), length)
    return module(features)["sentence_embedding"].numpy(), behind.numpy().any(axis=1)


@pytest.mark.parametrize("name", [name for name in COMMITTED if "fp16" not in name and "external" not in name])
@pytest.mark.parametrize("mode", [*SIX, "mean,lasttoken"])
def test_the_prompt_is_left_out_as_there(name: str, mode: str, tmp_path: Path, worst) -> None:
    """For every padding and length, the length as an input and as a constant; rows that the prompt covers give zeros."""
    source = FIXTURES / name / "model.onnx"
    files = {length: tmp_path / f"{length}.onnx" for length in ("input", 2)}
    for length, path in files.items():
        pooled = graphsurgery.add_pooling(
            source, mode, skip_prompt=length, keep_output=["last_hidden_state"], weights_from=weights_from(mode)
        )
        graphsurgery.save(pooled, path)
    sessions = {
        length: onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for length, path in files.items()
    }
    inputs = [value.name for value in onnxruntime.InferenceSession(source).get_inputs()]
    for kind, mask in masks().items():
        rng = np.random.default_rng(len(kind))
        known = {
            "input_ids": rng.integers(5, 50, mask.shape), "attention_mask": mask, "token_type_ids": np.zeros_like(mask),
            "position_ids": np.maximum(np.cumsum(mask, axis=1) - 1, 0),
        }  # fmt: skip
        feed = {key: known[key] for key in inputs}
        for length in LENGTHS:
            runs = [(sessions["input"], feed | {"prompt_length": np.array([length])})]
            runs += [(sessions[2], feed)] if length == 2 else []
            for session, given in runs:
                found, hidden = session.run(["sentence_embedding", "last_hidden_state"], given)
                wanted, some = by_sentence_transformers(hidden, mask, mode, length)
                assert (found[~some] == 0).all()
                largest = max(1.0, float(np.abs(hidden).max())) * (np.sqrt(mask.shape[1]) if "sqrt" in mode else 1)
                if some.any():
                    worst.within(
                        f"without the prompt: {mode}", found[some], wanted[some], 1e-5 * largest, f"{name} {kind} {length}"
                    )
