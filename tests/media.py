"""Pictures and clips as files of bytes, and folders of tiny models that take them."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import Any

import numpy as np
from baked_folders import Entry, normalize, put_json, write_folder
from joints import PIXELS, joint
from PIL import Image
from speech import make_speech_encoder

import graphsurgery

RATE = 16000
PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": PIXELS}, "resample": 3,
    "crop_size": {"height": PIXELS, "width": PIXELS}, "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28],
}  # fmt: skip


def draw_picture(seed: int = 0, height: int = 30, width: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode_picture(picture: np.ndarray | Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """A picture as a file."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def draw_clip(samples: int, seed: int = 0) -> np.ndarray:
    """Samples between -1 and 1 that 16 bits can hold."""
    loud = np.random.default_rng(seed).standard_normal(samples) * 3000
    return (loud.astype(np.int16) / 32768).astype(np.float32)


def encode_clip(samples: np.ndarray, width: int = 2, rate: int = RATE) -> bytes:
    """Samples ``[samples]`` or ``[samples, channels]`` from -1 to 1 as a WAV file of so many bytes for each."""
    whole = np.round(samples.astype(np.float64) * (1 << (8 * width - 1))).astype(np.int64) + (128 if width == 1 else 0)
    content = whole.reshape(-1, 1).astype("<i8").view(np.uint8).reshape(-1, 8)[:, :width].tobytes()
    return write_wave(content, width, rate, 1 if samples.ndim == 1 else samples.shape[1])


def write_wave(content: bytes, width: int = 2, rate: int = RATE, channels: int = 1) -> bytes:
    """A WAV file of these bytes."""
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(content)
    return stream.getvalue()


def bake_clip_folder(place: Path) -> Path:
    """A baked folder of a joint model: onnx/model.onnx for texts, onnx/image.onnx for pictures, both of length one."""
    source = write_folder(place / "clip", (Entry("CLIPModel"), normalize("1_Normalize")), joint())
    put_json(source / "preprocessor_config.json", PROCESSOR)
    return graphsurgery.bake(source, verify=False).folder


def make_speech_folder(folder: Path, lengths: bool = True, **config: Any) -> Path:
    """A folder of a pooled speech encoder, with or without lengths."""
    encoder = graphsurgery.load(make_speech_encoder())
    pooled = graphsurgery.add_pooling(encoder, mode="mean", lengths=lengths, **({} if lengths else {"mask": "ones"}))
    folder.mkdir(parents=True)
    graphsurgery.save(pooled, folder / "model.onnx")
    put_json(folder / "preprocessor_config.json", {"sampling_rate": RATE, "do_normalize": True, **config})
    return folder
