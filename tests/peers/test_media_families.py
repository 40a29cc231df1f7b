"""Encoders of pictures, spectrograms and CLIP's texts, as exporters write them: proofs feed them, and agree with PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from installed import HAS_OPTIMUM, needs_optimum
from saved_folders import encoders, sizes

import graphsurgery
from graphsurgery.encoder.roles import find_roles
from graphsurgery.model.model import Model
from graphsurgery.report import Verdict
from graphsurgery.runtime.baked_sizes import make_feed_generator_for
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.masks import RIGHT
from graphsurgery.runtime.session import open_session

SMALL = sizes(32, 2)
PICTURE = SMALL | {"image_size": 32, "patch_size": 8}
SPECTRUM = SMALL | {"patch_size": 8, "max_length": 64, "num_mel_bins": 16, "frequency_stride": 6, "time_stride": 6}
SWIN = {"image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
WHISPER = {
    "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64, "num_mel_bins": 16,
    "decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 64,
    "max_source_positions": 60, "vocab_size": 50, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3,
}  # fmt: skip
TEXT = SMALL | {"vocab_size": 99, "max_position_embeddings": 24, "bos_token_id": 1, "pad_token_id": 0}
MEDIA: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "vit": ("ViTModel", PICTURE, (3, 32, 32)),
    "deit": ("DeiTModel", PICTURE, (3, 32, 32)),
    "beit": ("BeitModel", PICTURE, (3, 32, 32)),
    "swin": ("SwinModel", SWIN, (3, 64, 64)),
    "dinov2": ("Dinov2Model", PICTURE, (3, 32, 32)),
    "clip-vision": ("CLIPVisionModel", PICTURE, (3, 32, 32)),
    "siglip-vision": ("SiglipVisionModel", PICTURE, (3, 32, 32)),
    "ast": ("ASTModel", SPECTRUM, (64, 16)),
    "whisper": ("WhisperModel", WHISPER, (16, 120)),
}
"""The class of each model, its config, and the sizes of what it is fed."""
BY_OPTIMUM = ("vit", "deit", "beit", "swin", "clip-vision", "siglip-vision", "ast")
OPTIMIZED = ("vit", "siglip-vision", "ast", "whisper")
"""The others have the same parts; of Swin's windows, ONNX Runtime's optimizer infers shapes for minutes."""
BY_DYNAMO = ("vit", "dinov2", "whisper")
"""What transformers' own exporter writes within seconds; BEiT and Swin it does not write."""


class Hidden(torch.nn.Module):
    """A model as a function of one tensor to its last hidden state, or to another output."""

    def __init__(self, model: Any, output: str = "last_hidden_state") -> None:
        super().__init__()
        self.model, self.output = model, output

    def forward(self, fed: torch.Tensor) -> torch.Tensor:
        return self.model(fed, return_dict=True)[self.output]


def make_model(kind: str, config: dict[str, Any]) -> Any:
    found = getattr(transformers, kind)
    model = found(found.config_class(**config))
    encoders.randomise(model, 3)
    return (model.encoder if kind == "WhisperModel" else model).eval()


def export(model: Any, fed: torch.Tensor, folder: Path, output: str = "last_hidden_state") -> Path:
    """By TorchScript where there is Optimum, with sizes that claim to be free; else by transformers' own exporter."""
    path, is_text = folder / "model.onnx", fed.dtype == torch.int64
    name = "input_ids" if is_text else "fed"
    if HAS_OPTIMUM:
        free = ("batch", "seq") if is_text else ("batch", "channels", "height", "width") if fed.ndim == 4 else ("batch",)
        axes = {name: dict(enumerate(free)), output: {0: "batch"}}
        how: dict[str, Any] = {"dynamic_axes": axes, "dynamo": False, "opset_version": 17}
    else:
        dims = dict.fromkeys(range(1 + is_text), torch.export.Dim.DYNAMIC)
        how = {"dynamic_shapes": (dims,), "dynamo": True, "external_data": False, "verbose": False}
    torch.onnx.export(Hidden(model, output), (fed,), path, input_names=[name], output_names=[output], **how)
    return path


