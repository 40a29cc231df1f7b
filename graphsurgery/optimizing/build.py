"""An optimized model, made of the parts of the one before: its encoder rewritten, its head as it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import onnx
import onnxruntime

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import rewritten
from graphsurgery.optimizing.bare import SWITCHES, Fusing, fused
from graphsurgery.optimizing.kernels import POSITION_BIAS, with_biases, with_own_bias, without_kernel
from graphsurgery.optimizing.parts import Parts
from graphsurgery.optimizing.prepare import prepared
from graphsurgery.optimizing.rebuilt import document_of


@dataclass(frozen=True)
class Rewritten:
    """The encoder's graph after a rewrite, what to tell of it, and what the file is to record of it."""

    graph: onnx.ModelProto
    notes: tuple[str, ...]
    recorded: dict[str, Any]


def fused_encoder(given: onnx.ModelProto, fusing: Fusing, target: str) -> Rewritten:
    """The optimizer's fusions of ``given``, all of whose operators ``target`` can run.

    UnsupportedModelError where the optimizer fails, or makes what the target has no kernel for and what cannot be taken back.
    """
    made = fused(prepared(given), fusing)
    notes = [f"the optimizer warns: {said}" for said in made.said]
    graph = made.model
    if without_kernel(graph, target)[POSITION_BIAS]:
        graph = with_own_bias(graph, given)
        notes.append(f"{POSITION_BIAS} was taken back: the CPU has no kernel for it; the bias is computed as before")
    graph = with_biases(graph)
    lacking = without_kernel(graph, target)
    if lacking:
        listed = ", ".join(f"{name} ({count})" for name, count in sorted(lacking.items()))
        raise UnsupportedModelError(f"{target} has no kernel for {listed}", "optimize it with --portable")
    recorded = {
        "model_type": fusing.model_type, "heads": fusing.heads, "hidden": fusing.hidden, "off": sorted(fusing.off),
        "for": target, "onnxruntime": onnxruntime.__version__,
    }  # fmt: skip
    return Rewritten(graph, tuple(notes), recorded)


def assembled(parts: Parts, given: onnx.ModelProto, made: Rewritten, source: Model) -> Model:
    """The head of ``parts`` on the rewritten encoder, with a record of the rewrite; ``source`` is what it was made from."""
    document = rewritten(document_of(parts.encoder, given, made.graph), made.recorded, source.fingerprint)
    return parts.joined(replace(parts.encoder, document=document, loaded=None))


def safer(fusing: Fusing) -> Iterator[Fusing]:
    """What to try when a fused graph is wrong: without each fusion, the likeliest first; then without more and more."""
    names = [name for name in SWITCHES if name not in fusing.off]
    for name in names:
        yield fusing.without(name)
    for count in range(2, len(names) + 1):
        yield fusing.without(*names[:count])
