"""The check that two towers together give the similarities of the joint model that they were taken out of.

    logits = scale * (text . image) + bias      [texts, pictures], and the same turned round

scale and bias are those that the towers record. The embeddings are scaled to length one here if the towers do not do so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from graphsurgery.encoder.roles import find_roles
from graphsurgery.encoder.towers import IMAGE, TEXT, Logits, find_logits
from graphsurgery.errors import GraphSurgeryError
from graphsurgery.model.model import Model
from graphsurgery.proof.expected import has_half_weights
from graphsurgery.proof.judging import judge
from graphsurgery.references.reference import Expected, Values
from graphsurgery.report import Check, Report, Verdict
from graphsurgery.runtime.baked_sizes import make_feed_generator_for
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.session import Session, open_session

NAME = "similarities"
EXTRACTED = "extract-tower"
NEAR, NEAR_IN_HALF = 1e-5, 1e-2
"""How far a similarity may be off, as a share of the largest one, in float32 and in the half types."""
BATCHES = ((3, 2), (2, 3))
"""Texts and pictures: unequal, so that a similarity turned round is noticed. A model whose sizes are fixed gets those."""
TOKENS = 6


@dataclass(frozen=True)
class _Tower:
    """A written tower: its session, its feeds, and the output that is its embedding."""

    session: Session
    generator: FeedGenerator
    output: str

    @classmethod
    def of(cls, model: Model) -> _Tower:
        generator = make_feed_generator_for(model, find_roles(model.interface))
        return cls(open_session(model), generator, model.interface.outputs[0].name)

    def draw(self, rows: int, seed: int) -> Values:
        """Return a feed of ``rows`` texts or pictures, or of as many as the model takes."""
        columns = self.generator.fixed_sequence or self.generator.limit_length(TOKENS)
        return self.generator.generate(np.ones((self.generator.fixed_batch or rows, columns), dtype=np.bool_), seed)

    def embed(self, feed: Values) -> np.ndarray:
        """Return vectors of length one, ``[rows, dim]`` float64."""
        vectors = self.session.run(feed)[self.output].astype(np.float64)
        unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
        return unit


def check_similarities(joint: Model, text: Model, image: Model) -> Report:
    """Compare the similarities of the written towers ``text`` and ``image`` with every logits output of ``joint``.

    The check is NOT CHECKED, and says why, if the joint model has no logits that are a scaled product of both embeddings, or
    cannot be run.
    """
    found = find_logits(joint, text.interface.outputs[0].name, image.interface.outputs[0].name)
    scale, bias = _read_numbers(text)
    if not found or scale is None:
        why = f"{NAME}: the joint model has no output that is recognised as a scaled product of both embeddings"
        return Report((Check(NAME, why, stated=Verdict.NOT_CHECKED),), (), (why,))
    if _read_numbers(image) != (scale, bias):
        return Report((Check(NAME, "the towers record different scales or biases", stated=Verdict.FAILED),))
    try:
        return Report((_compare(joint, {TEXT: _Tower.of(text), IMAGE: _Tower.of(image)}, found, scale, bias or 0.0),))
    except GraphSurgeryError as error:
        why = f"{NAME}: {error}"
        return Report((Check(NAME, str(error), stated=Verdict.NOT_CHECKED),), (), (why,))


def _compare(joint: Model, towers: dict[str, _Tower], found: tuple[Logits, ...], scale: float, bias: float) -> Check:
    session = open_session(joint)
    near = NEAR_IN_HALF if has_half_weights(joint) else NEAR
    names = [one.output for one in found]

    def run(feed: Values) -> Values:
        vectors = {
            kind: tower.embed({name: feed[name] for name in feed if name in _list_inputs(tower)})
            for kind, tower in towers.items()
        }
        products = scale * (vectors[TEXT] @ vectors[IMAGE].T) + bias
        return {one.output: products if one.text_first else products.T for one in found}

    def expect(texts: int, pictures: int) -> Iterator[tuple[Values, dict[str, Expected]]]:
        for seed in range(2):
            feed = towers[TEXT].draw(texts, seed) | towers[IMAGE].draw(pictures, seed)
            given = session.run(feed, names)
            yield (
                feed,
                {name: Expected(array, np.array(near * np.max(np.abs(array), initial=0.0))) for name, array in given.items()},
            )

    cases = ((f"{texts} texts, {pictures} pictures", expect(texts, pictures)) for texts, pictures in BATCHES)
    added = f" {'-' if bias < 0 else '+'} {abs(bias):.6g}" if bias else ""
    detail = f"{scale:.6g} * (text . image){added} of the two files against {', '.join(names)} of the joint model"
    return judge(NAME, detail, run, (), cases)


def _list_inputs(tower: _Tower) -> set[str]:
    roles = tower.generator.roles
    return {value.name for value in (*roles.known, *roles.others)}


def _read_numbers(model: Model) -> tuple[float | None, float | None]:
    """Return the scale and the bias that a tower records."""
    parameters = next((step.parameters for step in model.recorded if step.edit == EXTRACTED), {})
    scale, bias = parameters.get("scale"), parameters.get("bias")
    return None if scale is None else float(scale), None if bias is None else float(bias)
