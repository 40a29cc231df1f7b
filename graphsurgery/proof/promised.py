"""The interface that recorded edits promise: the source's inputs, what each edit makes, and the outputs that it keeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graphsurgery.interface import Dim, Value
from graphsurgery.model.model import Model
from graphsurgery.proof.difference import Difference
from graphsurgery.proof.vocabulary import uncovered
from graphsurgery.proof.widths import known_widths
from graphsurgery.references.chain import Chain
from graphsurgery.references.reference import LITERAL, named


def broken_promises(source: Model, output: Model, chain: Chain) -> list[str]:
    """Say how the output's interface differs from the one that ``chain`` promises."""
    wrong = []
    inputs = chain.declared(source)[-1].interface.inputs
    if output.interface.inputs != inputs:
        wrong.append(f"the inputs are {_listed(output.interface.inputs)} instead of {_listed(inputs)}")
    *_, wanted = outputs_by_link(source, chain)
    wrong += uncovered(source, output, chain)
    found = output.interface.outputs
    if [value.name for value in found] != [value.name for value in wanted]:
        return [*wrong, f"the outputs are {_listed(found)} instead of {_listed(wanted)}"]
    pairs = zip(found, wanted, strict=True)
    return wrong + [f"an output is declared as {one} instead of {other}" for one, other in pairs if not _same(one, other)]


def misfits(source: Model, chain: Chain) -> list[str]:
    """Say how the edits are recorded otherwise than they can have been applied to ``source``: then nothing need be run."""
    graph = source.proto.graph
    there = (
        {info.name for info in graph.input} | set(source.initializers) | {name for node in graph.node for name in node.output}
    )
    found = [f"{name!r} is read, which the source has not" for name in chain.starts if name not in there]
    widths: dict[str, int] | None = None
    for (link, origin), before in zip(chain.origins(), chain.declared(source), strict=False):
        told = link.reference.misfit(link.parameters, before.interface)
        found += [] if told is None else [f"{link.edit} is recorded otherwise than it can be: {told}"]
        width = link.parameters.get("width")
        start = origin(link.reads[0]) if link.reads and width is not None else None
        if start is not None:
            widths = known_widths(source, chain.starts) if widths is None else widths
            real = widths.get(start)
            if real is not None and width != real:
                found.append(f"{link.edit} is recorded with a width of {width}, where {start} is {real} wide")
    return found


def unexplained(changed: Difference) -> list[str]:
    """Name the nodes that were added although no recorded edit adds any."""
    return [f"node {node.name or node.op_type!r} was added, and no recorded edit adds any" for node in changed.added]


def outputs_by_link(source: Model, chain: Chain) -> Iterator[list[Value]]:
    """Yield the outputs before each link, and after all of them.

    In an output that an edit makes, an unknown dim stands for any that is not literal.
    """
    outputs = list(source.interface.outputs)
    yield outputs
    for link, before in zip(chain, chain.declared(source), strict=False):
        batch = _batch(before, outputs, link.reads[0] if link.reads else "")
        outputs = link.reference.outputs(link.parameters, outputs, batch)
        yield outputs


def _batch(source: Model, outputs: Sequence[Value], name: str) -> Dim:
    """Return the batch dim of the value ``name``, which an edit reads: an output's own, or else that of the first input that
    declares one."""
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
