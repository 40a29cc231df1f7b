"""The parameters of an edit, read off its dataclass: what the command line, the library function and the documentation need."""

from __future__ import annotations

import os
import typing
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass
from types import NoneType
from typing import Any

from graphsurgery.edits.edit import PATH, Edit

FROM_HERE = "A relative path starts at the current folder."


@dataclass(frozen=True)
class Parameter:
    """A parameter that a request may give."""

    name: str
    """The name of the field, and of the recipe's key."""
    kind: Any
    """The field's type."""
    default: Any
    help: str
    metavar: str
    otherwise: str
    """What the edit uses if the parameter is left out, when the default does not say it."""
    takes: Any
    """The type that the library function takes."""
    called: str
    """Its name in the library function."""
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
    def option(self) -> str:
        """The command line's option."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def library_default(self) -> Any:
        """What stands for the parameter in the library function's signature."""
        return None if NoneType in typing.get_args(self.takes) else self.default

    def from_library(self, value: Any) -> Any:
        """The field's value for what the caller of the library function gave.

        A list becomes a tuple, or text separated by commas; a mapping becomes pairs ``name=value``; a number becomes text; a
        path starts at the current folder. None stands for the default.
        """
        if value is None:
            return self.default
        if self.is_several:
            return _several(value)
        if self.kind is bool:
            return value
        return absolute(value) if self.is_path else _text(value)


def parameters_of(edit: type[Edit]) -> tuple[Parameter, ...]:
    """The parameters of ``edit`` that a request may give, in order."""
    kinds = typing.get_type_hints(edit)
    return tuple(_read(one, kinds[one.name], first=place == 0) for place, one in enumerate(edit.declared()))


def absolute(path: str | os.PathLike[str]) -> str:
    """``path`` from the current folder, wherever the model lies. Links are not resolved."""
    return os.path.abspath(path)  # noqa: PTH100 -- resolves no links


def _read(one: Field[Any], kind: Any, first: bool) -> Parameter:
    stated = one.metadata
    required = stated["required"]
    return Parameter(
        one.name, kind, one.default, stated["help"], stated["metavar"], stated["otherwise"],
        stated["takes"] or _takes(kind, stated["metavar"]), stated["called"] or one.name, required,
        first or required or stated["positional"],
    )  # fmt: skip


def _takes(kind: Any, metavar: str) -> Any:
    """What the library function takes for a field of that type, if the declaration says nothing else."""
    if typing.get_origin(kind) is tuple:
        return Sequence[str]
    if metavar != PATH:
        return kind
    path = str | os.PathLike[str]
    return path | None if NoneType in typing.get_args(kind) else path


def _several(value: Any) -> tuple[str, ...]:
    if isinstance(value, Mapping):
        return tuple(f"{name}={one}" for name, one in value.items())
    return (value,) if isinstance(value, str) else tuple(value)


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
