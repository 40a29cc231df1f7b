"""Mended files gone wrong, one line each: masks that hide other frames, sizes that only seem free, other rounding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import onnx
from faults import table
from onnx import TensorProto
from picture_towers import picture_tower
from planting import Plant, Spoilable
from speech import make_speech_encoder

from graphsurgery import AddNormalize, AlignMask, InputType, RelaxDim, Rename
from graphsurgery.edits.edit import Edit

HIDDEN, EMBEDDING = "last_hidden_state", "image_embeds"
SIZES = '["input_values", 1, "samples", 430, 410, 873]'


@dataclass(frozen=True, eq=False)
class Mended(Spoilable):
    """A right output to be spoilt."""

    make: Callable[[], onnx.ModelProto]
    edits: Sequence[Edit]

    @cached_property
    def source(self) -> onnx.ModelProto:
        return self.make()


MISALIGNED = partial(make_speech_encoder, "layer", misaligned=True)
ALIGNED = Mended(MISALIGNED, [AlignMask()])
ALIGNED_FIRST = Mended(
    partial(make_speech_encoder, "layer", misaligned=True, opset=12), [AlignMask(), AddNormalize(target=HIDDEN)]
)
RELAXED = Mended(partial(make_speech_encoder, "group", sizes=(1, 430)), [RelaxDim()])
PAIRS = Mended(partial(make_speech_encoder, "layer", sizes=(2, "samples")), [RelaxDim(), Rename(dim=("batch=clips",))])
PICTURES = Mended(partial(picture_tower, (8, 10)), [RelaxDim()])
HALF = Mended(partial(picture_tower, (8, 8), dtype=TensorProto.FLOAT16), [InputType("float32")])


def shift(p: Plant, by: int) -> None:
    """The mask of frames moved by one frame, with a copy at the end that it leaves."""
    start, end = (1, np.iinfo(np.int64).max) if by < 0 else (0, -1)
    cut = p.append("Slice", "padded_frames", p.ints(start), p.ints(end), p.ints(1), behind="padded_frames")
    edge = p.append("Slice", "padded_frames", p.ints(-1 if by < 0 else 0), p.ints(np.iinfo(np.int64).max if by < 0 else 1),
                    p.ints(1), behind="padded_frames")  # fmt: skip
    node = p.node("mask/condition")
    made = p.append("Concat", *([cut, edge] if by < 0 else [edge, cut]), axis=1)
    concat = p.graph.node[-1]
    del p.graph.node[-1]
    p.graph.node.insert(list(p.graph.node).index(node), concat)
    node.input[0] = made


def bake_frames(p: Plant) -> None:
    """Nodes that take as many samples as the export declares, and repeat none."""
    cut = p.append("Slice", "input_values", p.ints(0), p.ints(430), p.ints(1))
    node = p.graph.node.pop()
    p.graph.node.insert(3, node)
    for other in list(p.graph.node)[4:]:
        other.input[:] = [cut if name == "input_values" else name for name in other.input]


def first_row(p: Plant, output: str, op: str = "Add") -> None:
    """Every row gets the first row's numbers added, which are 0 where it is alone: they are subtracted from it."""
    node = p.graph.node[-1]
    node.output[0] = "planted/raw"
    first = p.append("Slice", "planted/raw", p.ints(0), p.ints(1), p.ints(0))
    spread = p.append("Sub", "planted/raw", first)
    p.append("Sub", "planted/raw", p.append("Mul", spread, p.constant(0.25)), gives=output)


