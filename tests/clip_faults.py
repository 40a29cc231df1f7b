"""Files of clips gone wrong, one line each: frame counts, masks, norms over padding, attention to padding."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from faults import Case, table
from onnx import TensorProto
from planting import Plant
from speech import TINY, make_speech_encoder

import graphsurgery

FLOAT = TensorProto.FLOAT
ONE_IS_TOO_FEW = "the count is 1 instead of 0, and the next convolution makes no frame of one either"


@dataclass(frozen=True, eq=False)
class Clips(Case):
    """A small speech encoder whose clips are pooled by their lengths."""

    speech: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def _encoder(self) -> onnx.ModelProto:
        return make_speech_encoder(**self.speech)

    @cached_property
    def _pooled(self) -> onnx.ModelProto:
        return graphsurgery.add_pooling(self._encoder, lengths=True, **self.pooling).to_proto()


GROUP = Clips({"mode": "mean"}, speech={"norm": "group"})
LAYER = Clips({"mode": "statistics"}, speech={"norm": "layer", "positions": 2})
AS_TORCH = Clips({"mode": "mean", "padding": "transformers"}, speech={"norm": "group"})
AS_TORCH_MASKED = Clips({"mode": "mean", "padding": "transformers"}, speech={"norm": "layer"})
UNIT = Clips({"mode": "mean", "normalize": True}, speech={"norm": "layer"})


def truncate(p: Plant, *steps: int) -> None:
    """(n - k) / s + 1 by ONNX's division, which rounds towards 0: 1 for k - s < n < k."""
    for step in steps:
        p.set(f"step_{step}/stride_less_kernel", [-TINY[step - 1][0]])
        p.after(f"step_{step}/frames", "Add", p.ints(1))


def first_length(p: Plant) -> None:
    p.before("step_1/dividend", 0, "Slice", p.ints(0), p.ints(1), p.ints(0))


def all_frames(p: Plant) -> None:
    """The number of all frames, padding included, in the place of a clip's own."""
    every = p.append("Or", p.out("mask_1/mask_3d"), p.constant(True, np.bool_), behind="mask_1/mask_3d")
    p.wire("statistics/mask_float", 0, every)


def one_more(p: Plant) -> str:
    """The mask of keys, with the first frame of padding as well."""
    n = p.append("Add", p.out("mask_3/frames_2d"), p.ints(1), behind="mask_3/frames_2d")
    seen = p.append("Less", p.out("mask_3/positions"), n, behind="mask_3/is_frame")
    return p.append("Unsqueeze", seen, p.ints(1, 2), behind="mask_3/mask_4d")


def another_formula(p: Plant) -> None:
    """A kernel that is too large, in the graph and in the record: they agree with each other, and not with the source."""
    p.set("step_2/stride_less_kernel", [-2])
    p.claim(frame_steps=["10/5", "4/2", "2/2"])


def from_source(p: Plant, end: str) -> None:
    """The source's own value in the place of one that leaves padding out."""
    node = p.node(end)
    p.become(end, "Identity", node.input[1])


def every_frame(p: Plant) -> None:
    p.become("mask_3/is_frame.2", "GreaterOrEqual", p.taken("mask_3/is_frame.2"), p.ints(0))


def frames_of_ones(p: Plant, end: str) -> None:
    """Every frame counts, whatever the mask says."""
    p.after(end, "Or", p.constant(True, np.bool_))


def by_multiplying(p: Plant) -> None:
    """Frames of padding times 0: NaN * 0 is NaN."""
    mask = p.append("Cast", p.taken("frames/kept"), behind="mask_3/mask_3d", to=FLOAT)
    p.become("frames/kept", "Mul", p.taken("frames/kept", 1), mask)


def forget_cuts(p: Plant) -> None:
    """Every node reads what it read in the source, and the record says so."""
    source = {node.output[0]: node for node in AS_TORCH_MASKED.source.graph.node}
    nodes = {node.output[0]: node for node in p.graph.node}
    for output, place, _ in map(json.loads, p.claimed("rewired")):
        nodes[output].input[place] = source[output].input[place]
    p.claim(rewired=[])


