"""The pooling mask as the graph computes it: ``m [batch, seq]`` bool, true at tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.contracts import present
from graphsurgery.edits.edit import parameter
from graphsurgery.edits.operators import BOOL, INT32, Operators
from graphsurgery.encoder.roles import MASK_NAMES, Roles, is_ids_like, is_mask_like, roles_of
from graphsurgery.errors import MaskError, NameNotFoundError
from graphsurgery.interface import type_name
from graphsurgery.model.model import Model

ONES = "ones"
PAD = "pad:"
LONGEST_ID = 10


def mask_parameter(
    help: str = "The mask [batch, seq]: an input's name (a token is where it is not 0), ones (every position is a token), or "
    "pad:ID (tokens are the ids other than ID).",
) -> Any:
    """Declare the parameter that `choose_mask` reads the mask from."""
    return parameter(help, None, "NAME|ones|pad:ID", otherwise="the attention mask input")


def ids_parameter() -> Any:
    """Declare the parameter that `choose_mask` reads the ids from."""
    return parameter("The input with the token ids.", None, "NAME", otherwise="input_ids")


@dataclass(frozen=True)
class MaskChoice:
    """Where the mask comes from: an input's name, ``ones``, or ``pad:<id>`` together with the ids input."""

    spec: str
    ids: str | None

    @property
    def pad_id(self) -> int | None:
        return int(self.spec.removeprefix(PAD)) if self.spec.startswith(PAD) else None


def choose_mask(model: Model, spec: str | None, ids: str | None) -> MaskChoice:
    """Settle where the mask comes from: ``spec``, else the attention mask input.

    Raises MaskError, naming the choices, when there is none or when it is not ``[batch, seq]``.
    """
    roles = roles_of(model.interface, ids)
    if ids is not None and model.interface.input(ids) is None:
        raise NameNotFoundError(f"the model has no input {ids!r}", f"its inputs are {_input_names(model)}")
    if spec is None:
        return MaskChoice(_default_mask(model, roles), roles.ids.name if roles.ids else None)
    if spec == ONES:
        return MaskChoice(ONES, roles.ids.name if roles.ids else None)
    if spec.startswith(PAD):
        return MaskChoice(spec, _ids_for_padding(model, roles, spec))
    _check_mask_input(model, spec)
    return MaskChoice(spec, roles.ids.name if roles.ids else None)


def token_mask(ops: Operators, choice: MaskChoice, x: gs.Tensor) -> gs.Variable:
    """``m [batch, seq]`` bool: mask != 0, or ids != pad id, or true everywhere. ``x [batch, seq, dim]`` gives ``ones`` its
    shape."""
    if choice.spec == ONES:
        shape = ops.node("Shape", x, name="shape")
        batch_seq = ops.node(
            "Slice", shape, ops.constant([0], np.int64, "start"), ops.constant([2], np.int64, "end"), name="batch_seq"
        )
        return ops.node("ConstantOfShape", batch_seq, name="ones", value=gs.Constant("ones", np.ones(1, dtype=np.bool_)))
    if choice.pad_id is not None:
        ids = ops.draft.tensor(present(choice.ids, "ids"))
        pad = ops.constant(choice.pad_id, np.int64 if ids.dtype == np.int64 else np.int32, "pad_id")
        return ops.node("Not", ops.node("Equal", ids, pad, name="is_padding"), name="mask")
    mask = ops.draft.tensor(choice.spec)
    return mask if mask.dtype == np.bool_ else ops.cast(mask, BOOL, "mask")


def without_prompt(ops: Operators, m: gs.Tensor, length: gs.Tensor) -> gs.Variable:
    """m and not p - first < N: ``m [batch, seq]`` bool less the N positions from each row's first token on.

    p = 0, 1, ..., seq - 1; first ``[batch, 1]`` is the first p with m = 1; ``length`` N is int64 ``[1]``.
    """
    first = ops.node("ArgMax", ops.cast(m, INT32, "mask_int"), name="first", axis=1, keepdims=1)
    one = gs.Constant("one", np.ones(1, dtype=np.int64))
    ones = ops.node("ConstantOfShape", ops.node("Shape", m, name="shape"), name="ones", value=one)
    positions = ops.node("CumSum", ones, ops.constant(1, np.int64, "axis"), name="positions", exclusive=1)
    in_prompt = ops.node("Less", ops.node("Sub", positions, first, name="from_first"), length, name="in_prompt")
    return ops.node("And", m, ops.node("Not", in_prompt, name="behind_prompt"), name="mask")


def _default_mask(model: Model, roles: Roles) -> str:
    if roles.mask is None:
        raise MaskError(
            f"the model has no attention mask input ({', '.join(MASK_NAMES[:3])}, ...); its inputs are {_input_names(model)}",
            "name it with --mask NAME, or choose --mask ones (all positions are tokens) or --mask pad:ID (all ids but ID are)",
        )
    _check_mask_input(model, roles.mask.name)
    return roles.mask.name


def _check_mask_input(model: Model, name: str) -> None:
    value = model.interface.input(name)
    if value is None:
        raise NameNotFoundError(
            f"the model has no input {name!r} to take as the mask",
            f"its inputs are {_input_names(model)}; or use ones or pad:ID",
        )
    if not is_mask_like(value):
        raise MaskError(
            f"the mask input is {value}; pooling needs numbers or booleans of [batch, seq]",
            "choose --mask ones or --mask pad:ID",
        )


def _ids_for_padding(model: Model, roles: Roles, spec: str) -> str:
    number = spec.removeprefix(PAD)
    digits = number.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= LONGEST_ID and abs(int(number)) < 1 << 31):
        raise MaskError(f"--mask {spec[:40]} names no token id", "write the padding token's id, such as pad:0")
    if roles.ids is None or not is_ids_like(roles.ids):
        found = f"{roles.ids.name} is {type_name(roles.ids.dtype)} of rank {roles.ids.rank}" if roles.ids else "there is none"
        raise MaskError(
            f"--mask {spec} needs an integer [batch, seq] input of token ids, but {found}", "name it with --ids NAME"
        )
    return roles.ids.name


def _input_names(model: Model) -> str:
    return ", ".join(value.name for value in model.interface.inputs) or "none"