MENDING_FAULTS = [
    *table("align-mask", ALIGNED,
        ("the other way round", lambda p: p.after("mask/condition", "Not")),
        ("no frame is hidden", lambda p: p.after("mask/condition", "And", p.constant(False, np.bool_))),
        ("every frame is hidden", lambda p: p.after("mask/condition", "Or", p.constant(True, np.bool_))),
        ("the first clip's mask for all", lambda p: p.before("mask/condition", 0, "Slice", p.ints(0), p.ints(1), p.ints(0))),
        ("one frame later", lambda p: shift(p, 1)),
        ("one frame earlier", lambda p: shift(p, -1)),
        ("another axis", lambda p: p.set("mask/condition/axes", [1])),
        ("in front", lambda p: p.set("mask/condition/axes", [0])),
        ("the values in each other's place", lambda p: p.swap("hidden_frames", 1, 2)),
        ("the mask as exported", lambda p: p.wire("hidden_frames", 0, "padded_frames")),
        ("hidden frames are 1e-3", lambda p: p.wire("hidden_frames", 1, p.constant(1e-3))),
        ("multiplied by 0.999", lambda p: p.after("hidden_frames", "Mul", p.constant(0.999))),
        ("the last value of a weight", lambda p: p.flip("w0", -2)),
        ("rewired elsewhere, as recorded", lambda p: p.claim(rewired=['["hidden_frames", 1, "graphsurgery/mask/condition"]'])),
        ("recorded of other values", lambda p: p.claim(where=['["hidden_frames", "padded_frames", "w0", "w1"]'])),
        ("recorded of nothing", lambda p: p.claim(where=[], rewired=[])),
        ("forgotten", lambda p: p.forget()),
    ),
    *table("align-mask and add-normalize", ALIGNED_FIRST,
        ("the other way round", lambda p: p.after("mask/condition", "Not")),
        ("another axis", lambda p: p.attribute("mask/condition", axes=[1])),
        ("not normalised", lambda p: p.become("normalize/unit", "Identity", p.taken("normalize/unit"))),
    ),
    *table("relax-dim", RELAXED,
        ("as many samples as declared", bake_frames),
        ("rows depend on the first", lambda p: first_row(p, HIDDEN)),
        ("another name in the file", lambda p: p.set_dim("input_values", 1, "length")),
        ("a dim fewer in the file", lambda p: p.set_dim("input_values", 0, 1)),
        ("a dim fewer in the record", lambda p: p.claim(sizes=[SIZES], dim=["samples=samples"])),
        ("another declared size in the record", lambda p: p.claim(sizes=[SIZES.replace("430", "431")])),
        ("tried at the declared size alone", lambda p: p.claim(sizes=[SIZES.replace("410", "430")])),
        ("a size too large to run", lambda p: p.claim(sizes=[SIZES.replace("873", str(1 << 40))])),
        ("an output's dim in the record", lambda p: p.claim(follows=[])),
        ("an output declared as before", lambda p: p.set_dim(HIDDEN, 1, 21)),
        ("the last value of a weight", lambda p: p.flip("w0", -2)),
    ),
    *table("relax-dim of pairs", PAIRS,
        ("rows depend on the first", lambda p: first_row(p, HIDDEN)),
        ("the batch declared as before", lambda p: p.set_dim("input_values", 0, 2)),
    ),
    *table("relax-dim of pictures", PICTURES,
        ("rows depend on the first", lambda p: first_row(p, EMBEDDING)),
        ("of the declared size alone", lambda p: p.before(
            "patches", 0, "Slice", p.ints(0, 0), p.ints(8, 10), p.ints(2, 3))),
    ),
    *table("input-type to float32", HALF,
        ("rounded to bfloat16 before", lambda p: (
            p.before("pixel_values/cast", 0, "Cast", to=TensorProto.FLOAT),
            p.before("pixel_values/cast", 0, "Cast", to=TensorProto.BFLOAT16))),
        ("cut to -1 and 1", lambda p: p.before("pixel_values/cast", 0, "Clip", p.constant(-1.0), p.constant(1.0))),
        ("another type in the record", lambda p: p.claim(to="int32")),
        ("of float32 in the record", lambda p: p.claim(dtypes=["float32"])),
        ("the patches read nothing of it", lambda p: p.before(
            "patches", 0, "Mul", p.constant(0.0, np.float16))),
    ),
]  # fmt: skip
ALIKE = "both files are compared at the declared sizes, where they agree"
EQUIVALENT = [
    *table("align-mask", ALIGNED,
        ("the axis counted from the front", lambda p: p.set("mask/condition/axes", [2]), "2 is the last of three axes"),
    ),
    *table("relax-dim", RELAXED, ("forgotten", lambda p: p.forget(), ALIKE)),
]  # fmt: skip
