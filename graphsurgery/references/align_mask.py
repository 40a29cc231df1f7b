"""align-mask: a mask ``[batch, frames]`` chooses between values ``[batch, frames, channels]`` by frames.

    y[b, t, c] = a[b, t, c] where mask[b, t], else b[b, t, c]

The source's own node aligns the mask's dims with the last dims of the values: ``mask[t, c]``. So the proof runs the source up
to each of these nodes, computes y in numpy, and runs the source on from y. Where both ways give the same y, the source itself
is run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import onnx

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.model.step_parameters import is_of_type
from graphsurgery.references.fields import Fields
from graphsurgery.references.input_edits import compute_as_before, compute_nothing, keep_outputs
from graphsurgery.references.reference import Array, Parameters, Reference, Substitute
from graphsurgery.references.rewired import parse_rewired, rewire_node

WIDTH = 4
"""A recorded node: its output, and the three values that it reads."""


def choose_frames(read: Sequence[Array]) -> Array:
    """Return y for the mask and the two values."""
    mask, chosen, other = read
    return np.where(mask[:, :, None], chosen, other)


def choose_as_exported(read: Sequence[Array]) -> Array:
    """Return what the source's node gives. Raises ValueError if the sizes do not fit."""
    mask, chosen, other = read
    return np.where(mask, chosen, other)


def _read(parameters: Parameters) -> Parameters:
    """Read ``where`` as lists of four names, and ``rewired``."""
    try:
        where = [json.loads(text) for text in parameters["where"]]
        rewired = parse_rewired(parameters["rewired"])
    except (ValueError, RecursionError):
        where, rewired = [], {}
    is_right = bool(where) and all(is_of_type(row, list[str]) and len(row) == WIDTH for row in where)
    if not is_right or set(rewired) != {(row[0], 0) for row in where}:
        raise UnsupportedModelError("the recorded parameters of align-mask cannot be read", "make the output again")
    return {**parameters, "where": where, "rewired": rewired}


def _explain_misfit(parameters: Parameters, graph: onnx.GraphProto) -> str | None:
    """Return why the recorded nodes are not in the graph, or None."""
    nodes = {(node.output[0], *node.input) for node in graph.node if node.op_type == "Where" and node.output}
    absent = next((row for row in parameters["where"] if tuple(row) not in nodes), None)
    return None if absent is None else f"no Where node makes {absent[0]!r} of {', '.join(map(repr, absent[1:]))}"


def _list_substitutes(parameters: Parameters) -> list[Substitute]:
    made = {output: value for (output, _), value in parameters["rewired"].items()}
    rows = parameters["where"]
    return [Substitute(output, tuple(read), made[output], choose_frames, choose_as_exported) for output, *read in rows]


REFERENCE = Reference(
    reads=lambda _: [],
    makes=lambda _: [],
    value=compute_nothing,
    outputs=keep_outputs,
    read=_read,
    fields=Fields(node=rewire_node),
    values_after=compute_as_before,
    misfit_in_graph=_explain_misfit,
    substitutes=_list_substitutes,
    by_run_alone=True,
)
