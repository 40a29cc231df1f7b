"""The rewrite ``simplify``: fewer nodes, all of them standard operators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import onnx

from graphsurgery.compare.tolerance import FLOAT32
from graphsurgery.errors import NothingToOptimizeError, UnsupportedModelError
from graphsurgery.graph.schemas import count_vendor_operators
from graphsurgery.graph.write_back import LARGEST_FOLDED, load_for_rewrite, to_document
from graphsurgery.model.model import Model
from graphsurgery.rewrites.detect_architecture import detect_architecture
from graphsurgery.rewrites.rewrite import Context, Rewrite, Rewritten
from graphsurgery.rewrites.simplify.simplify import simplify
from graphsurgery.rewrites.unchangeable import require_open_encoder


@dataclass(frozen=True)
class Simplify(Rewrite):
    """Fold constants, merge equal nodes, and drop nodes that change nothing. Every operator stays a standard one."""

    name: ClassVar[str] = "simplify"
    summary: ClassVar[str] = "compute the same with fewer nodes, all of them standard operators"
    exactness: ClassVar[str] = FLOAT32
    doing: ClassVar[str] = "simplifying the graph"

    def check(self, model: Model) -> None:
        vendors = count_vendor_operators(model.proto)
        if not vendors:
            return
        listed = ", ".join(f"{name} ({count})" for name, count in vendors.items())
        what = f"the graph has operators of one vendor: {listed}"
        raise UnsupportedModelError(what, "simplify the file from which it was made")

    def apply(self, encoder: Model, context: Context) -> Rewritten:
        given = load_for_rewrite(encoder, LARGEST_FOLDED)
        done = simplify(given, tables=not encoder.externals)  # a new table would not lie beside the others
        nothing = None
        if _nodes(given) == _nodes(done.model) and len(given.graph.initializer) == len(done.model.graph.initializer):
            require_open_encoder(encoder)
            nothing = NothingToOptimizeError(
                "simplifying changes nothing in this graph", "use it as it is; see `graphsurgery inspect`"
            )
        counted = ", ".join(f"{name} {count}" for name, count in done.counts.items() if count)
        notes = [f"{done.before} nodes became {done.after}" + (f": {counted}" if counted else "")]
        after = replace(encoder, document=to_document(encoder, given, done.model), loaded=None)
        if after.weight_bytes < encoder.weight_bytes:
            notes.append(f"the weights take {after.weight_bytes:,} bytes instead of {encoder.weight_bytes:,}")
        architecture = detect_architecture(encoder)
        return Rewritten(after, {"portable": True}, tuple(notes), unchanged=nothing, architecture=architecture)

    @classmethod
    def from_record(cls, parameters: Mapping[str, Any]) -> Self | None:
        return cls() if parameters.get("portable") else None

    def __str__(self) -> str:
        return "standard operators"


def _nodes(model: onnx.ModelProto) -> list[bytes]:
    return sorted(node.SerializeToString(deterministic=True) for node in model.graph.node)
