"""What rounding each value to a half type does to the outputs, and which values it pays to leave alone.

The loss of a set of values is the squared distance, over all outputs at tokens, between the float32 model with those values
rounded and without, relative to the outputs' squares. Rounding errors are small and nearly independent, so the losses of
single values add up to about that of all (to 0.7-1.25 times it, copies of a value counted once, on 14 encoders, fused and not,
in both types). Hence a set that loses less than a tenth of the whole hides no value that does, and the worst are found by
halving, in a few runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from graphsurgery.compare.loss import find_tokens
from graphsurgery.compare.vectors import select_vectors
from graphsurgery.interface import Value
from graphsurgery.rewrites.half.probes import Feed, Rounding

Array = np.ndarray
Loss = Callable[[Collection[str]], float]


def loss_measure(rounding: Rounding, feeds: Sequence[Feed], mask: Value | None) -> Loss:
    """The function from values to what rounding them loses. ``mask``: the input that says which positions are tokens."""
    whole = [_at_tokens(rounding.run(feed, ()), feed, mask) for feed in feeds]
    size = sum(float(np.square(one).sum()) for one in whole)

    def loss(names: Collection[str]) -> float:
        """Relative, squared; infinite where an output is not finite any more."""
        apart = 0.0
        for feed, wanted in zip(feeds, whole, strict=True):
            found = _at_tokens(rounding.run(feed, names), feed, mask)
            with np.errstate(all="ignore"):
                apart += float(np.square(found - wanted).sum())
        if apart == 0:
            return 0.0
        return apart / size if np.isfinite(apart) and size > 0 else np.inf

    return loss


def worst(loss: Loss, names: Sequence[str], least: float) -> dict[str, float]:
    """Those of the values that alone lose ``least`` or more, and how much."""
    if not names:
        return {}
    lost = loss(names)
    if lost < least:
        return {}
    if len(names) == 1:
        return {names[0]: lost}
    middle = len(names) // 2
    return worst(loss, names[:middle], least) | worst(loss, names[middle:], least)


def _at_tokens(outputs: dict[str, Array], feed: Feed, mask: Value | None) -> Array:
    """Return every number of the outputs that counts, as float64."""
    parts = [select_vectors(one, find_tokens(feed, mask)) for one in outputs.values()]
    return np.concatenate([np.zeros(0), *(np.asarray(part, dtype=np.float64).ravel() for part in parts)])
