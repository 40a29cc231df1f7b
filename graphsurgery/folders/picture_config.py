"""The pictures that a model folder describes: their sizes, and how its processor normalises their pixels.

Sources: transformers' ``config.json`` (``image_size``, in ``vision_config`` for two towers) and ``preprocessor_config.json``
(``crop_size``, ``size``, ``image_mean``, ``image_std``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphsurgery.errors import FolderError
from graphsurgery.folders.files import find_model_folder, read_json

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
TOWER, PIXELS, CROP, SIZE = "vision_config", "image_size", "crop_size", "size"
LARGEST = 1 << 13
"""Larger numbers are not accepted as sizes of pictures."""
SMALLEST, FARTHEST = 1e-3, 1e3
"""A deviation of pixels is above the first, and means and deviations are below the second."""


@dataclass(frozen=True)
class PictureConfig:
    """What a folder says about pictures; everything is empty if it says nothing."""

    sizes: tuple[tuple[int, int], ...] = ()
    """Heights and widths: those that the processor makes, then those of the model's config."""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    """The processor gives ``(pixels - mean) / std`` of pixels from 0 to 1, by channel."""


def read_picture_config(model: Path | None) -> PictureConfig:
    """Return what the folder of the ONNX file ``model`` says about pictures.

    A config that is missing, cannot be read, or holds something else says nothing.
    """
    config, processor = _read(model, CONFIG), _read(model, PROCESSOR)
    tower = config.get(TOWER) if isinstance(config.get(TOWER), Mapping) else {}
    said = (processor.get(CROP), processor.get(SIZE), config.get(PIXELS), (tower or {}).get(PIXELS))
    sizes = tuple(dict.fromkeys(size for one in said for size in _list_sizes(one)))
    mean, std = (_list_numbers(processor.get(name)) for name in ("image_mean", "image_std"))
    is_normalised = processor.get("do_normalize") is not False and len(mean) == len(std) and min(std, default=0) > SMALLEST
    return PictureConfig(sizes, mean, std) if is_normalised else PictureConfig(sizes)


def _read(model: Path | None, name: str) -> dict[str, Any]:
    folder = find_model_folder(model, name)
    try:
        return {} if folder is None else dict(read_json(folder / name))
    except FolderError:
        return {}


def _list_sizes(said: object) -> Iterator[tuple[int, int]]:
    """Yield the height and width of a size as configs write it: a number, a list of two, or an object."""
    if isinstance(said, Mapping):
        side = said.get("shortest_edge")
        said = [said.get("height", side), said.get("width", side)]
    pair = said if isinstance(said, list) else [said, said]
    sides = [one for one in pair if type(one) is int and 0 < one <= LARGEST]
    if len(pair) == len(sides) == 2:
        yield sides[0], sides[1]


def _list_numbers(said: object) -> tuple[float, ...]:
    numbers = said if isinstance(said, list) else []
    is_usual = all(type(one) in (int, float) and abs(one) < FARTHEST for one in numbers)  # neither text nor NaN
    return tuple(float(one) for one in numbers) if is_usual else ()
