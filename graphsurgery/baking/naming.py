"""Errors of a bake name the file of the model folder that they are about, and the options that bake has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graphsurgery.errors import GraphSurgeryError, VerificationFailed

OPTIONS = {"--dim": "--truncate-dim", "--to": "--output-precision"}
"""What edits call their parameters, and what bake calls them."""
POOLING_OPTIONS = ("--mask", "--hidden-state", "--ids", "--mode")


@contextmanager
def naming(place: Path | None, pooled: Path | None = None) -> Iterator[None]:
    """What is raised names ``place``; None where nothing in the folder is wrong, but what was asked for. ``pooled`` is the ONNX
    file, for advice that only a verb of its own can follow."""
    try:
        yield
    except VerificationFailed:
        raise
    except GraphSurgeryError as error:
        rename(error, place, pooled)
        raise


def rename(error: GraphSurgeryError, place: Path | None, pooled: Path | None = None) -> None:
    """Let ``error`` name ``place``, and advise nothing that bake cannot do."""
    if place is not None and str(place) not in error.message:
        error.message = f"{place}: {error.message}"
    words = [OPTIONS.get(word, word) for word in error.advice.split(" ")]
    error.advice = " ".join(words)
    if any(option in error.advice for option in POOLING_OPTIONS):
        where = f", on {pooled}" if pooled is not None else ""
        error.advice += f"; these are options of graphsurgery add-pooling{where}"
