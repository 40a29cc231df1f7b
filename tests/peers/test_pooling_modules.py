"""Every pooling mode on every architecture, against sentence-transformers' own Pooling and Normalize, run here and now.

Two hidden states feed those modules. From ONNX Runtime's, only the head can differ, and the design's limits hold. PyTorch's
differs by the encoder's own float32 rounding, and by as much more the embeddings may: with the fixtures' exaggerated random
weights up to 1.9e-5 (T5, where PyTorch is as far from float64 as from ONNX Runtime).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from exports import COMMITTED, FIXTURES, ON_REQUEST, OPSETS
from installed import HAS_OPTIMUM, needs_optimum, weights_from
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

import graphsurgery
from graphsurgery.errors import AlreadyAppliedError

KINDS = ("right", "left", "mixed", "holes", "single", "one", "solo", "text")
SIX = ("cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
MODES = (*SIX, "cls,mean", "mean,max,lasttoken")
RELATIVE, UNIT = 1e-5, 1e-6
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Encoder:
    """A transformer-only ONNX file, feeds for it, and PyTorch's hidden states for these feeds."""

    path: Path
    feeds: dict[str, Arrays]
    from_torch: dict[str, np.ndarray]

    @cached_property
    def from_onnx(self) -> dict[str, np.ndarray]:
        """ONNX Runtime's hidden states, as float32."""
        session = open_session(self.path)
        return {kind: session.run(["last_hidden_state"], feed)[0].astype(np.float32) for kind, feed in self.feeds.items()}

    @property
    def is_half(self) -> bool:
        return self.path.parent.name.endswith("fp16")


def open_session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def read_feeds(folder: Path) -> tuple[dict[str, Arrays], dict[str, np.ndarray]]:
    """(inputs, PyTorch's hidden states) of every kind of feed, from the folder's goldens."""
    inputs = [value.name for value in open_session(folder / "model.onnx").get_inputs()]
    with np.load(folder / "goldens.npz") as goldens:
        feeds = {kind: {name: goldens[f"{kind}/{name}"] for name in inputs} for kind in KINDS}
        return feeds, {kind: goldens[f"{kind}/last_hidden_state"] for kind in KINDS}


@pytest.fixture(scope="session", params=[*COMMITTED, *(ON_REQUEST if HAS_OPTIMUM else ())])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    parent = FIXTURES if request.param in COMMITTED else request.getfixturevalue("on_request")
    folder = parent / request.param
    return Encoder(folder / "model.onnx", *read_feeds(folder))


@pytest.fixture(scope="session", params=OPSETS)
def bert_at_opset(request: pytest.FixtureRequest, bert_exports) -> Encoder:
    """A small BERT that Optimum exported at an older opset, on the feeds of the fixture `bert`."""
    path, model = bert_exports[request.param]
    assert graphsurgery.load(path).opset == request.param
    feeds, _ = read_feeds(FIXTURES / "bert")
    with torch.no_grad():
        hidden = {kind: model(**tensors(feed)).last_hidden_state.numpy() for kind, feed in feeds.items()}
    return Encoder(path, feeds, hidden)


def tensors(feed: Arrays) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in feed.items()}


def by_sentence_transformers(hidden: np.ndarray, mask: np.ndarray, mode: str, normalize: bool) -> np.ndarray:
    """``hidden [batch, seq, dim]``, ``mask [batch, seq]`` -> ``[batch, dim]``, through the modules of sentence-transformers."""
    features = {"token_embeddings": torch.from_numpy(hidden), "attention_mask": torch.from_numpy(mask)}
    features = Pooling(hidden.shape[-1], tuple(mode.split(",")))(features)
    return (Normalize()(features) if normalize else features)["sentence_embedding"].numpy()


def allowed(hidden: np.ndarray, mask: np.ndarray, mode: str, normalize: bool) -> np.ndarray:
    """How far each element may be off: 1e-5 max(1, max|x|) over the row's tokens, times sqrt(tokens) for mean_sqrt_len_tokens;
    1e-6 for unit vectors."""
    if normalize:
        return np.array(UNIT)
    largest = np.maximum(np.abs(np.where(mask[:, :, None] != 0, hidden, 0)).max(axis=(1, 2)), 1)
    tokens = np.maximum((mask != 0).sum(axis=1), 1)
    parts = [np.sqrt(tokens) if part == "mean_sqrt_len_tokens" else np.ones(len(tokens)) for part in mode.split(",")]
    return RELATIVE * largest[:, None] * np.repeat(np.stack(parts, axis=1), hidden.shape[-1], axis=1)


