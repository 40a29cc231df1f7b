"""optional-input: an input that has a default."""

from __future__ import annotations

import numpy as np
import onnx

from graphsurgery.references.fields import Declaring, Fields, Info
from graphsurgery.references.input_edits import filled, filled_misfit, no_value, read_fill, same_outputs
from graphsurgery.references.nested import computed_from
from graphsurgery.references.reference import Before, Expected, Parameters, Reference, Values


def _default(parameters: Parameters, _graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    value = filled(parameters, np.zeros((1, 1)))
    return [onnx.numpy_helper.from_array(value, parameters["input"])]


def _infos(parameters: Parameters, graph: onnx.GraphProto) -> Declaring:
    reached = computed_from(graph, parameters["input"])

    def loose(kind: str, info: Info) -> Info | None:
        if kind == "input" and info.name == parameters["input"]:
            for dim in info.type.tensor_type.shape.dim:
                dim.ClearField("dim_value")
                dim.ClearField("dim_param")
        return None if kind == "value_info" and info.name in reached else info

    return loose


def _through(parameters: Parameters, feed: Values, before: Before) -> dict[str, Expected]:
    name = parameters["input"]
    return before(feed if name in feed else feed | {name: filled(parameters, feed[parameters["like"]])})


REFERENCE = Reference(
    reads=lambda _: [],
    makes=lambda _: [],
    value=no_value,
    outputs=same_outputs,
    read=read_fill,
    fields=Fields(infos=_infos, initializers=_default),
    through=_through,
    misfit=filled_misfit,
    by_run_alone=True,
)
