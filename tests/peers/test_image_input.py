"""add-image-input against transformers' slow processors, and against a tower in PyTorch that they feed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import transformers
from exports import export_folder
from onnx import TensorProto, helper
from picture_towers import picture_tower

import graphsurgery
from graphsurgery.edits.add_image_input import AddImageInput
from graphsurgery.proof.pictures import draw_images
from graphsurgery.references.image_input import crop_array, find_size
from graphsurgery.runtime.session import Session

SQUARE, EDGE, CROP = {"size": {"height": 32, "width": 32}}, {"size": {"shortest_edge": 36}}, {"crop_size": 32}
PROCESSORS: dict[str, dict[str, Any]] = {
    "CLIP": {"size": {"shortest_edge": 32}, **CROP},
    "ChineseCLIP": {**SQUARE, **CROP},
    "Siglip": SQUARE,
    "ViT": SQUARE,
    "DeiT": {"size": {"height": 36, "width": 36}, **CROP},
    "Blip": SQUARE,
    "Bit": {**EDGE, **CROP},
    "Bit, padded": {"size": {"shortest_edge": 21}, **CROP},
    "CLIP, lanczos": {"size": {"shortest_edge": 32}, **CROP, "resample": 1},
}
SIZES = ((32, 32), (17, 23), (90, 61), (333, 77), (48, 301), (200, 200))


def make_processor(kind: str) -> Any:
    """The processor that computes with Pillow: transformers 5 has it under a name of its own."""
    name = f"{kind.partition(',')[0]}ImageProcessor"
    return (getattr(transformers, f"{name}Pil", None) or getattr(transformers, name))(**PROCESSORS[kind])


@pytest.fixture(autouse=True)
def passes_of_pillow_12(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow resizes along the width first. From 13 on it chooses the order, so it is asked for one pass after the other."""
    resize = PIL.Image.Image.resize

    def one_after_the_other(self: PIL.Image.Image, size: tuple[int, int], resample: int | None = None, **more: Any) -> Any:
        assert not more.get("box") and not more.get("reducing_gap")
        wide = resize(self, (size[0], self.height), resample)
        return resize(wide, size, resample)

    monkeypatch.setattr(PIL.Image.Image, "resize", one_after_the_other)


@pytest.mark.parametrize("kind", PROCESSORS)
def test_pixels_are_those_of_the_slow_processor(kind: str, tmp_path: Path) -> None:
    """At most one level of 255 apart, in few values, and all others to 1e-6; the same with Resize and with products."""
    processor = make_processor(kind)
    processor.save_pretrained(tmp_path)
    off = values = 0
    for opset in (18, 17):
        model = AddImageInput(str(tmp_path / "preprocessor_config.json")).apply(
            graphsurgery.load(picture_tower((32, 32), opset))
        )
        proto = model.to_proto()
        proto.graph.output.append(helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, None))
        session = Session(proto.SerializeToString())
        level = 1 / 255 / np.array(processor.image_std).reshape(3, 1, 1)
        for seed, (height, width) in enumerate(SIZES):
            images = draw_images(np.random.default_rng(seed), 1, height, width)
            wanted = processor([PIL.Image.fromarray(images[0])], return_tensors="np")["pixel_values"][0]
            away = np.abs(session.run({"images": images})["pixel_values"][0] - wanted)
            assert np.all(away <= 1.001 * level)
            assert np.all((away <= 1e-6) | (away > 0.99 * level))
            off, values = off + int((away > 1e-6).sum()), values + away.size
    assert off <= values * (0.01 if kind == "ViT" else 0.0005)


def test_sizes_are_those_of_the_slow_processor() -> None:
    """Of every height from 1 to 600 and a few widths; tests/test_image_input.py has the same arithmetic for all of them."""
    transforms = pytest.importorskip("transformers.image_transforms")
    for height in range(1, 601):
        for width in (1, height, 77, 224, 600):
            picture = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (height, width, 3))
            found = transforms.get_resize_output_image_size(
                picture, 224, default_to_square=False, input_data_format="channels_last"
            )
            assert tuple(found) == find_size(height, width, (224,))


@pytest.mark.parametrize(("height", "width"), [(7, 9), (31, 33), (33, 31), (32, 32), (100, 3), (5, 64)])
def test_crops_are_those_of_the_slow_processor(height: int, width: int) -> None:
    from transformers.image_transforms import center_crop

    picture = np.random.default_rng(0).integers(1, 256, (height, width, 3), dtype=np.uint8)
    for crop in ((32, 32), (31, 8), (9, 33)):
        wanted = center_crop(picture, crop, data_format="channels_first", input_data_format="channels_last")
        assert np.array_equal(crop_array(picture.transpose(2, 0, 1), crop), wanted)


def test_an_exported_tower_sees_what_the_processor_makes(tmp_path: Path) -> None:
    """A tiny ViT, exported, with its processor inside: the vectors of PyTorch's own, for pictures of any size."""
    import torch

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    tower = transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=8, **sizes)).eval()
    processor = make_processor("ViT")
    for part in (tower, processor):
        part.save_pretrained(tmp_path / "vit")
    path = tmp_path / "vit" / "onnx" / "model.onnx"
    export_folder(tmp_path / "vit", path)
    made = tmp_path / "vit" / "onnx" / "images.onnx"
    done = graphsurgery.run([AddImageInput()], path, output=made)
    assert done.report, done.report
    fused = [graphsurgery.optimize(file, output=tmp_path / f"{file.stem}.fused.onnx", time=False) for file in (path, made)]
    assert all(one.report for one in fused)
    assert fused[0].fusions.summary == fused[1].fusions.summary  # the processor is in no fusion's way
    session = Session(made.read_bytes())
    for seed, (height, width) in enumerate(SIZES):
        images = draw_images(np.random.default_rng(seed), 2, height, width)
        with torch.no_grad():
            pixels = processor([PIL.Image.fromarray(one) for one in images], return_tensors="pt")["pixel_values"]
            wanted = tower(pixels).last_hidden_state.numpy()[:, 0]
        found = session.run({"images": images})["last_hidden_state"][:, 0]
        cosine = (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
        assert cosine.min() >= 0.99999
