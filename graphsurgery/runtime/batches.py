"""The batches in which a CPU embeds texts fastest: texts of similar length together, and few tokens in one run.

A batch runs at the length of its longest text, and its activations should stay in the processor's caches. So texts are sorted
by length and cut where the positions of a run would exceed a budget, instead of after a fixed number of texts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphsurgery.errors import RequestError

BUDGET = 512
"""The positions of one run, if no budget is given. On two cores, none from 256 to 2,048 is faster beyond the noise."""


def plan(lengths: Sequence[int] | np.ndarray, budget: int = BUDGET, *, padded: bool = True) -> list[list[int]]:
    """Return the batches in which to run texts of these lengths: lists of indexes into ``lengths``, the longest texts first.

    The texts are sorted by length, ``n_0 >= n_1 >= ...``, texts of equal length in their order, and cut into the fewest batches
    of neighbours whose rows x longest is at most ``budget``. A text longer than the budget is alone. The padding of all batches
    together is at most ``budget * ln(longest / shortest)`` positions, however many texts there are.

    Args:
        lengths: the number of tokens of each text, ``[texts]`` integers. A text without tokens counts as one token, because it
            takes a position.
        budget: the most positions of one run. 512 to 1024 are best on two cores.
        padded: False for a file that computes no padding: the budget then limits the sum of the tokens in a batch.

    Raises:
        RequestError: ``lengths`` are not integers of 0 and more, or ``budget`` is not an integer of 1 or more.
    """
    tokens = _check_lengths(lengths)
    if isinstance(budget, bool) or not isinstance(budget, int | np.integer) or budget < 1:
        raise RequestError(
            f"a budget is a number of tokens, 1 or more, and not {budget!r}", f"give a whole number, such as {BUDGET}"
        )
    order = np.argsort(-tokens, kind="stable")
    tokens = tokens[order]
    before = np.concatenate(([0], np.cumsum(tokens)))
    batches, start = [], 0
    while start < len(order):
        end = start + budget // tokens[start] if padded else np.searchsorted(before, before[start] + budget, side="right") - 1
        end = max(int(end), start + 1)
        batches.append(order[start:end].tolist())
        start = end
    return batches


def _check_lengths(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return ``lengths`` as an array ``[texts]`` int64, at least 1 each. Raises RequestError for anything else."""
    found = np.asarray(lengths)
    if found.ndim != 1 or (found.size and found.dtype.kind not in "iu") or np.any(found < 0):
        raise RequestError("lengths are not the numbers of tokens of texts", "give one integer, 0 or more, for each text")
    return np.maximum(found.astype(np.int64), 1)
