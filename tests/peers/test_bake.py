"""Folders that sentence-transformers saved, baked through the command line, against what sentence-transformers itself gives.

Two references: its modules behind ONNX Runtime's hidden state, from which only the head can differ, at the design's limits; and
its own run from text to embedding in PyTorch, where the encoder's float32 rounding comes in as well: that much more is allowed,
and no more.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from installed import HAS_OPTIMUM, means_the_same
from saved_folders import TEXTS, Encoder, age, feed_of, make_encoder, run_onnx, save, through_modules
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Dropout, LayerNorm, Normalize, Pooling

from graphsurgery.cli.main import run

pytestmark = pytest.mark.usefixtures("short_texts")

RELATIVE, UNIT = 1e-5, 1e-6
ARCHITECTURES = ("bert", "xlmr", "modernbert", "qwen3", "t5")
SIDES = ("right", "left")
MODES = (
    "cls",
    "mean",
    "max",
    "mean_sqrt_len_tokens",
    "weightedmean",
    "lasttoken",
    ("cls", "mean"),
    ("mean", "max", "lasttoken"),
)
TAILS: dict[str, Callable[[int], list[torch.nn.Module]]] = {
    "nothing": lambda _: [],
    "Normalize": lambda _: [Normalize()],
    "Dense": lambda width: [Dense(width, 24)],
    "Dense without bias, Normalize": lambda width: [
        Dense(width, 40, bias=False, activation_function=torch.nn.Identity()),
        Normalize(),
    ],
    "Dropout, Dense, Dense": lambda width: [Dropout(0.3), Dense(width, 32, activation_function=torch.nn.GELU()), Dense(32, 16)],
    "LayerNorm": lambda width: [LayerNorm(width)],
    "LayerNorm, Normalize": lambda width: [LayerNorm(width), Normalize()],
    "Normalize, Dense, LayerNorm, Normalize": lambda width: [Normalize(), Dense(width, 24), LayerNorm(24), Normalize()],
}
CELLS = list(itertools.product(MODES, TAILS, ARCHITECTURES))[:: 1 if HAS_OPTIMUM else 7]
"""Every mode with every tail on every architecture; each folder is saved padding on one side, and held against both. In the
second environment every seventh: each mode, tail and architecture several times."""


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Encoder]:
    """Makes an architecture's encoder once."""
    made: dict[str, Encoder] = {}
    parent = tmp_path_factory.mktemp("encoders")

    def encoder(name: str) -> Encoder:
        if name not in made:
            made[name] = make_encoder(name, parent)
        return made[name]

    return encoder


def randomised(modules: list[torch.nn.Module], seed: int) -> list[torch.nn.Module]:
    """The modules with weights of their own, far from 0 and 1."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for module in modules:
            for parameter in module.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return modules


def command(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict]:
    """The command line in this process, with --json."""
    capsys.readouterr()
    code = run([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def check(model: SentenceTransformer, baked: Path, onnx: Path, worst, what: str, where: str, unit: bool) -> None:
    """Hold a baked file against both references.

    How far two float32 encoders are apart depends on the processor: it is allowed as a few times what PyTorch's own is off from
    float64 there, where that is more than what is promised.
    """
    model.eval()
    feed = feed_of(model)
    found = run_onnx(baked, feed)["sentence_embedding"]
    hidden = run_onnx(onnx, feed)["last_hidden_state"].astype(np.float32)
    with torch.no_grad():
        behind = through_modules(model, feed | {"token_embeddings": torch.from_numpy(hidden)})["sentence_embedding"].numpy()
        whole = model(dict(feed))["sentence_embedding"].numpy()
        exact = copy.deepcopy(model).double()(dict(feed))["sentence_embedding"].numpy()
    tokens = feed["attention_mask"].sum(dim=1).numpy() ** 0.5 if "sqrt" in where else 1
    largest = np.maximum(np.abs(np.where(feed["attention_mask"].numpy()[:, :, None] > 0, hidden, 0)).max(axis=(1, 2)), 1)
    allowed = np.full(found.shape, UNIT) if unit else RELATIVE * (largest * tokens)[:, None] * np.ones_like(found)
    worst.within(f"{what} behind ONNX Runtime's hidden state", found, behind, allowed, where)
    worst.within(f"{what} from text to embedding in PyTorch", found, whole, allowed + np.abs(whole - behind), where)
    encoder, rounding = np.abs(whole - behind) / allowed, float(np.abs(whole - exact).max())
    worst.within(
        "the encoder's own share of that", whole, behind, np.maximum(allowed, rounding) * 4,
        f"{where}: {encoder.max():.2f} of what is allowed, where PyTorch itself rounds by {rounding:.1e}",
    )  # fmt: skip


@pytest.mark.parametrize(("mode", "tail", "name"), CELLS, ids=lambda value: str(value))
def test_folders(mode, tail: str, name: str, small, tmp_path: Path, capsys, worst) -> None:
    encoder = small(name)
    first = encoder.module(SIDES[CELLS.index((mode, tail, name)) % 2])
    pooling = Pooling(first.get_embedding_dimension(), mode)
    modules = randomised(TAILS[tail](pooling.get_embedding_dimension()), len(tail))
    model = SentenceTransformer(modules=[first, pooling, *modules], device="cpu")
    folder = save(model, tmp_path / "model", encoder.onnx)
    code, told = command("bake", folder, "-o", tmp_path / "baked", capsys=capsys)
    assert code == 0 and told["report"]["verdict"] == "PASSED", told
    unit = tail.endswith("Normalize")
    baked = tmp_path / "baked" / "onnx" / "model.onnx"
    for side in SIDES if means_the_same(mode) else SIDES[:1]:
        first.tokenizer.padding_side = side
        where = f"{mode}, {tail}, {name}, {side}"
        check(model, baked, encoder.onnx, worst, "unit vectors" if unit else "vectors", where, unit)


@pytest.mark.parametrize("tail", TAILS)
def test_folders_of_the_older_form(tail: str, small, tmp_path: Path, capsys, worst) -> None:
    """Class paths, pooling booleans, pytorch_model.bin and config names as up to 5.3; sentence-transformers loads it."""
    encoder = small("bert")
    first = encoder.module("right")
    pooling = Pooling(first.get_embedding_dimension(), ("cls", "mean"))
    modules = randomised(TAILS[tail](pooling.get_embedding_dimension()), len(tail))
    folder = save(SentenceTransformer(modules=[first, pooling, *modules], device="cpu"), tmp_path / "model", encoder.onnx)
    age(folder)
    model = SentenceTransformer(str(folder), device="cpu", backend="torch")
    assert len(model) == 2 + len(modules)
    code, told = command("bake", folder, "-o", tmp_path / "baked", capsys=capsys)
    assert code == 0 and told["report"]["verdict"] == "PASSED", told
    unit = tail.endswith("Normalize")
    check(model, tmp_path / "baked" / "onnx" / "model.onnx", encoder.onnx, worst, "older folders", tail, unit)


def test_texts_are_ragged(small) -> None:
    lengths = feed_of(SentenceTransformer(modules=[small("bert").module("right")], device="cpu"))["attention_mask"].sum(dim=1)
    assert len(set(lengths.tolist())) >= 4 and len(TEXTS) >= 6
