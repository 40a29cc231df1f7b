"""One function per edit of the interface, as `api` has them for heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphsurgery.edits.drop_input import DropInput
from graphsurgery.edits.dynamic_dim import DynamicDim
from graphsurgery.edits.fix_dim import FixDim
from graphsurgery.edits.input_type import InputType
from graphsurgery.edits.optional_input import OptionalInput
from graphsurgery.edits.rename import Rename
from graphsurgery.model.loading import Loadable, load
from graphsurgery.model.model import Model


def drop_input(model: Loadable, input: str, *, fill: str | None = None, like: str | None = None) -> Model:
    """Take an input away; the graph makes it: ``zeros``, ``ones`` or ``positions`` in the shape of the input ``like``, the ids
    where None. See `DropInput`.

    Raises RequestError, NameNotFoundError, UnsupportedModelError.
    """
    return DropInput(input, fill, like).apply(load(model))


def optional_input(model: Loadable, input: str, *, fill: str | None = None, like: str | None = None) -> Model:
    """Let an input be left out, a broadcast default standing for it; refused where the graph does not take one. See
    `OptionalInput`.

    Raises RequestError, NameNotFoundError, UnsupportedModelError.
    """
    return OptionalInput(input, fill, like).apply(load(model))


def input_type(model: Loadable, to: str, *, input: Sequence[str] = ()) -> Model:
    """Take inputs as ``int32`` or ``int64``: all of the other type, or those named. See `InputType`.

    Raises RequestError, NameNotFoundError, UnsupportedModelError.
    """
    return InputType(to, _several(input)).apply(load(model))


def rename(model: Loadable, names: Mapping[str, str] | None = None, *, dims: Mapping[str, str] | None = None) -> Model:
    """Give inputs and outputs (``names``) and symbolic dims (``dims``) other names: ``{old: new}``. See `Rename`.

    Raises RequestError, NameNotFoundError, UnsupportedModelError.
    """
    return Rename(_pairs(names or {}), _pairs(dims or {})).apply(load(model))


def dynamic_dim(model: Loadable, dims: Sequence[str] | Mapping[str, str]) -> Model:
    """Let baked sizes be any size again: ``batch``, ``sequence`` or both, or a name for each. See `DynamicDim`.

    Raises RequestError, and UnsupportedModelError with the reason where the graph cannot take other sizes.
    """
    return DynamicDim(_pairs(dims) if isinstance(dims, Mapping) else _several(dims)).apply(load(model))


def fix_dim(model: Loadable, dims: Mapping[str, int]) -> Model:
    """Give symbolic dims a number: ``{name: size}``. See `FixDim`. Raises RequestError, NameNotFoundError."""
    return FixDim(_pairs(dims)).apply(load(model))


def _pairs(mapping: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(f"{name}={value}" for name, value in mapping.items())


def _several(names: Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
