"""What edits of the interface share: finding inputs and dims, and reading pairs of names and values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import onnx

from graphsurgery.encoder.roles import MASK_TYPES, Roles
from graphsurgery.errors import NameNotFoundError, RequestError, UnsupportedModelError
from graphsurgery.interface import Value
from graphsurgery.model.model import Model
from graphsurgery.suggestions import suggest

ZEROS, ONES, POSITIONS = "zeros", "ones", "positions"


def find_input(model: Model, name: str, option: str = "--input") -> Value:
    """Find the input ``name``. Raises RequestError if the name is empty, NameNotFoundError if the model has no such input."""
    listed = ", ".join(map(str, model.interface.inputs)) or "none"
    if not name:
        raise RequestError("no input is given", f"name one with {option}; the inputs are {listed}")
    value = model.interface.input(name)
    if value is None:
        advice = f"{suggest(name, (one.name for one in model.interface.inputs))}its inputs are {listed}"
        raise NameNotFoundError(f"the model has no input {name!r}", advice)
    if any(info.name == name for info in model.proto.graph.output):
        raise UnsupportedModelError(f"{name!r} is both an input and an output", "this is not supported")
    return value


def match_names(names: Sequence[str], asked: str) -> list[str]:
    """Return ``asked`` if it is one of ``names``, else all that match it as a pattern (``past_key_values.*``), in order."""
    return [asked] if asked in names else [name for name in names if fnmatchcase(name, asked)]


def find_inputs(model: Model, asked: str) -> list[Value]:
    """Find the input ``asked``, or every input that matches it as a pattern. Raises as `find_input` does."""
    names = match_names([value.name for value in model.interface.inputs], asked)
    return [find_input(model, name) for name in names or [asked]]


def find_usual_fill(roles: Roles, value: Value, asked: str | None, others: str = "", more: Sequence[str] = ()) -> str:
    """Return the values that replace an input: ``asked``, else the usual ones of its role.

    ``more`` lists further values that may be asked for, and ``others`` says how else to give values. Raises RequestError if the
    role has no usual values, or if there are no such values.
    """
    usual = {ZEROS: roles.types, ONES: roles.mask, POSITIONS: roles.positions}
    words = (*usual, *more)
    fill = asked or next((fill for fill, role in usual.items() if role is not None and role.name == value.name), None)
    if fill is None:
        raise RequestError(
            f"{value.name} is not an input whose usual values are known (token types, mask, positions)",
            f"give its values with --fill {', '.join(words[:-1])} or {words[-1]}{others}",
        )
    if fill not in words:
        raise RequestError(f"an input cannot be filled with {fill!r}", f"choose from {', '.join(words)}{others}")
    return fill


def find_fill(roles: Roles, value: Value, asked: str | None) -> str:
    """Return the values that replace an input ``[batch, seq]``: ``asked``, else the usual ones of its role.

    Raises RequestError if its role has none, UnsupportedModelError if the input cannot have such values.
    """
    fill = find_usual_fill(roles, value, asked)
    if value.rank != 2 or value.dtype not in MASK_TYPES or (fill == POSITIONS and value.dtype == onnx.TensorProto.BOOL):
        raise UnsupportedModelError(
            f"{value} cannot be filled with {fill}: it has to be numbers of [batch, seq]", "feed it in every run"
        )
    return fill


def find_like(model: Model, roles: Roles, value: Value, asked: str | None) -> Value:
    """Find the input that gives ``value`` its shape: ``asked``, else the token ids if they have the same dims.

    The batch may have another name there: PyTorch names the batch of each input anew.
    """
    if asked is not None:
        like = find_input(model, asked, "--like")
        if like.rank != 2 or like.name == value.name:
            raise RequestError(f"{value.name} cannot take its shape from {like}", "name another input of [batch, seq]")
        return like
    if roles.ids is None or roles.ids.name == value.name:
        raise RequestError(f"there is no input of token ids that could give {value.name} its shape", "name one with --like")
    dims, own = roles.ids.dims or (), value.dims or ()
    batches = {*dims[:1], *own[:1]}
    same = dims[1:] == own[1:] and (len(batches) < 2 or not any(isinstance(size, int) for size in batches))
    if not same and None not in (*dims, *own):
        raise RequestError(f"{value} does not have the dims of {roles.ids}", "name an input of the same shape with --like")
    return roles.ids


def list_symbolic_dims(values: Sequence[Value]) -> list[str]:
    """Return all symbolic dims of ``values``, in order, each once."""
    return list(dict.fromkeys(dim for value in values for dim in value.dims or () if isinstance(dim, str)))


def parse_pairs(asked: Iterable[str], form: str) -> dict[str, str]:
    """Read texts such as ``a=b``. Raises RequestError for a text of another form, and for a name that is given twice."""
    pairs: dict[str, str] = {}
    for text in asked:
        name, _, value = str(text).partition("=")
        if not (name and value):
            raise RequestError(f"{text!r} is not a pair of the form NAME=VALUE", f"write {form}")
        if name in pairs:
            raise RequestError(f"{name!r} is given twice", "give each name once")
        pairs[name] = value
    return pairs
