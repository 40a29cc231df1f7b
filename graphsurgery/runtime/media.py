"""Pictures and sound to feed: how large they are, and how they are drawn.

Feeds begin with a mask ``m [batch, columns]``. For a waveform, a column is a frame of the encoder: ``columns`` frames take
``field + (columns - 1) hop`` samples, and possibly a few more that do not fill a frame. For pictures and spectrograms, columns
mean nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from graphsurgery.encoder.modalities import PICTURE, WAVEFORM
from graphsurgery.interface import Value
from graphsurgery.model.dtypes import to_numpy_dtype
from graphsurgery.runtime.masks import Mask

MIDDLE, SPREAD = 0.5, 0.5
"""The mean and the deviation of pixels if the folder has no image processor. Pixels then lie between -1 and 1."""
NOISE = 0.25
"""The share of noise in a drawn picture. The rest is a colour that is lighter in one corner than in the opposite one."""


def describe_length(columns: int, waveform: Medium | None) -> str:
    """Describe the length of a text of ``columns`` tokens, or of a clip of ``columns`` frames, in words."""
    count, unit = (columns, "token") if waveform is None else (waveform.count_samples(columns), "sample")
    return f"{count} {unit}{'s' * (count != 1)}"


@dataclass(frozen=True)
class Medium:
    """How the input ``name`` is drawn: ``[batch, *sizes]``, for a waveform ``[batch, *sizes, samples]``."""

    name: str
    kind: str
    """`PICTURE`, `WAVEFORM` or `SPECTROGRAM`."""
    sizes: tuple[int, ...] = ()
    only: bool = False
    """Whether the model ran at these sizes and at no others, although it declares some of them free."""
    field: int = 1
    """The number of samples of one frame."""
    hop: int = 1
    """How many samples the frames are apart."""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    """The mean and the deviation of each channel, from the image processor. Empty if they are not known."""

    @property
    def has_columns(self) -> bool:
        """Whether its length follows the columns of the mask."""
        return self.kind == WAVEFORM

    def count_samples(self, columns: int) -> int:
        """Return how many samples are fed for ``columns`` frames."""
        return self.field + (columns - 1) * self.hop + columns % self.hop

    def count_frames(self, samples: int) -> int:
        """Return how many frames the encoder makes of ``samples`` samples."""
        return max((samples - self.field) // self.hop + 1, 1)

    def list_places(self, samples: int, columns: int) -> np.ndarray:
        """Return the column that each sample belongs to, int64 ``[samples]``: the first frame that it is part of."""
        behind = (np.arange(samples) - self.field) // self.hop + 1
        return np.clip(behind, 0, columns - 1)

    def find_samples(self, columns: slice, of: int) -> slice:
        """Return the slice of samples that a slice of the ``of`` columns covers, from its first to its last frame."""
        start, stop, _ = columns.indices(of)
        return slice(start * self.hop, None if stop == of else (stop - 1) * self.hop + self.field)

    def draw(self, rng: np.random.Generator, value: Value, shape: tuple[int, ...], mask: Mask, silent: bool) -> np.ndarray:
        """Return an array of ``shape`` for the input ``value``. If ``silent``, samples at padding are zeros."""
        kind = to_numpy_dtype(value.dtype)
        if self.kind == PICTURE:
            return self._draw_pictures(rng, value, shape).astype(kind)
        noise = rng.standard_normal(shape)
        if self.kind == WAVEFORM and silent:
            sounds = mask[:, self.list_places(shape[-1], mask.shape[1])]
            noise *= sounds.reshape(len(sounds), *[1] * (len(shape) - 2), -1)
        return noise.astype(kind)

    def _draw_pictures(self, rng: np.random.Generator, value: Value, shape: tuple[int, ...]) -> np.ndarray:
        """Return pixels as the image processor gives them: 0 to 255 as bytes, or shifted and scaled as floats."""
        is_last = value.dtype == onnx.TensorProto.UINT8  # channels stand last in bytes, and first in floats
        rows, channels, height, width = (shape[0], shape[3], *shape[1:3]) if is_last else shape
        slope = np.linspace(-0.5, 0.5, height)[:, None] + np.linspace(-0.5, 0.5, width)[None, :]
        plain = rng.uniform(0, 1, (rows, channels, 1, 1)) + rng.uniform(-1, 1, (rows, 1, 1, 1)) * slope
        levels = np.clip(plain + NOISE * rng.standard_normal((rows, channels, height, width)), 0, 1)
        if is_last:
            return np.asarray(np.round(levels * 255).transpose(0, 2, 3, 1))
        known = len(self.mean) == len(self.std) == channels
        mean, std = (np.array(one if known else [usual] * channels)[:, None, None]
                     for one, usual in ((self.mean, MIDDLE), (self.std, SPREAD)))  # fmt: skip
        return np.asarray((levels - mean) / std)
