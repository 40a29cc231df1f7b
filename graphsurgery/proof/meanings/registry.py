"""The meaning of every edit that changes what a model gives, by its verb."""

from __future__ import annotations

from graphsurgery.proof.meaning import Meaning
from graphsurgery.proof.meanings import normalize, pooling

POOLING, NORMALIZE = "add-pooling", "add-normalize"
MEANINGS: dict[str, Meaning] = {
    POOLING: pooling.MEANING,
    NORMALIZE: normalize.MEANING,
}
