"""What a user asked of a comparison."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphsurgery.errors import RequestError

Array = np.ndarray
LEAST_COSINE = 0.999
"""The smallest cosine between vectors in half precision and those in float32, unless another is asked for."""


@dataclass(frozen=True)
class Limits:
    """What a user asked for: ``atol`` in place of a check's own tolerance, ``min_cosine`` besides it."""

    atol: float | None = None
    min_cosine: float | None = None

    def __post_init__(self) -> None:
        """RequestError for limits that would admit everything or nothing by mistake."""
        if self.atol is not None and not 0 <= self.atol < np.inf:
            raise RequestError(
                f"an absolute tolerance of {self.atol} is no number of 0 or more", "give a tolerance such as 1e-5"
            )
        if self.min_cosine is not None and not -1 <= self.min_cosine <= 1:
            raise RequestError(f"--min-cosine must be between -1 and 1, got {self.min_cosine}", "give a cosine such as 0.999")

    def tolerance(self, own: Array) -> Array:
        """``atol`` where it was asked for, else the check's ``own`` tolerance."""
        return own if self.atol is None else np.array(self.atol)


NO_LIMITS = Limits()
