"""Inputs as the edits of an interface look at them."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from graphsurgery.encoder.roles import MASK_TYPES, Roles
from graphsurgery.errors import NameNotFoundError, RequestError, UnsupportedModelError
from graphsurgery.interface import Value
from graphsurgery.model.model import Model

ZEROS, ONES, POSITIONS = "zeros", "ones", "positions"


def input_named(model: Model, name: str, option: str = "--input") -> Value:
    """The input ``name``; RequestError where none is named, NameNotFoundError where the model has none of that name."""
    listed = ", ".join(map(str, model.interface.inputs)) or "none"
    if not name:
        raise RequestError("no input is named", f"name one with {option}; the inputs are {listed}")
    found = model.interface.input(name)
    if found is None:
        raise NameNotFoundError(f"the model has no input {name!r}", f"its inputs are {listed}")
    if any(info.name == name for info in model.proto.graph.output):
        raise UnsupportedModelError(f"the input {name!r} is an output as well", "this is not supported")
    return found


def settled_fill(roles: Roles, value: Value, asked: str | None) -> str:
    """What stands for an input that is not given: ``asked``, else what its role says. RequestError for anything else."""
    usual = {ZEROS: roles.types, ONES: roles.mask, POSITIONS: roles.positions}
    fill = asked or next((fill for fill, role in usual.items() if role is not None and role.name == value.name), None)
    if fill is None:
        raise RequestError(
            f"{value.name} is no input whose usual value is known (token types, mask, positions)",
            f"say what it is to be with --fill {ZEROS}, {ONES} or {POSITIONS}",
        )
    if fill not in usual:
        raise RequestError(f"an input cannot be filled with {fill!r}", f"choose from {', '.join(usual)}")
    if value.rank != 2 or value.dtype not in MASK_TYPES or (fill == POSITIONS and value.dtype == onnx.TensorProto.BOOL):
        raise UnsupportedModelError(f"{value} cannot be made of {fill}: numbers of [batch, seq] can", "give it at every run")
    return fill


def settled_like(model: Model, roles: Roles, value: Value, asked: str | None) -> Value:
    """The input whose shape ``value`` has: ``asked``, else the ids, where their dims are the same."""
    if asked is not None:
        like = input_named(model, asked, "--like")
        if like.rank != 2 or like.name == value.name:
            raise RequestError(f"{value.name} cannot have its shape from {like}", "name another input of [batch, seq]")
        return like
    if roles.ids is None or roles.ids.name == value.name:
        raise RequestError(f"there is no input of token ids whose shape {value.name} could have", "name one with --like")
    if roles.ids.dims != value.dims and None not in (*(roles.ids.dims or ()), *(value.dims or ())):
        raise RequestError(
            f"{value} has not the dims of {roles.ids}", "name an input that has them with --like, if they are the same"
        )
    return roles.ids


def listed_dims(values: Sequence[Value]) -> list[str]:
    """Every symbolic dim of some values, in order."""
    return list(dict.fromkeys(dim for value in values for dim in value.dims or () if isinstance(dim, str)))
