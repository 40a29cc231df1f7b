"""drop-input: an input that is always the same is no longer taken."""

from __future__ import annotations

import onnx

from graphsurgery.references.fields import ChangeInfo, Fields, Info
from graphsurgery.references.input_edits import compute_nothing, explain_fill_misfit, keep_outputs, make_fill, read_fill
from graphsurgery.references.reference import Expected, Parameters, Reference, RunModel, Values, expect_exactly


def _change_infos(parameters: Parameters, _graph: onnx.GraphProto) -> ChangeInfo:
    def drop(kind: str, info: Info) -> Info | None:
        return None if kind == "input" and info.name == parameters["input"] else info

    return drop


def _compute_after(parameters: Parameters, feed: Values, before: RunModel) -> dict[str, Expected]:
    made = {parameters["input"]: make_fill(parameters, feed[parameters["like"]])}
    return before(feed | made) | expect_exactly(made)


REFERENCE = Reference(
    reads=lambda p: [p["like"]],
    makes=lambda _: [],
    value=compute_nothing,
    outputs=keep_outputs,
    read=read_fill,
    fields=Fields(infos=_change_infos),
    values_after=_compute_after,
    misfit=explain_fill_misfit,
    stand_ins=lambda p: {p["input"]: p["input"]},
)
