"""The rewrite ``rotary``: one operator for rotary positions in queries and keys, whichever program exported them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from graphsurgery.compare.tolerance import FLOAT32
from graphsurgery.edits.edit import parameter
from graphsurgery.encoder.attention import find_attentions
from graphsurgery.encoder.flow import Flow
from graphsurgery.encoder.head import read_padding_free_form
from graphsurgery.encoder.rotations import Rotation
from graphsurgery.errors import NothingToOptimizeError, RequestError, UnsupportedModelError
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.operators import ROTATIONS, get_operator, get_short_name
from graphsurgery.graph.write_back import LARGEST_FOLDED, load_for_rewrite, to_document
from graphsurgery.model.model import Model
from graphsurgery.rewrites.attention.reading import NotConvertibleError
from graphsurgery.rewrites.conversions import describe_conversion, finish_conversion, require_opset
from graphsurgery.rewrites.detect_architecture import detect_architecture
from graphsurgery.rewrites.padding_free.lower import ROW_BY_ROW
from graphsurgery.rewrites.rewrite import Context, Rewrite, Rewritten
from graphsurgery.rewrites.rotary.convert import OPERATORS, convert_rotation
from graphsurgery.rewrites.simplify.simplify import simplify
from graphsurgery.rewrites.unchangeable import require_open_encoder


@dataclass(frozen=True)
class FuseRotary(Rewrite):
    """Replace rotary positions that consist of many nodes by one operator for queries and one for keys.

    They are found by what their nodes compute. Cosines and sines are computed as before, in every run. Each rotation is
    converted on its own; one that cannot be converted stays as it is, and a note says why. The graph is simplified first.
    """

    name: ClassVar[str] = "rotary"
    summary: ClassVar[str] = "compute rotary positions with one operator"
    exactness: ClassVar[str] = FLOAT32
    doing: ClassVar[str] = "fusing the rotary positions"

    operator: str = parameter(
        "The operator: RotaryEmbedding of ONNX Runtime (vendor), or that of ONNX since opset 23 (standard).",
        "vendor", "|".join(OPERATORS),
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Raise RequestError for an unknown operator."""
        if self.operator not in OPERATORS:
            raise RequestError(f"there is no operator {self.operator!r}", f"choose from {', '.join(OPERATORS)}")

    def check(self, model: Model) -> None:
        if read_padding_free_form(model) == ROW_BY_ROW:
            what = "the encoder is padding-free, and rotary positions inside of its loops over rows are not looked for"
            raise UnsupportedModelError(what, "apply rotary before padding-free")
        if self.operator == "standard":
            require_opset(model, OPERATORS[self.operator])

    def apply(self, encoder: Model, context: Context) -> Rewritten:
        given = load_for_rewrite(encoder, LARGEST_FOLDED)
        work = Editor(simplify(given).model)
        flow, facts = Flow.of(encoder, work), Facts(work)
        found = {one.node: one for attention in find_attentions(flow) for one in attention.rotations}
        rotations = list(found.values())
        names = [one.value.name or "" for one in rotations]
        done = [self._convert(work, flow, facts, one) for one in rotations]
        made_of = [name for name, reason in zip(names, done, strict=True) if reason is None]
        made, name = finish_conversion(work, self.operator), OPERATORS[self.operator].rpartition(".")[2]
        notes = tuple(describe_conversion("rotation", name, done))
        nothing = None
        if not made_of:
            require_open_encoder(encoder)
            what = f"no rotary positions can become one operator ({'; '.join(notes)})"
            nothing = NothingToOptimizeError(what, "see `graphsurgery inspect`")
        after = replace(encoder, document=to_document(encoder, given, made), loaded=None)
        return Rewritten(
            after,
            {"rotary": self.operator},
            notes,
            unchanged=nothing,
            architecture=detect_architecture(encoder),
            fused=dict.fromkeys(made_of, name),
        )

    def _convert(self, work: Editor, flow: Flow, facts: Facts, rotation: Rotation) -> str | None:
        """Convert one rotation. Return None, or the reason why it stays as it is."""
        if get_operator(rotation.node) in ROTATIONS:
            return f"it is one operator already, {get_short_name(rotation.node)}"
        try:
            convert_rotation(work, flow, facts, rotation, self.operator)
        except NotConvertibleError as reason:
            return str(reason)
        return None

    @classmethod
    def from_record(cls, parameters: Mapping[str, Any]) -> Self | None:
        operator = parameters.get("rotary")
        return cls(operator) if operator in OPERATORS else None

    def __str__(self) -> str:
        return "rotary positions as RotaryEmbedding" + (" of ONNX" if self.operator == "standard" else "")
