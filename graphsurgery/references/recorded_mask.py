"""The mask that a file records of an edit, read by code of its own: no mistake is shared with the edits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphsurgery.errors import NothingToPoolError, UnsupportedModelError
from graphsurgery.references.reference import Array, Known, Parameters, parse_number

PAD, ONES, LENGTHS = "pad:", "ones", "lengths:"
NOT, PADDED, ADDITIVE = "not:", "padded:", "additive:"
ZERO_AT_TOKENS = (NOT, ADDITIVE)
"""Masks that are 0 at tokens: true at padding, or added to scores."""


@dataclass(frozen=True)
class RecordedMask:
    """The mask that a file records of an edit.

    The edits read the same text by code of their own, so that no mistake is shared.
    """

    input: str | None = None
    """The input, if the mask is one."""
    kind: str = ""
    """How the input says where tokens are: not 0 there (empty), 0 there (of `ZERO_AT_TOKENS`), or how many there are."""
    ids: str | None = None
    """The input of token ids, if the mask is read from it."""
    pad_id: int | None = None
    """The id of padding, if the mask is read from the ids."""

    @classmethod
    def read(cls, parameters: Parameters) -> RecordedMask:
        """Read ``<input>``, ``not:<input>``, also called ``padded:``, ``additive:<input>``, ``lengths:<input>``, ``ones`` or
        ``pad:<id>``.

        Raise UnsupportedModelError for a ``pad:`` without id or ids.
        """
        spec, ids = parameters["mask"], parameters.get("ids")
        if spec == ONES:
            return cls()
        if spec.startswith(PADDED) and spec != PADDED:
            return cls(spec.removeprefix(PADDED), NOT)
        if not spec.startswith(PAD):
            kind = next((kind for kind in (*ZERO_AT_TOKENS, LENGTHS) if spec.startswith(kind) and spec != kind), "")
            return cls(spec.removeprefix(kind), kind)
        digits = spec.removeprefix(PAD)
        pad_id = parse_number(digits.removeprefix("-"))
        if pad_id is None:
            raise UnsupportedModelError(f"the recorded mask {spec!r} names no token id", "make the output again")
        if not isinstance(ids, str):
            what = "the recorded mask is read from the token ids, but no input of ids is recorded"
            raise UnsupportedModelError(what, "make the output again")
        return cls(ids=ids, pad_id=-pad_id if digits.startswith("-") else pad_id)

    @property
    def is_everywhere(self) -> bool:
        """Whether every position is a token."""
        return not self.reads

    @property
    def reads(self) -> list[str]:
        """The values that the mask is read from."""
        return [name for name in (self.input, self.ids) if name is not None]

    def find_tokens(self, known: Known, shape: tuple[int, ...]) -> Array:
        """Return ``m``, true at tokens. ``shape`` is that of a mask which is true everywhere."""
        if self.input is not None:
            given = known[self.input].astype(np.float64)
            if self.kind == LENGTHS:
                return np.array([[position < length for position in range(shape[1])] for length in given]).reshape(shape)
            return (given == 0) if self.kind in ZERO_AT_TOKENS else (given != 0)
        return np.full(shape, True) if self.ids is None else known[self.ids] != self.pad_id


def read_mask(parameters: Parameters) -> Parameters:
    """Read ``mask`` as a `RecordedMask`."""
    return {**parameters, "mask": RecordedMask.read(parameters)}


def find_tokens(parameters: Parameters, known: Known, parameter: str = "target", dims: str = "hidden") -> tuple[Array, Array]:
    """Return the value that ``parameter`` names, ``[batch, seq, dims]``, and its mask, ``[batch, seq]``.

    Raise NothingToPoolError if one of them has another shape.
    """
    name = parameters[parameter]
    x = known[name]
    m: Array = parameters["mask"].find_tokens(known, x.shape[:2])
    if x.ndim != 3 or m.shape != x.shape[:2]:
        what = f"{name} is {list(x.shape)} and the mask is {list(m.shape)}; needed are [batch, seq, {dims}] and [batch, seq]"
        raise NothingToPoolError(what, f"name another value with --{parameter.replace('_', '-')}")
    return x, m
