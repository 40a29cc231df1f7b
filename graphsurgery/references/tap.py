"""tap: a hidden layer in place of the last hidden state. Source: the ``hidden_states`` of transformers' models.

The values are the source's own. Which value is the hidden layer N is counted forwards here, and backwards by the edit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Dim, Value
from graphsurgery.references.fields import Fields
from graphsurgery.references.hidden_layers import find_layer, find_stretch, find_sum_before_end, skip_copies
from graphsurgery.references.reference import (
    Expected,
    Known,
    Parameters,
    Reference,
    compute_tolerance,
    find_value,
    parse_number,
)

BEFORE, AFTER = "before", "after"


def _read(parameters: Parameters) -> Parameters:
    number = parse_number(parameters["layer"])
    if number is None or parameters["norm"] not in (BEFORE, AFTER, None) or not parameters["values"]:
        raise UnsupportedModelError("the recorded parameters of tap name no hidden layer", "make the output again")
    return {**parameters, "layer": number}


def _is_target(parameters: Parameters) -> bool:
    """Return whether the layer is the last hidden state itself, so that no node is added."""
    return bool(parameters["values"] == [parameters["target"]])


def _compute(parameters: Parameters, known: Known) -> list[Expected]:
    if _is_target(parameters):
        return []
    total = sum((known[name] for name in parameters["values"]), np.array(0.0))
    return [Expected(total, compute_tolerance(total))]


def _declare_outputs(parameters: Parameters, before: Sequence[Value], _batch: Dim) -> list[Value]:
    target = parameters["target"]
    return [find_value(before, target) or Value(target, onnx.TensorProto.UNDEFINED, None)]


def _explain_misfit(parameters: Parameters, graph: onnx.GraphProto) -> str | None:
    """Say how the recorded values are not the hidden layer of that number; None if they are."""
    stretch = find_stretch(graph, parameters["target"])
    number, values, last = parameters["layer"], parameters["values"], 0 if stretch is None else len(stretch.starts)
    if stretch is None or number > last:
        return f"its hidden layers are 0 to {last}, and the layer {number} is recorded"
    if number < last:
        wanted = find_layer(graph, stretch, number)
    else:
        wanted = find_sum_before_end(stretch) if parameters["norm"] == BEFORE else [parameters["target"]]
    if number < last and parameters["norm"] is not None:
        return f"its layer {number} is not the last one, so no final normalisation follows it"
    if [skip_copies(graph, name) for name in values] != [skip_copies(graph, name) for name in wanted]:
        return f"its hidden layer {number} is {' + '.join(wanted) or 'not found'}, and {' + '.join(values)} is recorded"
    return None


REFERENCE = Reference(
    reads=lambda p: list(p["values"]),
    makes=lambda p: [] if _is_target(p) else [p["target"]],
    value=_compute,
    outputs=_declare_outputs,
    multiplies=False,
    read=_read,
    fields=Fields(outputs=lambda p: [p["target"]] if _is_target(p) else [], keeps=lambda p: list(p["values"])),
    misfit_in_graph=_explain_misfit,
)
