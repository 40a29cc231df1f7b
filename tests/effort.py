"""How much work something is, in calls of functions: the same on every machine, however busy. Seconds are for benchmarks."""

from __future__ import annotations

import cProfile
from collections.abc import Iterator
from contextlib import contextmanager

MOST_CALLS = 5_000_000


@contextmanager
def at_most_calls(limit: int = MOST_CALLS) -> Iterator[None]:
    """What runs inside calls Python functions ``limit`` times at most. Built-in ones are quick, and not counted."""
    with counting() as profile:
        try:
            yield
        finally:
            profile.disable()
            assert count_calls(profile) <= limit


@contextmanager
def counting() -> Iterator[cProfile.Profile]:
    """What `count_calls` counts afterwards."""
    profile = cProfile.Profile(builtins=False)
    profile.enable()
    try:
        yield profile
    finally:
        profile.disable()


def count_calls(profile: cProfile.Profile) -> int:
    return sum(entry.callcount for entry in profile.getstats())
