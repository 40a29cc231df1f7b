"""Image processors gone wrong: right outputs of add-image-input, and one line each that spoils them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from faults import table
from golden import CASES
from onnx import TensorProto
from picture_towers import picture_tower
from planting import Plant, Spoilable

from graphsurgery import AddImageInput

CONFIGS = CASES / "add_image_input"


@dataclass(frozen=True, eq=False)
class Processed(Spoilable):
    """A tower of pictures that processes them as the config of that name says."""

    config: str
    opset: int = 18
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def source(self) -> onnx.ModelProto:
        return picture_tower((8, 8), self.opset)

    @property
    def edits(self) -> list[AddImageInput]:
        return [AddImageInput(str(CONFIGS / f"{self.config}.json"), **self.parameters)]

    def __str__(self) -> str:
        return f"{self.config}, opset {self.opset}"


CLIP, BIT, VIT = Processed("clip"), Processed("bit"), Processed("vit")
CLIP_PRODUCTS, VIT_PRODUCTS, LANCZOS = Processed("clip", 17), Processed("vit", 13), Processed("lanczos")
CLAMPED = Processed("clip", parameters={"clamp": True})


def in_floats(p: Plant) -> None:
    """Resize float32, and round once at the end."""
    p.before("resize/resized", 0, "Cast", to=TensorProto.FLOAT)
    p.after("resize/resized", "Cast", to=TensorProto.UINT8)
    p.after("resize/resized", "Clip", p.constant(0), p.constant(255))
    p.after("resize/resized", "Round")


def without_antialias(p: Plant) -> None:
    """In float32: ONNX Runtime has no such kernel for bytes."""
    in_floats(p)
    p.attribute("resize/resized", antialias=0)


def colours_reversed(p: Plant) -> None:
    p.after("pixel_values/levels", "Gather", p.ints(2, 1, 0), axis=1)


def sizes_exchanged(p: Plant, end: str) -> None:
    p.after(end, "Gather", p.ints(1, 0), axis=0)


def rounded_up(p: Plant) -> None:
    """The longer edge is rounded up."""
    p.before("resize/new_size", 0, "Add", p.append("Sub", p.out("resize/shortest"), p.ints(1), behind="resize/shortest"))


def shifted(p: Plant, end: str, by: int) -> None:
    p.after(end, "Add", p.ints(by))


def height_first(p: Plant) -> None:
    """The passes in the other order, as Pillow 13 does for some pictures."""
    moved = ["width/product", "width/above", "width/floor", "width/rounded"]
    nodes = [p.node(end) for end in moved]
    p.wire("height/product", 1, p.out("resize/levels"))
    p.wire("width/product", 0, p.out("height/rounded"))
    last = p.out("width/rounded")
    users = [(node, place) for node in p.graph.node for place, name in enumerate(node.input) if name == p.out("height/rounded")]
    for node, place in users:
        if node not in nodes:
            node.input[place] = last
    for node in nodes:
        p.graph.node.remove(node)
    behind = list(p.graph.node).index(p.node("height/rounded")) + 1
    for node in reversed(nodes):
        p.graph.node.insert(behind, node)


def reach_no_further(p: Plant, way: str) -> None:
    """The filter is not stretched, so that most pixels of a large picture are left out."""
    p.without(f"{way}/away")


IMAGE_FAULTS = [
    *table("clip", CLIP,
        ("ONNX's own coefficient", lambda p: p.attribute("resize/resized", cubic_coeff_a=-0.75)),
        ("weights outside of the picture", lambda p: p.attribute("resize/resized", exclude_outside=0)),
        ("in float32, rounded once", in_floats),
        ("without antialias", without_antialias),
        ("corners aligned", lambda p: p.attribute("resize/resized", coordinate_transformation_mode="align_corners")),
        ("no half pixel", lambda p: p.attribute("resize/resized", coordinate_transformation_mode="asymmetric")),
        ("bilinear", lambda p: p.attribute("resize/resized", mode="linear")),
        ("the longest edge", lambda p: p.become("resize/shortest", "ReduceMax", keepdims=1)),
        ("to one pixel more", lambda p: p.set("resize/shortest_edge", [9])),
        ("the longer edge rounded up", rounded_up),
        ("squashed to a square", lambda p: p.wire("resize/sizes", 1, p.ints(8, 8))),
        ("height for width", lambda p: sizes_exchanged(p, "resize/new_size")),
        ("cropped one pixel later", lambda p: shifted(p, "crop/start", 1)),
        ("cropped in front", lambda p: p.wire("crop/cropped", 1, p.ints(0, 0))),
        ("the middle rounded up", lambda p: p.before("crop/start", 0, "Add", p.ints(1))),
        ("blue, green, red", colours_reversed),
        ("turned", lambda p: p.attribute("channels_first", perm=[0, 3, 2, 1])),
        ("another mean", lambda p: p.set("pixel_values/mean", np.full((1, 3, 1, 1), 127.5))),
        ("one mean for all", lambda p: p.set("pixel_values/mean", np.full((1, 1, 1, 1), 0.458 * 255))),
        ("another std", lambda p: p.set("pixel_values/std", np.full((1, 3, 1, 1), 127.5))),
        ("the mean of unscaled levels", lambda p: p.set("pixel_values/mean", np.full((1, 3, 1, 1), 0.48))),
        ("multiplied by the std", lambda p: p.become("normalized", "Mul")),
        ("clamped to 0..1", lambda p: p.after("normalized", "Clip", p.constant(0), p.constant(1))),
        ("clamped to -1..1", lambda p: p.after("normalized", "Clip", p.constant(-1), p.constant(1))),
        ("one picture for all", lambda p: p.after("normalized", "Gather", p.ints(0, 0, 0, 0), axis=0)),
        ("pixels an input as well", lambda p: p.graph.input.append(
            onnx.helper.make_tensor_value_info("pixel_values", 1, ["batch", 3, 8, 8]))),
        ("fixed sizes declared", lambda p: setattr(p.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 8)),
        ("the tower takes other pixels", lambda p: p.before("patches", 0, "Neg")),
        ("claimed to be bilinear", lambda p: p.claim(resample="bilinear")),
        ("claimed to be another filter", lambda p: p.claim(resample="lanczos")),
        ("claimed of another shortest edge", lambda p: p.claim(resize=["9"])),
        ("claimed to be squashed", lambda p: p.claim(resize=["8", "8"])),
        ("claimed not to be cropped", lambda p: p.claim(crop=[], resize=["8", "8"])),
        ("claimed of another scale", lambda p: p.claim(scale="1.0")),
        ("claimed of another mean", lambda p: p.claim(mean=["0.5"] * 3)),
        ("claimed of another name", lambda p: p.claim(name="pictures")),
        ("claimed of another batch", lambda p: p.claim(dims=["n", "height", "width", "3"])),
    ),
    *table("bit", BIT,
        ("white around it", lambda p: p.set("pad/black", 255)),
        ("padded behind first", lambda p: p.wire("pad/before", 0, p.out("pad/missing"))),
        ("padded in front alone", lambda p: p.without("pad/before")),
        ("padded the other way", lambda p: p.swap("pad/pads", 1, 3)),
        ("edges repeated", lambda p: p.attribute("pad/padded", mode="edge")),
        ("padded after the mean", lambda p: p.set("pad/black", 123)),
        ("not resized", lambda p: p.use_instead(p.out("resize/resized"), p.out("channels_first"))),
    ),
    *table("vit", VIT,
        ("weights outside of the picture", lambda p: p.attribute("resize/resized", exclude_outside=0)),
        ("without antialias", lambda p: p.attribute("resize/resized", antialias=0)),
        ("in float32, rounded once", in_floats),
        ("nearest", lambda p: p.attribute("resize/resized", mode="nearest", antialias=0)),
        ("bicubic", lambda p: p.attribute("resize/resized", mode="cubic", cubic_coeff_a=-0.5)),
        ("to another size", lambda p: p.set("resize/size", [8, 9])),
    ),
    *table("clip by products", CLIP_PRODUCTS,
        ("ONNX's own coefficient", lambda p: p.set("width/bicubic/far/c0", -0.75)),
        ("the near part's coefficient", lambda p: p.set("height/bicubic/near/c0", 1.25)),
        ("not rounded in between", lambda p: p.without("width/floor")),
        ("not clipped in between", lambda p: p.without("width/rounded")),
        ("not clipped at the end", lambda p: p.without("height/rounded")),
        ("rounded down", lambda p: p.set("width/half_level", 0)),
        ("height first", height_first),
        ("not stretched along the width", lambda p: reach_no_further(p, "width")),
        ("not stretched along the height", lambda p: reach_no_further(p, "height")),
        ("stretched when enlarging", lambda p: p.without("width/stretch")),
        ("no half pixel", lambda p: p.set("width/half", 0)),
        ("no half pixel in the result", lambda p: p.wire("width/centre", 0, p.out("width/to/positions"))),
        ("not divided by the sum", lambda p: p.without("height/share")),
        ("width for height", lambda p: p.set("width/old/places", [0])),
    ),
    *table("vit by products", VIT_PRODUCTS,
        ("a filter that is too narrow", lambda p: p.set("width/bilinear/one", 0.9)),
        ("below zero", lambda p: p.without("height/bilinear/filter")),
    ),
    *table("lanczos", LANCZOS,
        ("two lobes", lambda p: p.set("width/lanczos/lobes", 2)),
        ("no window", lambda p: p.wire("width/lanczos/product", 1, p.out("width/lanczos/sinc/quotient"))),
        ("too far", lambda p: p.set("height/lanczos/limit", 4)),
        ("in degrees", lambda p: p.set("height/lanczos/sinc/pi", 180)),
    ),
    *table("clamped", CLAMPED,
        ("to 0..1", lambda p: (p.set("lowest", np.zeros((1, 3, 1, 1))), p.set("highest", np.ones((1, 3, 1, 1))))),
        ("to the range of one colour", lambda p: p.set("highest", np.full((1, 3, 1, 1), 1.9))),
    ),
]  # fmt: skip
EQUIVALENT = [
    *table("clip by products", CLIP_PRODUCTS,
        ("halves to the even number", lambda p: (p.set("width/half_level", 0), p.become("width/floor", "Round")),
         "differs where a sum is exactly a half, which a sum of float32 cannot tell from one a little below"),
    ),
    *table("clamped", CLAMPED,
        ("not clamped", lambda p: (p.without("below"), p.without("clamped")), "no level gives a pixel beyond these limits"),
    ),
]  # fmt: skip
