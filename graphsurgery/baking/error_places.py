"""Errors of a bake name the file of the model folder that they are about, and advise what bake can do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graphsurgery.errors import GraphSurgeryError, VerificationFailed

ADVICE = {
    "--dim": "write one such as --truncate-dim 256, or several such as --truncate-dim 512,256",
    "--to": "choose from int8, uint8, binary, ubinary with --output-precision",
}
"""The advice to give in a bake, by the option that an edit's own advice names. In bake, these options have other names."""
POOLING_OPTIONS = frozenset({"--mask", "--hidden-state", "--ids", "--mode", "--replace"})
"""Options of add-pooling that bake does not have."""


@contextmanager
def name_place_in_errors(place: Path | None, pooled: Path | None = None) -> Iterator[None]:
    """Let errors name ``place``, if there is one. ``pooled`` is the ONNX file, for advice that only add-pooling can follow."""
    try:
        yield
    except VerificationFailed:
        raise
    except GraphSurgeryError as error:
        name_place(error, place, pooled)
        raise


def name_place(error: GraphSurgeryError, place: Path | None, pooled: Path | None = None) -> None:
    """Let ``error`` name ``place``, if there is one, and advise nothing that bake cannot do."""
    if place is not None and str(place) not in error.message:
        error.message = f"{place}: {error.message}"
    error.advice = next((ADVICE[option] for option in error.options if option in ADVICE), error.advice)
    if POOLING_OPTIONS.intersection(error.options):
        where = f", on {pooled}" if pooled is not None else ""
        error.advice += f"; these are options of graphsurgery add-pooling{where}"
