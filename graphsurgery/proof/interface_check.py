"""The interface that recorded edits promise: the source's inputs, what each edit makes, and the outputs that it keeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx

from graphsurgery.errors import GraphSurgeryError
from graphsurgery.interface import Dim, Value
from graphsurgery.model.model import Model
from graphsurgery.model.schema import walk_tensors
from graphsurgery.proof.difference import Difference
from graphsurgery.proof.inference import infer_widths
from graphsurgery.references.chain import Chain, Link
from graphsurgery.references.dense import recorded
from graphsurgery.references.nested import list_all_nodes
from graphsurgery.references.recorded_weights import RecordedWeights
from graphsurgery.references.reference import LITERAL, find_value


def find_broken_promises(source: Model, output: Model, chain: Chain) -> list[str]:
    """Say how the output's interface differs from the one that ``chain`` promises."""
    wrong = []
    inputs = chain.apply_fields(source)[-1].interface.inputs
    if output.interface.inputs != inputs:
        wrong.append(f"the inputs are {_join_values(output.interface.inputs)} instead of {_join_values(inputs)}")
    *_, wanted = walk_outputs(source, chain)
    wrong += find_short_tables(source, output, chain)
    found = output.interface.outputs
    if [value.name for value in found] != [value.name for value in wanted]:
        return [*wrong, f"the outputs are {_join_values(found)} instead of {_join_values(wanted)}"]
    pairs = zip(found, wanted, strict=True)
    return wrong + [f"an output is declared as {one} instead of {other}" for one, other in pairs if not _is_same(one, other)]


def find_record_misfits(source: Model, chain: Chain) -> list[str]:
    """Say how the edits are recorded otherwise than they can have been applied to ``source``: then nothing need be run."""
    graph = source.proto.graph
    there = (
        {info.name for info in graph.input} | set(source.initializers) | {name for node in graph.node for name in node.output}
    )
    found = [f"{name!r} is read, which the source has not" for name in chain.starts if name not in there]
    widths: dict[str, int] | None = None
    for (link, origin), before in zip(chain.walk_from_source(), chain.apply_fields(source), strict=False):
        told = link.reference.misfit(link.parameters, before.interface)
        found += [] if told is None else [f"{link.edit} is recorded otherwise than it can be: {told}"]
        width = link.parameters.get("width")
        start = origin(link.reads[0]) if link.reads and width is not None else None
        if start is not None:
            widths = infer_widths(source, chain.starts) if widths is None else widths
            real = widths.get(start)
            if real is not None and width != real:
                found.append(f"{link.edit} is recorded with a width of {width}, where {start} is {real} wide")
    return found


def name_unexplained_nodes(changed: Difference) -> list[str]:
    """Name the nodes that were added although no recorded edit adds any."""
    return [f"node {node.name or node.op_type!r} was added, and no recorded edit adds any" for node in changed.added]


def walk_outputs(source: Model, chain: Chain) -> Iterator[list[Value]]:
    """Yield the outputs before each link, and after all of them.

    In an output that an edit makes, an unknown dim stands for any that is not literal.
    """
    outputs = list(source.interface.outputs)
    yield outputs
    for link, before in zip(chain, chain.apply_fields(source), strict=False):
        batch = _find_batch_dim(before, outputs, link.reads[0] if link.reads else "")
        outputs = link.reference.outputs(link.parameters, outputs, batch)
        yield outputs


def _find_batch_dim(source: Model, outputs: Sequence[Value], name: str) -> Dim:
    """Return the batch dim of the value ``name``, which an edit reads: an output's own, or else that of the first input that
    declares one."""
    given = find_value(outputs, name)
    if given is not None and given.dims:
        return given.dims[0]
    leading = [value.dims[0] for value in source.interface.inputs if value.dims]
    known = [dim for dim in leading if dim is not None]
    return known[0] if known else None


def _is_same(found: Value, wanted: Value) -> bool:
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


def _join_values(values: Sequence[Value]) -> str:
    return ", ".join(map(str, values)) or "none"


VERB, WEIGHTS = "add-word-weights", "token_weights"
COPIES = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze")
"""Operators whose output holds the numbers of their first input."""


def find_short_tables(source: Model, output: Model, chain: Chain) -> Iterator[str]:
    """Yield, in words, each recorded table of word weights that is shorter than the encoder's embedding table."""
    for link, before in zip(chain, chain.apply_fields(source), strict=False):
        if link.edit != VERB:
            continue
        least, size = count_embedding_rows(before, link.parameters["ids"]), _count_word_weights(output, link)
        if least is not None and size is not None and size < least:
            yield f"{link.edit} has {size} word weights for an encoder of {least} words"


def count_embedding_rows(model: Model, ids: str) -> int | None:
    """Return the number of rows of the table in which the encoder looks the ids up; None if no node takes them unchanged."""
    names, rows = {ids}, []
    for node in list_all_nodes(model.proto.graph):
        if node.op_type in COPIES and names.intersection(node.input[:1]):
            names.update(node.output)
        elif node.op_type == "Gather" and names.intersection(node.input[1:]):
            table = model.initializers.get(node.input[0])
            rows += [int(table.dims[0])] if table is not None and len(table.dims) == 2 else []
    return max(rows, default=None)


def _count_word_weights(output: Model, link: Link) -> int | None:
    """Return the number of word weights in the file; None if they are not there, which the proof of the head tells."""
    held = (tensor for node in output.proto.graph.node for _, tensor in walk_tensors(node))
    vectors = [tensor for tensor in held if len(tensor.dims) == 1 and tensor.data_type == onnx.TensorProto.FLOAT]
    try:
        found = recorded(link.parameters, RecordedWeights([output.values(tensor) for tensor in vectors]))
    except GraphSurgeryError:
        return None
    return len(found[WEIGHTS]) if WEIGHTS in found else None
