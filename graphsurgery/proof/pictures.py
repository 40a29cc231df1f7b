"""Pictures to feed, uint8 ``[height, width, 3]``: noise as in photographs, shapes, lines, and black beside white."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ImageFeed:
    """How a model that processes pictures inside is fed: the name of its input, and the sizes at which something changes."""

    name: str
    resize: tuple[int, ...]
    """The shortest edge, or height and width, to which the model resizes; empty if it does not."""
    crop: tuple[int, ...]
    """Height and width of the crop; empty if it does not crop."""

    @property
    def processed(self) -> tuple[int, int]:
        """Height and width of the processed pictures."""
        height, width = self.crop or self.resize
        return height, width

    @property
    def kept(self) -> tuple[int, int]:
        """Height and width of a picture that is not resized, so that every level is exact; it is cropped if it may be."""
        if len(self.resize) == 2:
            return self.resize[0], self.resize[1]
        height, width = self.resize * 2 or self.processed
        return height, width + 3

    def list_sizes(self) -> Iterator[tuple[str, list[tuple[int, int]]]]:
        """Yield sizes of pictures by kind: smaller, larger, as large, odd, and much longer one way than the other."""
        height, width = self.resize if len(self.resize) == 2 else (self.resize * 2 or self.processed)
        yield "as large", [(height, width), (height + 1, width), (height, width + 1)]
        yield "smaller", [(1, 1), (max(height // 7, 1), max(width // 5, 1)), (max(height - 3, 1), max(width // 2, 1))]
        yield "larger", [(2 * height, 2 * width), (3 * height + 1, 2 * width + 1), (height + 5, 4 * width)]
        yield "long and flat", [(height // 3 + 3, 2 * width + 37), (2 * height + 37, width // 3 + 3), (5, 37)]


def draw_images(rng: np.random.Generator, rows: int, height: int, width: int) -> np.ndarray:
    """Return different pictures of one size, uint8 ``[rows, height, width, 3]``."""
    drawn = [draw_picture(rng, height, width) for _ in range(rows)]
    return np.stack(drawn) if drawn else np.zeros((0, height, width, 3), dtype=np.uint8)


def draw_picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return one picture: noise whose waves are the stronger the longer they are (1/f), with shapes and lines on it."""
    picture = _draw_noise(rng, height, width)
    rows, columns = np.mgrid[:height, :width]
    for _ in range(3):
        top, left = rng.integers(0, height), rng.integers(0, width)
        disc = np.hypot(rows - top, columns - left) < rng.uniform(0, max(height, width) / 4)
        picture[disc] = rng.integers(0, 256, 3)
    for _ in range(3):
        slope, start = rng.uniform(-3, 3), rng.integers(0, width)
        picture[np.abs(columns - start - slope * rows) < 1] = rng.choice([0, 255], 3)
    half = (rows < height // 2) & (columns < width // 2)
    picture[half & (rng.random((height, width)) < 0.5)] = rng.choice([0, 255])  # what overshoots between two passes
    return picture.astype(np.uint8)


def _draw_noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return noise with an amplitude of 1/f, ``[height, width, 3]``, scaled to the levels 0 to 255."""
    waves = np.fft.rfft2(rng.standard_normal((3, height, width)))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    noise = np.fft.irfft2(waves / np.maximum(frequency, 1 / max(height, width)), s=(height, width)).transpose(1, 2, 0)
    low, high = noise.min(), noise.max()
    return np.round((noise - low) * (255 / max(high - low, 1e-9)))
