"""`tap` against PyTorch's hidden states, of texts, pictures and speech, and `add-waveform-normalize` against transformers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from exports import export_folder
from saved_folders import ARCHITECTURES, make_tokenizer, write_tokenizer

import graphsurgery
from graphsurgery import AddWaveformNormalize, Tap
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.rewrites.fuse_encoder import Fuse
from graphsurgery.runtime.session import open_session

SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
TOKENIZER = make_tokenizer(ARCHITECTURES["bert"].tokens)
TEXT: dict[str, Any] = {
    **SIZES, "vocab_size": TOKENIZER.get_vocab_size(), "max_position_embeddings": 40, "pad_token_id": 0,
}  # fmt: skip
SOUND: dict[str, Any] = {
    **SIZES, "conv_dim": (8, 8), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
STABLE: dict[str, Any] = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", TEXT),
    "modernbert": ("ModernBert", {**TEXT, "global_attn_every_n_layers": 2}),
    "vit": ("ViT", {**SIZES, "image_size": 32, "patch_size": 8}),
    "beit": ("Beit", {**SIZES, "image_size": 32, "patch_size": 8}),
    "hubert": ("Hubert", SOUND),
    "hubert, stable": ("Hubert", {**SOUND, **STABLE}),
    "wavlm": ("WavLM", SOUND),
    "wav2vec2": ("Wav2Vec2", SOUND),
}
"""Post-norm and pre-norm encoders of texts, of pictures and of speech: the class and its config."""
ALLOWED = 1e-5


@cache
def make(name: str) -> torch.nn.Module:
    """Return a tiny model whose norms and biases are drawn, too, so that each layer's output differs from the others."""
    torch.manual_seed(0)
    kind, config = MODELS[name]
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter) + (0.7 if parameter.ndim == 1 else 0))
    return model


