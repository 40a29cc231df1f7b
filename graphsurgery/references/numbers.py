"""Numbers that stand in recorded texts."""

from __future__ import annotations

MOST_DIGITS = 10
"""More than any size or token id has; Python refuses to read thousands of them."""
MOST_TOKENS = 1 << 20
"""Rows times positions at most: what a forged record says beyond that is not run."""


def number(text: str) -> int | None:
    """The number from 0 on that ``text`` is; None where it is none, or has too many digits."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS else None
