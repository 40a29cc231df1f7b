"""The image processor of a model folder: what ``preprocessor_config.json`` says happens to a picture before the model.

The facts about each class are those of transformers' slow processors (4.57), which compute with Pillow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graphsurgery.errors import FolderError
from graphsurgery.folders.files import describe_value, read_json, read_setting

CONFIGS = ("preprocessor_config.json", "processor_config.json")
"""The files that hold a processor's settings, in the order in which they are looked for."""
INSIDE = "image_processor"
"""The key of the image processor's settings in the config of a processor of several kinds of inputs."""
FILTERS = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's filters by their number, ``resample``."""
OTHER_FILTERS = {0: "nearest", 4: "box", 5: "hamming"}
USUAL_SCALE = 1 / 255
MOST_PIXELS = 4096
"""The longest edge to which pictures are resized or cropped."""
SHORTEST, SQUARE = "shortest_edge", "square"


@dataclass(frozen=True)
class Rules:
    """How a class of processors reads its settings."""

    number: str | None
    """What a ``size`` of one number means: `SHORTEST`, `SQUARE`, or nothing."""
    crops: bool
    """Whether it crops the resized picture around its centre."""
    keeps_aspect: bool
    """Whether ``size`` may be a shortest edge."""


CLASSES = {
    "CLIPImageProcessor": Rules(SHORTEST, True, True),
    "ChineseCLIPImageProcessor": Rules(None, True, False),
    "SiglipImageProcessor": Rules(None, False, False),
    "ViTImageProcessor": Rules(SQUARE, False, False),
    "DeiTImageProcessor": Rules(SQUARE, True, False),
    "BlipImageProcessor": Rules(SQUARE, False, False),
    "BitImageProcessor": Rules(SHORTEST, True, True),
}
"""The classes that are understood. DINOv2 uses the last one."""
FAST, ENDINGS = "Fast", {"Fast": "", "Pil": "", "FeatureExtractor": "ImageProcessor"}
"""Other endings of a class's name, and what they stand for."""
WITHOUT_MEANING = frozenset({
    "image_processor_type", "feature_extractor_type", "processor_class", "do_convert_rgb", "_valid_processor_keys",
    "data_format", "input_data_format", "device", "return_tensors", "default_to_square", "disable_grouping",
})  # fmt: skip
"""Keys that change no number of a picture of three channels."""
MEANT = frozenset({
    "do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor", "do_normalize",
    "image_mean", "image_std",
})  # fmt: skip
SWITCHES = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
"""These are on if a config does not say: every class that has them has them on."""


@dataclass(frozen=True)
class Processor:
    """The steps of an image processor, in order. Each is None or empty if it is left out."""

    kind: str
    """The class, such as ``CLIPImageProcessor``."""
    resize: tuple[int, ...]
    """The shortest edge, or height and width."""
    resample: str
    """The filter, one of `FILTERS`."""
    crop: tuple[int, ...]
    """Height and width of the crop around the centre. Zeros fill what the picture does not reach."""
    scale: float | None
    """The factor by which levels of 0 to 255 are multiplied."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Mean and standard deviation of each channel, after scaling."""
    is_fast: bool = False
    """Whether the config names the class that computes with torchvision."""

    @property
    def size(self) -> tuple[int, ...]:
        """Height and width of every processed picture; empty if they depend on the picture."""
        return self.crop or (self.resize if len(self.resize) == 2 else ())


def read_processor(path: Path) -> Processor:
    """Read the settings of an image processor.

    Raises FolderError if the file cannot be read, if the class or a setting is not understood, or if one is missing.
    """
    config = read_json(path)
    config = read_setting(config, INSIDE, dict, path, config)
    kind, is_fast = _read_kind(config, path)
    rules = CLASSES[kind]
    _refuse_unknown(config, kind, path)
    on = {name: bool(read_setting(config, name, bool, path, name != "do_center_crop" or rules.crops)) for name in SWITCHES}
    if on["do_center_crop"] and not rules.crops:
        raise _refuse(path, f"do_center_crop is true, and {kind} does not crop", "set it to false in a copy of the config")
    processor = Processor(
        kind,
        resize=_read_size(config, rules, kind, path) if on["do_resize"] else (),
        resample=_read_filter(config, path) if on["do_resize"] else "",
        crop=_read_crop(config, path) if on["do_center_crop"] else (),
        scale=float(read_setting(config, "rescale_factor", (int, float), path, USUAL_SCALE)) if on["do_rescale"] else None,
        mean=(), std=(), is_fast=is_fast,
    )  # fmt: skip
    if processor.scale is not None and not 0 < processor.scale <= 1:
        raise _refuse(path, f"rescale_factor is {processor.scale}", "a number above 0 and up to 1 is needed, usually 1/255")
    if not on["do_normalize"]:
        return processor
    mean, std = _read_channels(config, "image_mean", path), _read_channels(config, "image_std", path)
    if min(std) <= 0:
        raise _refuse(path, f"image_std is {list(std)}", "every standard deviation must be above 0")
    return replace(processor, mean=mean, std=std)


