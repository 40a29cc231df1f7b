"""The clips of a speech encoder: how long each one is, and where the graph has to know it.

Clips of one batch are padded to the longest. Unless the graph knows how long each clip is, a clip's frames depend on what lies
behind it: attention sees the frames of padding, a padded convolution takes them for neighbours, and group norm takes its mean
and its deviation over them. `plan_cuts` finds these places.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from graphsurgery.deferred import ir
from graphsurgery.edits.token_mask import ONES, PAD, MaskSpec
from graphsurgery.encoder.attention import find_attentions
from graphsurgery.encoder.flow import Flow
from graphsurgery.encoder.frames import (
    FrameSteps,
    compute_receptive_field,
    find_frame_convolutions,
    find_frame_steps,
    is_padded,
    quote_name,
)
from graphsurgery.encoder.head import read_head_steps
from graphsurgery.encoder.hidden_state import HiddenState
from graphsurgery.encoder.modalities import WAVEFORM, find_input
from graphsurgery.errors import RequestError, UnsupportedModelError, require_value
from graphsurgery.graph.attributes import get_ints
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.operators import get_operator
from graphsurgery.interface import Dim, Value
from graphsurgery.model.dtypes import FLOATS, to_numpy_dtype
from graphsurgery.model.model import Model
from graphsurgery.model.names import Namer
from graphsurgery.remarks import Warn
from graphsurgery.runtime.mask_forms import LENGTHS

INPUT_LENGTHS = "input_lengths"
"""The input that gives the number of samples of each clip, int64 ``[batch]``."""
EXACT, TRANSFORMERS = "exact", "transformers"
"""What padding may change: nothing, or what it changes in transformers' own models."""
FRAMES, SCORES, STATISTICS = "frames", "scores", "statistics"
"""What a cut does: frames of padding become 0, no frame attends to them, or group norm leaves them out."""
SCOPE = "graphsurgery/clips"
NORMALIZED_SOUND = "add-waveform-normalize"
OPTION = ("--padding",)


@dataclass(frozen=True)
class Cut:
    """A value of the source that some nodes no longer read. In its place they read another one, which leaves padding out."""

    kind: str
    """One of `FRAMES`, `SCORES` and `STATISTICS`."""
    value: str
    made: str
    """The name of the value that is read in its place."""
    rank: int
    dtype: np.dtype[np.generic]
    readers: tuple[tuple[str, int], ...]
    """The nodes that read it, by their first output, and the place among their inputs."""
    steps: FrameSteps
    """The convolutions before it."""
    node: ir.Node | None = None
    """The normalisation, for `STATISTICS`."""

    @property
    def recorded(self) -> list[str]:
        """A JSON list for each reader: its first output, the place among its inputs, and the value that it reads now."""
        return [json.dumps([output, place, self.made]) for output, place in self.readers]


@dataclass(frozen=True)
class Clips:
    """What is known of a model's clips."""

    waveform: str
    batch: Dim
    steps: FrameSteps
    mask: MaskSpec
    """How the lengths are told: by an input of lengths, or by a mask of samples."""
    is_new: bool
    """Whether they come from a new input."""
    padding: str
    cuts: tuple[Cut, ...]

    @property
    def recorded_batch(self) -> str | None:
        """The batch dim of a new input of lengths: its name, or a number in digits."""
        return str(self.batch) if self.is_new and self.batch is not None else None

    @property
    def recorded_steps(self) -> tuple[str, ...]:
        """Kernel and stride of each convolution, such as ``10/5``."""
        return tuple(f"{kernel}/{stride}" for kernel, stride in self.steps)

    def describe(self) -> list[str]:
        """Return notes for the user."""
        field = compute_receptive_field(self.steps)
        notes = [f"one frame is made of {field} samples; a shorter clip has no frame, and its vector is 0"]
        kinds = [cut.kind for cut in self.cuts]
        counts = {
            "attention": kinds.count(SCORES),
            "padded convolution": kinds.count(FRAMES) - 1,
            "group norm": kinds.count(STATISTICS),
        }
        parts = [f"{count} {what}{'s' * (count > 1)}" for what, count in counts.items() if count > 0]
        if parts:
            notes.append(f"padding behind a clip is left out of {', '.join(parts)}")
        elif self.padding == TRANSFORMERS:
            notes.append(Warn("padding is left out of pooling alone: a clip's vector depends on the clips beside it"))
        return notes

    @property
    def recorded_cuts(self) -> tuple[str, ...]:
        """The nodes that read other values now, as `Cut.recorded`."""
        return tuple(text for cut in self.cuts for text in cut.recorded)


