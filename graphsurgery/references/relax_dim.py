"""relax-dim: sizes of pictures and sound that the source only declares are free.

The source is run without these declared numbers: at its own sizes, and at others. It runs in groups of its own batch size, so
that a row must give what it gives there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import onnx

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Dim, Interface, Value
from graphsurgery.references.fields import ChangeInfo, Fields, Info
from graphsurgery.references.input_edits import compute_nothing
from graphsurgery.references.reference import Expected, Parameters, Reference, RunModel, Values, expect_exactly
from graphsurgery.references.rewired import parse_rows
from graphsurgery.references.row_groups import join_groups, list_groups

SIZES = ("batch", "samples", "height", "width", "frames")
BATCH = SIZES[0]
MOST = 1 << 24
"""Upper limit on a recorded size. A forged record that exceeds it is not run."""


class FreedSize(NamedTuple):
    """A dim of an input that becomes free."""

    name: str
    axis: int
    which: str
    own: int
    """The number that the source declares."""
    others: tuple[int, ...]
    """Other numbers at which it was tried."""


def _read(parameters: Parameters) -> Parameters:
    """Read the name of each size, the freed dims of inputs, and the dims of outputs that follow, by output and axis."""
    try:
        names = {which: name for which, _, name in (text.partition("=") for text in parameters["dim"])}
        sizes = [_read_size(text) for text in parameters["sizes"]]
        follows = {(name, axis): dim for name, axis, dim in parse_rows(parameters["follows"])}
        is_right = bool(sizes) and {one.which for one in sizes} == set(names) <= set(SIZES) and all(names.values())
    except (ValueError, RecursionError):
        is_right = False
    if not is_right:
        raise UnsupportedModelError("the recorded parameters of relax-dim cannot be read", "make the output again")
    return {**parameters, "dim": names, "sizes": sizes, "follows": follows}


def _read_size(text: str) -> FreedSize:
    """Read a freed dim of an input. Raise ValueError for another form."""
    row: Any = json.loads(text)
    if not isinstance(row, list) or [type(one) for one in row] != [str, int, str, int, int, int]:
        raise ValueError("needed are a name, an axis, a size, and three numbers")
    name, axis, which, *numbers = row
    if axis < 0 or not all(0 < number <= MOST for number in numbers):
        raise ValueError("the numbers are no sizes")
    if len(set(numbers)) < len(numbers):
        raise ValueError("the other sizes show nothing unless they are others")
    return FreedSize(name, axis, which, numbers[0], tuple(numbers[1:]))


def _explain_misfit(parameters: Parameters, before: Interface) -> str | None:
    for one in parameters["sizes"]:
        value = before.input(one.name)
        dims = () if value is None or value.dims is None else value.dims
        if one.axis >= len(dims) or dims[one.axis] != one.own:
            return f"{value or one.name} does not have a {one.which} of {one.own}"
    return None


def _change_infos(parameters: Parameters, _graph: onnx.GraphProto) -> ChangeInfo:
    names = {(one.name, one.axis): parameters["dim"][one.which] for one in parameters["sizes"]}

    def free_info(kind: str, info: Info) -> Info | None:
        for axis, dim in enumerate(info.type.tensor_type.shape.dim if kind == "input" else ()):
            if (info.name, axis) in names:
                dim.dim_param = names[info.name, axis]
        return None if kind == "value_info" else info

    return free_info


def _declare_outputs(parameters: Parameters, before: Sequence[Value], _batch: Dim) -> list[Value]:
    follows = parameters["follows"]
    return [
        one if one.dims is None
        else replace(one, dims=tuple(follows.get((one.name, axis), dim) for axis, dim in enumerate(one.dims)))
        for one in before
    ]  # fmt: skip


def _compute_after(parameters: Parameters, feed: Values, before: RunModel) -> dict[str, Expected]:
    freed = next((one for one in parameters["sizes"] if one.which == BATCH), None)
    if freed is None or feed[freed.name].shape[freed.axis] == freed.own:
        return before(feed)
    rows = len(feed[freed.name])
    groups = []
    for chosen in list_groups(rows, freed.own):
        groups.append(
            before({name: array[chosen] if array.ndim and len(array) == rows else array for name, array in feed.items()})
        )
    joined = {name: join_groups([one[name] for one in groups], rows, freed.own) for name in groups[0] if name not in feed}
    return joined | expect_exactly(feed)


REFERENCE = Reference(
    reads=lambda _: [],
    makes=lambda _: [],
    value=compute_nothing,
    outputs=_declare_outputs,
    read=_read,
    fields=Fields(infos=_change_infos),
    values_after=_compute_after,
    misfit=_explain_misfit,
    lifts=lambda p: [(one.name, one.axis) for one in p["sizes"]],
    resizes=True,
    by_run_alone=True,
)
