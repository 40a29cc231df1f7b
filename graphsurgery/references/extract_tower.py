"""extract-tower: one embedding of a joint model, before it is scaled to length one, from the inputs that it depends on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Dim, Interface, Value, type_name
from graphsurgery.references.fields import ChangeInfo, Fields, Info
from graphsurgery.references.input_edits import compute_nothing
from graphsurgery.references.nested import find_needed
from graphsurgery.references.reference import (
    RELATIVE,
    Expected,
    Parameters,
    Reference,
    RunModel,
    Values,
    find_value,
    parse_number,
    require_known,
)

TOWERS = ("text", "image")
HALF_RELATIVE = 2e-3
"""The rounding of a half type's unit vector, as a share of its largest number."""
NUMBER = re.compile(r"[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)(e[+-]?[0-9]{1,3})?")


def _read(parameters: Parameters) -> Parameters:
    """Check the texts. The batch dim becomes a number if it is one."""
    require_known("tower", parameters["tower"], TOWERS)
    types = {type_name(number): number for number in onnx.TensorProto.DataType.values()}
    require_known("type", parameters["dtype"], types)
    for name in ("scale", "bias"):
        text = parameters[name]
        if text is not None and not NUMBER.fullmatch(text):
            raise UnsupportedModelError(f"the recorded {name} {text[:60]!r} is no number", "make the output again")
    batch = parameters["batch"]
    size = None if batch is None else parse_number(batch)
    return {**parameters, "dtype": types[parameters["dtype"]], "batch": batch if size is None else size}


def _list_read(parameters: Parameters) -> list[str]:
    return list(dict.fromkeys((parameters["target"], parameters["vector"])))


def _rename(parameters: Parameters) -> dict[str, str]:
    output, vector = parameters["target"], parameters["vector"]
    return {} if output == vector else {vector: output}


def _change_infos(parameters: Parameters, graph: onnx.GraphProto) -> ChangeInfo:
    needed = find_needed(graph, [parameters["vector"]])
    reached = needed & set(parameters["inputs"])

    def change(kind: str, info: Info) -> Info | None:
        if kind == "input":
            return info if info.name in reached else None
        return info if kind == "output" or info.name != parameters["vector"] else None

    return change


def _declare_outputs(parameters: Parameters, before: Sequence[Value], _batch: Dim) -> list[Value]:
    output = find_value(before, parameters["target"])
    if output is None:
        return [Value(parameters["target"], onnx.TensorProto.UNDEFINED, None)]
    dims = None if output.dims is None else (parameters["batch"], *output.dims[1:])
    return [replace(output, dtype=parameters["dtype"], dims=dims)]


def _explain_misfit(parameters: Parameters, before: Interface) -> str | None:
    if before.output(parameters["target"]) is None:
        return f"there is no output {parameters['target']!r}"
    batches = {value.dims[0] if value.dims else None for value in before.inputs}
    return None if parameters["batch"] in batches else f"no input has the batch dim {parameters['batch']!r}"


def _compute_after(parameters: Parameters, feed: Values, before: RunModel) -> dict[str, Expected]:
    """Return the embedding: the source's own output, times the length of the vector that is taken in its place.

    So a vector of another direction, of another tower for example, is not what is expected. If nodes after the tower are proven
    alone, the feed holds a drawn vector in its place.
    """
    if parameters["target"] in feed:
        return before(feed)
    values, (output, vector) = before(feed), (parameters["target"], parameters["vector"])
    if output == vector:
        return {output: values[output]}
    unit, taken = (np.asarray(values[name].values, dtype=np.float64) for name in (output, vector))
    with np.errstate(all="ignore"):  # the source's own NaN
        expected = unit * np.linalg.norm(taken, axis=-1, keepdims=True)
    is_half = min(values[name].values.dtype.itemsize for name in (output, vector)) < np.dtype(np.float32).itemsize
    finite = np.where(np.isfinite(expected), np.abs(expected), 0)
    share = HALF_RELATIVE if is_half else RELATIVE
    return {output: Expected(expected, share * np.max(finite, axis=-1, keepdims=True, initial=0), output=expected)}


REFERENCE = Reference(
    reads=_list_read,
    makes=lambda _: [],
    value=compute_nothing,
    outputs=_declare_outputs,
    read=_read,
    fields=Fields(
        names=_rename, infos=_change_infos, outputs=lambda p: [p["target"]], keeps=lambda p: [p["vector"]],
    ),
    values_after=_compute_after,
    misfit=_explain_misfit,
)  # fmt: skip