def draw(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    if model.main_input_name == "input_ids":
        return {"input_ids": torch.randint(1, 60, (2, 7)), "attention_mask": torch.tensor([[1] * 7, [1] * 5 + [0] * 2])}
    return {model.main_input_name: torch.randn((2, 3, 32, 32) if model.main_input_name == "pixel_values" else (2, 700))}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Export a model once for all tests of this file, by the environment's own exporter."""
    folder = tmp_path_factory.mktemp("layers")

    @cache
    def export(name: str) -> Path:
        make(name).save_pretrained(folder / name)
        if "vocab_size" in MODELS[name][1]:
            write_tokenizer(ARCHITECTURES["bert"], TOKENIZER, folder / name)
        return export_folder(folder / name, folder / name / "onnx" / "model.onnx")

    return export


@pytest.mark.parametrize("name", [name for name in MODELS if name != "wav2vec2"])
def test_every_layer(name: str, exported: Callable[[str], Path], tmp_path: Path, worst) -> None:
    """Layer N is `hidden_states[N]`, in the export and in what the optimizer makes of it; the last one by either norm."""
    model, inputs = make(name), draw(make(name))
    with torch.no_grad():
        given = model(**inputs, output_hidden_states=True)
    states, last = [one.numpy() for one in given.hidden_states], given.last_hidden_state.numpy()
    feed = {one: array.numpy() for one, array in inputs.items()}
    usual = {"attention_mask": np.ones((2, 700), np.int64), "token_type_ids": np.zeros((2, 7), np.int64)}
    feed = {one.name: feed.get(one.name, usual.get(one.name)) for one in graphsurgery.load(exported(name)).interface.inputs}
    fused = graphsurgery.run([Fuse()], exported(name), output=tmp_path / "fused.onnx", verify=False).saved.path
    own = inputs.get("attention_mask", torch.ones(states[0].shape[:2])).numpy()[..., None].astype(bool)
    is_picture = "pixel_values" in feed
    for path in (exported(name), fused):
        source = graphsurgery.load(path)
        assert len(graphsurgery.inspect(source).hidden_layers) == len(states)
        for number, state in enumerate(states[:-1]):
            check(worst, name, tap(source, str(number)), feed, state, own)
        check(worst, name, tap(source, "-1"), feed, states[-1] if is_picture else last, own)
        if name in ("modernbert", "vit", "hubert, stable"):
            found = [run(tap(source, "-1", norm=side), feed) for side in ("before", "after")]
            assert min(np.abs(np.where(own, one - states[-1], 0)).max() for one in found) < 1e-4
            assert np.abs(np.where(own, found[0] - found[1], 0)).max() > 0.1


def tap(source: graphsurgery.Model, number: str, **more: Any) -> graphsurgery.Model:
    """Tap a layer, if it is not the only output already."""
    try:
        return Tap(number, **more).apply(source)
    except graphsurgery.errors.AlreadyAppliedError:
        return source


def run(model: graphsurgery.Model, feed: dict[str, np.ndarray]) -> np.ndarray:
    return open_session(model).run(feed)[model.interface.outputs[0].name]


def check(
    worst: Any, name: str, model: graphsurgery.Model, feed: dict[str, np.ndarray], state: np.ndarray, own: np.ndarray
) -> None:
    made = run(model, feed)
    assert made.shape == state.shape
    worst.within("tap", np.where(own, made, 0), np.where(own, state, 0), ALLOWED * max(1, np.abs(state).max()), name)


@pytest.mark.parametrize("name", ["bert", "vit", "hubert, stable"])
def test_taps_are_proven(name: str, exported: Callable[[str], Path], tmp_path: Path) -> None:
    assert graphsurgery.run([Tap("1")], exported(name), output=tmp_path / "tapped.onnx").report


def test_sew_is_refused(tmp_path: Path) -> None:
    """Its upsampling comes behind the layers, and its hidden states have half as many frames as its last one."""
    torch.manual_seed(0)
    model = transformers.SEWModel(transformers.SEWConfig(**SOUND, squeeze_factor=2)).eval()
    given = {"dynamo": False, "opset_version": 17, "input_names": ["input_values"], "output_names": ["last_hidden_state"]}
    axes = {"input_values": {0: "batch", 1: "samples"}, "last_hidden_state": {0: "batch", 1: "frames"}}
    torch.onnx.export(model, (torch.randn(2, 700),), str(tmp_path / "sew.onnx"), dynamic_axes=axes, **given)
    with pytest.raises(UnsupportedModelError, match="no hidden layers lead to"):
        graphsurgery.tap(tmp_path / "sew.onnx", 1)


def test_waveforms_as_the_feature_extractor_normalises_them(exported: Callable[[str], Path], worst) -> None:
    """Each clip alone: quiet, with an offset, and beside a longer one."""
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    pooled = graphsurgery.add_pooling(exported("hubert"), "mean", lengths=True)
    model = AddWaveformNormalize().apply(pooled)
    (inside,) = (step.parameters["inside"] for step in model.recorded if step.edit == "add-waveform-normalize")
    rng = np.random.default_rng(0)
    lengths = np.array([16000, 4000, 900, 300])
    sounds = [(0.05 * rng.standard_normal(length) + 0.02).astype(np.float32) for length in lengths]
    padded = np.full((len(lengths), max(lengths)), np.nan, np.float32)
    for row, sound in enumerate(sounds):
        padded[row, : len(sound)] = sound
    made = open_session(model, extra_outputs=(inside,)).run({"input_values": padded, "input_lengths": lengths}, [inside])[
        inside
    ]
    for row, sound in enumerate(sounds):
        alone = extractor(sound, sampling_rate=16000, return_tensors="np").input_values
        worst.within("waveform", made[row : row + 1, : len(sound)], alone, 1e-5, f"{len(sound)} samples")
        assert not made[row, len(sound) :].any()


@pytest.mark.parametrize("name", ["hubert", "wav2vec2", "wavlm"])
def test_recipes(name: str, exported: Callable[[str], Path], tmp_path: Path, worst) -> None:
    """Each clip's vector is the mean of PyTorch's frames for that clip alone, normalised where the recipe says so."""
    exported(name)
    folder = exported(name).parents[1]
    recipe = graphsurgery.run_recipe(name, folder, output=tmp_path / "made.onnx").saved.path
    normal = name != "wavlm"
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=normal)
    sounds = [
        0.3 * np.random.default_rng(seed).standard_normal(size).astype(np.float32) for seed, size in enumerate((900, 300))
    ]
    padded = np.zeros((2, 900), np.float32)
    for row, sound in enumerate(sounds):
        padded[row, : len(sound)] = sound
    feed = {"input_values": padded, "input_lengths": np.array([900, 300])}
    made = open_session(graphsurgery.load(recipe)).run(feed)["sentence_embedding"]
    for row, sound in enumerate(sounds):
        with torch.no_grad():
            alone = make(name)(extractor(sound, sampling_rate=16000, return_tensors="pt").input_values).last_hidden_state
        wanted = alone.mean(dim=1).numpy()
        worst.within("recipes of speech", made[row : row + 1], wanted, 4e-5 * max(1, np.abs(wanted).max()), name)
