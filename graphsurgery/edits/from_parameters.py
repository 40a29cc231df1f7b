"""Make an edit or a rewrite from named parameters, as recipes and files record them, and check the type of every value."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from dataclasses import Field
from typing import Any, Protocol, TypeVar

from graphsurgery.edits.edit import Edit
from graphsurgery.edits.registry import EDITS
from graphsurgery.errors import RecipeError


class Parametrized(Protocol):
    """A dataclass that lists its parameters."""

    @classmethod
    def known(cls) -> tuple[Field[Any], ...]: ...


Kind = TypeVar("Kind", bound=Parametrized)


def from_parameters(kind: type[Kind], given: Mapping[str, Any], where: str) -> Kind:
    """Return a ``kind`` with the parameters ``given``.

    Raises RecipeError for an unknown parameter or a value of the wrong type. The message starts with ``where``.
    """
    types = typing.get_type_hints(kind)
    require_known(given, [one.name for one in kind.known()], where)
    return kind(**{name: fit(value, types[name], f"{where}: {name}") for name, value in given.items()})


def edit_from(verb: str, given: Mapping[str, Any], where: str) -> Edit:
    """Return the edit that is called ``verb``. Raises RecipeError if there is none, and as `from_parameters`."""
    if verb not in EDITS:
        raise RecipeError(f"{where}: there is no edit {verb!r}", f"the edits are {', '.join(EDITS)}")
    return from_parameters(EDITS[verb], given, where)


def require_known(given: Iterable[str], valid: list[str], where: str) -> None:
    """Raise RecipeError for the first key that is not ``valid``."""
    unknown = [key for key in given if key not in valid]
    if unknown:
        keys = f"the keys are {', '.join(valid)}" if valid else "it has no keys"
        raise RecipeError(f"{where}: there is no key {unknown[0]!r}", keys)


def fit(value: Any, kind: Any, where: str) -> Any:
    """Return ``value`` as a parameter of the type ``kind`` takes it: a list of texts as a tuple, a number as text if asked."""
    arguments = typing.get_args(kind)
    if value is None and type(None) in arguments:
        return None
    if any(typing.get_origin(one) is tuple for one in (kind, *arguments)):
        if isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value):
            return tuple(value)
        raise RecipeError(f"{where} is {value!r}", "write a list of texts")
    wanted = [one for one in (arguments or (kind,)) if one is not type(None)]
    if isinstance(value, int) and not isinstance(value, bool) and str in wanted:
        return str(value)
    if not any(isinstance(value, one) for one in wanted) or (isinstance(value, bool) and bool not in wanted):
        raise RecipeError(f"{where} is {value!r}", f"write a value of type {' or '.join(one.__name__ for one in wanted)}")
    return value
