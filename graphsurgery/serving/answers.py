"""The service's result for a request, before a route writes it in its own form."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from graphsurgery.errors import GraphSurgeryError


@dataclass(frozen=True)
class Answer:
    """The result of one input of a request: a vector or an error."""

    vector: np.ndarray | None
    """``[width]``, as the file gives it. The route cuts dims and converts numbers. None if there is an error."""
    tokens: int = 0
    is_cut: bool = False
    error: GraphSurgeryError | None = None
    from_cache: bool = False


@dataclass(frozen=True)
class Answers:
    """The answers to the inputs of one request, in their order, and the seconds that the request spent in each step."""

    answers: list[Answer] = field(default_factory=list)
    tokenization: float = 0.0
    queue: float = 0.0
    inference: float = 0.0

    @property
    def tokens(self) -> int:
        return sum(one.tokens for one in self.answers)

    @property
    def cut(self) -> int:
        """How many texts were cut."""
        return sum(one.is_cut for one in self.answers)
