"""add-splade-pooling: from a masked-language model's scores to one sparse vector per text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import onnx

from graphsurgery.deferred import gs
from graphsurgery.edits.draft_operators import FLOAT, Operators
from graphsurgery.edits.edit import GraphEdit, Resolved, parameter, require_opset, resolved_parameter
from graphsurgery.edits.outputs import (
    check_free,
    describe_dropped,
    ensure_first_output,
    find_width,
    set_first_output,
    split_outputs,
)
from graphsurgery.edits.token_mask import Mask, build_mask, find_mask, ids_parameter, mask_parameter
from graphsurgery.encoder.head import EMBEDDING, explain_pooling
from graphsurgery.encoder.hidden_state import HiddenState, find_logits
from graphsurgery.errors import AlreadyAppliedError, RequestError
from graphsurgery.interface import Interface
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model

STRATEGIES = ("max", "sum")
LOGARITHMS = {"relu": 1, "log1p_relu": 2}
"""How often each activation applies log(1 + x) to relu(x)."""


def splade(ops: Operators, x: gs.Tensor, m: gs.Tensor, strategy: str, activation: str) -> gs.Variable:
    """Build ``[batch, vocabulary]``: the activation's max, or sum, over the positions with m = 1.

    ``x [batch, seq, vocabulary]`` float32 are the scores, ``m [batch, seq]`` bool is true at tokens. Padding gives 0, and the
    activation is never less. It is monotonic, so ``max`` computes it once per row, of the largest score. ReduceMax would hide
    the encoder from the optimizer (see `pooling_graph`).
    """
    masked = ops.node("Where", ops.unsqueeze(m, 2, "mask_3d"), x, ops.constant(0.0, np.float32, "zero"), name="masked")
    if strategy == "sum":
        return ops.reduce_sum(_activate(ops, masked, activation), 1, "sum")
    where = ops.node("ArgMax", masked, name="where", axis=1, keepdims=1)
    largest = ops.squeeze(ops.node("GatherElements", masked, where, name="largest_3d", axis=1), 1, "largest")
    return _activate(ops, largest, activation)


def _activate(ops: Operators, x: gs.Tensor, activation: str) -> gs.Variable:
    """Build log(1 + relu(x)), or log(1 + log(1 + relu(x)))."""
    y = ops.node("Relu", x, name="relu")
    one = ops.constant(1.0, np.float32, "one")
    for _ in range(LOGARITHMS[activation]):
        y = ops.node("Log", ops.node("Add", y, one, name="raised"), name="log")
    return y


@dataclass(frozen=True)
class Scores:
    """The values that SPLADE pooling starts from."""

    scores: HiddenState
    mask: Mask


@dataclass(frozen=True)
class AddSpladePooling(GraphEdit[Scores]):
    """Append SPLADE pooling: scores ``x [batch, seq, vocabulary]`` -> ``sentence_embedding [batch, vocabulary]`` float32.

    The result is the max over the tokens, or the sum, of ``log(1 + relu(x))``, or of ``log(1 + log(1 + relu(x)))`` with
    ``--activation log1p_relu``. The result equals that of sentence-transformers' SpladePooling module (arXiv 2109.10086,
    2504.14839), except that padded positions never contribute, whatever their values are. A row without any token gives zeros.
    """

    strategy: str = parameter("How the tokens are combined: max or sum.", "max", "max|sum")
    activation: str = parameter(
        "relu for log(1 + relu(x)), log1p_relu for log(1 + log(1 + relu(x))).", "relu", "NAME", positional=True
    )
    target: str | None = parameter(
        "The scores.", None, "NAME", otherwise="logits, else the only output as wide as the vocabulary"
    )
    mask: str | None = mask_parameter()
    ids: str | None = ids_parameter()
    output_name: str = parameter("The name of the embedding.", EMBEDDING, "NAME")
    keep_output: tuple[str, ...] = parameter("An output of the encoder to keep. The others are dropped.", (), "NAME")
    width: int = resolved_parameter(0)

    def resolve(self, model: Model) -> Resolved[Self, Scores]:
        """Find target, mask and ids.

        Raises AlreadyAppliedError, NothingToPoolError, MaskError, NameNotFoundError, UnsupportedModelError (opset, width), and
        RequestError for an unknown strategy or activation.
        """
        require_opset(model, self.verb)
        for what, name, known in (("strategy", self.strategy, STRATEGIES), ("activation", self.activation, LOGARITHMS)):
            if name not in known:
                raise RequestError(f"there is no {what} {name!r}", f"choose from {', '.join(known)}")
        reason = explain_pooling(model)
        if reason is not None:
            raise AlreadyAppliedError(f"the model already pools: {reason}", "remove its head with strip-head first")
        scores = find_logits(model, self.target, self.ids)
        mask = find_mask(model, self.mask, self.ids, scores.name)
        check_free(model, self.output_name)
        kept, dropped = split_outputs(model, self.keep_output)
        width = find_width(model, scores)
        edit = replace(
            self, target=scores.name, mask=str(mask.spec), ids=mask.ids, keep_output=kept, width=width,
        )  # fmt: skip
        note = f"computes the {self.strategy} over the tokens of {scores.name}, {width} words wide, mask {mask.spec}"
        return Resolved(edit, Scores(scores, mask), (note, *describe_dropped(dropped), *mask.warnings))

    def change(self, draft: Draft, found: Scores) -> None:
        ops = Operators(draft, "graphsurgery/splade")
        x = draft.tensor(found.scores.name)
        if found.scores.dtype != onnx.TensorProto.FLOAT:
            x = ops.cast(x, FLOAT, "float32")
        pooled = splade(ops, x, build_mask(ops, found.mask, x), self.strategy, self.activation)
        set_first_output(draft, pooled, self.output_name, found.scores.batch, self.width, self.keep_output)

    def ensure(self, before: Interface, after: Interface) -> None:
        super().ensure(before, after)
        ensure_first_output(self.verb, before, after, self.output_name, self.keep_output)
