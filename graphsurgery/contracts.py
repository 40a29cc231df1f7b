"""Contracts within our own code. Where one is broken the fault is ours: PostconditionError, under ``python -O`` as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from graphsurgery.errors import PostconditionError

T = TypeVar("T")


def present(value: T | None, what: str) -> T:
    """Return ``value``. Raise PostconditionError if it is None although an earlier step had to find it."""
    if value is None:
        raise PostconditionError(f"{what} should be known by now, and is None")
    return value


def require_promised(verb: str, what: str, promised: Sequence[object], found: Sequence[object]) -> None:
    """Raise PostconditionError unless what was ``found`` after an edit is what ``verb`` promised; ``what`` names both."""
    if tuple(found) != tuple(promised):
        raise PostconditionError(f"{verb} promised {what}: {_listed(promised)}; the edited model has: {_listed(found)}")


def _listed(values: Sequence[object]) -> str:
    return "; ".join(map(str, values)) or "none"
