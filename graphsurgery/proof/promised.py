"""The interface that recorded edits promise: the source's inputs, what each edit makes, and the outputs that it keeps."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from graphsurgery.anatomy.hidden_state import find_hidden_state
from graphsurgery.errors import GraphSurgeryError
from graphsurgery.interface import Dim, Value
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import Step
from graphsurgery.proof.expectation import POOLING, meanings

LITERAL = "a number"
"""Stands for any literal size: a pooled output's width is compared with what a run gives."""


def broken_promises(source: Model, output: Model, steps: Sequence[Step]) -> list[str]:
    """How the output's interface differs from what ``steps`` promise, in words."""
    wrong = []
    if output.interface.inputs != source.interface.inputs:
        wrong.append(f"the inputs are {_listed(output.interface.inputs)} instead of {_listed(source.interface.inputs)}")
    wanted = _wanted(source, steps)
    found = output.interface.outputs
    if [value.name for value in found] != [value.name for value in wanted]:
        return [*wrong, f"the outputs are {_listed(found)} instead of {_listed(wanted)}"]
    pairs = zip(found, wanted, strict=True)
    return wrong + [f"an output is declared as {one} instead of {other}" for one, other in pairs if not _same(one, other)]


def _wanted(source: Model, steps: Sequence[Step]) -> list[Value]:
    """The outputs that the steps leave. In a pooled one, an unknown dim stands for any that is not literal."""
    outputs = list(source.interface.outputs)
    for step, means in meanings(steps):
        made = means.makes(step.parameters)
        if step.edit == POOLING:
            kept = [value for value in outputs if value.name in step.parameters["keep_output"]]
            outputs = [Value(made, onnx.TensorProto.FLOAT, (_batch(source, step), LITERAL)), *kept]
        else:
            outputs = [Value(made, onnx.TensorProto.FLOAT, one.dims) if one.name == made else one for one in outputs]
    return outputs


def _batch(source: Model, step: Step) -> Dim:
    try:
        return find_hidden_state(source, step.parameters["hidden_state"], step.parameters.get("ids")).batch
    except GraphSurgeryError:
        return None


def _same(found: Value, wanted: Value) -> bool:
    if found == wanted:
        return True
    if wanted.dims is None or LITERAL not in wanted.dims or found.dims is None or len(found.dims) != len(wanted.dims):
        return False
    return found.dtype == wanted.dtype and all(map(_dim_fits, found.dims, wanted.dims))


def _dim_fits(found: Dim, wanted: Dim) -> bool:
    if wanted is None:
        return not isinstance(found, int)
    return isinstance(found, int) if wanted == LITERAL else found == wanted


def _listed(values: Sequence[Value]) -> str:
    return ", ".join(map(str, values)) or "none"
