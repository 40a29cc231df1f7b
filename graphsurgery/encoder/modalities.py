"""What each input of an encoder holds: token ids, pictures, waveforms or spectrograms, established by the graph.

Names say nothing: ``input_values`` is a waveform to HuBERT and a spectrogram to the Audio Spectrogram Transformer. The first
convolution tells, by its weights, and so does the rank of the input:

    picture      [batch, channels, height, width]     rank 4; a Conv with weights [out, channels / group, kh, kw]
    waveform     [batch, samples] or [batch, 1, samples]     a Conv over time with one channel
    spectrogram  [batch, bins, frames] or [batch, frames, bins]     rank 3; any other Conv
    token ids    [batch, seq]     integers that index the largest embedding table
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import onnx

from graphsurgery.deferred import ir
from graphsurgery.encoder.limits import find_table_rows
from graphsurgery.encoder.roles import find_roles, is_ids_like
from graphsurgery.errors import MalformedModelError, UnsupportedModelError
from graphsurgery.graph.attributes import get_input, get_int, get_ints
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import CONVOLUTION_WEIGHTS, PRODUCTS, SHAPE_READING, STORED_STEPS, get_operator
from graphsurgery.interface import Value
from graphsurgery.model.dtypes import FLOATS
from graphsurgery.model.model import Model
from graphsurgery.model.once import Store, find_once

TOKEN_IDS, PICTURE, WAVEFORM, SPECTROGRAM = "token ids", "picture", "waveform", "spectrogram"
PIXELS = FLOATS | {onnx.TensorProto.UINT8}
"""The element types of pictures: normalised pixels, or the bytes that a processor in the graph takes."""
MOST_STEPS = 128
"""At most this many nodes come before the first convolution: a shift and a scale of the pixels, or a whole processor."""


@dataclass(frozen=True)
class Stem:
    """The first convolution that an input reaches."""

    output: str
    """The value that it makes."""
    channels: int
    """How many channels it reads: the colours of a picture, 1 for a waveform, or the bins of a spectrogram."""
    kernel: tuple[int, ...]
    """The sizes of its window, one for each dim after the channels."""
    step: tuple[int, ...]
    """How far the windows are apart, in the same order."""
    before: tuple[ir.Node, ...]
    """The nodes between the input and the convolution, in the order of the graph."""


@dataclass(frozen=True)
class Modality:
    """What an input holds: one of `TOKEN_IDS`, `PICTURE`, `WAVEFORM` and `SPECTROGRAM`."""

    value: Value
    kind: str
    stem: Stem | None = None
    """The convolution that shows it. None for token ids."""


def find_modality(model: Model, name: str) -> Modality | None:
    """Return what the input ``name`` holds, or None if the graph does not show it."""
    return next((one for one in list_modalities(model) if one.value.name == name), None)


def find_input(model: Model, kind: str) -> Modality | None:
    """Return the first input that holds ``kind``, or None if no input does."""
    return next((one for one in list_modalities(model) if one.kind == kind), None)


def list_modalities(model: Model) -> tuple[Modality, ...]:
    """Return what the inputs of ``model`` hold, in the order of the interface, as far as the graph shows it.

    An input of another kind, such as a mask, is left out. The list is empty if the graph is malformed.
    """
    return find_once(_FOUND, model, (), lambda: _list(model))


def _list(model: Model) -> tuple[Modality, ...]:
    try:
        graph = Graph.of(model)
    except (MalformedModelError, UnsupportedModelError):
        return ()
    ids = _find_ids(model)
    others = (one for one in model.interface.inputs if not _has_positions_of(one, ids))
    found = (Modality(one, TOKEN_IDS) if one == ids else _find_stem_kind(graph, one) for one in others)
    return tuple(one for one in found if one is not None)


def _has_positions_of(value: Value, ids: Value | None) -> bool:
    """Return whether an input holds something for each token, such as its embedding ``[batch, seq, hidden]``.

    Its dims have the names of those of the ids ``[batch, seq]``.
    """
    if ids is None or value == ids or ids.dims is None or value.dims is None or len(value.dims) < len(ids.dims):
        return False
    return value.dims[: len(ids.dims)] == ids.dims and all(isinstance(dim, str) for dim in ids.dims)


def _find_ids(model: Model) -> Value | None:
    """Return the token ids: the input of a usual name, or else the integers ``[batch, seq]`` that index the largest table."""
    roles = find_roles(model.interface)
    if roles.ids is not None:
        return roles.ids
    rows = find_table_rows(model)
    indexes = [one for one in roles.others if is_ids_like(one) and one.name in rows]
    return max(indexes, key=lambda one: rows[one.name], default=None)


def _find_stem_kind(graph: Graph, value: Value) -> Modality | None:
    if value.dtype not in PIXELS or value.rank not in (2, 3, 4):
        return None
    stem = find_stem(graph, graph.value(value.name))
    if stem is None:
        return None
    if value.rank == 4:
        return Modality(value, PICTURE, stem) if len(stem.kernel) == 2 else None
    is_wave = stem.channels == 1 and (value.rank == 2 or (len(stem.kernel) == 1 and (value.dims or ())[1] in (1, None)))
    if is_wave or value.rank == 2:
        return Modality(value, WAVEFORM, stem) if is_wave else None
    return Modality(value, SPECTROGRAM, stem)


def find_stem(graph: Graph, value: ir.Value | None) -> Stem | None:
    """Return the first convolution that ``value`` reaches as its data, with no product with weights on the way, or None."""
    origins: dict[ir.Value, ir.Value | None] = {} if value is None else {value: None}
    todo = deque(origins)
    for _ in range(MOST_STEPS):
        if not todo:
            return None
        current = todo.popleft()
        for node in graph.consumers(current):
            operator = get_operator(node)
            if operator in CONVOLUTION_WEIGHTS and node.inputs[0] is current:
                return _read_stem(graph, node, _list_steps(current, origins))
            if operator in SHAPE_READING or (operator in PRODUCTS and _has_weights(graph, node)):
                continue
            new = [one for one in node.outputs if one not in origins]
            origins.update(dict.fromkeys(new, current))
            todo += new
    return None


def _list_steps(value: ir.Value, origins: dict[ir.Value, ir.Value | None]) -> tuple[ir.Node, ...]:
    """Return the nodes by which ``value`` was reached, the first one first."""
    found = []
    while (node := value.producer()) is not None and (origin := origins[value]) is not None:
        found.append(node)
        value = origin
    return tuple(reversed(found))


def _read_stem(graph: Graph, node: ir.Node, before: tuple[ir.Node, ...]) -> Stem | None:
    value = get_input(node, CONVOLUTION_WEIGHTS[get_operator(node)])
    weights = None if value is None else graph.tensor(graph.origin(value, STORED_STEPS))
    if weights is None or len(weights.dims) < 3:
        return None
    channels, *kernel = map(int, weights.dims[1:])
    steps = get_ints(node, "strides") or [1] * len(kernel)
    return Stem(node.outputs[0].name or "", channels * get_int(node, "group", 1), tuple(kernel), tuple(steps), before)


def _has_weights(graph: Graph, node: ir.Node) -> bool:
    return any(graph.tensor(graph.origin(one, STORED_STEPS)) is not None for one in node.inputs if one is not None)


_FOUND: Store[tuple[Modality, ...]] = WeakKeyDictionary()
