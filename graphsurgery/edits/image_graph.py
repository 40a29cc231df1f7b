"""The image processor as ONNX operators: resize, crop around the centre, normalise.

Pillow resizes in two passes, first along the width and then along the height, and rounds and clips to levels of 0 to 255 after
each. With n levels x_j along an edge that becomes m long, s = n / m, t = max(s, 1) and the filter f:

    w_ij = f((j + 0.5 - (i + 0.5) s) / t),    y_i = clip(floor(sum_j w_ij x_j / sum_j w_ij + 0.5), 0, 255)

ONNX's Resize on uint8 with antialias does just that (bilinear and bicubic, from opset 18 on). Otherwise each pass is a product
with the matrix w, which is computed in the graph from the sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphsurgery.deferred import gs
from graphsurgery.edits.draft_operators import FLOAT, Operators
from graphsurgery.folders.processor_config import Processor

BILINEAR, BICUBIC, LANCZOS = "bilinear", "bicubic", "lanczos"
MODES = {BILINEAR: "linear", BICUBIC: "cubic"}
"""The modes of Resize that antialias."""
ANTIALIAS_SINCE = 18
CUBIC = -0.5
"""Pillow's coefficient of cubic interpolation; ONNX's default is -0.75."""
DOUBLE = 11
LOBES = 3
TINY = 1e-9


@dataclass(frozen=True)
class Picture:
    """Pictures ``[batch, 3, height, width]`` in the graph."""

    levels: gs.Tensor
    """Levels of 0 to 255: uint8, or whole numbers in float32."""
    size: tuple[int, ...] | gs.Tensor
    """Height and width: numbers, or a vector in the graph."""
    is_bytes: bool = True

    def size_vector(self, ops: Operators) -> gs.Tensor:
        """Return height and width as a vector."""
        return ops.constant(self.size, np.int64, "size") if isinstance(self.size, tuple) else self.size


def process_images(ops: Operators, images: gs.Tensor, processor: Processor, products: bool, clamp: bool) -> gs.Variable:
    """Build ``images`` uint8 ``[batch, height, width, 3]`` -> pixels float32 ``[batch, 3, H, W]``.

    ``products``: resize by matrix products rather than by Resize.
    """
    turned = ops.node("Transpose", images, name="channels_first", perm=[0, 3, 1, 2])
    shape = ops.node("Shape", images, name="shape")
    size = take(ops, shape, [1, 2], "size")
    picture = Picture(turned, size)
    if processor.resize:
        resize = resize_by_products if products or processor.resample not in MODES else resize_bytes
        picture = resize(
            ops.within("resize"), picture, find_new_size(ops.within("resize"), size, processor.resize), processor.resample
        )
    if processor.crop and processor.crop != processor.resize:
        can_be_smaller = not processor.resize or max(processor.crop) > min(processor.resize)
        picture = crop_centre(ops.within("crop"), picture, processor.crop, can_be_smaller)
    levels = ops.cast(picture.levels, FLOAT, "levels") if picture.is_bytes else picture.levels
    return normalize_levels(ops, levels, processor, clamp)


def take(ops: Operators, vector: gs.Tensor, places: Sequence[int], name: str) -> gs.Variable:
    """Return the elements of a vector at ``places``, as a vector.

    Slice is avoided: where the rank of a shape is unknown, ONNX Runtime 1.32 wrongly treats a slice of it as empty.
    """
    return ops.node("Gather", vector, ops.constant(places, np.int64, f"{name}/places"), name=name, axis=0)


def find_new_size(ops: Operators, size: gs.Tensor, asked: tuple[int, ...]) -> tuple[int, ...] | gs.Tensor:
    """Return the size to resize to. With a shortest edge s, ``size [2]`` int64 becomes s size / min(size), rounded down."""
    if len(asked) == 2:
        return asked
    shortest = ops.node("ReduceMin", size, name="shortest", keepdims=1)
    longer = ops.node("Mul", size, ops.constant([asked[0]], np.int64, "shortest_edge"), name="multiplied")
    return ops.node("Div", longer, shortest, name="new_size")


def resize_bytes(ops: Operators, picture: Picture, new: tuple[int, ...] | gs.Tensor, resample: str) -> Picture:
    """Resize levels in uint8: ONNX Runtime then rounds and clips after each pass, as Pillow does.

    All four sizes are given. With those of two axes alone, ONNX Runtime 1.32 fails if it moves a Transpose from before a
    bilinear Resize to after it: it then counts the sizes wrongly.
    """
    front = take(ops, ops.node("Shape", picture.levels, name="shape"), [0, 1], "front")
    sizes = ops.node("Concat", front, Picture(picture.levels, new).size_vector(ops), name="sizes", axis=0)
    coefficient: dict[str, Any] = {"cubic_coeff_a": CUBIC} if resample == BICUBIC else {}
    none = gs.Variable.empty()
    resized = ops.node(
        "Resize", picture.levels, none, none, sizes, name="resized", mode=MODES[resample], antialias=1,
        exclude_outside=1, coordinate_transformation_mode="half_pixel", **coefficient,
    )  # fmt: skip
    return Picture(resized, new)


def resize_by_products(ops: Operators, picture: Picture, new: tuple[int, ...] | gs.Tensor, resample: str) -> Picture:
    """Resize levels by two matrix products in float32, first along the width."""
    olds, news = picture.size_vector(ops), Picture(picture.levels, new).size_vector(ops.within("new"))
    levels = ops.cast(picture.levels, FLOAT, "levels")
    for axis, name in ((1, "width"), (0, "height")):
        pass_ops = ops.within(name)
        old, wanted = (take(pass_ops, one, [axis], word) for one, word in ((olds, "old"), (news, "new")))
        weights = compute_weights(pass_ops, old, wanted, resample)
        if axis == 1:
            weights = pass_ops.node("Transpose", weights, name="turned", perm=[1, 0])
        inputs = (levels, weights) if axis == 1 else (weights, levels)
        levels = round_levels(pass_ops, pass_ops.node("MatMul", *inputs, name="product"))
    return Picture(levels, new, is_bytes=False)


def round_levels(ops: Operators, x: gs.Tensor) -> gs.Variable:
    """Build clip(floor(x + 0.5), 0, 255)."""
    above = ops.node("Add", x, ops.constant(0.5, np.float32, "half_level"), name="above")
    floor = ops.node("Floor", above, name="floor")
    return ops.node(
        "Clip", floor, ops.constant(0, np.float32, "lowest"), ops.constant(255, np.float32, "highest"), name="rounded"
    )


def compute_weights(ops: Operators, old: gs.Tensor, new: gs.Tensor, resample: str) -> gs.Variable:
    """Build w ``[m, n]`` float32 of the module's formula, each row of sum 1, from n and m ``[1]`` int64. In float64 inside."""
    old_float, new_float = ops.cast(old, DOUBLE, "old_float"), ops.cast(new, DOUBLE, "new_float")
    scale = ops.node("Div", old_float, new_float, name="scale")
    stretch = ops.node("Max", scale, ops.constant(1, np.float64, "one"), name="stretch")
    half = ops.constant(0.5, np.float64, "half")
    places = [
        ops.node("Add", ops.within(word).count(size, np.float64, 0, from_zero=True), half, name=f"{word}/place")
        for word, size in (("from", old), ("to", new))
    ]
    centres = ops.unsqueeze(ops.node("Mul", places[1], scale, name="centre"), 1, "centres")
    away = ops.node("Div", ops.node("Sub", places[0], centres, name="offset"), stretch, name="away")
    values = FILTERS[resample](ops.within(resample), ops.node("Abs", away, name="distance"))
    total = ops.reduce_sum(values, 1, "total", keepdims=True)
    return ops.cast(ops.node("Div", values, total, name="share"), FLOAT, "weights")


