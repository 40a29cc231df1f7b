"""The parameters of edits and rewrites, as their dataclasses declare them.

The command line, the library functions and the documentation list them. Recipes and recorded steps give their values by name,
and the type of every value is checked.
"""

from __future__ import annotations

import os
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import Field, dataclass
from functools import cache
from types import NoneType
from typing import Any, Protocol, TypeVar

from graphsurgery.edits.edit import EDITS, PATH, Edit
from graphsurgery.errors import RecipeError
from graphsurgery.suggestions import find_spelling, suggest

FROM_HERE = "A relative path starts at the current folder."


@dataclass(frozen=True)
class Parameter:
    """A parameter of an edit that users give."""

    name: str
    """The name of the field, and of the recipe's key."""
    kind: Any
    """The field's type."""
    default: Any
    help: str
    metavar: str
    otherwise: str
    """What the edit uses if the parameter is left out, unless the default says it."""
    takes: Any
    """The type that the library function accepts."""
    called: str
    """Its name in the library function."""
    option: str
    """The command line's option."""
    required: bool
    """Whether the library function demands it."""
    positional: bool

    @property
    def is_path(self) -> bool:
        return self.metavar == PATH

    @property
    def is_several(self) -> bool:
        return typing.get_origin(self.kind) is tuple

    @property
    def library_default(self) -> Any:
        """The default in the library function's signature."""
        return None if NoneType in typing.get_args(self.takes) else self.default

    def from_library(self, value: Any) -> Any:
        """Return the field's value for an argument of the library function.

        A list becomes a tuple, or text separated by commas. A mapping becomes pairs ``name=value``, a number becomes text, and
        a path starts at the current folder. None stands for the default.
        """
        if value is None:
            return self.default
        if self.is_several:
            return _to_tuple(value)
        if self.kind is bool:
            return value
        return to_absolute(value) if self.is_path else _to_text(value)


@cache
def list_parameters(edit: type[Edit]) -> tuple[Parameter, ...]:
    """Return the parameters of ``edit`` that users give, in order."""
    kinds = typing.get_type_hints(edit)
    return tuple(_read_parameter(one, kinds[one.name], first=place == 0) for place, one in enumerate(edit.declared()))


def to_absolute(path: str | os.PathLike[str]) -> str:
    """Return ``path`` from the current folder, wherever the model is. Links are not resolved."""
    return os.path.abspath(path)  # noqa: PTH100 -- resolves no links


def _read_parameter(one: Field[Any], kind: Any, first: bool) -> Parameter:
    stated = one.metadata
    required = stated["required"]
    return Parameter(
        one.name, kind, one.default, stated["help"], stated["metavar"], stated["otherwise"],
        stated["takes"] or _find_library_type(kind, stated["metavar"]), stated["called"] or one.name,
        stated["option"] or f"--{one.name.replace('_', '-')}", required,
        first or required or stated["positional"],
    )  # fmt: skip


def _find_library_type(kind: Any, metavar: str) -> Any:
    """Return the type that the library function accepts for a field, if the declaration gives none."""
    if typing.get_origin(kind) is tuple:
        return Sequence[str]
    if metavar != PATH:
        return kind
    path = str | os.PathLike[str]
    return path | None if NoneType in typing.get_args(kind) else path


def _to_tuple(value: Any) -> tuple[str, ...]:
    if isinstance(value, Mapping):
        return tuple(f"{name}={one}" for name, one in value.items())
    return (value,) if isinstance(value, str) else tuple(value)


def _to_text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)


class Parametrized(Protocol):
    """A dataclass that lists its parameters."""

    @classmethod
    def known(cls) -> tuple[Field[Any], ...]: ...


Kind = TypeVar("Kind", bound=Parametrized)


def make_from_parameters(kind: type[Kind], given: Mapping[str, Any], where: str) -> Kind:
    """Return an edit or rewrite of the class ``kind`` with the parameters ``given``.

    Raises RecipeError for an unknown parameter or a value of the wrong type. The message starts with ``where``.
    """
    types = typing.get_type_hints(kind)
    require_known(given, [one.name for one in kind.known()], where)
    return kind(**{name: convert_value(value, types[name], f"{where}: {name}") for name, value in given.items()})


def make_edit(verb: str, given: Mapping[str, Any], where: str) -> Edit:
    """Return the edit called ``verb``. Raises RecipeError if there is none, and as `make_from_parameters` does."""
    verb = find_spelling(verb, EDITS)
    if verb not in EDITS:
        advice = f"{suggest(verb, EDITS)}the edits are {', '.join(EDITS)}"
        raise RecipeError(f"{where}: there is no edit {verb!r}", advice)
    return make_from_parameters(EDITS[verb], given, where)


def require_known(given: Iterable[str], valid: list[str], where: str) -> None:
    """Raise RecipeError if a key is not among the ``valid`` ones."""
    unknown = [key for key in given if key not in valid]
    if unknown:
        keys = f"{suggest(unknown[0], valid)}the keys are {', '.join(valid)}" if valid else "it has no keys"
        raise RecipeError(f"{where}: there is no key {unknown[0]!r}", keys)


def convert_value(value: Any, kind: Any, where: str) -> Any:
    """Return ``value`` as the type ``kind``: a list of texts becomes a tuple, and a number becomes text if ``kind`` is text."""
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
