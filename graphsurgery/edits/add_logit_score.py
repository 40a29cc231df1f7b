"""add-logit-score: from a causal language model's logits to the score of a reranker."""

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
from graphsurgery.edits.pooling_graph import pool
from graphsurgery.edits.token_mask import Mask, build_mask, find_mask, ids_parameter, mask_parameter
from graphsurgery.encoder.head import explain_pooling
from graphsurgery.encoder.hidden_state import HiddenState, find_logits
from graphsurgery.errors import AlreadyAppliedError, NothingToPoolError, RequestError
from graphsurgery.interface import Interface
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model

LAST = ("lasttoken",)
SCORES = "scores"
MOST_DIGITS = 9


def score(ops: Operators, x: gs.Tensor, m: gs.Tensor, tokens: tuple[int, ...]) -> gs.Variable:
    """Build ``[batch, 1]``: the first token's logit at the last position with m = 1, minus that of the second token, if any.

    ``x [batch, seq, vocabulary]`` float32 are the logits, ``m [batch, seq]`` bool is true at tokens. The columns of the tokens
    are taken first, so that no later value is as wide as the vocabulary. A row without any token gives 0.
    """
    columns = ops.node("Gather", x, ops.constant(list(tokens), np.int64, "tokens"), name="columns", axis=2)
    last = pool(ops, columns, m, len(tokens), LAST)
    if len(tokens) == 1:
        return last
    logits = [ops.node("Gather", last, ops.constant([place], np.int64, "place"), name="logit", axis=1) for place in (0, 1)]
    return ops.node("Sub", *logits, name="log_odds")


@dataclass(frozen=True)
class Logits:
    """The values that the score is computed from."""

    logits: HiddenState
    mask: Mask
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class AddLogitScore(GraphEdit[Logits]):
    """Append the score of a reranker that answers yes or no: ``x [batch, seq, vocabulary]`` -> ``scores [batch, 1]`` float32.

    The score is ``x[last, true] - x[last, false]``, the log-odds of the two tokens as the continuation of the text. Without a
    false token it is ``x[last, true]``. The result equals that of sentence-transformers' LogitScore module (version 6), except
    for padding: that module reads the last position, and so needs padding on the left; this edit reads the last token,
    whichever side is padded. A row without any token gives 0.
    """

    true_token: str = parameter("The id of the token that means yes.", "", "ID", takes=int | str, required=True)
    false_token: str | None = parameter("The id of the token that means no.", None, "ID", takes=int | str | None)
    target: str | None = parameter(
        "The logits.", None, "NAME", otherwise="logits, else the only output as wide as the vocabulary"
    )
    mask: str | None = mask_parameter()
    ids: str | None = ids_parameter()
    output_name: str = parameter("The name of the score.", SCORES, "NAME")
    keep_output: tuple[str, ...] = parameter("An output of the encoder to keep. The others are dropped.", (), "NAME")
    width: int = resolved_parameter(0)

    def resolve(self, model: Model) -> Resolved[Self, Logits]:
        """Find target, mask and ids.

        Raises AlreadyAppliedError, NothingToPoolError, MaskError, NameNotFoundError, UnsupportedModelError (opset, width), and
        RequestError for tokens that the vocabulary does not have.
        """
        require_opset(model, self.verb)
        true, false = _read_token(self.true_token, "--true-token"), _read_token(self.false_token, "--false-token")
        if true is None:
            raise RequestError("add-logit-score needs the id of the token that means yes", "give it with --true-token")
        if true == false:
            raise RequestError(f"both tokens are {true}, so that every score is 0", "give the ids of two tokens")
        reason = explain_pooling(model)
        if reason is not None:
            raise AlreadyAppliedError(f"the model already has a head: {reason}", "remove it with strip-head first")
        logits = find_logits(model, self.target, self.ids)
        if logits.sequence == 1:
            raise NothingToPoolError(
                f"{logits.name} has the logits of one position only, whichever token that is",
                "export the model with the logits of every position (logits_to_keep=0)",
            )
        width = find_width(model, logits)
        tokens = (true,) if false is None else (true, false)
        if max(tokens) >= width:
            what = f"{logits.name} has {width} words, and none of them is {max(tokens)}"
            raise RequestError(what, f"give ids from 0 to {width - 1}")
        mask = find_mask(model, self.mask, self.ids, logits.name)
        check_free(model, self.output_name)
        kept, dropped = split_outputs(model, self.keep_output)
        edit = replace(
            self, true_token=str(true), false_token=None if false is None else str(false), target=logits.name,
            mask=str(mask.spec), ids=mask.ids, keep_output=kept, width=width,
        )  # fmt: skip
        less = "" if false is None else f", less that of token {false}"
        note = f"scores the last token by the logit of token {true} in {logits.name}{less}, mask {mask.spec}"
        return Resolved(edit, Logits(logits, mask, tokens), (note, *describe_dropped(dropped), *mask.warnings))

    def change(self, draft: Draft, found: Logits) -> None:
        ops = Operators(draft, "graphsurgery/logit_score")
        x = draft.tensor(found.logits.name)
        if found.logits.dtype != onnx.TensorProto.FLOAT:
            x = ops.cast(x, FLOAT, "float32")
        made = score(ops, x, build_mask(ops, found.mask, x), found.tokens)
        set_first_output(draft, made, self.output_name, found.logits.batch, 1, self.keep_output)

    def ensure(self, before: Interface, after: Interface) -> None:
        super().ensure(before, after)
        ensure_first_output(self.verb, before, after, self.output_name, self.keep_output)


def _read_token(text: str | int | None, option: str) -> int | None:
    """Return a token's id, or None if none is given. Raises RequestError if it is not a number of 0 or more."""
    if text in (None, ""):
        return None
    digits = str(text).strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) <= MOST_DIGITS):
        raise RequestError(f"{option} {digits[:40]!r} is not a token's id", f"write its number, such as {option} 9693")
    return int(digits)