def find_clips(model: Model, mask: MaskSpec | None, padding: str | None, hidden: HiddenState) -> Clips | None:
    """Return the clips of ``model`` if its ``mask`` counts samples, or if a new input of lengths is asked for (None).

    Return None if the mask does not count samples, like a mask of texts.

    Raises RequestError for a model without a waveform, for an unknown ``padding``, and if ``input_lengths`` is taken;
    UnsupportedModelError if frames cannot be counted, or if padding cannot be left out somewhere.
    """
    if padding not in (None, EXACT, TRANSFORMERS):
        raise RequestError(f"the padding {padding!r} is not known", f"choose --padding {EXACT} or {TRANSFORMERS}", OPTION)
    waveform = find_input(model, WAVEFORM)
    if waveform is None and (mask is None or padding is not None):
        inputs = ", ".join(map(str, model.interface.inputs)) or "none"
        what = f"--{'lengths' if mask is None else 'padding'} is for speech encoders, and no input holds a waveform"
        raise RequestError(f"{what}; the inputs are {inputs}", "leave it out; for texts, the mask says what is padding")
    if waveform is None or (mask is not None and not _counts_samples(model, mask, waveform.value, hidden)):
        if padding is not None:
            raise RequestError("--padding needs the lengths of clips, and the mask does not tell them", "use --lengths", OPTION)
        return None
    if mask is None and Namer.of(model.proto).has(INPUT_LENGTHS):
        advice = f"if it is an input that holds the lengths of clips, use --mask {LENGTHS}:{INPUT_LENGTHS}"
        raise RequestError(f"the name {INPUT_LENGTHS!r} is taken in this graph", advice)
    _refuse_normalized_padding(model)
    value, how = waveform.value, padding or EXACT
    steps = find_frame_steps(model, value.name)
    cuts = _Planner(model, value.name, steps).plan(how, has_mask=mask is not None)
    spec = mask or MaskSpec.parse(f"{LENGTHS}:{INPUT_LENGTHS}")
    return Clips(value.name, (value.dims or (None,))[0], steps, spec, mask is None, how, cuts)


def _refuse_normalized_padding(model: Model) -> None:
    """Raise RequestError if an edit that the file records normalises waveforms over their padding, which then reaches clips."""
    for step in read_head_steps(model):
        if step.edit == NORMALIZED_SOUND and step.given.get("mask") == ONES:
            what = "the file normalises its waveforms over every sample of a row, padding too, because it has no lengths"
            raise RequestError(what, f"take the file without that ({NORMALIZED_SOUND}), add the lengths, and normalise then")


def _counts_samples(model: Model, spec: MaskSpec, waveform: Value, hidden: HiddenState) -> bool:
    """Return whether the mask says which samples, and not which frames, are a clip's."""
    if spec.kind in (ONES, PAD):
        return False
    value = model.interface.input(require_value(spec.name, "the mask's name"))
    if value is None or value.dims is None or waveform.dims is None or len(value.dims) != 2:
        return value is not None and spec.kind == LENGTHS
    is_frames = value.dims[1] == hidden.sequence != waveform.dims[-1]
    return not is_frames


