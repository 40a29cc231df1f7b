"""Waveforms normalised wrongly: right outputs of `add-waveform-normalize`, and one line each that spoils them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from faults import table
from golden import CASES, Case
from onnx import TensorProto
from planting import Plant, Spoilable

from graphsurgery import AddWaveformNormalize, Rename
from graphsurgery.edits.edit import Edit

WAVE, INSIDE = "input_values", "graphsurgery/waveform/input_values"


@dataclass(frozen=True, eq=False)
class Normalized(Spoilable):
    """A right output to be spoilt: ``edits`` on the encoder of a golden case, whose nodes are named by their outputs."""

    name: str
    edits: Sequence[Edit] = (AddWaveformNormalize(),)

    @cached_property
    def source(self) -> onnx.ModelProto:
        model = Case.read(CASES / "add_waveform_normalize" / f"{self.name}.txt").source().to_proto()
        for node in model.graph.node:
            node.name = node.output[0]
        return model

    def __str__(self) -> str:
        return f"{self.name}: {super().__str__()}"


ALL, LENGTHS, MASK, CHANNEL = map(Normalized, ("all_samples", "lengths", "mask", "with_channel"))
RENAMED = Normalized("lengths", [AddWaveformNormalize(), Rename(("input_values=wave", "input_lengths=clip_lengths"))])


def everywhere(p: Plant, end: str) -> None:
    """A Where that takes every sample."""
    p.become(end, "Identity", p.taken(end, 1))


def fewer(p: Plant, end: str, number: float) -> None:
    """The number of samples is another one where a node divides by it."""
    p.wire(end, 1, p.append("Add", p.out("waveform/divisor"), p.constant(number, np.float64), behind="waveform/divisor"))


def over_rows(p: Plant, end: str) -> None:
    """A sum over the clips of the batch in place of one over samples."""
    p.set(f"{end}/axes", [0])


SOUND_FAULTS = [
    *table("add-waveform-normalize", ALL,
        ("the epsilon of layer norms", lambda p: p.set("waveform/epsilon", 1e-5)),
        ("hardly any epsilon", lambda p: p.set("waveform/epsilon", 1e-12)),
        ("the epsilon added to the deviation", lambda p: (p.wire("waveform/deviation", 0, p.out("waveform/variance")),
         p.after("waveform/deviation", "Add", p.constant(1e-7, np.float64)))),
        ("the sample's variance", lambda p: fewer(p, "waveform/variance", -1.0)),
        ("the sum of squares", lambda p: p.wire("waveform/raised", 0, p.out("waveform/sum_of_squares"))),
        ("divided by the variance", lambda p: p.wire("waveform/normal", 1, p.out("waveform/raised"))),
        ("not centred", lambda p: p.use_instead(p.out("waveform/centred"), p.out("waveform/own"))),
        ("not divided", lambda p: p.without("waveform/normal")),
        ("the mean of one sample more", lambda p: fewer(p, "waveform/mean", 1.0)),
        ("the mean of all clips", lambda p: over_rows(p, "waveform/total")),
        ("the variance of all clips", lambda p: over_rows(p, "waveform/sum_of_squares")),
        ("negated", lambda p: p.become("waveform/waveform", "Neg")),
        ("rounded to float16", lambda p: p.through("waveform/waveform", TensorProto.FLOAT16)),
        ("cut to -1 and 1", lambda p: p.after("waveform/waveform", "Clip", p.constant(-1.0), p.constant(1.0))),
        ("the first two samples alone are a clip's", lambda p: p.wire("waveform/own", 0, p.append(
            "Less", p.append("CumSum", p.out("waveform/mask_float"), p.constant(1, np.int64), behind="waveform/mask_float"),
            p.constant(3.0, np.float64), behind="waveform/divisor"))),
        ("read by nobody", lambda p: p.use_instead(INSIDE, WAVE)),
        ("a thousandth too loud", lambda p: p.after("waveform/waveform", "Mul", p.constant(1.001))),
        ("rounded before to float16", lambda p: (
            p.before("waveform/float64", 0, "Cast", to=TensorProto.FLOAT16))),
        ("claimed of lengths", lambda p: p.claim(mask="lengths:input_lengths")),
        ("forgotten", lambda p: p.forget()),
        ("the filters changed", lambda p: p.weight("filters").float_data.__setitem__(0, 0.75)),
    ),
    *table("add-waveform-normalize by lengths", LENGTHS,
        ("one sample more", lambda p: p.become("waveform/mask", "LessOrEqual")),
        ("one sample fewer", lambda p: p.after("waveform/positions", "Add", p.constant(1, np.int64))),
        ("the mean of padding, too", lambda p: everywhere(p, "waveform/own")),
        ("the variance of padding, too", lambda p: everywhere(p, "waveform/centred")),
        ("divided by the length of the batch", lambda p: p.use_instead(p.out("waveform/divisor"), p.append("Cast", p.append(
            "Gather", p.out("waveform/shape"), p.ints(1), behind="waveform/shape"), behind="waveform/batch_seq",
            to=TensorProto.DOUBLE))),
        ("multiplied by the mask", lambda p: p.become(
            "waveform/own", "Mul", p.out("waveform/float64"), p.out("waveform/mask_float"))),
        ("no least count", lambda p: p.without("waveform/divisor")),
        ("padding is left as it is", lambda p: p.become("waveform/centred", "Where", p.out("waveform/mask"),
         p.out("waveform/shifted"), p.out("waveform/float64"))),
        ("claimed of all samples", lambda p: p.claim(mask="ones")),
    ),
    *table("add-waveform-normalize by a mask", MASK,
        ("the mask the other way round", lambda p: p.after("waveform/mask", "Not")),
        ("claimed the other way round", lambda p: p.claim(mask="not:attention_mask")),
        ("only ones count", lambda p: p.become("waveform/mask", "Equal", "attention_mask", p.constant(1, np.int32))),
    ),
    *table("add-waveform-normalize with a channel", CHANNEL,
        ("without the channel", lambda p: p.wire("waveform/waveform", 0, p.out("waveform/normal"))),
        ("the sum over channels", lambda p: p.set("waveform/sum_of_squares/axes", [0])),
    ),
    *table("add-waveform-normalize, rename", RENAMED,
        ("one sample more", lambda p: p.become("waveform/mask", "LessOrEqual")),
        ("the epsilon of layer norms", lambda p: p.set("waveform/epsilon", 1e-5)),
    ),
]  # fmt: skip
EQUIVALENT = [
    *table("add-waveform-normalize", ALL,
        ("no least count", lambda p: p.without("waveform/divisor"), "every row has samples, so 1 is never the larger number"),
    ),
]  # fmt: skip
