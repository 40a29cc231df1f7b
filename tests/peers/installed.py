"""What differs between the versions of sentence-transformers that the tests run beside."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np

MAJOR = int(version("sentence-transformers").partition(".")[0])
COUNTS_FROM_FIRST = 6
"""From this version on the positions of weightedmean count from each row's first token."""


def weights_from(mode: str) -> str | None:
    """Return what ``weights_from`` has to be for ``mode`` to mean what it means in the installed version."""
    if "weightedmean" not in mode.split(","):
        return None
    return "first" if MAJOR >= COUNTS_FROM_FIRST else "absolute"


def means_the_same(mode: str | tuple[str, ...]) -> bool:
    """Return whether ``mode`` means in the installed version what it means in the newest, with padding in front, too."""
    return MAJOR >= COUNTS_FROM_FIRST or "weightedmean" not in mode


def count_positions(mask: np.ndarray) -> np.ndarray:
    """Return the weights of the tokens in weightedmean, ``[batch, seq]``, by ``mask [batch, seq]``."""
    first = mask.argmax(axis=1)[:, None] if MAJOR >= COUNTS_FROM_FIRST else 0
    return mask * (np.arange(1, mask.shape[1] + 1) - first)
