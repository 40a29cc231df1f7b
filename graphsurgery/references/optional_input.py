"""optional-input: an input gets a default, which may be expanded to the input's whole shape inside the graph."""

from __future__ import annotations

import onnx

from graphsurgery.references.fields import ChangeInfo, Fields, Info
from graphsurgery.references.input_edits import compute_nothing, explain_fill_misfit, keep_outputs, make_fill, read_fill
from graphsurgery.references.nested import find_dependents
from graphsurgery.references.reference import Expected, Parameters, Reference, RunModel, Values, expect_exactly


def _make_default(parameters: Parameters, _graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    value = make_fill(parameters, (1, 1))
    return [onnx.numpy_helper.from_array(value, parameters["input"])]


def _map_names(parameters: Parameters) -> dict[str, str]:
    return {} if parameters["inside"] is None else {parameters["input"]: parameters["inside"]}


def _change_infos(parameters: Parameters, graph: onnx.GraphProto) -> ChangeInfo:
    dependents = find_dependents(graph, parameters["input"]) if parameters["inside"] is None else set()

    def free(kind: str, info: Info) -> Info | None:
        if kind == "input" and info.name == parameters["input"]:
            for dim in info.type.tensor_type.shape.dim:
                dim.ClearField("dim_value")
                dim.ClearField("dim_param")
        return None if kind == "value_info" and info.name in dependents else info

    return free


def _compute_after(parameters: Parameters, feed: Values, before: RunModel) -> dict[str, Expected]:
    name, inside = parameters["input"], parameters["inside"]
    whole = feed if name in feed else feed | {name: make_fill(parameters, feed[parameters["like"]].shape)}
    if inside is None:
        return before(whole)
    given = feed.get(name, make_fill(parameters, (1, 1)))
    return before(whole) | expect_exactly({name: given, inside: whole[name]})


REFERENCE = Reference(
    reads=lambda p: [p["input"], p["like"]] if p["inside"] is not None else [],
    makes=lambda _: [],
    value=compute_nothing,
    outputs=keep_outputs,
    read=read_fill,
    fields=Fields(names=_map_names, infos=_change_infos, initializers=_make_default),
    values_after=_compute_after,
    misfit=explain_fill_misfit,
    stand_ins=lambda p: {inside: name for name, inside in _map_names(p).items()},
    by_run_alone=True,
)
