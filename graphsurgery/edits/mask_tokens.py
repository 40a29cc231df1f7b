"""mask-tokens: set the vectors at padded positions to zero."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from graphsurgery.deferred import gs
from graphsurgery.edits.draft_operators import INT32, Operators
from graphsurgery.edits.edit import Resolved, parameter, require_opset
from graphsurgery.edits.outputs import OutputEdit, build_output, find_target
from graphsurgery.edits.token_mask import Mask, build_mask, find_mask, ids_parameter
from graphsurgery.errors import RequestError
from graphsurgery.interface import Value
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model

TOKENS = (3, None)


def mask_output(ops: Operators, x: gs.Tensor, m: gs.Tensor) -> gs.Variable:
    """Build ``x [batch, seq, dim]`` where ``m [batch, seq]`` is true, else 0. Where is used because NaN * 0 is NaN."""
    zero = ops.constant(0.0, np.float32, "zero")
    return ops.node("Where", ops.unsqueeze(m, 2, "mask_3d"), x, zero, name="masked")


def exclude_first_token(ops: Operators, m: gs.Tensor) -> gs.Variable:
    """Build ``m [batch, seq]`` without each row's first token: true where the running count of tokens is 2 or more."""
    count = ops.node("CumSum", ops.cast(m, INT32, "mask_int"), ops.constant(1, np.int64, "axis"), name="running_count")
    later = ops.node("Greater", count, ops.constant(1, np.int32, "one"), name="is_later")
    return ops.node("And", m, later, name="without_first")


@dataclass(frozen=True)
class Masked:
    """The output to mask, and its mask."""

    target: Value
    mask: Mask


@dataclass(frozen=True)
class MaskTokens(OutputEdit[Masked]):
    """Set the vectors at padded positions to zero: ``y = x where m, else 0``, ``[batch, seq, dim]`` float32.

    For outputs with one vector or weight per token (late interaction, learned sparse retrieval): a program that sums or
    compares them then needs no mask. ``--skip-first`` also sets the vector of the first token, such as [CLS], to zero.
    """

    target: str | None = parameter("The output [batch, seq, dim] to mask.", None, "NAME", takes=str, required=True)
    skip_first: bool = parameter("Set the vector of each row's first token to zero as well.", False)
    mask: str | None = parameter(
        "The mask: an input's name, not:NAME, additive:NAME, lengths:NAME or pad:ID (as in add-pooling).",
        None,
        "SPEC",
        otherwise="the attention mask input",
    )
    ids: str | None = ids_parameter()

    def resolve(self, model: Model) -> Resolved[Self, Masked]:
        """Find target and mask. Raises RequestError, MaskError, NameNotFoundError, UnsupportedModelError."""
        require_opset(model, self.verb)
        if self.target is None:
            listed = ", ".join(map(str, model.interface.outputs)) or "none"
            raise RequestError(f"mask-tokens needs an output to mask; the outputs are {listed}", "name one with --target")
        target = find_target(model, self.target, "masked", TOKENS)
        mask = find_mask(model, self.mask, self.ids, target.name)
        first = " and at the first token" if self.skip_first else ""
        edit = replace(self, target=target.name, mask=str(mask.spec), ids=mask.ids)
        note = f"{target.name} is zero at padding{first}, mask {mask.spec}"
        return Resolved(edit, Masked(target, mask), (note, *mask.warnings))

    def change(self, draft: Draft, found: Masked) -> None:
        ops = Operators(draft, "graphsurgery/mask_tokens")

        def build(x: gs.Tensor) -> gs.Variable:
            m = build_mask(ops, found.mask, x)
            return mask_output(ops, x, exclude_first_token(ops, m) if self.skip_first else m)

        build_output(draft, found.target, found.target.name, ops, build, last=found.target.last_dim)
