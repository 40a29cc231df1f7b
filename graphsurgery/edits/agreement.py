"""Whether a model gives the same numbers after a change as before it, in the trials that some edits make."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def agreement(found: np.ndarray, wanted: np.ndarray, far: float) -> int | None:
    """How many numbers of ``found`` agree with ``wanted``, to ``far`` times max(1, |wanted|); None where the shapes or any of
    them differ.

    Numbers that are not finite in ``wanted`` are left out, because NaN agrees with nothing: 0 means that nothing was compared.
    """
    if found.shape != wanted.shape:
        return None
    finite = np.isfinite(wanted) if wanted.dtype.kind in "fV" else np.ones(wanted.shape, dtype=np.bool_)
    one, other = (array[finite].astype(np.float64) for array in (found, wanted))
    same = bool(np.all(np.abs(one - other) <= far * np.maximum(1, np.abs(other))))  # False for a NaN
    return int(finite.sum()) if same else None


def nothing_compared(agreed: Mapping[str, int]) -> str | None:
    """Why a trial tells nothing, from how many numbers of each output agreed; None where some of every output did."""
    lost = next((name for name, count in agreed.items() if not count), None)
    return None if lost is None else f"that has to be tried, and the model itself gives no finite number in {lost}"
