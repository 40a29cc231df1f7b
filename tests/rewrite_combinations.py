"""The rewrites on every fixture, alone and one behind another, with half precision behind them or not.

`check` applies a combination without the proofs of a run, and compares the vectors with those of the fixture on every kind of
feed; or it expects the refusal that `REFUSALS` lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

import graphsurgery
from graphsurgery import Fuse, FuseAttention, FuseRotary, Half, PaddingFree, PooledToken, Simplify
from graphsurgery.compare.models import Feed, SourceOutputs, compare_models
from graphsurgery.compare.tolerance import LEAST_COSINE, NO_LIMITS, Limits
from graphsurgery.encoder.roles import find_roles
from graphsurgery.errors import RequestError
from graphsurgery.graph.schemas import count_vendor_operators
from graphsurgery.model.model import Model
from graphsurgery.report import Verdict
from graphsurgery.rewrites.apply import apply_rewrite
from graphsurgery.rewrites.rewrite import Context, Rewrite
from graphsurgery.runtime.baked_sizes import make_feed_generator_for
from graphsurgery.runtime.session import open_session

FOLDER = Path(__file__).resolve().parents[1] / "fixtures"
FIXTURES = sorted(path.parent.name for path in FOLDER.glob("*/model.onnx"))
REWRITES: dict[str, Rewrite] = {
    "simplify": Simplify(), "fuse": Fuse(), "attention": FuseAttention(), "rotary": FuseRotary(),
    "pooled-token": PooledToken(),
    "rows": PaddingFree("rows"), "gather": PaddingFree("gather"), "rows or padded": PaddingFree("rows", keep_padded=True),
}  # fmt: skip
"""By name; padding-free by its form, and by whether it keeps the padded encoder."""
PACKED = {"rows", "gather", "rows or padded"}
PORTABLE = {"simplify", "pooled-token", "gather"}
"""Those that add standard operators alone."""
PAIRS = list(permutations(REWRITES, 2))
HALF = "half"
LAST_TOKEN = ("xlmr", "qwen3", "qwen3-dynamo")
"""The fixtures whose head takes the last token. That of the others takes the first."""
IN_HALF = "bert-fp16"
ROTATED = {"modernbert", "modernbert-dynamo", "qwen3", "qwen3-dynamo"}
"""The fixtures with rotary positions."""
KINDS = {
    "right padding", "left padding", "mixed padding", "holes", "empty row", "single token", "batch of one", "sequence of one",
    "long",
}  # fmt: skip

VENDOR = "has operators of one vendor"
REFUSALS: list[tuple[set[str], set[str], set[str], str]] = [
    ({"fuse", "attention"}, {"simplify"}, {*FIXTURES}, VENDOR),
    ({"rotary"}, {"simplify"}, ROTATED, VENDOR),
    ({"rows", "rows or padded"}, {"rotary"}, {*FIXTURES}, "inside of its loops over rows"),
    ({"rows", "rows or padded"}, {"simplify"}, {*FIXTURES} - {IN_HALF}, VENDOR),
    ({"rows", "rows or padded"}, {"fuse"}, {*FIXTURES}, "fails on the loops over rows"),
    (PACKED, PACKED, {*FIXTURES}, "is padding-free already"),
    (PACKED, {"pooled-token"}, {*FIXTURES}, "is padding-free"),
    ({*REWRITES}, {HALF}, {IN_HALF}, "computes in float16 already"),
    ({"rows or padded"}, {"simplify", "attention", HALF}, {*FIXTURES}, "the file holds the encoder twice"),
]
"""What the second of two rewrites refuses behind the first: the first, the second, the fixtures, and the reason.

In half precision, the loops over rows have no operator of one vendor."""


@dataclass(frozen=True)
class Source:
    """A fixture with a head that takes one token, and what it gives on every kind of feed."""

    model: Model
    outputs: SourceOutputs

    def draw(self, encoder: Model) -> list[dict[str, np.ndarray]]:
        """Feeds for the encoder, for rewrites that measure."""
        names = {value.name for value in encoder.interface.inputs}
        return [{name: array for name, array in feed.arrays.items() if name in names} for feed in self.outputs.feeds[:3]]


@cache
def open_source(fixture: str) -> Source:
    mode = "lasttoken" if fixture in LAST_TOKEN else "cls"
    model = graphsurgery.load(graphsurgery.add_pooling(FOLDER / fixture / "model.onnx", mode=mode, normalize=True))
    generator = make_feed_generator_for(model, find_roles(model.interface))
    masks = [(kind, mask) for kind, those in generator.generate_masks() for mask in those]
    feeds = [Feed(kind, generator.generate(mask, seed=1), mask) for kind, mask in masks]
    outputs = SourceOutputs.of(lambda plain: open_session(model, plain=plain), ["sentence_embedding"], feeds)
    assert {feed.kind for feed in outputs.feeds} == KINDS
    return Source(model, outputs)


@cache
def rewrite(fixture: str, names: tuple[str, ...]) -> Model:
    """The fixture after the rewrites ``names``. Raises what the last of them raises."""
    source = open_source(fixture)
    if not names:
        return source.model
    before = rewrite(fixture, names[:-1])
    last = Half() if names[-1] == HALF else REWRITES[names[-1]]
    last.check(before)
    return apply_rewrite(last, before, Context(source.draw)).after


def find_refusal(fixture: str, names: tuple[str, ...]) -> str | None:
    """The reason for which the last of ``names`` is expected to refuse, or None."""
    first, last = names[-2:] if len(names) > 1 else ("", names[-1])
    found = [why for firsts, seconds, fixtures, why in REFUSALS if first in firsts and last in seconds and fixture in fixtures]
    return found[0] if found else None


def check(fixture: str, names: tuple[str, ...]) -> None:
    """Apply the rewrites ``names``, and compare every vector; or expect the refusal of the last one."""
    why = find_refusal(fixture, names)
    if why is not None:
        with pytest.raises(RequestError, match=why) as refused:
            rewrite(fixture, names)
        assert refused.value.advice
        return
    made, source = rewrite(fixture, names), open_source(fixture)
    assert made.interface == source.model.interface
    is_exact = HALF not in names and fixture != IN_HALF
    limits = NO_LIMITS if is_exact else Limits(min_cosine=LEAST_COSINE)
    compared = compare_models(source.outputs, lambda plain: open_session(made, plain=plain), limits, is_exact=is_exact)
    assert compared.verdict is Verdict.PASSED, f"{compared.verdict.value}: {compared}"
    assert len(compared.comparisons) == len(KINDS)
    if PORTABLE.issuperset(names):
        assert not count_vendor_operators(made.proto)
