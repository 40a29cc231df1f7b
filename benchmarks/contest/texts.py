"""Real English text that every Python brings along: the docstrings of its standard library."""

from __future__ import annotations

import ast
import random
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

SEED = 20
WORDS = (42, 165, 225, 250)
"""The words of the passages in turn: about 80, 330, 450 and 500 tokens, as passages of documentation have."""


def read_sentences(count: int) -> list[str]:
    """Return ``count`` short texts: the first paragraph of each docstring, in a fixed random order.

    Half of them have at most a dozen words, and a few have more than a hundred.
    """
    found = {re.sub(r"\s+", " ", docstring.strip().split("\n\n")[0]) for docstring in _walk_docstrings()}
    texts = sorted(text for text in found if " " in text)
    random.Random(SEED).shuffle(texts)
    return texts[:count]


def read_passages(count: int) -> list[str]:
    """Return ``count`` long texts: docstrings one after the other, cut after so many `WORDS`."""
    words = " ".join(_walk_docstrings()).split()
    starts = random.Random(SEED).sample(range(0, len(words) - max(WORDS), max(WORDS)), count)
    return [" ".join(words[start : start + WORDS[place % len(WORDS)]]) for place, start in enumerate(starts)]


def _walk_docstrings() -> Iterator[str]:
    """Yield every docstring of the standard library's modules, without those of its packages."""
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                docstring = ast.get_docstring(node)
                if docstring:
                    yield docstring
