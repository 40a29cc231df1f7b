"""What differs between the two environments that the tests run in: sentence-transformers 5.7 with Optimum, and the newest of
everything, where there is no Optimum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from itertools import combinations

import numpy as np
import pytest

HAS_OPTIMUM = find_spec("optimum") is not None
needs_optimum = pytest.mark.skipif(not HAS_OPTIMUM, reason="about what Optimum makes or loads; it excludes transformers 5")
LEFT_OUT = {
    "test_fusions_report.py": "the optimizer's fusions in Optimum's exports",
    "test_minilm.py": "the real model in batches of every size; test_minilm_bake.py holds it against encode here",
    "test_optimize.py": "the optimizer on Optimum's exports",
    "test_optimizer.py": "the optimizer's fusions in Optimum's exports",
    "test_portable.py": "Optimum's exports in other runtimes",
    "test_quantize.py": "portable integers in OpenVINO, which is not installed here",
}
"""Files whose tests are not run where there is no Optimum, and why."""
SAMPLED = {
    "test_pooling_modules.py": "every pair of architecture, mode and normalisation",
    "test_token_modules.py": "every pair of module, mode and opset",
    "test_vector_modules.py": "every pair of module, width, opset and form of the weights",
}
"""Files of which the second environment runs a sample, by `choose_pairs`. They hold our modules against those of
sentence-transformers, and only the latter differ here. A difference of theirs shows for one parameter or for two together; the
first environment runs all combinations of three and more."""

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


def choose_pairs(cases: Sequence[Mapping[str, object]]) -> list[int]:
    """Choose cases so that each pair of values which occurs together in a case occurs in one of those chosen.

    Args:
        cases: the parameters of each case, by name.

    Returns:
        The places of the chosen cases, in order: the same ones in every run.
    """
    named = [sorted((name, repr(value)) for name, value in one.items()) for one in cases]
    pairs = [set(combinations(one, 2)) or set(one) for one in named]
    missing, chosen = set().union(*pairs), []
    while missing:
        best = max(range(len(pairs)), key=lambda place: len(pairs[place] & missing))
        chosen.append(best)
        missing -= pairs[best]
    return sorted(chosen)
