"""What each input of a model expects, in words: its kind, its size, and the range of its numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import onnx

from graphsurgery.deferred import ir
from graphsurgery.encoder.limits import Tables, find_tables
from graphsurgery.encoder.modalities import PICTURE, SPECTROGRAM, TOKEN_IDS, WAVEFORM, Modality, list_modalities
from graphsurgery.encoder.pooled_output import LAST_POSITION, PooledOutput
from graphsurgery.encoder.roles import find_roles
from graphsurgery.folders.picture_config import PictureConfig, read_picture_config
from graphsurgery.graph.attributes import get_float, get_input
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import ARITHMETIC, get_operator
from graphsurgery.model.model import Model
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.media import Medium
from graphsurgery.runtime.media_sizes import find_media


@dataclass(frozen=True)
class InputFacts:
    """What the input ``name`` holds: ``kind`` is token ids, picture, waveform or spectrogram."""

    name: str
    kind: str
    size: str
    """Its size in words, such as ``3 x 224 x 224`` or ``up to 77 tokens``; empty if it is not known."""
    values: str
    """The range of its numbers in words."""

    def __str__(self) -> str:
        return f"{self.name}: {', '.join(one for one in (self.kind, self.size, self.values) if one)}"

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "kind": self.kind, "size": self.size, "values": self.values}


def describe_inputs(model: Model) -> tuple[InputFacts, ...]:
    """Return what the inputs of ``model`` expect, as far as the graph shows it. Sizes of pictures may need a run."""
    roles = find_roles(model.interface)
    found = list_modalities(model)
    ids = next((one.value for one in found if one.kind == TOKEN_IDS), None)
    known = replace(roles, ids=ids, others=tuple(value for value in roles.others if value != ids))
    tables = find_tables(model, known)
    media = {one.name: one for one in find_media(model, FeedGenerator(roles, find_tables(model, roles)))}
    config = read_picture_config(model.place)
    return tuple(
        _describe_ids(one, tables) if one.kind == TOKEN_IDS else _describe_medium(one, media.get(one.value.name), config)
        for one in found
    )


def _describe_ids(found: Modality, tables: Tables) -> InputFacts:
    size = "" if tables.limit is None else f"up to {tables.limit} tokens"
    values = [] if tables.vocabulary is None else [f"0 to {tables.vocabulary - 1}"]
    values += [] if tables.end_id is None else [f"the vector is that of the first id {tables.end_id}, which ends a text"]
    return InputFacts(found.value.name, found.kind, size, "; ".join(values))


def _describe_medium(found: Modality, medium: Medium | None, config: PictureConfig) -> InputFacts:
    name = found.value.name
    if medium is None:
        return InputFacts(name, found.kind, "", "")
    size = " x ".join(map(str, medium.sizes))
    if found.kind == WAVEFORM:
        hop = f", and a frame more for every {medium.hop}" if medium.hop > 1 else ""
        return InputFacts(
            name, WAVEFORM, f"from {medium.field} samples (one frame) up{hop}", "as the model's processor scales it"
        )
    if found.kind == SPECTROGRAM:
        return InputFacts(name, SPECTROGRAM, size, "as the model's processor computes it")
    is_free = not medium.only and any(not isinstance(dim, int) for dim in (found.value.dims or ())[2:])
    return InputFacts(name, PICTURE, f"{size}{' or other sizes' * is_free}", _describe_pixels(found, config))


def _describe_pixels(found: Modality, config: PictureConfig) -> str:
    if found.value.dtype == onnx.TensorProto.UINT8:
        return "bytes from 0 to 255, channels last"
    if not config.mean:
        return "as the model's processor normalises pixels (often -1 to 1 or -1.8 to 2.2)"
    low, high = _find_range(config)
    return f"from {low:.2f} to {high:.2f}, as preprocessor_config.json normalises pixels"


def _find_range(config: PictureConfig) -> tuple[float, float]:
    pairs = list(zip(config.mean, config.std, strict=True))
    return min(-mean / std for mean, std in pairs), max((1 - mean) / std for mean, std in pairs)


def warn_of_inputs(model: Model, pooled: tuple[PooledOutput, ...]) -> Iterator[str]:
    """Yield what is likely to go wrong with the inputs of ``model``, whose own outputs are ``pooled``."""
    for found in list_modalities(model):
        if found.kind == PICTURE and _clips_to_one(model, found):
            yield (
                f"the graph clips {found.value.name} to 0..1, which is wrong for normalised pixels: most of them lie outside "
                "(vectors then have a cosine of 0.84 to 0.88 to the right ones). Feed pixels of 0 to 1, or export the model "
                "without the clip"
            )
    roles = find_roles(model.interface)
    of_last = [one.name for one in pooled if one.pooled_by == LAST_POSITION]
    if of_last and roles.ids is not None and roles.mask is None:
        limit = find_tables(model, roles).limit
        length = f"max_length, {limit} tokens" if limit else "the length that the model was trained with"
        yield (
            f"{of_last[0]} is the vector of the last position, and there is no mask: pad every text to {length}, as SigLIP's "
            "processor does. A shorter one gives another vector (cosine 0.44, measured on 8 tokens in place of 16)"
        )


def _clips_to_one(model: Model, found: Modality) -> bool:
    """Return whether the first convolution reads an input clipped to 0..1, which nothing shifts or scales."""
    graph, before = Graph.of(model), found.stem.before if found.stem is not None else ()
    clips = [node for node in before if get_operator(node) == "Clip"]
    scales = any(get_operator(node) in ARITHMETIC for node in before)
    return not scales and any(_list_limits(graph, node) == [0, 1] for node in clips)


def _list_limits(graph: Graph, node: ir.Node) -> list[float | None]:
    """Return the limits of a Clip: attributes before opset 11, inputs since then. None for one that is not a constant."""
    if "min" in node.attributes or "max" in node.attributes:
        return [get_float(node, name, math.inf) for name in ("min", "max")]
    arrays = (None if value is None else graph.array(graph.origin(value)) for value in (get_input(node, 1), get_input(node, 2)))
    return [None if array is None or array.size != 1 else float(array.reshape(-1)[0]) for array in arrays]
