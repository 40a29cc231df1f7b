"""drop-input: an input that is always the same."""

from __future__ import annotations

import onnx

from graphsurgery.references.fields import Declaring, Fields, Info
from graphsurgery.references.input_edits import filled, filled_misfit, no_value, read_fill, same_outputs
from graphsurgery.references.reference import Before, Expected, Parameters, Reference, Values, exact


def _infos(parameters: Parameters, _graph: onnx.GraphProto) -> Declaring:
    def gone(kind: str, info: Info) -> Info | None:
        return None if kind == "input" and info.name == parameters["input"] else info

    return gone


def _through(parameters: Parameters, feed: Values, before: Before) -> dict[str, Expected]:
    made = {parameters["input"]: filled(parameters, feed[parameters["like"]])}
    return before(feed | made) | exact(made)


REFERENCE = Reference(
    reads=lambda p: [p["like"]],
    makes=lambda _: [],
    value=no_value,
    outputs=same_outputs,
    read=read_fill,
    fields=Fields(infos=_infos),
    through=_through,
    misfit=filled_misfit,
    inside=lambda p: {p["input"]: p["input"]},
)
