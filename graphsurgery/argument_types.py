"""Check the types of the arguments of public functions, by their annotations.

Without it, an argument of the wrong type would surface as a traceback from deep inside, or not at all.
"""

from __future__ import annotations

import collections.abc
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import cache, wraps
from inspect import Parameter, signature
from numbers import Integral, Real
from typing import Any, NamedTuple, ParamSpec, TypeVar

from graphsurgery.errors import WrongTypeError

P = ParamSpec("P")
R = TypeVar("R")
WORDS = {
    str: "text", os.PathLike: "a path", bool: "True or False", int: "a whole number", float: "a number", type(None): "None",
    bytes: "bytes", Mapping: "a dict",
}  # fmt: skip
"""How messages name types."""
PLURALS = {str: "texts", os.PathLike: "paths", int: "whole numbers", float: "numbers", bool: "True or False"}
MOST_SHOWN = 60
"""The most characters of a wrong value that a message shows."""


def check_argument_types(**advice: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator: the function raises WrongTypeError for an argument that does not fit its annotation.

    ``advice`` says, by the name of a parameter, what to give in its place.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        expected = signature(function)
        called = function.__qualname__.removesuffix(".__init__")

        @wraps(function)
        def checked(*positional: P.args, **named: P.kwargs) -> R:
            try:
                given = expected.bind(*positional, **named).arguments
            except TypeError as error:  # a missing or an unknown argument
                raise TypeError(f"{function.__name__}() {error}") from None
            hints = _read_hints(function)
            for name, value in given.items():
                if name in hints and expected.parameters[name].kind is not Parameter.VAR_KEYWORD:  # all but a method's self
                    require_type(value, hints[name], f"{called}: {name}", advice.get(name, ""))
            return function(*positional, **named)

        return checked

    return decorate


def require_type(value: object, wanted: Any, what: str, advice: str = "") -> None:
    """Raise WrongTypeError unless ``value`` fits ``wanted``, a type or an annotation. ``what`` names it in the message."""
    misfit = _find_misfit(value, wanted, what)
    if misfit is None:
        return
    shown = repr(misfit.value)
    shown = shown if len(shown) <= MOST_SHOWN else f"{shown[:MOST_SHOWN]}..."
    found = f"{shown} ({type(misfit.value).__name__})"
    raise WrongTypeError(f"{misfit.place} must be {_describe(misfit.wanted)}, got {found}", advice)


def check_fields(instance: object, what: str) -> None:
    """Raise WrongTypeError if a field of a dataclass instance does not fit its annotation."""
    kind: Any = type(instance)
    for name, wanted in _read_hints(kind).items():
        if name in vars(instance):
            require_type(getattr(instance, name), wanted, f"{what}: {name}")


@cache
def _read_hints(of: Any) -> Mapping[str, Any]:
    return typing.get_type_hints(of)


class _Misfit(NamedTuple):
    """A value that does not fit an annotation: the argument itself, or an element of it."""

    place: str
    value: object
    wanted: Any


def _find_misfit(value: object, wanted: Any, place: str) -> _Misfit | None:
    """Return the first part of ``value`` that does not fit ``wanted``, or None if all of it does."""
    if _is_union(wanted):
        misfits = [_find_misfit(value, one, place) for one in typing.get_args(wanted)]
        found = [one for one in misfits if one is not None]
        inner = next((one for one in found if one.place != place), None)
        return None if len(found) < len(misfits) else inner or _Misfit(place, value, wanted)
    element = _find_element(wanted)
    if element is None:
        return None if _fits(value, wanted) else _Misfit(place, value, wanted)
    if isinstance(value, str):
        return None if element is str else _Misfit(place, value, wanted)
    if not isinstance(value, Sequence):
        return None if hasattr(value, "__array__") else _Misfit(place, value, wanted)
    parts = (_find_misfit(one, element, f"{place}[{index}]") for index, one in enumerate(value))
    return next((one for one in parts if one is not None), None)


def _fits(value: object, wanted: Any) -> bool:
    """Return whether ``value`` fits an annotation that is neither a union nor a sequence."""
    kind = typing.get_origin(wanted) or wanted
    if kind is collections.abc.Callable or getattr(kind, "_is_protocol", False):
        return callable(value)
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real)
    return kind is Any or not isinstance(kind, type) or isinstance(value, kind)


def _is_union(wanted: Any) -> bool:
    return typing.get_origin(wanted) in (typing.Union, types.UnionType)


def _find_element(wanted: Any) -> Any:
    """Return the annotation of the elements of a sequence, or None for any other annotation."""
    return typing.get_args(wanted)[0] if typing.get_origin(wanted) in (tuple, Sequence) else None


def _describe(wanted: Any) -> str:
    """Return an annotation in words: "a path, a ModelProto, a Graph or a Model", "a list of whole numbers or None"."""
    if _is_union(wanted):
        kinds = typing.get_args(wanted)
        words = [_describe(one) for one in _drop_texts_of_paths(kinds)]
        return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
    element = _find_element(wanted)
    if element is not None:
        each = _drop_texts_of_paths(typing.get_args(element) if _is_union(element) else (element,))
        return f"a list of {' or '.join(PLURALS.get(one, getattr(one, '__name__', str(one))) for one in each)}"
    kind = typing.get_origin(wanted) or wanted
    if kind is collections.abc.Callable or getattr(kind, "_is_protocol", False):
        return "a function"
    name = getattr(kind, "__name__", str(kind))
    return WORDS.get(kind, f"an {name}" if name[0] in "AEIOU" else f"a {name}")


def _drop_texts_of_paths(kinds: Sequence[Any]) -> list[Any]:
    """Return types without their parameters, and without `str` beside `os.PathLike`: both together mean a path."""
    plain = [typing.get_origin(one) if typing.get_origin(one) is os.PathLike else one for one in kinds]
    return [one for one in plain if not (one is str and os.PathLike in plain)]