def bilinear(ops: Operators, d: gs.Tensor) -> gs.Variable:
    """Build max(1 - d, 0)."""
    return ops.node(
        "Max", ops.node("Sub", ops.constant(1, np.float64, "one"), d, name="slope"), ops.constant(0, np.float64, "zero"),
        name="filter",
    )  # fmt: skip


def bicubic(ops: Operators, d: gs.Tensor) -> gs.Variable:
    """Build, with a = -0.5: (a + 2) d^3 - (a + 3) d^2 + 1 for d < 1, a (d^3 - 5 d^2 + 8 d - 4) for d < 2, else 0."""
    near = polynomial(ops.within("near"), d, (CUBIC + 2, -(CUBIC + 3), 0, 1))
    far = polynomial(ops.within("far"), d, (CUBIC, -5 * CUBIC, 8 * CUBIC, -4 * CUBIC))
    zero = ops.constant(0, np.float64, "zero")
    outside = ops.node("Where", is_below(ops.within("far"), d, 2), far, zero, name="or_zero")
    return ops.node("Where", is_below(ops.within("near"), d, 1), near, outside, name="filter")


def lanczos(ops: Operators, d: gs.Tensor) -> gs.Variable:
    """Build sinc(d) sinc(d / 3) for d < 3, else 0, with sinc(x) = sin(pi x) / (pi x)."""
    third = ops.node("Div", d, ops.constant(LOBES, np.float64, "lobes"), name="third")
    both = ops.node("Mul", sinc(ops.within("sinc"), d), sinc(ops.within("window"), third), name="product")
    return ops.node("Where", is_below(ops, d, LOBES), both, ops.constant(0, np.float64, "zero"), name="filter")