CLIP_FAULTS = [
    *table("frames", GROUP,
        ("floor((n - k) / s): one too few", lambda p: p.set("step_1/stride_less_kernel", [-10])),
        ("one too many", lambda p: p.set("step_2/stride_less_kernel", [-1 + 2])),
        ("another stride", lambda p: p.set("step_3/stride", [3])),
        ("division that truncates, in the last step", lambda p: truncate(p, 3)),
        ("division that truncates, in every step", lambda p: truncate(p, 1, 2, 3)),
        ("a step left out", lambda p: p.wire("step_3/dividend", 0, p.out("step_1/frames"))),
        ("the first clip's length for all", first_length),
        ("samples for frames", lambda p: p.wire("mask_3/frames_2d.2", 0, "input_lengths")),
    ),
    *table("mask", GROUP,
        ("one frame too many, in the encoder", lambda p: p.become("mask_3/is_frame", "LessOrEqual")),
        ("one frame too many, in pooling", lambda p: p.become("mask_3/is_frame.2", "LessOrEqual")),
        ("one frame too few, in pooling", lambda p: p.after("mask_3/frames_2d.2", "Sub", p.ints(1))),
        ("every frame pooled", every_frame),
    ),
    *table("group norm", GROUP,
        ("over padding", lambda p: frames_of_ones(p, "mask_1/is_frame")),
        ("one frame too many", lambda p: p.become("mask_1/is_frame", "LessOrEqual")),
        ("the mean over padding", lambda p: p.become("statistics/own", "Identity", p.taken("statistics/own", 1))),
        ("the deviation over padding", lambda p: p.become("statistics/centred", "Identity", p.out("statistics/shifted"))),
        ("divided by all frames", all_frames),
        ("the frames of the last step counted", lambda p: p.wire("mask_1/frames_2d", 0, p.out("step_3/frames"))),
        ("the unbiased deviation", lambda p: p.after("statistics/divisor", "Sub", p.constant(0.9))),
        ("epsilon 1e-2", lambda p: p.set("statistics/eps", 1e-2)),
        ("scale missing", lambda p: p.become("statistics/scaled", "Identity", p.out("statistics/unit"))),
        ("over channels as well", lambda p: p.after("statistics/mean", "ReduceMean", axes=[1])),
    ),
    *table("attention", LAYER,
        ("to padding, in the first layer", lambda p: from_source(p, "scores/kept")),
        ("to padding, in the last layer", lambda p: from_source(p, "scores/kept.2")),
        ("a mild penalty", lambda p: p.set("clips/lowest", -3.0)),
        ("to one frame of padding", lambda p: p.wire("scores/kept", 0, one_more(p))),
        ("inverted", lambda p: p.swap("scores/kept", 1, 2)),
    ),
    *table("positions", LAYER,
        ("frames of padding multiplied by 0", by_multiplying),
        ("frames of padding kept behind the convolutions", lambda p: from_source(p, "frames/kept")),
        ("padding kept before the first convolution", lambda p: from_source(p, "frames/kept.2")),
        ("padding kept before the second convolution", lambda p: from_source(p, "frames/kept.3")),
        ("zero is not 0", lambda p: p.set("clips/zero", 0.5)),
    ),
    *table("statistics", LAYER,
        ("the biased deviation", lambda p: p.become("statistics/count_less_one", "Identity", p.out("count"))),
        ("one frame deviates by NaN", lambda p: p.wire("statistics/variance", 1, p.out("statistics/count_less_one"))),
    ),
    *table("record", LAYER,
        ("another formula, in the graph and in the record", another_formula),
        ("no lengths", lambda p: p.claim(lengths=False)),
        ("a node less is rewired", lambda p: p.claim(rewired=p.claimed("rewired")[1:])),
        ("padding as in transformers, nothing rewired", lambda p: p.claim(padding="transformers", rewired=[])),
    ),
    *table("transformers", AS_TORCH,
        ("every frame pooled", lambda p: p.become("mask_3/is_frame", "GreaterOrEqual", p.taken("mask_3/is_frame"), p.ints(0))),
        ("division that truncates", lambda p: truncate(p, 3)),
        ("one frame too many", lambda p: p.become("mask_3/is_frame", "LessOrEqual")),
    ),
    *table("transformers, masked", AS_TORCH_MASKED,
        ("padding is left out of pooling alone", forget_cuts),
        ("attention to padding", lambda p: from_source(p, "scores/kept")),
    ),
    *table("normalize", UNIT,
        ("missing", lambda p: p.become("normalize/unit", "Identity", p.taken("normalize/unit"))),
        ("attention to padding", lambda p: from_source(p, "scores/kept")),
    ),
]  # fmt: skip

CLIP_EQUIVALENT = [
    *table("frames", GROUP,
        ("division that truncates, in the first step", lambda p: truncate(p, 1), ONE_IS_TOO_FEW),
        ("division that truncates, in the second step", lambda p: truncate(p, 2), ONE_IS_TOO_FEW),
    ),
    *table("attention", LAYER,
        ("-1e30 in place of the lowest number", lambda p: p.set("clips/lowest", -1e30), "exp(-1e30) is 0 as well"),
    ),
]  # fmt: skip
