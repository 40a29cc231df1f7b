"""For edits of the interface: find inputs and dims, and read pairs of names and values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx

from graphsurgery.encoder.roles import MASK_TYPES, Roles
from graphsurgery.errors import NameNotFoundError, RequestError, UnsupportedModelError
from graphsurgery.interface import Value
from graphsurgery.model.model import Model

ZEROS, ONES, POSITIONS = "zeros", "ones", "positions"


def find_input(model: Model, name: str, option: str = "--input") -> Value:
    """Find the input ``name``. Raise RequestError if none is named, NameNotFoundError if the model has none of that name."""
    listed = ", ".join(map(str, model.interface.inputs)) or "none"
    if not name:
        raise RequestError("no input is named", f"name one with {option}; the inputs are {listed}")
    found = model.interface.input(name)
    if found is None:
        raise NameNotFoundError(f"the model has no input {name!r}", f"its inputs are {listed}")
    if any(info.name == name for info in model.proto.graph.output):
        raise UnsupportedModelError(f"the input {name!r} is an output as well", "this is not supported")
    return found


def find_fill(roles: Roles, value: Value, asked: str | None) -> str:
    """Find the value that stands for an input that is not given: ``asked``, else the usual one of its role.

    Raise RequestError if there is none.
    """
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


def find_like(model: Model, roles: Roles, value: Value, asked: str | None) -> Value:
    """Find the input that gives ``value`` its shape: ``asked``, else the ids, if their dims are the same."""
    if asked is not None:
        like = find_input(model, asked, "--like")
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


def list_symbolic_dims(values: Sequence[Value]) -> list[str]:
    """Return every symbolic dim of some values, in order."""
    return list(dict.fromkeys(dim for value in values for dim in value.dims or () if isinstance(dim, str)))


def parse_pairs(asked: Iterable[str], form: str) -> dict[str, str]:
    """Read texts such as ``a=b``. Raise RequestError for one that is none, and if a name stands before two of them."""
    found: dict[str, str] = {}
    for text in asked:
        name, _, value = str(text).partition("=")
        if not (name and value):
            raise RequestError(f"{text!r} does not say what is to be what", f"write {form}")
        if name in found:
            raise RequestError(f"{name!r} is named twice", "give each once")
        found[name] = value
    return found
