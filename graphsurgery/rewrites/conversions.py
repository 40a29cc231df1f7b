"""What the rewrites `attention` and `rotary` share: each part of an encoder becomes one operator, or stays for a reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import onnx

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import VENDOR
from graphsurgery.model.model import Model
from graphsurgery.rewrites.simplify.duplicates import merge_duplicates
from graphsurgery.rewrites.simplify.identities import drop_identities
from graphsurgery.rewrites.simplify.pairs import join_pairs
from graphsurgery.rewrites.simplify.patterns import find_pattern_values
from graphsurgery.rewrites.simplify.simplify import drop_dead

FIRST_OPSET = 23
"""The first opset with an Attention and a RotaryEmbedding."""


def require_opset(model: Model, name: str) -> None:
    """Raise UnsupportedModelError if the opset of ``model`` is too old for the standard's operator ``name``."""
    opset = Graph.of(model).opset
    if opset < FIRST_OPSET:
        article = "an" if name.startswith("A") else "a"
        what = f"the model has opset {opset}, and ONNX has {article} {name} since opset {FIRST_OPSET}"
        advice = f'export the model with opset {FIRST_OPSET}, or choose the operator "vendor"'
        raise UnsupportedModelError(what, f"{advice}; the opset of a model is not raised")


def finish_conversion(work: Editor, operator: str) -> onnx.ModelProto:
    """Return the changed model, without nodes that nothing reads any more, duplicates, and Transposes that undo each other.

    Args:
        operator: "vendor" or "standard", the kind of operators that were made.
    """
    work.protected = find_pattern_values(work)
    facts = Facts(work)
    while sum(tidy(work, facts) for tidy in (drop_dead, merge_duplicates, join_pairs, drop_identities)):
        work.update_pinned()
        facts = Facts(work)
    made = work.finish()
    if operator == "vendor" and not any(one.domain == VENDOR for one in made.opset_import):
        made.opset_import.append(onnx.helper.make_opsetid(VENDOR, 1))
    return made


def describe_conversion(what: str, operator: str, done: Sequence[str | None]) -> Iterator[str]:
    """Yield notes on what became of the parts, one for neighbours that stay for the same reason.

    Args:
        what: the word for one part, such as "attention".
        operator: the name of the operator that they became.
        done: for each part None, or the reason why it stays as it is.
    """
    if not done:
        yield f"no {what} was recognised in the graph"
        return
    yield f"{done.count(None)} of {len(done)} {what}s became {operator}"
    for reason, group in groupby(range(len(done)), key=done.__getitem__):
        places = list(group)
        if reason is not None:
            many = f"{what}s {places[0]} to {places[-1]} stay as they are"
            yield f"{many if len(places) > 1 else f'{what} {places[0]} stays as it is'}: {reason}"
