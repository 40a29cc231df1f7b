"""The mask: how users ask for it, where it is found, and how the graph computes it.

``m [batch, seq]`` bool is true at tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.edits.draft_operators import BOOL, INT32, Operators
from graphsurgery.edits.edit import parameter
from graphsurgery.encoder.roles import MASK_NAMES, Roles, find_roles, is_ids_like, is_mask_like
from graphsurgery.errors import MaskError, NameNotFoundError, require_value
from graphsurgery.interface import type_name
from graphsurgery.model.model import Model

INPUT, ONES, PAD = "input", "ones", "pad"
"""Kinds of masks: an input that is not 0 at tokens; every position is a token; every id but one is a token."""
LONGEST_ID = 10
OPTION = ("--mask",)


def mask_parameter(
    help: str = "The mask [batch, seq]: an input's name (a token is where it is not 0), ones (every position is a token), or "
    "pad:ID (tokens are the ids other than ID).",
) -> Any:
    """Declare the parameter of an edit that `find_mask` reads."""
    return parameter(help, None, "NAME|ones|pad:ID", otherwise="the attention mask input")


def ids_parameter() -> Any:
    """Declare the parameter that names the ids, which `find_mask` reads as well."""
    return parameter("The input with the token ids.", None, "NAME", otherwise="input_ids")


@dataclass(frozen=True)
class MaskSpec:
    """A mask as users ask for it. `parse` is the only place where an edit reads such a text."""

    kind: str
    text: str
    """The text that the spec was read from, and that files record."""
    name: str | None = None
    """The input, if it is one."""
    pad_id: int | None = None
    """The id of padding, if tokens are the other ids."""

    @classmethod
    def parse(cls, text: str) -> MaskSpec:
        """Read ``NAME``, ``ones`` or ``pad:ID``. Raise MaskError if ID is no token id."""
        if text == ONES:
            return cls(ONES, text)
        kind, _, number = text.partition(":")
        if kind != PAD or kind == text:
            return cls(INPUT, text, name=text)
        digits = number.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= LONGEST_ID and abs(int(number)) < 1 << 31):
            raise MaskError(f"--mask {text[:40]} names no token id", "write the padding token's id, such as pad:0")
        return cls(PAD, text, pad_id=int(number))

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Mask:
    """A mask that was found in a model, and the input of token ids if there is one."""

    spec: MaskSpec
    ids: str | None


def find_mask(model: Model, asked: str | None, ids: str | None) -> Mask:
    """Find the mask that is ``asked`` for, else the attention mask input; ``ids`` names the input of token ids.

    Raise MaskError, which lists the choices, if there is none or if it is not ``[batch, seq]``.
    """
    roles = find_roles(model.interface, ids)
    if ids is not None and model.interface.input(ids) is None:
        raise NameNotFoundError(f"the model has no input {ids!r}", f"its inputs are {_list_input_names(model)}")
    spec = MaskSpec.parse(asked if asked is not None else _find_default_name(model, roles))
    if spec.kind == PAD:
        return Mask(spec, _find_ids_for_padding(roles, spec))
    if spec.name is not None:
        _check_mask_input(model, spec.name)
    return Mask(spec, roles.ids.name if roles.ids else None)


def build_mask(ops: Operators, mask: Mask, x: gs.Tensor) -> gs.Variable:
    """Build ``m [batch, seq]`` bool: mask != 0, or ids != pad id, or true everywhere, in the shape of
    ``x [batch, seq, dim]``."""
    if mask.spec.kind == ONES:
        shape = ops.node("Shape", x, name="shape")
        batch_seq = ops.node(
            "Slice", shape, ops.constant([0], np.int64, "start"), ops.constant([2], np.int64, "end"), name="batch_seq"
        )
        return ops.node("ConstantOfShape", batch_seq, name="ones", value=gs.Constant("ones", np.ones(1, dtype=np.bool_)))
    if mask.spec.kind == PAD:
        ids = ops.draft.tensor(require_value(mask.ids, "ids"))
        pad = ops.constant(mask.spec.pad_id, np.int64 if ids.dtype == np.int64 else np.int32, "pad_id")
        return ops.node("Not", ops.node("Equal", ids, pad, name="is_padding"), name="mask")
    given = ops.draft.tensor(require_value(mask.spec.name, "the mask's name"))
    return given if given.dtype == np.bool_ else ops.cast(given, BOOL, "mask")


def exclude_prompt(ops: Operators, m: gs.Tensor, length: gs.Tensor) -> gs.Variable:
    """Build m and not p - first < N: ``m [batch, seq]`` bool less the N positions from each row's first token on.

    p = 0, 1, ..., seq - 1; first ``[batch, 1]`` is the first p with m = 1; ``length`` N is int64 ``[1]``.
    """
    first = ops.node("ArgMax", ops.cast(m, INT32, "mask_int"), name="first", axis=1, keepdims=1)
    one = gs.Constant("one", np.ones(1, dtype=np.int64))
    ones = ops.node("ConstantOfShape", ops.node("Shape", m, name="shape"), name="ones", value=one)
    positions = ops.node("CumSum", ones, ops.constant(1, np.int64, "axis"), name="positions", exclusive=1)
    in_prompt = ops.node("Less", ops.node("Sub", positions, first, name="from_first"), length, name="in_prompt")
    return ops.node("And", m, ops.node("Not", in_prompt, name="behind_prompt"), name="mask")


def _find_default_name(model: Model, roles: Roles) -> str:
    if roles.mask is None:
        usual = ", ".join(MASK_NAMES[:3])
        raise MaskError(
            f"the model has no attention mask input ({usual}, ...); its inputs are {_list_input_names(model)}",
            "name it with --mask NAME, or choose --mask ones (all positions are tokens) or --mask pad:ID (all ids but ID are)",
            OPTION,
        )
    return roles.mask.name


def _check_mask_input(model: Model, name: str) -> None:
    value = model.interface.input(name)
    if value is None:
        raise NameNotFoundError(
            f"the model has no input {name!r} to take as the mask",
            f"its inputs are {_list_input_names(model)}; or use ones or pad:ID",
        )
    if not is_mask_like(value):
        raise MaskError(
            f"the mask input is {value}; pooling needs numbers or booleans of [batch, seq]",
            "choose --mask ones or --mask pad:ID",
            OPTION,
        )


def _find_ids_for_padding(roles: Roles, spec: MaskSpec) -> str:
    if roles.ids is None or not is_ids_like(roles.ids):
        found = f"{roles.ids.name} is {type_name(roles.ids.dtype)} of rank {roles.ids.rank}" if roles.ids else "there is none"
        raise MaskError(
            f"--mask {spec} needs an integer [batch, seq] input of token ids, but {found}",
            "name it with --ids NAME",
            ("--ids",),
        )
    return roles.ids.name


def _list_input_names(model: Model) -> str:
    return ", ".join(value.name for value in model.interface.inputs) or "none"
