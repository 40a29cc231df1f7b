"""add-waveform-normalize: zero mean and unit variance of each clip, inside the graph."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import onnx

from graphsurgery.deferred import gs
from graphsurgery.edits.clips import INPUT_LENGTHS
from graphsurgery.edits.draft_operators import Operators
from graphsurgery.edits.edit import GraphEdit, Resolved, parameter, require_opset, resolved_parameter
from graphsurgery.edits.inputs import find_input
from graphsurgery.edits.token_mask import ONES, Mask, MaskSpec, build_mask
from graphsurgery.encoder.head import read_head_steps
from graphsurgery.encoder.modalities import WAVEFORM, find_modality, list_modalities
from graphsurgery.encoder.roles import find_roles
from graphsurgery.errors import AlreadyAppliedError, MaskError, NameNotFoundError, RequestError, require_promised
from graphsurgery.folders.files import find_model_folder, read_json
from graphsurgery.interface import Interface, Value
from graphsurgery.model.draft import Draft
from graphsurgery.model.dtypes import INTEGERS
from graphsurgery.model.model import Model
from graphsurgery.model.names import Namer
from graphsurgery.remarks import Warn
from graphsurgery.runtime.mask_forms import LENGTHS, list_possible_forms

DOUBLE = onnx.TensorProto.DOUBLE
EPSILON = 1e-7
"""Added to the variance, as Wav2Vec2FeatureExtractor does."""
CONFIG, SETTING = "preprocessor_config.json", "do_normalize"
WITHOUT_LENGTHS = Warn(
    "every sample of a row counts as the clip's own, padding too: feed clips of one length together, or let the file take "
    "lengths first (add-pooling --lengths) and normalise then"
)


def normalize_samples(ops: Operators, x: gs.Tensor, m: gs.Tensor) -> gs.Variable:
    """Build (x - mean) / sqrt(var + 1e-7) where m is true, else 0: ``x [batch, samples]`` float64, ``m [batch, samples]`` bool.

    mean and var, the mean of squares of x - mean, are those of the row's samples where m is true. Where is used because padding
    may hold NaN. In float32, the sums over all samples of a clip would be off by more than 1e-5.
    """
    zero = ops.constant(0.0, np.float64, "zero")
    count = ops.reduce_sum(ops.cast(m, DOUBLE, "mask_float"), 1, "count", keepdims=True)
    n = ops.node("Max", count, ops.constant(1.0, np.float64, "one"), name="divisor")
    total = ops.reduce_sum(ops.node("Where", m, x, zero, name="own"), 1, "total", keepdims=True)
    shifted = ops.node("Sub", x, ops.node("Div", total, n, name="mean"), name="shifted")
    centred = ops.node("Where", m, shifted, zero, name="centred")
    squares = ops.reduce_sum(ops.node("Mul", centred, centred, name="squares"), 1, "sum_of_squares", keepdims=True)
    variance = ops.node("Div", squares, n, name="variance")
    raised = ops.node("Add", variance, ops.constant(EPSILON, np.float64, "epsilon"), name="raised")
    return ops.node("Div", centred, ops.node("Sqrt", raised, name="deviation"), name="normal")


@dataclass(frozen=True)
class Sound:
    """An input of waveforms, the name of its normalised value inside the graph, and which samples are a clip's own."""

    value: Value
    inside: str
    mask: MaskSpec


