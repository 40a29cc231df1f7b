"""Every verb that edits or rewrites an encoder, and the values that PyTorch's hidden state gives for it.

x ``[batch, seq, dim]`` is PyTorch's hidden state and m ``[batch, seq]`` the mask. The formulas are written here in float64
numpy; the LSTM is torch's own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from design_table import normalize, pool
from safetensors.numpy import save_file

Array = np.ndarray
SIX = "cls,mean,max,mean_sqrt_len_tokens,weightedmean,lasttoken"
SOURCE = "model"
"""The name of the export among the files that steps start from."""
WORDS = 120
"""The size of the vocabulary."""
YES, NO, SKIPPED = 3, 5, 2
EMBEDDING, TOKENS = "sentence_embedding", "token_embeddings"


@dataclass(frozen=True)
class Batch:
    """Texts as they are fed, and what PyTorch gives for them."""

    ids: Array
    m: Array
    x: Array
    states: Array
    """All hidden states ``[layers + 1, batch, seq, dim]``: that of the embeddings first."""


@dataclass(frozen=True)
class Step:
    """One call of the command line: ``verb FILE options``."""

    name: str
    start: str
    """The step whose file this one starts from, or `SOURCE`."""
    command: tuple[str, ...]
    expect: Callable[[Batch], dict[str, Array]] | None = None
    """The outputs by name. None where the proof alone judges: of bytes, which the last bit of a number may change."""
    fits: Callable[[Batch], bool] = lambda _: True
    """Whether the expected values hold for a batch."""
    allowed: float = 2e-5
    """The largest difference, relative to max(1, max|x|). The encoder's own rounding is most of it."""


