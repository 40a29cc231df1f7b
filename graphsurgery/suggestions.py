"""Names that are nearly right: what was probably meant, and British spellings of our own names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

BRITISH = re.compile(r"(optim|normal|quant)is")
"""The spelling -ise of our names, which have -ize."""
LIKENESS = 0.7
"""The least likeness of a suggestion, by difflib. At 0.6, segment_ids would mean input_ids."""


def find_spelling(name: str, choices: Iterable[str]) -> str:
    """Return ``name`` if it is among ``choices``; else its American spelling, with or without ``add-`` before it, if that
    is."""
    known = tuple(choices)
    american = BRITISH.sub(r"\1iz", name)
    return next((one for one in (name, american, f"add-{american}") if one in known), name)


def find_nearest(name: str, choices: Iterable[str]) -> str | None:
    """Return the one of ``choices`` that ``name`` was probably meant to be, or None."""
    by_lower = {one.lower(): one for one in choices}
    nearest = difflib.get_close_matches(BRITISH.sub(r"\1iz", name.lower()), by_lower, n=1, cutoff=LIKENESS)
    return by_lower[nearest[0]] if nearest else None


def suggest(name: str, choices: Iterable[str]) -> str:
    """Return the beginning of an advice, ``did you mean NAME? ``, or nothing if no choice is near."""
    nearest = find_nearest(name, choices)
    return "" if nearest is None else f"did you mean {nearest}? "
