"""The interface through which a service reports what it does. Its metrics implement it."""

from __future__ import annotations

from graphsurgery.serving.answers import Answers
from graphsurgery.serving.engine import Batch


class Watcher:
    """Receives the events of a service and ignores them. The subclass `Metrics` counts them."""

    def see_batch(self, batch: Batch) -> None:
        """Called in the engine's thread after each run."""

    def see_answers(self, kind: str, answers: Answers, seconds: float) -> None:
        """Called when a request is answered, after ``seconds``. Some of its answers may be errors."""

    def see_refusal(self, error: BaseException) -> None:
        """Called when a request is not answered: it was refused, or its client has left (CancelledError)."""