def compare(encoder: Encoder, tmp_path: Path, mode: str, normalize: bool, worst, label: str) -> None:
    output = tmp_path / "pooled.onnx"
    pooled = graphsurgery.add_pooling(encoder.path, mode=mode, normalize=normalize, weights_from=weights_from(mode))
    graphsurgery.save(pooled, output)
    session = open_session(output)
    for kind, feed in encoder.feeds.items():
        found, mask = session.run(["sentence_embedding"], feed)[0], feed["attention_mask"]
        assert found.dtype == np.float32
        hidden, where = encoder.from_onnx[kind], f"{encoder.path.parent.name}/{kind}"
        expected = by_sentence_transformers(hidden, mask, mode, normalize)
        limit = allowed(hidden, mask, mode, normalize)
        worst.within(label, found, expected, limit, where)
        if not encoder.is_half:  # float16 rounding in the encoder is far larger than what a head may differ by
            by_torch = by_sentence_transformers(encoder.from_torch[kind], mask, mode, normalize)
            what = f"from PyTorch's hidden state{', normalised' * normalize}"
            worst.within(what, found, by_torch, limit + np.abs(by_torch - expected), where)


@pytest.mark.parametrize("normalize", [False, True], ids=["plain", "unit"])
@pytest.mark.parametrize("mode", MODES)
def test_every_architecture_and_mode(encoder, tmp_path, mode, normalize, worst):
    compare(encoder, tmp_path, mode, normalize, worst, f"{mode}{', normalised' * normalize}")


@needs_optimum
@pytest.mark.parametrize("normalize", [False, True], ids=["plain", "unit"])
@pytest.mark.parametrize("mode", MODES)
def test_older_opsets(bert_at_opset, tmp_path, mode, normalize, worst):
    label = f"{bert_at_opset.path.parent.name}, every mode{', normalised' * normalize}"
    compare(bert_at_opset, tmp_path, mode, normalize, worst, label)


def test_the_encoders_themselves_agree(encoder):
    """What is compared from PyTorch's hidden state is the same encoder's: a guard against comparing with something else."""
    for kind, feed in encoder.feeds.items():
        apart = np.abs(encoder.from_onnx[kind] - encoder.from_torch[kind])[feed["attention_mask"] == 1]
        assert apart.size and apart.max() <= (2e-2 if encoder.is_half else 1e-4)


def test_the_folders_own_mode_with_its_proof(encoder, tmp_path, worst):
    """`--mode auto` takes what sentence-transformers would take from the folder, and the whole run passes its proof."""
    steps = [graphsurgery.AddPooling(mode="auto", normalize=True)]
    outcome = graphsurgery.run(steps, encoder.path, output=tmp_path / "pooled.onnx")
    assert outcome.report.verdict is graphsurgery.Verdict.PASSED and outcome.report.cases > 100
    pooling = Pooling.load(str(encoder.path.parent / "1_Pooling"))
    feed, hidden = encoder.feeds["text"], encoder.from_onnx["text"]
    features = {"token_embeddings": torch.from_numpy(hidden), "attention_mask": torch.from_numpy(feed["attention_mask"])}
    expected = Normalize()(pooling(features))["sentence_embedding"].numpy()
    found = open_session(tmp_path / "pooled.onnx").run(["sentence_embedding"], feed)[0]
    worst.within("the folder's own mode, Pooling.load, normalised", found, expected, UNIT, encoder.path.parent.name)


@pytest.mark.parametrize("mode", SIX)
def test_rows_without_tokens_are_the_declared_difference(tmp_path, mode):
    """They give zeros here; sentence-transformers gives the first position for cls and the most negative number for max."""
    feeds, _ = read_feeds(FIXTURES / "bert")
    feed = {**feeds["right"], "attention_mask": np.zeros_like(feeds["right"]["attention_mask"])}
    graphsurgery.save(graphsurgery.add_pooling(FIXTURES / "bert" / "model.onnx", mode=mode), tmp_path / "pooled.onnx")
    assert not open_session(tmp_path / "pooled.onnx").run(["sentence_embedding"], feed)[0].any()
    hidden = open_session(FIXTURES / "bert" / "model.onnx").run(["last_hidden_state"], feed)[0]
    theirs = by_sentence_transformers(hidden, feed["attention_mask"], mode, normalize=False)
    assert bool(theirs.any()) == (mode in ("cls", "max"))


@needs_optimum
def test_optimums_own_pooled_export_is_refused(minilm, tmp_path, command_line):
    """Optimum's sentence-transformers export pools already: pooling its `token_embeddings` again is refused."""
    from optimum.exporters.onnx import main_export

    main_export(str(minilm), tmp_path, task="sentence-similarity", library_name="sentence_transformers", do_validation=False)
    source = tmp_path / "model.onnx"
    assert [value.name for value in graphsurgery.load(source).interface.outputs] == ["token_embeddings", "sentence_embedding"]
    with pytest.raises(AlreadyAppliedError, match="already pools"):
        graphsurgery.add_pooling(source, mode="mean")
    code, report = command_line("add-pooling", source, "--mode", "mean", "-o", tmp_path / "again.onnx")
    assert code == 2 and report["error"]["type"] == "AlreadyAppliedError" and report["error"]["advice"]
    assert not (tmp_path / "again.onnx").exists()
    assert graphsurgery.inspect(source).pools
