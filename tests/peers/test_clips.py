"""Clips pooled by their lengths, against PyTorch: nine families, each clip alone, and transformers' own masked batches."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from installed import HAS_OPTIMUM
from speech_models import MODELS, export_model, make_model

import graphsurgery

LENGTHS = np.array([1500, 150, 61, 104, 30, 29, 0])
"""Samples. 30 make one frame; 104 is where a division that truncates finds one frame too many in the group norm."""
EXPORTED = list(MODELS) if HAS_OPTIMUM else ["hubert, group norm", "wav2vec2, layer norm", "wavlm, group norm", "data2vec"]
MASKED = ["hubert, group norm", "wavlm, layer norm"] if HAS_OPTIMUM else ["hubert, layer norm"]
GROUP = [name for name in EXPORTED if "group" in name or name == "unispeech"]
ONCE = [name for name in EXPORTED if name not in GROUP and name != "data2vec"]
"""Families with layer norm and one positional convolution."""
Make = Callable[..., tuple[Any, Path]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A family's PyTorch model and its file, made once."""
    folder = tmp_path_factory.mktemp("speech")

    @cache
    def make(name: str, masked: bool = False) -> tuple[Any, Path]:
        model = make_model(name)
        return model, export_model(model, folder / f"{name} {masked}.onnx", masked)

    return make


def draw(behind: float = 0.0, offset: float = 0.0) -> np.ndarray:
    sound = np.random.default_rng(1).standard_normal((len(LENGTHS), LENGTHS.max())).astype(np.float32) + np.float32(offset)
    return np.where(np.arange(sound.shape[1]) < LENGTHS[:, None], sound, np.float32(behind))


def pool(frames: list[np.ndarray]) -> np.ndarray:
    """torch.mean and torch.std of each clip's frames, as the x-vector heads of transformers do; 0 where that is NaN."""
    rows = []
    for one in frames:
        x = torch.from_numpy(one.astype(np.float64))
        deviation = x.std(dim=0) if len(x) > 1 else torch.zeros(x.shape[1])
        rows.append(torch.cat([x.mean(dim=0), deviation]).numpy() if len(x) else np.zeros(2 * one.shape[1]))
    return np.array(rows)


def count_frames(model: Any) -> list[int]:
    """transformers' own formula, whose floor division is right below the receptive field but for its sign."""
    return [max(int(model._get_feat_extract_output_lengths(torch.tensor(int(length)))), 0) for length in LENGTHS]


def run_alone(model: Any, sound: np.ndarray) -> list[np.ndarray]:
    frames = []
    for row, count in enumerate(count_frames(model)):
        if not count:
            frames.append(np.zeros((0, model.config.hidden_size)))
            continue
        with torch.no_grad():
            frames.append(model(torch.from_numpy(sound[row : row + 1, : LENGTHS[row]])).last_hidden_state[0].numpy())
    return frames


def embed(path: Path, sound: np.ndarray, **more: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(path).run(None, {"input_values": sound, **more})[0]


def allow(wanted: np.ndarray) -> np.ndarray:
    """1e-5 * max(1, max|x|) of each vector."""
    return 1e-5 * np.maximum(1, np.abs(wanted).max(axis=1, keepdims=True))


def test_the_frame_formula_is_that_of_transformers() -> None:
    """Every length from 0 to the receptive field and 2,000 more."""
    from graphsurgery.encoder.frames import compute_receptive_field, count_frames

    model = make_model("hubert, layer norm")
    steps = tuple(zip(model.config.conv_kernel, model.config.conv_stride, strict=True))
    every = np.arange(compute_receptive_field(steps) + 2001)
    theirs = model._get_feat_extract_output_lengths(torch.from_numpy(every)).numpy()
    assert [count_frames(int(samples), steps) for samples in every] == np.maximum(theirs, 0).tolist()


@pytest.mark.parametrize("name", EXPORTED)
def test_a_clip_in_a_batch_is_the_clip_alone_in_torch(name: str, exported: Make, tmp_path: Path, worst) -> None:
    model, path = exported(name)
    done = graphsurgery.run([graphsurgery.AddPooling("statistics", lengths=True)], path, output=tmp_path / "out.onnx")
    assert done.report
    for behind, offset in ((0, 0), (np.nan, 0), (np.inf, 0), (1e9, 0), (0, 3)):
        sound = draw(behind, offset)
        found, wanted = embed(tmp_path / "out.onnx", sound, input_lengths=LENGTHS), pool(run_alone(model, sound))
        worst.within("clips, exact", found, wanted, allow(wanted), name)


@pytest.mark.parametrize("name", ONCE)
def test_layer_norm_is_what_transformers_gives_with_a_mask(name: str, exported: Make, tmp_path: Path, worst) -> None:
    model, path = exported(name)
    edit = graphsurgery.AddPooling("statistics", lengths=True, padding="transformers")
    graphsurgery.run([edit], path, output=tmp_path / "out.onnx", verify=False)
    sound = draw()
    mask = torch.from_numpy(np.arange(sound.shape[1]) < LENGTHS[:, None]).long()
    with torch.no_grad():
        frames = model(torch.from_numpy(sound), attention_mask=mask).last_hidden_state.numpy()
    wanted = pool([row[:count] for row, count in zip(frames, count_frames(model), strict=True)])
    worst.within("clips, transformers", embed(tmp_path / "out.onnx", sound, input_lengths=LENGTHS), wanted, 1e-4, name)


@pytest.mark.parametrize("name", GROUP)
def test_group_norm_is_what_transformers_gives_without_a_mask(name: str, exported: Make, tmp_path: Path, worst) -> None:
    model, path = exported(name)
    edit = graphsurgery.AddPooling("statistics", lengths=True, padding="transformers")
    graphsurgery.run([edit], path, output=tmp_path / "out.onnx", verify=False)
    sound = draw()
    with torch.no_grad():
        frames = model(torch.from_numpy(sound)).last_hidden_state.numpy()
    wanted = pool([row[:count] for row, count in zip(frames, count_frames(model), strict=True)])
    worst.within("clips, transformers", embed(tmp_path / "out.onnx", sound, input_lengths=LENGTHS), wanted, 1e-5, name)
    apart = np.abs(wanted - pool(run_alone(model, sound))).max()
    assert apart > 0.01, "group norm over padding makes a difference, or this test shows nothing"


@pytest.mark.parametrize("name", MASKED)
def test_an_export_with_a_mask_of_samples(name: str, exported: Make, tmp_path: Path, worst) -> None:
    model, path = exported(name, True)
    edit, proven = graphsurgery.AddPooling("statistics"), "wavlm" not in name  # the proof of that one takes long
    graphsurgery.run([edit], path, output=tmp_path / "out.onnx", verify=proven)
    sound = draw(np.nan)
    mask = (np.arange(sound.shape[1]) < LENGTHS[:, None]).astype(np.int64)
    found = embed(tmp_path / "out.onnx", sound, attention_mask=mask)
    wanted = pool(run_alone(model, sound))
    worst.within("clips, exact", found, wanted, allow(wanted), name)
