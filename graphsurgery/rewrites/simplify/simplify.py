"""Simplify a model: the same outputs from fewer nodes, all of them standard operators at the model's own opset.

The promises: the outputs are the same bit for bit if a runtime computes and rounds each node by itself. Inputs and outputs keep
their names, element types and dims. A second run changes nothing. Dims of inputs with the same name are taken to be the same
size, as the standard has it, and sizes that a run decides are taken to be 1 or more.

A runtime that fuses nodes may round differently if there is more to fuse. ONNX Runtime differs by up to 2e-6 of the largest
value. For float16 on the CPU, which it computes in float32 as long as no other node reads a value, it differs by that type's
own rounding.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import onnx

from graphsurgery.graph.editor import Editor
from graphsurgery.graph.facts import Facts
from graphsurgery.rewrites.simplify.branches import take_branches
from graphsurgery.rewrites.simplify.constants import fold_constants
from graphsurgery.rewrites.simplify.duplicates import merge_duplicates
from graphsurgery.rewrites.simplify.identities import drop_identities
from graphsurgery.rewrites.simplify.pairs import join_pairs
from graphsurgery.rewrites.simplify.patterns import find_pattern_values
from graphsurgery.rewrites.simplify.shapes import simplify_shapes
from graphsurgery.rewrites.simplify.tables import fold_tables


def drop_dead(graph: Editor, _: Facts) -> int:
    """Remove nodes and initializers that nothing reads, and return how many."""
    return graph.remove_unread()


SIMPLIFICATIONS = {
    "branches": take_branches, "constants": fold_constants, "shapes": simplify_shapes, "identities": drop_identities,
    "pairs": join_pairs, "duplicates": merge_duplicates, "dead": drop_dead,
}  # fmt: skip
"""The simplifications in the order in which they run. They run again until none of them finds anything."""


@dataclass(frozen=True)
class Simplified:
    """A simplified model, and how many simplifications were made."""

    model: onnx.ModelProto
    before: int
    """The number of nodes of the main graph before."""
    after: int
    counts: dict[str, int] = field(default_factory=dict)
    """By the name of each of `SIMPLIFICATIONS`: how many constants, nodes and the like it simplified or removed."""


def simplify(model: onnx.ModelProto, *, tables: bool = False) -> Simplified:
    """Return ``model`` with fewer nodes. ``model`` itself is not changed.

    ``tables`` lets lookups of a single row be folded into the table of another lookup, which is then stored anew.

    Weights may be in the model, in external data, which are left alone, or elsewhere with a placeholder in the model.

    Raises MalformedModelError if a name stands for two values, or a value is computed from itself.
    """
    work = Editor(model)
    counts: Counter[str] = Counter()
    changed = True
    while changed:
        work.update_pinned()
        work.protected = find_pattern_values(work)
        facts = Facts(work)
        found = {name: run(work, facts) for name, run in SIMPLIFICATIONS.items()}
        found |= {"tables": fold_tables(work)} if tables else {}
        counts.update(found)
        changed = any(found.values())
    done = work.finish()
    return Simplified(done, len(model.graph.node), len(done.graph.node), dict(counts))