@dataclass
class _Planner:
    """Finds the places where frames of padding reach others."""

    model: Model
    waveform: str
    steps: FrameSteps

    def __post_init__(self) -> None:
        self.flow = Flow.of(self.model)
        self.facts = Facts(self.flow.graph)
        self.namer = Namer.of(self.model.proto)
        self.convolutions = find_frame_convolutions(self.model, self.waveform)

    def plan(self, padding: str, has_mask: bool) -> tuple[Cut, ...]:
        """Return every cut.

        transformers' own models mask frames only if their feature encoder has no group norm, and a file with a mask does so
        itself.
        """
        statistics = list(self._plan_statistics())
        if padding == TRANSFORMERS and (statistics or has_mask):
            return ()
        positions = list(self._plan_positions())
        if padding == TRANSFORMERS and len(positions) > 1:
            raise UnsupportedModelError(
                f"{len(positions)} padded convolutions follow one another, and transformers leaves padding out only before "
                "the first, so that a clip's frames depend on what lies behind it",
                f"use --padding {EXACT}",
                OPTION,
            )
        return (self._plan_features(), *statistics, *positions, *self._plan_attention())

    def _plan_statistics(self) -> Iterator[Cut]:
        for node in self.flow.graph.nodes:
            if get_operator(node) == "GroupNormalization" and node.outputs[0] in self.flow.tokens:
                raise self._make_error(f"{quote_name(node)} takes its mean over groups of channels")
            if get_operator(node) == "InstanceNormalization" and node.outputs[0] in self.flow.tokens:
                behind = self.flow.graph.ancestors([node.outputs[0]])
                before = sum(one.outputs[0] in behind for one in self.convolutions)
                yield self._cut(STATISTICS, node.outputs[0], self.steps[:before], source=node.inputs[0], node=node)

    def _plan_features(self) -> Cut:
        return self._cut(FRAMES, self.convolutions[-1].outputs[0], self.steps)

    def _plan_positions(self) -> Iterator[Cut]:
        for node in self.flow.graph.nodes:
            is_fed = node.inputs and node.inputs[0] in self.flow.tokens
            if get_operator(node) != "Conv" or not is_fed or node in self.convolutions or not is_padded(node):
                continue
            if any(stride > 1 for stride in get_ints(node, "strides") or []):
                raise self._make_error(f"the padded convolution {quote_name(node)} leaves frames out")
            yield self._cut(FRAMES, require_value(node.inputs[0], "the frames"), self.steps, reader=node)

    def _plan_attention(self) -> Iterator[Cut]:
        for one in find_attentions(self.flow):
            if one.scores is None:
                raise self._make_error(f"attention is fused into {one.operator}; add the lengths before optimizing")
            yield self._cut(SCORES, require_value(one.node.inputs[0], "the scores"), self.steps, reader=one.node)

    def _cut(
        self, kind: str, value: ir.Value, steps: FrameSteps, source: ir.Value | None = None, reader: ir.Node | None = None,
        node: ir.Node | None = None,
    ) -> Cut:  # fmt: skip
        fact, name = self.facts[source or value], value.name or ""
        if fact.dims is None or len(fact.dims) not in ((3, 4) if kind == SCORES else (3,)) or fact.dtype not in FLOATS:
            raise self._make_error(f"the dims of {name!r} are not known")
        readers = [reader] if reader is not None else self.flow.graph.consumers(value)
        places = [
            (one.outputs[0].name or "", place) for one in readers for place, taken in enumerate(one.inputs) if taken is value
        ]
        made = self.namer.new(f"{SCOPE}/{kind}")
        return Cut(kind, name, made, len(fact.dims), to_numpy_dtype(fact.dtype), tuple(places), steps, node)

    def _make_error(self, found: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"frames of padding cannot be left out everywhere: {found}",
            f"use --padding {TRANSFORMERS}; a clip's vector may then depend on the clips beside it",
            OPTION,
        )
