"""The rewrite ``attention``: one operator for each attention of an encoder, whichever program exported it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, ClassVar, Self

import onnx

from graphsurgery.compare.tolerance import FLOAT32
from graphsurgery.edits.edit import parameter
from graphsurgery.encoder.attention import Attention, find_attentions
from graphsurgery.encoder.flow import Flow
from graphsurgery.errors import NothingToOptimizeError, RequestError, UnsupportedModelError
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import VENDOR, get_short_name
from graphsurgery.graph.write_back import LARGEST_FOLDED, load_for_rewrite, to_document
from graphsurgery.model.model import Model
from graphsurgery.rewrites.attention.convert import OPERATORS, convert_attention
from graphsurgery.rewrites.attention.einsums import spell_out_einsums
from graphsurgery.rewrites.attention.key_masks import KeyMasks
from graphsurgery.rewrites.attention.reading import NotConvertibleError
from graphsurgery.rewrites.detect_architecture import detect_architecture
from graphsurgery.rewrites.rewrite import Context, Rewrite, Rewritten
from graphsurgery.rewrites.simplify.duplicates import merge_duplicates
from graphsurgery.rewrites.simplify.simplify import drop_dead, simplify
from graphsurgery.rewrites.unchangeable import require_open_encoder

FIRST_OPSET = 23
"""The first opset with an Attention."""


@dataclass(frozen=True)
class FuseAttention(Rewrite):
    """Replace each attention that consists of many nodes by one operator.

    The attentions are found by what they compute, not by the names or the order of an exporter's nodes. Each is converted on
    its own; one that cannot be converted stays as it is, and a note says why. The graph is simplified first, so that shapes
    and factors are constants, and where an attention multiplies by Einsum, that becomes a MatMul.
    """

    name: ClassVar[str] = "attention"
    summary: ClassVar[str] = "compute each attention with one operator"
    exactness: ClassVar[str] = FLOAT32
    doing: ClassVar[str] = "fusing the attentions"

    operator: str = parameter(
        "The operator: MultiHeadAttention of ONNX Runtime (vendor), or Attention of ONNX since opset 23 (standard).",
        "vendor", "|".join(OPERATORS),
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Raise RequestError for an unknown operator."""
        if self.operator not in OPERATORS:
            raise RequestError(f"there is no operator {self.operator!r}", f"choose from {', '.join(OPERATORS)}")

    def check(self, model: Model) -> None:
        opset = Graph.of(model).opset
        if self.operator == "standard" and opset < FIRST_OPSET:
            what = f"the model has opset {opset}, and ONNX has an Attention since opset {FIRST_OPSET}"
            advice = f'export the model with opset {FIRST_OPSET}, or choose the operator "vendor"'
            raise UnsupportedModelError(what, f"{advice}; the opset of a model is not raised")

    def apply(self, encoder: Model, context: Context) -> Rewritten:
        given = load_for_rewrite(encoder, LARGEST_FOLDED)
        work = Editor(simplify(given).model)
        flow = Flow.of(encoder, work)
        if spell_out_einsums(work, find_attentions(flow)):
            flow = Flow.of(encoder, work)
        facts = Facts(work)
        found, masks = find_attentions(flow), KeyMasks(flow, facts)
        names = [one.node.outputs[0].name or "" for one in found]
        done = [self._convert(work, masks, one) for one in found]
        made_of = [name for name, reason in zip(names, done, strict=True) if reason is None]
        while drop_dead(work, facts) + merge_duplicates(work, facts):
            work.update_pinned()
        made = work.finish()
        if self.operator == "vendor" and not any(one.domain == VENDOR for one in made.opset_import):
            made.opset_import.append(onnx.helper.make_opsetid(VENDOR, 1))
        notes = tuple(_describe(OPERATORS[self.operator], found, done))
        nothing = None
        if None not in done:
            require_open_encoder(encoder)
            nothing = NothingToOptimizeError(
                f"no attention can become one operator ({'; '.join(notes)})", "see `graphsurgery inspect`"
            )
        after = replace(encoder, document=to_document(encoder, given, made), loaded=None)
        return Rewritten(
            after,
            {"attention": self.operator},
            notes,
            unchanged=nothing,
            architecture=detect_architecture(encoder),
            fused=dict.fromkeys(made_of, OPERATORS[self.operator].rpartition(".")[2]),
        )

    def _convert(self, work: Editor, masks: KeyMasks, attention: Attention) -> str | None:
        """Convert one attention. Return None, or the reason why it stays as it is."""
        if attention.scores is None:
            return f"it is one operator already, {get_short_name(attention.node)}"
        try:
            convert_attention(work, masks, attention, self.operator)
        except NotConvertibleError as reason:
            return str(reason)
        return None

    @classmethod
    def from_record(cls, parameters: Mapping[str, Any]) -> Self | None:
        operator = parameters.get("attention")
        return cls(operator) if operator in OPERATORS else None

    def __str__(self) -> str:
        return f"attention as {OPERATORS[self.operator].rpartition('.')[2]}"


def _describe(operator: str, found: tuple[Attention, ...], done: list[str | None]) -> Iterator[str]:
    """Yield notes on what became of the attentions, one for neighbours that stay for the same reason."""
    if not found:
        yield "no attention was recognised in the graph"
        return
    yield f"{done.count(None)} of {len(found)} attentions became {operator.rpartition('.')[2]}"
    for reason, group in groupby(range(len(done)), key=done.__getitem__):
        places = list(group)
        if reason is not None:
            many = f"attentions {places[0]} to {places[-1]} stay as they are"
            yield f"{many if len(places) > 1 else f'attention {places[0]} stays as it is'}: {reason}"
