"""Random encoders of 12 layers, plain and with heavy-tailed channels: does the search raise more groups where it has to?

The channels of a trained encoder are not alike: a few are ten times as large as the others. In the heavy-tailed encoder, the
weights and biases of the norms are multiplied by factors drawn for each channel from |t| with 1.5 degrees of freedom (Student's
distribution), scaled to a median of one.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import graphsurgery
from graphsurgery import AddPooling
from graphsurgery.errors import VerificationFailed
from graphsurgery.runtime.texts import CALIBRATE, JUDGE
from quantized.given import Given

LAYERS, HIDDEN, HEADS, INNER = 12, 64, 4, 256
VOCABULARY = 30522
FREEDOM = 1.5
MOST = 50.0
"""No factor is larger."""
SEED = 3
BUDGET = 0.99


@dataclass(frozen=True)
class Adapted:
    """What the search chose for an encoder."""

    encoder: str
    levels: str
    worst: float | None
    """The worst cosine of the chosen file. None if no file keeps the budget."""


def adapt(given: Given) -> list[Adapted]:
    """Quantise both encoders within the same budget."""
    return [_quantise(given, heavy) for heavy in (False, True)]


def _quantise(given: Given, heavy: bool) -> Adapted:
    folder = given.folder / ("heavy-tailed" if heavy else "plain")
    name = "heavy-tailed channels" if heavy else "plain"
    pooled = make_encoder(folder, given.model_folder / "tokenizer.json", heavy, layers=2 if given.quick else LAYERS)
    try:
        outcome = graphsurgery.quantize(
            pooled, min_cosine=BUDGET, calibrate=given.find_texts(CALIBRATE), texts=given.find_texts(JUDGE), verify=False,
            time=False,
        )  # fmt: skip
    except VerificationFailed as error:
        return Adapted(name, error.message, None)
    choice = outcome.choice
    if choice is None:
        raise RuntimeError("the search made no choice")
    quality = next(one.quality for one in choice.candidates if one.name == choice.chosen)
    return Adapted(name, choice.chosen, None if quality is None else quality.worst)


def make_encoder(folder: Path, tokenizer: Path, heavy: bool, layers: int = LAYERS) -> Path:
    """Write a random pooled BERT, with its tokenizer, into the new ``folder``. Return the file."""
    import torch
    from optimum.exporters.onnx import onnx_export_from_model
    from transformers import BertConfig, BertModel

    folder.mkdir()
    torch.manual_seed(SEED)
    config = BertConfig(VOCABULARY, HIDDEN, layers, HEADS, INNER, max_position_embeddings=512)
    model = BertModel(config).eval()
    rng = np.random.default_rng(SEED)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape) * 1.5 * parameter.shape[-1] ** -0.5)
            elif heavy and name.endswith("LayerNorm.weight"):
                drawn = np.abs(rng.standard_t(FREEDOM, HIDDEN))
                parameter.mul_(torch.tensor(np.minimum(drawn / np.median(drawn), MOST), dtype=torch.float32))
    onnx_export_from_model(model, folder, task="feature-extraction", do_validation=False)
    shutil.copy(tokenizer, folder / "tokenizer.json")
    pooled = folder / "pooled.onnx"
    graphsurgery.run([AddPooling("mean", normalize=True)], folder / "model.onnx", output=pooled, verify=False)
    return pooled
