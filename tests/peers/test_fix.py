"""Known faults of exports, made by torch's own exporters, and mended: the mended file gives what the PyTorch model gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from installed import HAS_OPTIMUM
from speech_models import Encoder, make_model
from torch import nn
from transformers import AutoConfig, AutoModel

import graphsurgery
from graphsurgery.errors import NothingToFixError
from graphsurgery.fixing.faults import examine
from graphsurgery.runtime.session import Session

FIELD, HOP = 30, 20
"""The samples of the first frame, and how far the frames are apart."""
LENGTHS = np.array([700, 430, 90, 30])


class Fairseq(nn.Module):
    """An encoder that hides frames of padding by ``x[padding_mask] = 0``, as fairseq's does. A frame's last sample counts."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, source: torch.Tensor, padding_mask: torch.Tensor) -> torch.Tensor:
        features = self.model.feature_extractor(source).transpose(1, 2)
        hidden = self.model.feature_projection(features)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        hidden[padding_mask[:, FIELD - 1 :: HOP]] = 0
        return self.model.encoder(hidden).last_hidden_state


def export(model: nn.Module, path: Path, inputs: dict[str, torch.Tensor], dims: Any = None, **options: Any) -> Path:
    """Write a model by torch's exporter in TorchScript's form."""
    options = {"dynamo": False, "opset_version": 14, "dynamic_axes": dims} | options
    torch.onnx.export(
        model.eval(), tuple(inputs.values()), str(path), input_names=list(inputs), output_names=["last_hidden_state"], **options
    )
    return path


def compare(model: nn.Module, path: Path, feed: dict[str, np.ndarray]) -> None:
    with torch.no_grad():
        wanted = model(*(torch.from_numpy(array.copy()) for array in feed.values())).numpy()
    np.testing.assert_allclose(Session(path).run(feed)["last_hidden_state"], wanted, atol=2e-5, rtol=0)


@pytest.mark.parametrize("opset", [12, 14, 17])
def test_a_mask_that_fairseq_exports(tmp_path: Path, opset: int) -> None:
    """The export fails at every length but one, and is wrong there; the mended file gives what torch gives at all."""
    model = Fairseq(make_model("hubert, layer norm"))
    sound, mask = torch.randn(2, 430), torch.zeros(2, 430, dtype=torch.bool)
    mask[1, 200:] = True
    dims = {"source": {0: "batch", 1: "samples"}, "padding_mask": {0: "batch", 1: "samples"},
            "last_hidden_state": {0: "batch", 1: "frames"}}  # fmt: skip
    inputs = {"source": sound, "padding_mask": mask}
    path = export(model, tmp_path / "model.onnx", inputs, dims, opset_version=opset)
    fixed = graphsurgery.fix(path)
    assert [fault.mended_by for fault in fixed.faults] == ["align-mask"] and fixed.outcome.report
    drawn = np.random.default_rng(0).standard_normal((4, 700)).astype(np.float32)
    compare(model, fixed.outcome.output, {"source": drawn, "padding_mask": np.arange(700)[None] >= LENGTHS[:, None]})
    width = 16  # frames == channels, where the export runs and hides channels
    samples = FIELD + (width - 1) * HOP
    feed = {"source": drawn[:1, :samples], "padding_mask": np.arange(samples)[None] >= 200}
    compare(model, fixed.outcome.output, feed)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        compare(model, path, feed)


@pytest.mark.parametrize("name", ["hubert, group norm", "wav2vec2, layer norm", "wavlm, layer norm"])
def test_sizes_that_an_export_only_declares(tmp_path: Path, name: str) -> None:
    """``dynamic_axes`` that name the batch "seq" and leave the samples fixed, as in scripts for fairseq models."""
    model = Encoder(make_model(name))
    dims = {"input_values": {0: "seq"}, "last_hidden_state": {0: "seq"}}
    path = export(model, tmp_path / "model.onnx", {"input_values": torch.randn(2, 430)}, dims)
    examined = examine(graphsurgery.load(path))
    assert {fault.kind for fault in examined.faults} == {"declared size"}, examined.faults
    fixed = graphsurgery.fix(path)
    assert fixed.outcome.report and fixed.outcome.interface.inputs[0].dims == ("seq", "samples")
    rng = np.random.default_rng(0)
    for shape in ((1, 700), (3, 211)):
        compare(model, fixed.outcome.output, {"input_values": rng.standard_normal(shape).astype(np.float32)})


DYNAMO = {"dynamo": True, "external_data": False, "verbose": False}
EXPORTERS = {"torchscript": {"dynamo": False}} | ({} if HAS_OPTIMUM else {"dynamo": DYNAMO})


@pytest.mark.parametrize("options", EXPORTERS.values(), ids=EXPORTERS)
def test_a_fixed_export_resists(tmp_path: Path, options: dict[str, Any]) -> None:
    """Without any dynamic axes, sizes are constants inside. The nodes that hold them are named, and the file is left alone."""
    model, path = Encoder(make_model("hubert, layer norm")).eval(), tmp_path / "model.onnx"
    torch.onnx.export(
        model, (torch.randn(1, 430),), str(path), input_names=["input_values"], output_names=["last_hidden_state"], **options
    )
    with pytest.raises(NothingToFixError) as caught:
        graphsurgery.fix(path)
    nodes = {node.name for node in onnx.load(path).graph.node}
    faults = caught.value.outcome.faults
    assert {fault.kind for fault in faults} == {"baked size"}
    assert {fault.where.partition(" ")[2].strip("'") for fault in faults} <= nodes, faults


PICTURES = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.mark.parametrize(("kind", "mended"), [("dinov2", ["relax-dim"] * 2), ("vit", [None] * 2)])
def test_pictures_of_other_sizes(tmp_path: Path, kind: str, mended: list[str | None]) -> None:
    """DINOv2 interpolates its table of positions in the graph, so other sizes run. That of ViT resists, and is named."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **PICTURES, attn_implementation="eager")
    model = Pictures(AutoModel.from_config(config)).eval()
    dims = {"pixel_values": {0: "batch"}, "last_hidden_state": {0: "batch"}}
    path = export(model, tmp_path / "model.onnx", {"pixel_values": torch.randn(2, 3, 32, 32)}, dims, opset_version=17)
    examined = examine(graphsurgery.load(path))
    assert [fault.mended_by for fault in examined.faults] == mended
    if not all(mended):
        assert {fault.where.partition(" ")[0] for fault in examined.faults} == {"Add"}
        return
    fixed = graphsurgery.fix(path)
    compare(model, fixed.outcome.output, {"pixel_values": np.random.default_rng(0).standard_normal((3, 3, 40, 64), np.float32)})


class Pictures(nn.Module):
    """A model as a function of pixels to its last hidden state."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=pixel_values).last_hidden_state
