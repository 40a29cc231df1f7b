"""The forms of masks: how an input says which positions of a batch are tokens. Encode and decode arrays in these forms.

nonzero   [batch, seq]  not 0 at tokens, 0 at padding: what tokenizers give
not       [batch, seq]  0 at tokens, not 0 at padding: ``src_key_padding_mask`` of torch.nn.TransformerEncoder
additive  [batch, seq]  floats that are added to the scores: 0 at tokens, a large negative number at padding
lengths   [batch]       integers: how many tokens each row has, from its first position on
"""

from __future__ import annotations

import numpy as np

from graphsurgery.encoder.roles import MASK_TYPES
from graphsurgery.interface import Value
from graphsurgery.model.dtypes import FLOATS, INTEGERS, to_numpy_dtype

NONZERO, NOT, ADDITIVE, LENGTHS = "nonzero", "not", "additive", "lengths"
MINUS_INFINITY = -1e4
"""The number that an additive mask holds at padding. It fits into float16, and its exponential is 0 in every float type."""


def list_possible_forms(value: Value) -> tuple[str, ...]:
    """Return the forms that an input of this type and rank can have, the usual one first."""
    if value.rank == 1:
        return (LENGTHS,) if value.dtype in INTEGERS else ()
    if value.rank not in (2, None) or value.dtype not in MASK_TYPES or _is_square(value):
        return ()
    return (NONZERO, ADDITIVE, NOT) if value.dtype in FLOATS else (NONZERO, NOT)


def mean_the_same(one: str, other: str) -> bool:
    """Return whether two forms mark tokens by the same numbers: `NOT` and `ADDITIVE` both mark them by 0."""
    return one == other or {one, other} == {NOT, ADDITIVE}


def _is_square(value: Value) -> bool:
    """Return whether both dims of a value have one name: a mask ``[seq, seq]`` says which tokens look at which others."""
    return value.dims is not None and len(set(value.dims)) == 1 and isinstance(value.dims[0], str)


def encode_mask(mask: np.ndarray, form: str, value: Value) -> np.ndarray:
    """Return ``mask [batch, seq]`` bool, true at tokens, in ``form`` and in the type of the input ``value``."""
    kind = to_numpy_dtype(value.dtype)
    if form == LENGTHS:
        return mask.sum(axis=1).astype(kind)
    if form == ADDITIVE:
        return np.where(mask, 0, MINUS_INFINITY).astype(kind)
    return (mask if form == NONZERO else ~mask).astype(kind)


def decode_mask(array: np.ndarray, form: str, length: int) -> np.ndarray:
    """Return the mask ``[batch, length]`` bool, true at tokens, of an input ``array`` in ``form``."""
    if form == LENGTHS:
        return np.arange(length)[None, :] < array[:, None]
    return array != 0 if form == NONZERO else array == 0


def can_say(mask: np.ndarray, form: str) -> bool:
    """Return whether ``form`` can express ``mask [batch, seq]``. Lengths cannot express padding before or between tokens."""
    return form != LENGTHS or bool(np.array_equal(mask, decode_mask(mask.sum(axis=1), LENGTHS, mask.shape[1])))