@dataclass(frozen=True)
class AddWaveformNormalize(GraphEdit[Sound]):
    """Normalise each clip inside the graph: ``y = (x - mean) / sqrt(var + 1e-7)``, ``[batch, samples]``, computed in float64.

    mean and var (the population's) are those of a clip's own samples: all of a row, or those that a mask or lengths in samples
    tell. Samples of padding become 0, and so does a silent clip. The result equals that of transformers'
    Wav2Vec2FeatureExtractor with ``do_normalize`` on each clip alone. Callers then feed the sound as it is, at the model's
    sampling rate.
    """

    repeatable: ClassVar[bool] = True

    input: str | None = parameter("The input that holds waveforms.", None, "NAME", otherwise="the only one that holds them")
    mask: str | None = parameter(
        "Which samples are a clip's own: lengths:NAME (samples of each clip, [batch]), NAME (not 0 there), not:NAME (0 there) "
        "or ones (all).",
        None,
        "SPEC",
        otherwise="input_lengths, else the attention mask if it counts samples, else all",
    )
    inside: str = resolved_parameter("")

    def resolve(self, model: Model) -> Resolved[Self, Sound]:
        """Find waveform and mask. Raises RequestError, MaskError, NameNotFoundError and AlreadyAppliedError.

        UnsupportedModelError for an opset that is too old, and for an input that is an output as well.
        """
        require_opset(model, self.verb)
        if any(step.edit == self.verb for step in read_head_steps(model)):
            raise AlreadyAppliedError("the file records that its waveforms are normalised", "nothing is left to do")
        value = find_waveform(model, self.input)
        spec = MaskSpec.parse(self.mask) if self.mask is not None else choose_mask(model, value)
        if spec.kind != ONES:
            _check_mask(model, spec)
        inside = Namer.of(model.proto).new(f"graphsurgery/waveform/{value.name}")
        edit = replace(self, input=value.name, mask=str(spec), inside=inside)
        notes = [f"{value.name} is normalised over the samples of each clip, mask {spec}"]
        notes += [WITHOUT_LENGTHS] if spec.kind == ONES else []
        return Resolved(edit, Sound(value, inside, spec), (*notes, *_warn_of_config(model)))

    def change(self, draft: Draft, found: Sound) -> None:
        name = found.value.name
        draft.changes.names[name] = found.inside
        with draft.at_front():
            ops = Operators(draft, "graphsurgery/waveform")
            given, has_channel = draft.tensor(name), found.value.rank == 3
            flat = ops.squeeze(given, 1, "samples") if has_channel else given
            m = build_mask(ops, Mask(found.mask, None), flat)
            y = normalize_samples(ops, ops.cast(flat, DOUBLE, "float64"), m)
            y = ops.unsqueeze(y, 1, "with_channel") if has_channel else y
            ops.node("Cast", y, name="waveform", output=found.inside, to=found.value.dtype)

    def ensure(self, before: Interface, after: Interface) -> None:
        super().ensure(before, after)
        require_promised(self.verb, "the outputs", before.outputs, after.outputs)


def find_waveform(model: Model, name: str | None) -> Value:
    """Return the input ``name`` if it holds waveforms, or the only one that does. Raises RequestError, NameNotFoundError."""
    held = [one.value for one in list_modalities(model) if one.kind == WAVEFORM]
    listed = ", ".join(map(str, model.interface.inputs)) or "none"
    if name is not None:
        value = find_input(model, name)
        modality = find_modality(model, name)
        if modality is None or modality.kind != WAVEFORM:
            shown = "nothing that is known" if modality is None else modality.kind
            raise RequestError(f"{value} holds no waveforms; by its graph it holds: {shown}", f"the inputs are {listed}")
        return value
    if len(held) != 1:
        what = "no input holds waveforms" if not held else "several inputs hold waveforms"
        raise RequestError(
            f"{what}; the inputs are {listed}", "name one with --input" if held else "this is for speech encoders"
        )
    return find_input(model, held[0].name)


def choose_mask(model: Model, waveform: Value) -> MaskSpec:
    """Return what tells the samples of each clip: ``input_lengths``, else an attention mask in samples, else nothing."""
    lengths = model.interface.input(INPUT_LENGTHS)
    if lengths is not None and lengths.rank == 1 and lengths.dtype in INTEGERS:
        return MaskSpec.parse(f"{LENGTHS}:{INPUT_LENGTHS}")
    mask = find_roles(model.interface).mask
    samples = (waveform.dims or (None,))[-1]
    if mask is not None and mask.rank == 2 and mask.dims is not None and samples in (mask.dims[1], None):
        return MaskSpec.parse(mask.name)
    return MaskSpec.parse(ONES)


def _check_mask(model: Model, spec: MaskSpec) -> None:
    """Raise NameNotFoundError if the input of the mask does not exist, MaskError if it cannot be such a mask."""
    value = None if spec.name is None else model.interface.input(spec.name)
    if spec.name is None:
        raise MaskError(f"--mask {spec} reads token ids, and a speech encoder has none", "choose lengths:NAME, NAME or ones")
    if value is None:
        listed = ", ".join(one.name for one in model.interface.inputs)
        raise NameNotFoundError(f"the model has no input {spec.name!r} to take as the mask", f"its inputs are {listed}")
    if spec.kind not in list_possible_forms(value):
        raise MaskError(f"{value} cannot be read as --mask {spec}", "a mask is [batch, samples], lengths are integers [batch]")


def _warn_of_config(model: Model) -> tuple[str, ...]:
    """Return a warning if the model's folder says that its feature extractor does not normalise."""
    folder = find_model_folder(model.place, CONFIG)
    if folder is None or read_json(folder / CONFIG).get(SETTING) is not False:
        return ()
    return (Warn(f"{CONFIG} says {SETTING}: false, so the model may expect the sound as it is, without normalisation"),)
