"""Whether word weights cover the encoder's vocabulary. Drawn ids cannot tell: they never go beyond what `tables_of` found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import onnx

from graphsurgery.errors import GraphSurgeryError
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import Step
from graphsurgery.model.schema import tensors
from graphsurgery.references.chain import declared
from graphsurgery.references.dense import recorded
from graphsurgery.references.nested import every_node
from graphsurgery.references.recorded_weights import RecordedWeights

VERB, WEIGHTS = "add-word-weights", "token_weights"
COPIES = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze")
"""Operators whose output holds the numbers of their first input."""


def uncovered(source: Model, output: Model, steps: Sequence[Step]) -> Iterator[str]:
    """Yield, in words, each recorded table of word weights that is shorter than the encoder's embedding table."""
    for place, step in enumerate(steps):
        if step.edit != VERB:
            continue
        least, size = rows_read(declared(source, steps[:place]), step.parameters["ids"]), _size(output, step)
        if least is not None and size is not None and size < least:
            yield f"{step.edit} has {size} word weights for an encoder of {least} words"


def rows_read(model: Model, ids: str) -> int | None:
    """How many rows the table has that the encoder looks the ids up in; None where no node takes them as they are."""
    names, rows = {ids}, []
    for node in every_node(model.proto.graph):
        if node.op_type in COPIES and names.intersection(node.input[:1]):
            names.update(node.output)
        elif node.op_type == "Gather" and names.intersection(node.input[1:]):
            table = model.initializers.get(node.input[0])
            rows += [int(table.dims[0])] if table is not None and len(table.dims) == 2 else []
    return max(rows, default=None)


def _size(output: Model, step: Step) -> int | None:
    """How many word weights the file has; None if they are not there, which the proof of the head tells."""
    held = chain.from_iterable(map(tensors, output.proto.graph.node))
    vectors = [tensor for _, tensor in held if len(tensor.dims) == 1 and tensor.data_type == onnx.TensorProto.FLOAT]
    try:
        found = recorded(step.parameters, RecordedWeights([output.values(tensor) for tensor in vectors]))
    except GraphSurgeryError:
        return None
    return len(found[WEIGHTS]) if WEIGHTS in found else None
