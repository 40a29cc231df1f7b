"""The check of an output's interface: the source's inputs, the outputs that edits make or keep, and tables of word weights."""

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
from graphsurgery.references.nested import list_all_nodes
from graphsurgery.references.recorded_weights import RecordedWeights
from graphsurgery.references.reference import LITERAL, find_value

WEIGHTS = "token_weights"
COPIES = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze")
"""Operators whose output holds the numbers of their first input."""


def find_broken_promises(source: Model, output: Model, chain: Chain) -> list[str]:
    """Say how the output's interface differs from the interface that ``chain`` promises."""
    wrong = []
    inputs = chain.apply_fields(source)[-1].interface.inputs
    if output.interface.inputs != inputs:
        wrong.append(f"the inputs are {_join_values(output.interface.inputs)} instead of {_join_values(inputs)}")
    *_, wanted = walk_outputs(source, chain)
    wrong += find_short_tables(source, output, chain)
    outputs = output.interface.outputs
    if [value.name for value in outputs] != [value.name for value in wanted]:
        return [*wrong, f"the outputs are {_join_values(outputs)} instead of {_join_values(wanted)}"]
    pairs = zip(outputs, wanted, strict=True)
    return wrong + [f"an output is declared as {one} instead of {other}" for one, other in pairs if not _is_same(one, other)]


def find_record_misfits(source: Model, chain: Chain) -> list[str]:
    """Say how the recorded edits cannot have been applied to ``source``. If there is a reason, nothing needs to be run."""
    graph = source.proto.graph
    names = {info.name for info in graph.input} | set(source.initializers)
    names |= {name for node in graph.node for name in node.output}
    wrong = [f"an edit reads {name!r}, which the source does not have" for name in chain.starts if name not in names]
    widths: dict[str, int] | None = None
    for (link, in_source), before in zip(chain.walk_from_source(), chain.apply_fields(source), strict=False):
        misfit = link.reference.misfit(link.parameters, before.interface)
        misfit = misfit or link.reference.misfit_in_graph(link.parameters, before.proto.graph)
        wrong += [] if misfit is None else [f"the record of {link.edit} does not fit the source: {misfit}"]
        width = link.parameters.get("width")
        start = in_source(link.reads[0]) if link.reads and width is not None else None
        if start is not None:
            widths = infer_widths(source, chain.starts) if widths is None else widths
            real = widths.get(start)
            if real is not None and width != real:
                wrong.append(f"{link.edit} is recorded with a width of {width}, but the width of {start} is {real}")
    return wrong


def name_unexplained_nodes(changed: Difference) -> list[str]:
    """Name the nodes that were added, for a chain of edits that add none."""
    return [f"node {node.name or node.op_type!r} was added, but no recorded edit adds any" for node in changed.added]


def name_values_that_are_back(source: Model, fields: Model, chain: Chain, changed: Difference) -> list[str]:
    """Name the values of the source that an edit drops, and that the output still computes."""
    before, after = ({name for node in one.proto.graph.node for name in node.output} for one in (source, fields))
    back = sorted(changed.made & (before - after) - chain.made)
    return [f"value {name!r}, which an edit drops, is still computed" for name in back]


def walk_outputs(source: Model, chain: Chain) -> Iterator[list[Value]]:
    """Yield the outputs before each link, and after all of them.

    In an output that an edit makes, an unknown dim stands for any dim that is not literal.
    """
    outputs = list(source.interface.outputs)
    yield outputs
    for link, before in zip(chain, chain.apply_fields(source), strict=False):
        batch = _find_batch_dim(before, outputs, link.reads[0] if link.reads else "")
        outputs = link.reference.outputs(link.parameters, outputs, batch)
        yield outputs


def _find_batch_dim(source: Model, outputs: Sequence[Value], name: str) -> Dim:
    """Return the batch dim of the value ``name`` that an edit reads: an output's own, else that of the first input with one."""
    output = find_value(outputs, name)
    if output is not None and output.dims:
        return output.dims[0]
    leading = [value.dims[0] for value in source.interface.inputs if value.dims]
    return next((dim for dim in leading if dim is not None), None)


def _is_same(declared: Value, wanted: Value) -> bool:
    if declared == wanted:
        return True
    if wanted.dims is None or declared.dims is None or len(declared.dims) != len(wanted.dims):
        return False
    if LITERAL not in wanted.dims and wanted.dims != declared.dims:
        return False
    return declared.dtype == wanted.dtype and all(map(_dim_fits, declared.dims, wanted.dims))


def _dim_fits(declared: Dim, wanted: Dim) -> bool:
    if wanted is None:
        return not isinstance(declared, int)
    return isinstance(declared, int) if wanted == LITERAL else declared == wanted


def _join_values(values: Sequence[Value]) -> str:
    return ", ".join(map(str, values)) or "none"


def find_short_tables(source: Model, output: Model, chain: Chain) -> Iterator[str]:
    """Yield, in words, each recorded table of word weights that is shorter than the encoder's embedding table."""
    for link, before in zip(chain, chain.apply_fields(source), strict=False):
        if link.edit != "add-word-weights":
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
    """Return the number of word weights in the file; None if they are missing, which the head proof reports."""
    held = (tensor for node in output.proto.graph.node for _, tensor in walk_tensors(node))
    vectors = [tensor for tensor in held if len(tensor.dims) == 1 and tensor.data_type == onnx.TensorProto.FLOAT]
    try:
        weights = RecordedWeights([output.values(tensor) for tensor in vectors]).find_all(link.parameters["digests"])
    except GraphSurgeryError:
        return None
    return len(weights[WEIGHTS]) if WEIGHTS in weights else None
