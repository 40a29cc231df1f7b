"""Whether word weights cover the encoder's vocabulary. Drawn ids cannot tell: they never go beyond what `find_tables` found."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from graphsurgery.errors import GraphSurgeryError
from graphsurgery.model.model import Model
from graphsurgery.model.schema import tensors
from graphsurgery.references.chain import Chain, Link
from graphsurgery.references.dense import recorded
from graphsurgery.references.nested import every_node
from graphsurgery.references.recorded_weights import RecordedWeights

VERB, WEIGHTS = "add-word-weights", "token_weights"
COPIES = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze")
"""Operators whose output holds the numbers of their first input."""


def uncovered(source: Model, output: Model, chain: Chain) -> Iterator[str]:
    """Yield, in words, each recorded table of word weights that is shorter than the encoder's embedding table."""
    for link, before in zip(chain, chain.declared(source), strict=False):
        if link.edit != VERB:
            continue
        least, size = rows_read(before, link.parameters["ids"]), _size(output, link)
        if least is not None and size is not None and size < least:
            yield f"{link.edit} has {size} word weights for an encoder of {least} words"


def rows_read(model: Model, ids: str) -> int | None:
    """Return the number of rows of the table in which the encoder looks the ids up; None if no node takes them unchanged."""
    names, rows = {ids}, []
    for node in every_node(model.proto.graph):
        if node.op_type in COPIES and names.intersection(node.input[:1]):
            names.update(node.output)
        elif node.op_type == "Gather" and names.intersection(node.input[1:]):
            table = model.initializers.get(node.input[0])
            rows += [int(table.dims[0])] if table is not None and len(table.dims) == 2 else []
    return max(rows, default=None)


def _size(output: Model, link: Link) -> int | None:
    """Return the number of word weights in the file; None if they are not there, which the proof of the head tells."""
    held = (tensor for node in output.proto.graph.node for _, tensor in tensors(node))
    vectors = [tensor for tensor in held if len(tensor.dims) == 1 and tensor.data_type == onnx.TensorProto.FLOAT]
    try:
        found = recorded(link.parameters, RecordedWeights([output.values(tensor) for tensor in vectors]))
    except GraphSurgeryError:
        return None
    return len(found[WEIGHTS]) if WEIGHTS in found else None
