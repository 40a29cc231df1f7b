"""The rewrite ``attention``: one operator for each attention of an encoder, whichever program exported it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from graphsurgery.compare.tolerance import FLOAT32
from graphsurgery.edits.edit import parameter
from graphsurgery.encoder.attention import Attention, find_attentions
from graphsurgery.encoder.flow import Flow
from graphsurgery.errors import NothingToOptimizeError, RequestError
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.operators import get_short_name
from graphsurgery.graph.write_back import LARGEST_FOLDED, load_for_rewrite, to_document
from graphsurgery.model.model import Model
from graphsurgery.rewrites.attention.convert import OPERATORS, convert_attention
from graphsurgery.rewrites.attention.einsums import spell_out_einsums
from graphsurgery.rewrites.attention.key_masks import KeyMasks
from graphsurgery.rewrites.attention.reading import NotConvertibleError
from graphsurgery.rewrites.conversions import describe_conversion, finish_conversion, require_opset
from graphsurgery.rewrites.detect_architecture import detect_architecture
from graphsurgery.rewrites.rewrite import Context, Rewrite, Rewritten
from graphsurgery.rewrites.simplify.simplify import simplify
from graphsurgery.rewrites.unchangeable import require_open_encoder


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
        if self.operator == "standard":
            require_opset(model, OPERATORS[self.operator])

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
        made, name = finish_conversion(work, self.operator), OPERATORS[self.operator].rpartition(".")[2]
        notes = tuple(describe_conversion("attention", name, done))
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
            fused=dict.fromkeys(made_of, name),
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
