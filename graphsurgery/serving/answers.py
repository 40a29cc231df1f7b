"""What the service gives for a request, before a route writes it in its own form."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from graphsurgery.errors import GraphSurgeryError


@dataclass(frozen=True)
class Answer:
    """What became of one input of a request."""

    vector: np.ndarray | None
    """``[width]``, as the file gives it: dims are cut and numbers converted by the route. None if there is an error."""
    tokens: int = 0
    is_cut: bool = False
    error: GraphSurgeryError | None = None
    from_cache: bool = False


@dataclass(frozen=True)
class Answers:
    """The answers of one request, in its order, and where its time went, in seconds."""

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
