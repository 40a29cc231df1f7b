"""dynamic-dim: sizes that were baked in become free.

At another size the model must give what it gave at its own size. A batch is run in groups of the baked size. A shorter sequence
is padded at its end, with the mask, and compared at tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Dim, Interface, Value
from graphsurgery.references.fields import ChangeInfo, Fields, Info
from graphsurgery.references.input_edits import compute_nothing
from graphsurgery.references.recorded_mask import RecordedMask
from graphsurgery.references.reference import (
    MOST_TOKENS,
    Array,
    Expected,
    Parameters,
    Reference,
    RunModel,
    Values,
    expect_exactly,
    parse_number,
)
from graphsurgery.references.rewired import parse_rewired, parse_rows, rewire_node
from graphsurgery.references.row_groups import join_groups, list_groups

BATCH, SEQUENCE = "batch", "sequence"
PLACES = {BATCH: 0, SEQUENCE: 1}


def _read(parameters: Parameters) -> Parameters:
    """Read the names and the sizes of the freed dims, ``follows`` and ``rewired``.

    ``follows`` holds the dims of outputs that are the batch or the sequence, by name and axis. ``rewired`` holds the new value
    of an input of a node, by the node's first output and the input's place.
    """
    try:
        names = _parse_pairs(parameters["dim"])
        sizes = {which: parse_number(size) or 0 for which, size in _parse_pairs(parameters["sizes"]).items()}
        follows = {(name, axis): which for name, axis, which in parse_rows(parameters["follows"])}
        rewired = parse_rewired(parameters["rewired"])
        right = set(names) == set(sizes) <= set(PLACES) and all(sizes.values()) and math.prod(sizes.values()) <= MOST_TOKENS
        right = right and set(follows.values()) <= set(sizes)
    except (ValueError, RecursionError):
        right = False
    if not right:
        raise UnsupportedModelError("the recorded parameters of dynamic-dim cannot be read", "make the output again")
    mask = None if parameters.get("mask") is None else RecordedMask(parameters["mask"])
    return {**parameters, "dim": names, "sizes": sizes, "follows": follows, "rewired": rewired, "mask": mask}


def _parse_pairs(texts: Sequence[str]) -> dict[str, str]:
    return {which: value for which, _, value in (text.partition("=") for text in texts)}


def _list_inputs(parameters: Parameters) -> list[str]:
    """Return the inputs whose dims are freed."""
    mask = parameters["mask"]
    return [parameters["ids"], *([] if mask is None else mask.reads), *parameters["inputs"]]


def _explain_misfit(parameters: Parameters, before: Interface) -> str | None:
    """Return why the recorded sizes are not those of the inputs, or None. Inputs other than the ids may be free already."""
    for name in _list_inputs(parameters):
        value = before.input(name)
        for which, size in parameters["sizes"].items():
            dim = None if value is None or value.dims is None else value.dims[PLACES[which]]
            if dim != size and not (isinstance(dim, str) and name != parameters["ids"]):
                return f"{value or name} does not have a {which} of {size}"
    return None


def _change_infos(parameters: Parameters, _graph: onnx.GraphProto) -> ChangeInfo:
    names = parameters["dim"]

    def free_info(kind: str, info: Info) -> Info | None:
        if kind == "input" and info.name in parameters["inputs"]:
            for which, name in names.items():
                info.type.tensor_type.shape.dim[PLACES[which]].dim_param = name
        return None if kind == "value_info" else info

    return free_info


def _declare_outputs(parameters: Parameters, before: Sequence[Value], _batch: Dim) -> list[Value]:
    names, follows = parameters["dim"], parameters["follows"]

    def free_value(value: Value) -> Value:
        if value.dims is None:
            return value
        which = [follows.get((value.name, axis)) for axis in range(len(value.dims))]
        return replace(value, dims=tuple(names[one] if one else dim for one, dim in zip(which, value.dims, strict=True)))

    return [free_value(value) for value in before]


def _compute_after(parameters: Parameters, feed: Values, before: RunModel) -> dict[str, Expected]:
    rows, columns = feed[parameters["ids"]].shape[:2]
    sizes = parameters["sizes"]
    length = max(sizes.get(SEQUENCE, columns), columns)
    group = sizes.get(BATCH, rows)
    recorded = parameters["mask"]
    is_fed = recorded is not None and recorded.input in feed
    mask = feed[recorded.input] != 0 if is_fed else np.ones((rows, columns), dtype=np.bool_)
    by_row = {name for name, array in feed.items() if array.ndim > 1 and len(array) == rows}
    long = {name for name in by_row if name in parameters["inputs"] or feed[name].ndim > 2}
    padded = {name: _pad_behind(array, length) if name in long else array for name, array in feed.items()}
    groups = []
    for chosen in list_groups(rows, group):
        groups.append(before({name: array[chosen] if name in by_row else array for name, array in padded.items()}))
    values = {}
    for name in groups[0]:
        if name not in feed:
            whole = join_groups([one[name] for one in groups], rows, group)
            values[name] = _compare_at_tokens(whole, mask, length) if length > columns else whole
    return values | expect_exactly(feed)


def _pad_behind(array: Array, length: int) -> Array:
    """Return ``[batch, seq, ...]`` with zeros at the end, up to ``length``."""
    missing = [(0, 0), (0, length - array.shape[1]), *[(0, 0)] * (array.ndim - 2)]
    return np.pad(array, missing)


def _compare_at_tokens(whole: Expected, mask: Array, length: int) -> Expected:
    """Return the values without the padding that was put at the end. Values that belong to no token may be anything."""
    rows, columns = mask.shape
    if np.ndim(whole.values) == 0 or len(whole.values) != rows:
        return whole
    tolerance = np.broadcast_to(whole.tolerance, whole.values.shape)
    rounding = np.broadcast_to(np.array(0.0) if whole.rounding is None else whole.rounding, whole.values.shape)
    if whole.values.ndim > 2 and whole.values.shape[1] == length:
        tokens = mask.reshape(rows, columns, *[1] * (whole.values.ndim - 2))
        output = None if whole.output is None else whole.output[:, :columns]
        tolerance, rounding = np.where(tokens, tolerance[:, :columns], np.inf), rounding[:, :columns]
        return Expected(whole.values[:, :columns], tolerance, rounding, output)
    some = mask.any(axis=1).reshape(rows, *[1] * (whole.values.ndim - 1))
    return replace(whole, tolerance=np.where(some, tolerance, np.inf))


REFERENCE = Reference(
    reads=lambda p: [p["ids"]],
    makes=lambda _: [],
    value=compute_nothing,
    outputs=_declare_outputs,
    read=_read,
    fields=Fields(infos=_change_infos, node=rewire_node),
    values_after=_compute_after,
    misfit=_explain_misfit,
    resizes=True,
    by_run_alone=True,
    longest=lambda p: p["sizes"].get(SEQUENCE),
)