def sinc(ops: Operators, x: gs.Tensor) -> gs.Variable:
    """Build sin(pi x) / (pi x) for x of 0 or more; x is at least 1e-9, where the result is 1."""
    positive = ops.node("Max", x, ops.constant(TINY, np.float64, "tiny"), name="positive")
    angle = ops.node("Mul", positive, ops.constant(np.pi, np.float64, "pi"), name="angle")
    return ops.node("Div", ops.node("Sin", angle, name="sine"), angle, name="quotient")


def polynomial(ops: Operators, x: gs.Tensor, coefficients: Sequence[float]) -> gs.Tensor:
    """Build the polynomial with these coefficients, of the highest power first, by Horner's rule."""
    first, *rest = coefficients
    value: gs.Tensor = ops.constant(first, np.float64, "c0")
    for place, one in enumerate(rest, 1):
        value = ops.node("Mul", value, x, name=f"times{place}")
        if one:
            value = ops.node("Add", value, ops.constant(one, np.float64, f"c{place}"), name=f"plus{place}")
    return value


def is_below(ops: Operators, x: gs.Tensor, limit: float) -> gs.Variable:
    return ops.node("Less", x, ops.constant(limit, np.float64, "limit"), name="inside")


FILTERS = {BILINEAR: bilinear, BICUBIC: bicubic, LANCZOS: lanczos}


def crop_centre(ops: Operators, picture: Picture, crop: tuple[int, ...], can_be_smaller: bool) -> Picture:
    """Cut ``crop`` out of the middle, from (size - crop) / 2 on, rounded down.

    A smaller picture is padded with zeros first, (crop - size) / 2 in front, rounded up: one more in front than behind if the
    number is odd, as transformers' slow processors do.
    """
    levels, size = picture.levels, picture.size_vector(ops)
    wanted, two = ops.constant(crop, np.int64, "wanted"), ops.constant(2, np.int64, "two")
    if can_be_smaller:
        levels, size = _pad_to(ops.within("pad"), picture, size, wanted, two)
    start = ops.node("Div", ops.node("Sub", size, wanted, name="surplus"), two, name="start")
    end = ops.node("Add", start, wanted, name="end")
    axes = ops.constant([2, 3], np.int64, "axes")
    return Picture(ops.node("Slice", levels, start, end, axes, name="cropped"), crop, picture.is_bytes)


def _pad_to(
    ops: Operators, picture: Picture, size: gs.Tensor, wanted: gs.Tensor, two: gs.Tensor
) -> tuple[gs.Variable, gs.Variable]:
    """Return the levels padded with zeros to at least the size ``wanted``, and their size."""
    zero = ops.constant(0, np.int64, "zero")
    lack = ops.node("Sub", wanted, size, name="lack")
    missing = ops.node("Where", ops.node("Less", zero, lack, name="is_smaller"), lack, zero, name="missing")
    rounded = ops.node("Add", missing, ops.constant(1, np.int64, "one"), name="plus_one")
    before = ops.node("Div", rounded, two, name="before")
    after = ops.node("Sub", missing, before, name="after")
    none = ops.constant([0, 0], np.int64, "none")
    pads = ops.node("Concat", none, before, none, after, name="pads", axis=0)
    black = ops.constant(0, np.uint8 if picture.is_bytes else np.float32, "black")
    padded = ops.node("Pad", picture.levels, pads, black, name="padded")
    return padded, ops.node("Add", size, missing, name="size")


def normalize_levels(ops: Operators, levels: gs.Tensor, processor: Processor, clamp: bool) -> gs.Variable:
    """Build (scale x - mean) / std as (x - mean / scale) / (std / scale), each channel with its own mean and std.

    ``clamp``: cut the result to what the levels 0 to 255 give.
    """
    scale = 1.0 if processor.scale is None else processor.scale
    if processor.mean:
        mean, std = (np.array(one).reshape(1, 3, 1, 1) for one in (processor.mean, processor.std))
        shifted = ops.node("Sub", levels, ops.constant(mean / scale, np.float32, "mean"), name="shifted")
        pixels = ops.node("Div", shifted, ops.constant(std / scale, np.float32, "std"), name="normalized")
    else:
        mean, std = np.zeros((1, 3, 1, 1)), np.ones((1, 3, 1, 1))
        pixels = ops.node("Mul", levels, ops.constant(scale, np.float32, "scale"), name="scaled")
    if not clamp:
        return pixels
    below = ops.node("Min", pixels, ops.constant((255 * scale - mean) / std, np.float32, "highest"), name="below")
    return ops.node("Max", below, ops.constant((0 - mean) / std, np.float32, "lowest"), name="clamped")
