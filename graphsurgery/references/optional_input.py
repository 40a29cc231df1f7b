"""optional-input: an input gets a default."""

from __future__ import annotations

import numpy as np
import onnx

from graphsurgery.references.fields import ChangeInfo, Fields, Info
from graphsurgery.references.input_edits import compute_nothing, explain_fill_misfit, keep_outputs, make_fill, read_fill
from graphsurgery.references.nested import find_dependents
from graphsurgery.references.reference import Expected, Parameters, Reference, RunModel, Values


def _make_default(parameters: Parameters, _graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    value = make_fill(parameters, np.zeros((1, 1)))
    return [onnx.numpy_helper.from_array(value, parameters["input"])]


def _change_infos(parameters: Parameters, graph: onnx.GraphProto) -> ChangeInfo:
    dependents = find_dependents(graph, parameters["input"])

    def free(kind: str, info: Info) -> Info | None:
        if kind == "input" and info.name == parameters["input"]:
            for dim in info.type.tensor_type.shape.dim:
                dim.ClearField("dim_value")
                dim.ClearField("dim_param")
        return None if kind == "value_info" and info.name in dependents else info

    return free


def _compute_after(parameters: Parameters, feed: Values, before: RunModel) -> dict[str, Expected]:
    name = parameters["input"]
    return before(feed if name in feed else feed | {name: make_fill(parameters, feed[parameters["like"]])})


REFERENCE = Reference(
    reads=lambda _: [],
    makes=lambda _: [],
    value=compute_nothing,
    outputs=keep_outputs,
    read=read_fill,
    fields=Fields(infos=_change_infos, initializers=_make_default),
    values_after=_compute_after,
    misfit=explain_fill_misfit,
    by_run_alone=True,
)