def list_steps(width: int, layers: int, inputs: Mapping[str, tuple[str, ...]], output: str, folder: Path) -> Iterator[Step]:
    """List the steps for an export, each behind those that it starts from.

    Args:
        width: of the hidden state.
        layers: the number of hidden states, with the embeddings' one.
        inputs: the names of the dims of each input.
        output: the hidden state's name.
        folder: where weights are written.
    """
    modules = Modules(folder, width, layers)
    mean: Callable[[Batch], Array] = lambda one: pool(one.x, one.m, "mean")  # noqa: E731
    rows, columns = inputs["input_ids"]

    def pooled(name: str, tokens: Callable[[Batch], Array], **more: Callable[[Batch], bool]) -> Step:
        """Pool what another step made of the tokens."""
        expect = lambda one: {EMBEDDING: pool(tokens(one), one.m, "mean")}  # noqa: E731
        return Step(f"{name}, pooled", name, ("add-pooling", "--mode", "mean"), expect, **more)

    def of_mean(name: str, command: str, f: Callable[[Array], Array], start: str = "mean") -> Step:
        return Step(name, start, tuple(command.split()), lambda one: {EMBEDDING: f(mean(one))})

    def of_tokens(
        name: str, command: str, f: Callable[[Batch], Array], to: str = TOKENS, **more: Callable[[Batch], bool]
    ) -> Step:
        return Step(name, SOURCE, tuple(command.split()), lambda one: {to: f(one)}, **more)

    yield of_tokens("six", f"add-pooling --mode {SIX}", lambda one: pool(one.x, one.m, SIX), EMBEDDING)
    yield of_tokens("mean", "add-pooling --mode mean", mean, EMBEDDING)
    yield of_tokens("unit", "add-pooling --mode mean --normalize", lambda one: normalize(mean(one)), EMBEDDING)
    yield of_tokens("ones", "add-pooling --mode mean --mask ones", lambda one: one.x.mean(axis=1), EMBEDDING, fits=is_full)
    yield of_tokens(
        "prompt", f"add-pooling --mode mean --skip-prompt {SKIPPED}",
        lambda one: pool(one.x, one.m * (np.cumsum(one.m, axis=1) > SKIPPED), "mean"), EMBEDDING,
        fits=lambda one: bool(one.m.sum(axis=1).min() > SKIPPED and not (np.diff(one.m, axis=1) > 0).any()),
    )  # fmt: skip
    yield of_tokens("splade", f"add-splade-pooling --target {output}", take_largest, EMBEDDING)
    yield of_tokens(
        "score", f"add-logit-score --target {output} --true-token {YES} --false-token {NO}",
        lambda one: pool(one.x[..., YES, None] - one.x[..., NO, None], one.m, "lasttoken"), "scores",
    )  # fmt: skip

    yield of_mean("normalize", "add-normalize", normalize)
    yield of_mean("dense", f"add-dense --weights {modules.dense} --activation tanh", modules.apply_dense)
    yield of_mean("layer norm", f"add-layer-norm --weights {modules.norm}", modules.apply_norm)
    yield of_mean("activation", "add-activation --activation sigmoid", lambda x: 1 / (1 + np.exp(-x)))
    yield Step(
        "truncate", "mean", ("truncate", "--dim", "8,16"),
        lambda one: {f"{EMBEDDING}_{dim}": normalize(mean(one)[:, :dim]) for dim in (8, 16)},
    )  # fmt: skip
    yield Step("int8", "mean", ("output-precision", "--to", "int8", "--ranges", modules.ranges))
    yield Step("bits", "mean", ("output-precision", "--to", "ubinary"))

    yield of_tokens("layers", f"add-weighted-layer-pooling --weights {modules.layer_weights}", modules.weigh_layers)
    yield of_tokens("words", f"add-word-weights --weights {modules.words}", modules.weigh_words)
    yield of_tokens("cnn", f"add-cnn --weights {modules.cnn}", modules.convolve, fits=is_full)
    yield of_tokens("lstm", f"add-lstm --weights {modules.lstm}", modules.run_lstm, fits=has_padding_behind)
    yield of_tokens(
        "token dense", f"add-dense --weights {modules.dense} --activation tanh --target {output} --output-name {TOKENS}",
        lambda one: modules.apply_dense(one.x),
    )  # fmt: skip
    yield of_tokens(
        "masked",
        f"mask-tokens --target {output} --skip-first",
        lambda one: one.x * (np.cumsum(one.m, axis=1) > 1)[..., None],
        output,
    )
    yield pooled("layers", modules.weigh_layers)
    yield pooled("cnn", modules.convolve, fits=is_full)
    yield pooled("lstm", modules.run_lstm, fits=has_padding_behind)
    yield pooled("token dense", lambda one: modules.apply_dense(one.x))

    types, batches = "token_type_ids" in inputs, dict.fromkeys(dims[0] for dims in inputs.values())
    for verb in ("drop-input", "optional-input") if types else ("add-input",):
        yield of_mean(verb, f"{verb} --input token_type_ids", np.asarray)
    yield of_mean("int32", "input-type --to int32", np.asarray)
    names = " ".join(f"--dim {name}=batch_{place}" for place, name in enumerate(batches))
    yield Step(
        "rename", "mean", tuple(f"rename --name {EMBEDDING}=vector {names} --dim {columns}=sequence".split()),
        lambda one: {"vector": mean(one)},
    )  # fmt: skip
    yield Step(
        "keep", "truncate", ("keep-outputs", "--name", f"{EMBEDDING}_16"),
        lambda one: {f"{EMBEDDING}_16": normalize(mean(one)[:, :16])},
    )  # fmt: skip
    fixed = Step(
        "fixed", "mean", ("fix-dim", "--dim", f"{rows}=4", "--dim", f"{columns}=8"), lambda one: {EMBEDDING: mean(one)},
        lambda one: one.ids.shape == (4, 8),
    )  # fmt: skip
    yield fixed
    yield Step(
        "freed",
        "fixed",
        ("dynamic-dim", "--dim", "batch", "--dim", "sequence"),
        fixed.expect,
        lambda one: one.ids.shape[1] <= 8,
    )

    yield of_mean("optimize", "optimize --no-timing", normalize, "unit")
    yield of_mean("portable", "optimize --portable --no-timing", normalize, "unit")
    half = of_mean("half", "optimize --fp16 --no-timing", normalize, "unit")
    yield replace(half, allowed=5e-3)


TAKEN_OFF = ("unit", "truncate", "int8", "layers, pooled", "lstm, pooled", "optional-input", "freed", "rename")
"""Steps whose files `strip-head` takes back to the encoder, byte for byte."""


def is_full(one: Batch) -> bool:
    """Return whether every position is a token. Where padding sees no token at all, no two programs agree on its vector."""
    return bool(one.m.all())


def has_padding_behind(one: Batch) -> bool:
    """Return whether each row starts with its tokens and ends with its padding, if it has any."""
    return not (np.diff(one.m, axis=1) > 0).any() and bool(one.m[:, 0].all())


def take_largest(one: Batch) -> Array:
    """max over tokens of log(1 + relu(x))."""
    return np.where(one.m[..., None] == 1, np.log1p(np.maximum(one.x, 0)), 0).max(axis=1)