def export_by_optimum(model: Any, fed: torch.Tensor, folder: Path) -> Path:
    from optimum.exporters.onnx import onnx_export_from_model

    onnx_export_from_model(model, folder, task="feature-extraction", do_validation=False, opset=17)
    return folder / "model.onnx"


Export = Callable[[Any, torch.Tensor, Path], Path]
EXPORTS: list[tuple[str, Export]] = (
    [*((one, export_by_optimum) for one in BY_OPTIMUM), ("dinov2", export), ("whisper", export)]
    if HAS_OPTIMUM
    else [(one, export) for one in BY_DYNAMO]
)


def make_generator(model: Model) -> FeedGenerator:
    return make_feed_generator_for(model, find_roles(model.interface))


@pytest.mark.parametrize(("name", "make"), EXPORTS, ids=lambda one: one if isinstance(one, str) else one.__name__)
def test_every_proof_runs_the_file(name: str, make: Export, tmp_path: Path) -> None:
    """Pooling, optimizing and comparing end PASSED, and what was fed gives what PyTorch gives."""
    kind, config, shape = MEDIA[name]
    model = make_model(kind, config)
    place = make(model, torch.randn(2, *shape), tmp_path)
    pooled = tmp_path / "pooled.onnx"
    done = graphsurgery.run([graphsurgery.AddPooling("mean", mask="ones")], place, output=pooled)
    assert done.report is not None and {check.verdict for check in done.report.checks} == {Verdict.PASSED}
    best = pooled
    if name in OPTIMIZED:
        best = graphsurgery.optimize(pooled, output=tmp_path / "best.onnx", time=False).output
        assert graphsurgery.verify(best, against=pooled).verdict is Verdict.PASSED
    (feed,) = make_generator(graphsurgery.load(place)).generate(np.ones((3, 3), dtype=np.bool_), seed=1).values()
    assert feed.shape == (3, *shape)
    with torch.no_grad():
        wanted = Hidden(model)(torch.from_numpy(feed)).mean(dim=1).numpy()
    session = open_session(graphsurgery.load(best))
    (found,) = session.run({done.interface.inputs[0].name: feed}).values()
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


@needs_optimum
@pytest.mark.parametrize(("end", "fed_end"), [(7, 7), (2, 98)], ids=["first end of text", "highest id"])
def test_a_broken_query_fails_on_right_padding_alone(end: int, fed_end: int, tmp_path: Path) -> None:
    """CLIP's text tower in both forms: with ``eos_token_id`` 2, it takes the vector of the highest id."""
    model = make_model("CLIPTextModelWithProjection", TEXT | {"eos_token_id": end, "projection_dim": 16})
    ids = torch.randint(3, 90, (2, 12))
    ids[:, -1] = fed_end
    (tmp_path / "right").mkdir()
    (tmp_path / "wrong").mkdir()
    right = graphsurgery.load(export(model, ids, tmp_path / "right", "text_embeds"))
    with torch.no_grad():
        model.text_model.encoder.layers[0].self_attn.q_proj.weight.mul_(-1)
    wrong = graphsurgery.load(export(model, ids, tmp_path / "wrong", "text_embeds"))
    generator = make_generator(right)
    assert generator.tables.end_id == fed_end
    one, other = open_session(right), open_session(wrong)
    (masks,) = (masks for kind, masks in generator.generate_masks() if kind == RIGHT)
    for seed, mask in enumerate(masks):
        feed = generator.generate(mask, seed)
        assert np.abs(one.run(feed)["text_embeds"] - other.run(feed)["text_embeds"]).max() > 1e-2
    assert graphsurgery.verify(right, against=right).verdict is Verdict.PASSED
    assert graphsurgery.verify(wrong, against=right).verdict is Verdict.FAILED
