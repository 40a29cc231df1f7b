"""Inputs to trace a model on and to compare its file on: texts, pictures and waveforms."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.exporting.packages import import_torch
from graphsurgery.folders.files import is_there, read_json
from graphsurgery.runtime.texts import SENTENCES

PIXELS = "pixel_values"
BATCH, LENGTH = "batch_size", "sequence_length"
LONGEST = 64
TEXTS = (
    ("a few texts", 3, "right"),
    ("texts padded on the right", len(SENTENCES), "right"),
    ("texts padded on the left", len(SENTENCES), "left"),
    ("a text alone", 1, "right"),
)
"""What is encoded: its name, how many sentences, and the side of the padding."""
PROCESSOR = "preprocessor_config.json"


@dataclass(frozen=True)
class Sample:
    """Inputs of one size, with the dims that the file declares for them."""

    name: str
    arrays: Mapping[str, np.ndarray]
    dims: Mapping[str, tuple[str | int, ...]]
    mask: np.ndarray | None = None
    """``[batch, seq]``: where the output has to agree, None for everywhere."""

    def to_tensors(self, torch: Any) -> dict[str, Any]:
        return {name: torch.from_numpy(array) for name, array in self.arrays.items()}


def make_texts(folder: Path, compute: Callable[..., Any]) -> tuple[Sample, ...]:
    """Return a few sentences as the folder's tokenizer encodes them: those of its outputs that ``compute`` takes as arguments,
    int64 ``[batch, seq]``."""
    _, transformers = import_torch()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        settings = {"padding": True, "truncation": True, "max_length": min(LONGEST, tokenizer.model_max_length)}
        encoded = {}
        for name, count, side in TEXTS:
            tokenizer.padding_side = side
            encoded[name] = tokenizer(list(SENTENCES[:count]), return_tensors="np", **settings)
    except Exception as error:  # whatever transformers and the files raise
        raise UnsupportedModelError(
            f"transformers {transformers.__version__} cannot read the tokenizer of {folder.name}: {error}",
            "check that the folder has its tokenizer's files",
        ) from error
    known = inspect.signature(compute).parameters
    samples = []
    for name, found in encoded.items():
        arrays = {key: np.asarray(value, dtype=np.int64) for key, value in found.items() if key in known}
        samples.append(Sample(name, arrays, dict.fromkeys(arrays, (BATCH, LENGTH)), found.get("attention_mask")))
    return tuple(samples)


def make_pictures(config: Any, folder: Path) -> tuple[Sample, ...]:
    """Return noise, ``pixel_values [batch, channels, height, width]`` float32, of the size that the config names."""
    size = getattr(config, "image_size", None)
    height, width = (size, size) if isinstance(size, int) else _read_size(size, folder)
    shape = (getattr(config, "num_channels", 3), height, width)
    rng = np.random.default_rng(0)
    names = {"a few pictures": 3, "other pictures": 2, "a picture alone": 1}
    return tuple(
        Sample(
            name, {"pixel_values": rng.standard_normal((count, *shape)).astype(np.float32)}, {"pixel_values": (BATCH, *shape)}
        )
        for name, count in names.items()
    )


def _read_size(size: Any, folder: Path) -> tuple[int, int]:
    """Return height and width, which configs write as a list or as a dict."""
    found = (size.get("height"), size.get("width")) if isinstance(size, Mapping) else tuple(size or ())
    if len(found) == 2 and all(isinstance(one, int) for one in found):
        return found[0], found[1]
    raise UnsupportedModelError(
        f"the config of {folder.name} does not say how large its pictures are (image_size is {size!r})",
        "export it by hand with torch.onnx.export",
    )


def make_sounds(config: Any, folder: Path) -> tuple[Sample, ...]:
    """Return noise, ``input_values [batch, samples]`` float32, and the mask ``[batch, samples]`` int64 if the model expects
    one. Its processor says so, or else the kind of its norms: a model with a group norm expects none, because that norm
    includes the padding anyway."""
    processor = read_json(folder / PROCESSOR) if is_there(folder / PROCESSOR) else {}
    masked = processor.get("return_attention_mask", getattr(config, "feat_extract_norm", "layer") == "layer")
    step = math.prod(getattr(config, "conv_stride", (320,)))
    rng = np.random.default_rng(0)
    samples = []
    for name, frames in {"a few sounds": (41, 30, 19), "other sounds": (23, 57), "a sound alone": (33,)}.items():
        lengths = np.array(frames) * step + 1
        mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        arrays: dict[str, np.ndarray] = {"input_values": (rng.standard_normal(mask.shape) * mask).astype(np.float32)}
        if masked:
            arrays["attention_mask"] = mask
        samples.append(Sample(name, arrays, dict.fromkeys(arrays, (BATCH, LENGTH))))
    return tuple(samples)