class Modules:
    """The weights of the modules, as sentence-transformers lays them out, and what the modules compute."""

    def __init__(self, folder: Path, width: int, layers: int) -> None:
        """Draw the weights and write a folder for each module."""
        self._folder, rng = folder, np.random.default_rng(7)

        def draw(*shape: int) -> Array:
            return (rng.standard_normal(shape) * shape[-1] ** -0.5).astype(np.float32)

        self.w, self.b = draw(16, width), draw(16)
        self.scale, self.shift = 1 + draw(width), draw(width)
        self.kernels = {size: (draw(6, width, size), draw(6)) for size in (1, 3)}
        self.weights = (1 + np.arange(layers)).astype(np.float32)
        self.by_word = rng.uniform(0.1, 3, WORDS).round(3)
        torch.manual_seed(7)
        self.torch_lstm = torch.nn.LSTM(width, 6, batch_first=True, bidirectional=True)
        convolutions = {f"convs.{i}.{kind}": one for i, pair in enumerate(self.kernels.values())
                        for kind, one in zip(("weight", "bias"), pair, strict=True)}  # fmt: skip
        recurrent = {f"encoder.{name}": one.detach().numpy() for name, one in self.torch_lstm.named_parameters()}
        names = [f"word{place}" for place in range(WORDS)]
        by_name = dict(zip(names, self.by_word.tolist(), strict=True))
        self.dense = self._save("dense", {"linear.weight": self.w, "linear.bias": self.b})
        self.norm = self._save("norm", {"norm.weight": self.scale, "norm.bias": self.shift})
        self.cnn = self._save(
            "cnn", convolutions, {"in_word_embedding_dimension": width, "out_channels": 6, "kernel_sizes": [1, 3]}
        )
        self.lstm = self._save(
            "lstm", recurrent, {"word_embedding_dimension": width, "hidden_dim": 6, "num_layers": 1, "bidirectional": True}
        )
        self.words = self._save("words", {}, {"vocab": names, "word_weights": by_name, "unknown_word_weight": 1})
        self.layer_weights = self._save(
            "layers", {"layer_weights": self.weights},
            {"word_embedding_dimension": width, "layer_start": 0, "num_hidden_layers": layers - 1},
        )  # fmt: skip
        self.ranges = str(folder / "ranges.npy")
        np.save(self.ranges, np.array([[-2.0] * width, [2.0] * width], np.float32))

    def _save(self, name: str, tensors: Mapping[str, Array], config: Mapping[str, object] | None = None) -> str:
        place = self._folder / name
        place.mkdir()
        if tensors:
            save_file(dict(tensors), place / "model.safetensors")
        if config is not None:
            (place / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return str(place)

    def apply_dense(self, x: Array) -> Array:
        """tanh(x Wt + b)."""
        return np.tanh(x @ self.w.T.astype(np.float64) + self.b)

    def apply_norm(self, x: Array) -> Array:
        """(x - mean) / sqrt(var + 1e-5) * scale + shift."""
        centred = x - x.mean(axis=-1, keepdims=True)
        return centred / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5) * self.scale + self.shift

    def weigh_layers(self, one: Batch) -> Array:
        """sum(w_i x_i) / sum w."""
        return np.einsum("i,ibsd->bsd", self.weights.astype(np.float64), one.states) / self.weights.sum()

    def weigh_words(self, one: Batch) -> Array:
        """x times the weight of its word, 0 at padding."""
        return one.x * (self.by_word[one.ids] * one.m)[..., None]

    def convolve(self, one: Batch) -> Array:
        """Each kernel over the positions, with zeros before the first and behind the last; the channels side by side."""
        results = []
        for size, (kernel, bias) in self.kernels.items():
            x = np.pad(one.x, ((0, 0), (size // 2, size // 2), (0, 0)))
            windows = np.lib.stride_tricks.sliding_window_view(x, size, axis=1)
            results.append(np.einsum("bsdk,odk->bso", windows, kernel.astype(np.float64)) + bias)
        return np.concatenate(results, axis=-1)

    def run_lstm(self, one: Batch) -> Array:
        """torch.nn.LSTM over the tokens of each row; zeros behind them."""
        lengths, found = torch.from_numpy(one.m.sum(axis=1)), np.zeros((*one.m.shape, 12))
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            torch.from_numpy(one.x), lengths, batch_first=True, enforce_sorted=False
        )
        with torch.no_grad():
            given, _ = torch.nn.utils.rnn.pad_packed_sequence(self.torch_lstm.double()(packed)[0], batch_first=True)
        found[:, : given.shape[1]] = given.numpy()
        return found
