"""image-input: pictures of any size, processed as transformers' slow processors do it with Pillow, in float64.

Pillow (up to 12) resizes in two passes, along the width and then along the height, and keeps whole levels of 0 to 255 after
each. A level along an edge is a weighted mean of those near it: n pixels that become m are s = n / m apart, the filter is
stretched by t = max(s, 1), and the pixel j weighs f((j + 0.5 - c) / t) in the mean around c = (i + 0.5) s. The sum is rounded
to the nearest whole number, half up, and clipped. Pillow 13 resizes the height first if that shrinks much more, so its levels
differ for such pictures.

A program that computes in float32, or with integers as Pillow does, may round a sum that is very near to a half to the other
side. The reference knows which sums these are, and by how much they may change a level. All other levels are exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Dim, Interface
from graphsurgery.references.fields import ChangeInfo, Fields, Info
from graphsurgery.references.input_edits import compute_nothing, explain_type_misfit, keep_outputs
from graphsurgery.references.reference import (
    Array,
    Expected,
    Parameters,
    Reference,
    RunModel,
    Values,
    expect_exactly,
    parse_number,
    require_known,
)

PIXELS, DEVICES = ("float16", "float32", "float64"), ("cpu", "cuda")
MOST_PIXELS = 4096
"""The longest edge to which a record may ask for pictures to be resized or cropped."""
NEAR_HALF = 0.01
"""A weighted mean of levels may be off by this much, and be rounded to the other side. ONNX Runtime's sums of some hundred
pictures were off by more than 0.0005 and by less than 0.002."""
ROUNDING = 1e-6
"""Allowed difference of equal levels after normalisation, relative to max(1, |x|): float32."""


def _triangle(x: float) -> float:
    return max(0.0, 1.0 - abs(x))


def _cubic(x: float) -> float:
    """Return the cubic convolution of Keys with a = -0.5."""
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0


def _lanczos(x: float) -> float:
    return float(np.sinc(x) * np.sinc(x / 3)) if abs(x) < 3 else 0.0


Filter = Callable[[float], float]
FILTERS: dict[str, tuple[Filter, float]] = {"bilinear": (_triangle, 1), "bicubic": (_cubic, 2), "lanczos": (_lanczos, 3)}
"""Each filter and how far it reaches."""


@dataclass(frozen=True)
class Levels:
    """Levels of 0 to 255, ``[batch, 3, height, width]`` float64, and how far a program may be from each of them."""

    values: Array
    slack: Array


def list_weights(old: int, new: int, resample: str) -> Array:
    """Return the weights ``[new, old]`` of one pass: each row has sum 1."""
    shape, reach = FILTERS[resample]
    step = old / new
    stretch = max(step, 1.0)
    weights = np.zeros((new, old))
    for place in range(new):
        centre = (place + 0.5) * step
        first = max(int(centre - reach * stretch + 0.5), 0)
        end = min(int(centre + reach * stretch + 0.5), old)
        row = np.array([shape((pixel + 0.5 - centre) / stretch) for pixel in range(first, end)])
        weights[place, first:end] = row / row.sum()
    return weights


def resize_levels(levels: Levels, size: tuple[int, int], resample: str) -> Levels:
    """Resize to ``size``, height and width. An edge that keeps its length is left alone, as in Pillow."""
    for axis, new in ((3, size[1]), (2, size[0])):
        if levels.values.shape[axis] != new:
            levels = _resize_along(levels, axis, new, resample)
    return levels


def _resize_along(levels: Levels, axis: int, new: int, resample: str) -> Levels:
    weights = list_weights(levels.values.shape[axis], new, resample)

    def combine(w: Array, x: Array) -> Array:
        return x @ w.T if axis == 3 else w @ x

    means = combine(weights, levels.values)
    near = NEAR_HALF + combine(np.abs(weights), levels.slack)
    nearest, low, high = (np.clip(np.floor(means + off + 0.5), 0, 255) for off in (0, -near, near))
    return Levels(nearest, np.maximum(high - nearest, nearest - low))


def find_size(height: int, width: int, resize: Sequence[int]) -> tuple[int, int]:
    """Return the size to which a picture is resized; its longer edge is rounded down if the shortest one is given."""
    if len(resize) == 2:
        return resize[0], resize[1]
    short, long = min(height, width), max(height, width)
    longer = resize[0] * long // short
    return (longer, resize[0]) if height >= width else (resize[0], longer)


def crop_array(array: Array, crop: Sequence[int]) -> Array:
    """Return the ``crop``, height and width, around the centre of ``[..., height, width]``, with zeros beyond the edges."""
    made = np.zeros((*array.shape[:-2], *crop))
    places = []
    for old, new in zip(array.shape[-2:], crop, strict=True):
        start = math.floor((old - new) / 2)  # below 0 in a picture that is too small
        first, end = max(start, 0), min(start + new, old)
        places.append((slice(first, end), slice(first - start, end - start)))
    (rows, new_rows), (columns, new_columns) = places
    made[..., new_rows, new_columns] = array[..., rows, columns]
    return made


def process(images: Array, parameters: Parameters) -> Expected:
    """Return the pixels ``[batch, 3, H, W]`` that a processor makes of ``images`` uint8 ``[batch, height, width, 3]``."""
    start = images.transpose(0, 3, 1, 2).astype(np.float64)
    levels = Levels(start, np.zeros_like(start))
    if parameters["resize"]:
        _, height, width, _ = images.shape
        size = find_size(height, width, parameters["resize"])
        levels = resize_levels(levels, size, parameters["resample"])
    values, slack = levels.values, levels.slack
    if parameters["crop"]:
        values, slack = crop_array(values, parameters["crop"]), crop_array(slack, parameters["crop"])
    mean, std = (np.array(parameters[name]).reshape(1, 3, 1, 1) for name in ("mean", "std"))
    pixels = (values * parameters["scale"] - mean) / std
    dtype = np.dtype(parameters["dtype"])
    rounding = max(ROUNDING, float(np.finfo(dtype).eps)) * np.maximum(1, np.abs(pixels))
    return Expected(pixels.astype(dtype), slack * parameters["scale"] / std + rounding)


def _read(parameters: Parameters) -> Parameters:
    """Read the texts as numbers: ``resize`` and ``crop`` as sizes, ``scale``, ``mean`` and ``std`` as floats."""
    require_known("element type of pixels", parameters["dtype"], PIXELS)
    require_known("device", parameters["device"], DEVICES)
    sizes = {name: tuple(map(parse_number, parameters[name])) for name in ("resize", "crop")}
    mean, std = (_read_floats(parameters[name]) for name in ("mean", "std"))
    (scale,) = _read_floats([parameters["scale"]])
    fits = (
        len(sizes["resize"]) < 3
        and len(sizes["crop"]) in (0, 2)
        and all(size is not None and 0 < size <= MOST_PIXELS for size in (*sizes["resize"], *sizes["crop"]))
        and (len(sizes["crop"]) == 2 or len(sizes["resize"]) == 2)
        and (len(mean), len(std)) == (3, 3)
        and min(*std, scale) > 0
        and len(parameters["dims"]) == 4
    )
    if not fits:
        raise UnsupportedModelError("the recorded parameters of add-image-input do not fit together", "make the output again")
    if sizes["resize"]:
        require_known("resample", parameters["resample"], FILTERS)
    dims = tuple(map(_read_dim, parameters["dims"]))
    return {**parameters, **sizes, "scale": scale, "mean": mean, "std": std, "dims": dims}


def _read_floats(texts: Sequence[str]) -> tuple[float, ...]:
    try:
        numbers = tuple(map(float, texts))
    except ValueError:
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)):
        raise UnsupportedModelError("a recorded number of add-image-input cannot be read", "make the output again")
    return numbers


def _read_dim(text: str) -> Dim:
    number = parse_number(text)
    return number if number is not None else text or None


def _declare_input(parameters: Parameters) -> list[Info]:
    return [onnx.helper.make_tensor_value_info(parameters["name"], onnx.TensorProto.UINT8, parameters["dims"])]


def _change_infos(parameters: Parameters, _graph: onnx.GraphProto) -> ChangeInfo:
    return lambda kind, info: None if kind == "input" and info.name == parameters["input"] else info


def _explain_misfit(parameters: Parameters, before: Interface) -> str | None:
    name, new = parameters["input"], parameters["name"]
    if before.input(new) is not None:
        return f"there is already an input {new!r}"
    misfit, value = explain_type_misfit(before, name, parameters["dtype"]), before.input(name)
    if misfit is not None or value is None:
        return misfit
    size = (3, *(parameters["crop"] or parameters["resize"]))
    dims = value.dims or ()
    if len(dims) != 4 or any(dim != wanted for dim, wanted in zip(dims[1:], size, strict=True) if isinstance(dim, int)):
        return f"{value} does not take pictures of {' x '.join(map(str, size))}"
    batch, _, _, channels = parameters["dims"]
    return None if channels == 3 and batch == dims[0] else f"the recorded dims of {new!r} are not those of pictures for {value}"


def _compute_after(parameters: Parameters, feed: Values, before: RunModel) -> dict[str, Expected]:
    pixels = process(feed[parameters["name"]], parameters)
    others = {name: array for name, array in feed.items() if name != parameters["name"]}
    images = expect_exactly({parameters["name"]: feed[parameters["name"]]})
    return before(others | {parameters["input"]: pixels.values}) | images | {parameters["input"]: pixels}


REFERENCE = Reference(
    reads=lambda p: [p["name"]],
    makes=lambda _: [],
    value=compute_nothing,
    outputs=keep_outputs,
    read=_read,
    fields=Fields(inputs=_declare_input, infos=_change_infos),
    values_after=_compute_after,
    misfit=_explain_misfit,
    stand_ins=lambda p: {p["input"]: p["input"]},
)
