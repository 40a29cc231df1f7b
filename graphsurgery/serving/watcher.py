"""Who is told what a service does: nobody, or its metrics."""

from __future__ import annotations

from graphsurgery.serving.answers import Answers
from graphsurgery.serving.engine import Batch


class Watcher:
    """Is told what happens, and does nothing with it. `Metrics` counts it."""

    def see_batch(self, batch: Batch) -> None:
        """A run is done. Called in the engine's thread."""

    def see_answers(self, kind: str, answers: Answers, seconds: float) -> None:
        """A request is answered, after so many ``seconds``. Some of its answers may be errors."""

    def see_refusal(self, error: BaseException) -> None:
        """A request is not answered: it was refused, or, with CancelledError, its client has left."""
