"""add-pooling of clips: the vector of each clip is that of the clip alone, cut to its length, all of its frames pooled.

The source runs on one clip after the other, without padding, and no mask and no frame count decides which frames count. With
``padding`` transformers and nothing rewired, it runs on the whole batch, as in transformers, and a clip's first frames are
pooled: floor((n - k) / s) + 1 for each convolution, and none if n < k (``_get_feat_extract_output_lengths``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from graphsurgery.compare.tolerance import NOISE
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.references.fields import Fields
from graphsurgery.references.normalize import expect_unit_vectors
from graphsurgery.references.pooled_rows import pool
from graphsurgery.references.recorded_mask import LENGTHS, ZERO_AT_TOKENS
from graphsurgery.references.reference import (
    RELATIVE,
    Array,
    Expected,
    Known,
    Parameters,
    Reference,
    RunModel,
    Values,
    compute_tolerance,
    declare_pooled_output,
    expect_exactly,
    parse_number,
)
from graphsurgery.references.rewired import parse_rewired, rewire_node

EXACT, TRANSFORMERS = "exact", "transformers"
OVER_TIME = ("InstanceNormalization", "GroupNormalization", "GroupNorm")
"""Norms that take their mean over the frames of a clip. transformers gives encoders with one of them no mask."""
LOUDER = 1 + 2.0**-20
"""A clip multiplied by this factor is the same sound in other numbers, which the source rounds differently."""
OF_CLIPS = ("lengths", "padding", "waveform", "batch", "frame_steps", "rewired")
"""The parameters that a file records of clips alone."""


def count_frames(samples: int, steps: Sequence[tuple[int, int]]) -> int:
    """Return how many frames convolutions of these kernels and strides make."""
    for kernel, stride in steps:
        samples = (samples - kernel) // stride + 1 if samples >= kernel else 0
    return samples


def are_clips(parameters: Parameters) -> bool:
    """Return whether a file records anything of clips."""
    return any(parameters.get(name) not in (None, False) for name in OF_CLIPS)


def read_clips(parameters: Parameters) -> Parameters:
    """Read ``frame_steps`` as pairs of kernel and stride, and ``rewired``.

    Raise UnsupportedModelError if one of them cannot be read.
    """
    pairs = [[parse_number(number) for number in text.split("/")] for text in parameters["frame_steps"] or ()]
    try:
        rewired = parse_rewired(parameters["rewired"] or ())
    except (ValueError, RecursionError):
        rewired = None
    known = [(pair[0], pair[1]) for pair in pairs if len(pair) == 2 and pair[0] and pair[1]]
    is_known = parameters["padding"] in (EXACT, TRANSFORMERS) and parameters["waveform"] is not None
    is_known = is_known and parameters["mask"].input not in (None, parameters["waveform"])
    if len(known) < len(pairs) or not known or rewired is None or not is_known:
        raise UnsupportedModelError("the recorded lengths of clips cannot be read", "make the output again")
    return {**parameters, "frame_steps": known, "rewired": rewired}


def read_lengths(parameters: Parameters, feed: Values) -> list[int]:
    """Return how many samples each clip has: as an input says, or as many as a mask marks."""
    mask, samples = parameters["mask"], feed[parameters["waveform"]].shape[-1]
    given = feed[mask.input]
    if mask.kind != LENGTHS:
        given = np.sum(given == 0 if mask.kind in ZERO_AT_TOKENS else given != 0, axis=-1)
    return [min(max(int(length), 0), samples) for length in given]


def _compute_after(parameters: Parameters, feed: Values, before: RunModel) -> dict[str, Expected]:
    lengths, waveform = read_lengths(parameters, feed), parameters["waveform"]
    taken = {name: array for name, array in feed.items() if not (parameters["lengths"] and name == parameters["mask"].input)}
    counts = [count_frames(length, parameters["frame_steps"]) for length in lengths]
    if parameters["padding"] == EXACT or parameters["rewired"]:
        louder = taken | {waveform: taken[waveform] * np.float32(LOUDER)}
        clips, again = (
            [_run_alone(parameters, sound, row, length, before) for row, length in enumerate(lengths)]
            for sound in (taken, louder)
        )
        kept = {}
    else:
        values = before(taken)
        x = Known(values)[parameters["hidden_state"]]
        clips = again = [clip[:count] for clip, count in zip(x, counts, strict=True)]
        kept = {name: one for name, one in values.items() if name not in taken}
    every = count_frames(feed[waveform].shape[-1], parameters["frame_steps"])
    kept |= {} if kept else {parameters["hidden_state"]: _join(clips, again, every)}
    return kept | expect_exactly(feed) | {parameters["output_name"]: _pool(parameters, clips, again)}


def _run_alone(parameters: Parameters, feed: Values, row: int, length: int, before: RunModel) -> Array:
    """Return the frames of one clip, cut to its ``length``, ``[frames, dim]`` float64.

    A clip that is shorter than one frame has none. By the recorded steps alone this would be taken on trust, so the source is
    tried on it, and it has to refuse it.
    """
    waveform, mask = parameters["waveform"], parameters["mask"]
    none = np.zeros((0, parameters["width"]))
    if not length:
        return none
    samples = feed[waveform].shape[-1]
    alone = {name: array[row : row + 1] for name, array in feed.items()}
    alone |= {name: array[..., :length] for name, array in alone.items() if array.ndim > 1 and array.shape[-1] == samples}
    if mask.input in alone:
        whole = np.ones((1, length)) if mask.kind not in ZERO_AT_TOKENS else np.zeros((1, length))
        whole = np.array([length]) if mask.kind == LENGTHS else whole
        alone[mask.input] = whole.astype(feed[mask.input].dtype)
    try:
        frames: Array = Known(before(alone))[parameters["hidden_state"]][0]
    except UnsupportedModelError:
        if count_frames(length, parameters["frame_steps"]):
            raise
        return none
    return frames


def _join(clips: Sequence[Array], again: Sequence[Array], frames: int) -> Expected:
    """Return the frames of all clips, ``[batch, frames, dim]`` float32. Those of padding may be anything."""
    most = max(frames, *map(len, clips))
    values = np.stack([np.pad(clip, ((0, most - len(clip)), (0, 0))) for clip in clips])
    is_frame = np.arange(most) < np.array([len(clip) for clip in clips])[:, None]
    noise = NOISE * np.array([_find_largest(clip - other) for clip, other in zip(clips, again, strict=True)])
    tolerance = np.where(is_frame[:, :, None], compute_tolerance(values) + noise[:, None, None], np.inf)
    return Expected(values, tolerance, output=values.astype(np.float32))


def _pool(parameters: Parameters, clips: Sequence[Array], again: Sequence[Array]) -> Expected:
    """Return the pooled frames of each clip, to within 1e-5 * max(1, max|x|) over its frames.

    The source rounds, too, when it runs on the clip alone: by about as much as the same clip, a little louder, differs. That is
    allowed for `NOISE` times.
    """
    y, other = (
        np.concatenate([pool(clip[None], np.ones((1, len(clip)), np.bool_), parameters["mode"]) for clip in some])
        for some in (clips, again)
    )
    promised = RELATIVE * np.array([[max(1.0, _find_largest(clip))] for clip in clips])
    rounding = np.broadcast_to(promised + NOISE * np.max(np.abs(y - other), axis=1, keepdims=True), y.shape)
    return expect_unit_vectors(y, rounding) if parameters["normalize"] else Expected(y, rounding, rounding, promised=promised)


def _find_largest(x: Array) -> float:
    return float(np.max(np.abs(x), initial=0))


def _declare_lengths(parameters: Parameters) -> list[onnx.ValueInfoProto]:
    """Return the new input of lengths as a file declares it, int64 ``[batch]``; nothing if the file has one already."""
    if not parameters["lengths"]:
        return []
    batch = parameters["batch"]
    number = None if batch is None else parse_number(batch)
    dims = [batch if number is None else number]
    return [onnx.helper.make_tensor_value_info(parameters["mask"].input, onnx.TensorProto.INT64, dims)]


def _explain_misfit(parameters: Parameters, graph: onnx.GraphProto) -> str | None:
    """Return why the record cannot be right: transformers masks the frames of an encoder without group norm. None if it can.

    A file with a mask of its own does so itself.
    """
    has_own_mask = not parameters["lengths"]
    if parameters["padding"] != TRANSFORMERS or parameters["rewired"] or has_own_mask:
        return None
    if any(node.op_type in OVER_TIME for node in graph.node):
        return None
    return "an encoder without group norm leaves padding out in transformers, and no node of this one is recorded to do so"


def refuse_value(_parameters: Parameters, _known: Known) -> list[Expected]:
    """Raise UnsupportedModelError: the nodes of the source read other values, so the appended ones alone tell nothing."""
    raise UnsupportedModelError("clips are proven by running the whole model", "run the whole proof")


REFERENCE = Reference(
    reads=lambda p: [p["hidden_state"], *p["mask"].reads],
    makes=lambda p: [p["output_name"]],
    value=refuse_value,
    outputs=declare_pooled_output,
    fields=Fields(inputs=_declare_lengths, node=rewire_node),
    misfit_in_graph=_explain_misfit,
    values_after=_compute_after,
    by_run_alone=True,
)
"""For files that record a waveform. `pooling.REFERENCE` reads the parameters."""
