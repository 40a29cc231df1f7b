"""The rewrite ``half``: the encoder in float16 or bfloat16."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import onnx

from graphsurgery.compare.tolerance import LOSSY
from graphsurgery.edits.edit import parameter
from graphsurgery.errors import NothingToOptimizeError, RequestError, UnsupportedModelError
from graphsurgery.graph.element_types import FLOAT
from graphsurgery.graph.write_back import to_document
from graphsurgery.interface import Interface, Value
from graphsurgery.model.dtypes import NAMES
from graphsurgery.model.model import Model, fill_weights
from graphsurgery.proof.golden_values import HALF
from graphsurgery.rewrites.half.convert import to_half
from graphsurgery.rewrites.half.measure import find_float32_nodes
from graphsurgery.rewrites.head_parts import split_head
from graphsurgery.rewrites.rewrite import Context, Rewrite, Rewritten
from graphsurgery.rewrites.unchangeable import require_open_encoder

PRECISIONS = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}
FOR_GPUS = {
    "FLOAT16": "half precision pays on GPUs: ONNX Runtime's CPU computes much of float16 in float32, with casts around it",
    "BFLOAT16": "half precision pays on GPUs: ONNX Runtime's CPU has no kernels for bfloat16, and does not load this file",
}
OLDEST_IR_VERSION = 4
"""The IR version from which weights need not be inputs."""


@dataclass(frozen=True)
class Half(Rewrite):
    """Convert the encoder to half precision. Nodes that would overflow, or that contribute most to the rounding error, stay
    float32; so does the head."""

    name: ClassVar[str] = "half"
    summary: ClassVar[str] = "compute the encoder in half precision"
    exactness: ClassVar[str] = LOSSY
    doing: ClassVar[str] = "measuring activations"

    precision: str = parameter("fp16 or bf16.", "fp16", "fp16|bf16")
    io: bool = parameter("Give float inputs and outputs half precision, too; only for an encoder without a head.", False)

    def __post_init__(self) -> None:
        """Raise RequestError for an unknown precision."""
        if self.precision not in PRECISIONS:
            raise RequestError(f"there is no precision {self.precision!r}", f"choose from {', '.join(PRECISIONS)}")

    @property
    def kind(self) -> int:
        """The element type in which the encoder will compute."""
        return PRECISIONS[self.precision]

    @property
    def is_for_gpus(self) -> bool:
        return True

    def check(self, model: Model) -> None:
        if model.proto.ir_version < OLDEST_IR_VERSION:
            what = f"the file has IR version {model.proto.ir_version}, in which every weight is an input"
            raise UnsupportedModelError(what, "export it again, or raise it with onnx.version_converter")
        if self.io and split_head(model).head:
            raise RequestError(
                "the head takes float32, and its edits say what it gives",
                "leave out --half-io, or take its head off with strip-head",
            )

    def apply(self, encoder: Model, context: Context) -> Rewritten:
        """Convert ``encoder``. Raises as `to_half` and `find_float32_nodes`; NothingToOptimizeError if no node can be
        converted."""
        source, name = fill_weights(encoder.proto, encoder), NAMES[self.kind]
        kept = find_float32_nodes(source, context.feeds(encoder), self.kind)
        if not kept.others:
            require_open_encoder(encoder)
            raise NothingToOptimizeError(
                f"no node of this graph can compute in {name.lower()}", "leave out --fp16 and --bf16 (the rewrite `half`)"
            )
        made = to_half(source, self.kind, kept.nodes, self.kind if self.io else FLOAT)
        return Rewritten(
            replace(encoder, document=to_document(encoder, source, made), loaded=None),
            {"precision": name.lower(), "float32_nodes": len(kept.nodes)} | ({"half_io": True} if self.io else {}),
            (*kept.summarise(), FOR_GPUS[name]),
            keeps_goldens=self.kind != onnx.TensorProto.BFLOAT16,
            golden_limits=HALF,
            loss=kept.to_json(),
        )

    def interface(self, before: Interface) -> Interface:
        if not self.io:
            return before
        inputs, outputs = (tuple(map(self._convert_value, side)) for side in (before.inputs, before.outputs))
        return replace(before, inputs=inputs, outputs=outputs)

    def _convert_value(self, value: Value) -> Value:
        return replace(value, dtype=self.kind) if value.dtype == FLOAT else value

    @classmethod
    def from_record(cls, parameters: Mapping[str, Any]) -> Self | None:
        by_type = {NAMES[kind].lower(): precision for precision, kind in PRECISIONS.items()}
        precision = by_type.get(str(parameters.get("precision")))
        return None if precision is None else cls(precision, bool(parameters.get("half_io")))
