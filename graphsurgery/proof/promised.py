"""The interface that recorded edits promise: the source's inputs, what each edit makes, and the outputs that it keeps."""

from __future__ import annotations

from collections.abc import Sequence

from graphsurgery.interface import Dim, Value
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import Step
from graphsurgery.proof.difference import Difference
from graphsurgery.proof.vocabulary import uncovered
from graphsurgery.proof.widths import known_widths
from graphsurgery.references.chain import declared, meanings, origin, starts
from graphsurgery.references.reference import LITERAL, named


def broken_promises(source: Model, output: Model, steps: Sequence[Step]) -> list[str]:
    """How the output's interface differs from what ``steps`` promise, in words."""
    wrong = []
    inputs = declared(source, steps).interface.inputs
    if output.interface.inputs != inputs:
        wrong.append(f"the inputs are {_listed(output.interface.inputs)} instead of {_listed(inputs)}")
    wanted = promised_outputs(source, steps)
    wrong += uncovered(source, output, steps)
    found = output.interface.outputs
    if [value.name for value in found] != [value.name for value in wanted]:
        return [*wrong, f"the outputs are {_listed(found)} instead of {_listed(wanted)}"]
    pairs = zip(found, wanted, strict=True)
    return wrong + [f"an output is declared as {one} instead of {other}" for one, other in pairs if not _same(one, other)]


def misfits(source: Model, steps: Sequence[Step]) -> list[str]:
    """How ``steps`` are recorded otherwise than they can have been made of ``source``, in words: then nothing need be run."""
    graph = source.proto.graph
    there = (
        {info.name for info in graph.input} | set(source.initializers) | {name for node in graph.node for name in node.output}
    )
    found = [f"{name!r} is read, which the source has not" for name in starts(steps) if name not in there]
    widths: dict[str, int] | None = None
    for place, (step, means) in enumerate(meanings(steps)):
        told = means.misfit(step.parameters, declared(source, steps[:place]).interface)
        found += [] if told is None else [f"{step.edit} is recorded otherwise than it can be: {told}"]
        read, width = means.reads(step.parameters), step.parameters.get("width")
        start = origin(steps[:place], read[0]) if read and width is not None else None
        if start is not None:
            widths = known_widths(source, starts(steps)) if widths is None else widths
            real = widths.get(start)
            if real is not None and width != real:
                found.append(f"{step.edit} is recorded with a width of {width}, where {start} is {real} wide")
    return found


def unexplained(changed: Difference) -> list[str]:
    """Nodes that were added though no recorded edit adds any, in words."""
    return [f"node {node.name or node.op_type!r} was added, and no recorded edit adds any" for node in changed.added]


def promised_outputs(source: Model, steps: Sequence[Step]) -> list[Value]:
    """The outputs that the steps leave. In what they make, an unknown dim stands for any that is not literal."""
    outputs = list(source.interface.outputs)
    for place, (step, means) in enumerate(meanings(steps)):
        read = means.reads(step.parameters)
        before = declared(source, steps[:place])
        outputs = means.outputs(step.parameters, outputs, _batch(before, outputs, read[0] if read else ""))
    return outputs


def _batch(source: Model, outputs: Sequence[Value], name: str) -> Dim:
    """The batch dim of the value ``name``, which a step reads: an output's own, and for a value inside the graph what the
    first input that tells it calls the batch."""
    given = named(outputs, name)
    if given is not None and given.dims:
        return given.dims[0]
    leading = [value.dims[0] for value in source.interface.inputs if value.dims]
    known = [dim for dim in leading if dim is not None]
    return known[0] if known else None


def _same(found: Value, wanted: Value) -> bool:
    if found == wanted:
        return True
    if wanted.dims is None or found.dims is None or len(found.dims) != len(wanted.dims):
        return False
    if LITERAL not in wanted.dims and wanted.dims != found.dims:
        return False
    return found.dtype == wanted.dtype and all(map(_dim_fits, found.dims, wanted.dims))


def _dim_fits(found: Dim, wanted: Dim) -> bool:
    if wanted is None:
        return not isinstance(found, int)
    return isinstance(found, int) if wanted == LITERAL else found == wanted


def _listed(values: Sequence[Value]) -> str:
    return ", ".join(map(str, values)) or "none"