def _read_kind(config: Mapping[str, Any], path: Path) -> tuple[str, bool]:
    named = next((config[key] for key in ("image_processor_type", "feature_extractor_type") if config.get(key)), None)
    listed = ", ".join(CLASSES)
    if not isinstance(named, str):
        what = "it names no image_processor_type" if named is None else f"image_processor_type is {describe_value(named)}"
        raise _refuse(path, what, f"the classes that are understood are {listed}")
    ending = next((one for one in ENDINGS if named.endswith(one)), "")
    kind = named.removesuffix(ending) + ENDINGS.get(ending, "")
    if kind not in CLASSES:
        more = "; it cuts pictures into as many patches as they have room for (NaFlex)" if "Siglip2" in kind else ""
        what = f"the image processor {named} is not understood{more}"
        raise _refuse(path, what, f"the classes that are understood are {listed}")
    return kind, ending == FAST


def _refuse_unknown(config: Mapping[str, Any], kind: str, path: Path) -> None:
    """Raise FolderError for a setting that is given and not understood: padding, flips, tiles."""
    given = [key for key, value in config.items() if key not in MEANT | WITHOUT_MEANING and value not in (None, False)]
    if given:
        raise _refuse(
            path, f"{kind} has the setting {given[0]} = {describe_value(config[given[0]])}, which is not understood",
            "if it changes nothing, leave it out of a copy of the config, and name that with --config",
        )  # fmt: skip


def _read_size(config: Mapping[str, Any], rules: Rules, kind: str, path: Path) -> tuple[int, ...]:
    size = _require(config, "size", path)
    if isinstance(size, int) and not isinstance(size, bool) and rules.number is not None:
        return _check_sizes([size] if rules.number == SHORTEST else [size, size], "size", path)
    if isinstance(size, dict):
        given = {key: value for key, value in size.items() if value is not None}
        if set(given) == {"height", "width"}:
            return _check_sizes([given["height"], given["width"]], "size", path)
        if set(given) == {SHORTEST} and rules.keeps_aspect:
            return _check_sizes([given[SHORTEST]], "size", path)
    form = 'a "height" and a "width"' + (', or a "shortest_edge"' if rules.keeps_aspect else "")
    shown = size if isinstance(size, dict) else describe_value(size)
    raise _refuse(path, f"size is {shown}, and {kind} needs {form}", "give its sizes in a copy of the config")


def _read_crop(config: Mapping[str, Any], path: Path) -> tuple[int, ...]:
    crop = _require(config, "crop_size", path)
    if isinstance(crop, int) and not isinstance(crop, bool):
        return _check_sizes([crop, crop], "crop_size", path)
    if isinstance(crop, dict) and {key for key, value in crop.items() if value is not None} == {"height", "width"}:
        return _check_sizes([crop["height"], crop["width"]], "crop_size", path)
    shown = crop if isinstance(crop, dict) else describe_value(crop)
    raise _refuse(path, f"crop_size is {shown}", 'a number, or a "height" and a "width", is needed')


def _check_sizes(sizes: list[Any], key: str, path: Path) -> tuple[int, ...]:
    for size in sizes:
        if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= MOST_PIXELS:
            raise _refuse(path, f"{key} is {describe_value(size)}", f"a whole number from 1 to {MOST_PIXELS} is needed")
    return tuple(sizes)


def _read_filter(config: Mapping[str, Any], path: Path) -> str:
    number = _require(config, "resample", path)
    if not isinstance(number, int) or isinstance(number, bool) or number not in FILTERS:
        named = OTHER_FILTERS.get(number) if isinstance(number, int) else None
        what = f"resample is {describe_value(number)}{f' ({named})' if named else ''}"
        known = ", ".join(f"{one} ({name})" for one, name in FILTERS.items())
        raise _refuse(path, what, f"the filters that are understood are {known}")
    return FILTERS[number]


def _read_channels(config: Mapping[str, Any], key: str, path: Path) -> tuple[float, ...]:
    """Return one number for each of three channels."""
    given = _require(config, key, path)
    numbers = given if isinstance(given, list) else [given] * 3
    if len(numbers) != 3 or not all(isinstance(one, (int, float)) and abs(one) < 1e6 for one in numbers):
        raise _refuse(
            path, f"{key} is {given if isinstance(given, list) else describe_value(given)}", "three numbers are needed"
        )
    return tuple(map(float, numbers))


def _require(config: Mapping[str, Any], key: str, path: Path) -> Any:
    value = config.get(key)
    if value is None:
        raise _refuse(
            path, f"the setting {key} is missing", "write it into a copy of the config, and name that with --config"
        )  # fmt: skip
    return value


def _refuse(path: Path, what: str, advice: str) -> FolderError:
    return FolderError(f"{path}: {what}", advice)
