"""The whole proof: source and output end to end in ONNX Runtime, the source's hidden states feeding the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from graphsurgery.model.model import Model
from graphsurgery.model.provenance import MOVE, Step
from graphsurgery.report import Check
from graphsurgery.runtime.feeds import Drawer, Mask
from graphsurgery.runtime.session import Session, open_session
from graphsurgery.runtime.texts import Encoded
from graphsurgery.verify.compare import Tally
from graphsurgery.verify.expectation import Expected, expected_outputs

Values = dict[str, np.ndarray]
Reference = Callable[[Values], dict[str, Expected]]
"""From a feed to what the outputs must be."""


@dataclass(frozen=True)
class Whole:
    """Source and output, loaded, and what the output must give for a feed."""

    source: Session
    output: Session
    steps: Sequence[Step]
    needed: tuple[str, ...]
    """Values of the source that the reference starts from."""

    def reference(self, feed: Values) -> dict[str, Expected]:
        """What the output must give, from the source's own run; outputs of the source that were kept must be equal to 1e-5."""
        known = self.source.run(feed, list(dict.fromkeys([*self.needed, *self._kept()])))
        expected = expected_outputs(self.steps, feed | known)
        for name in self._kept():
            if name not in expected and np.issubdtype(known[name].dtype, np.floating):
                expected[name] = Expected(known[name], 1e-5 * np.maximum(1, np.abs(known[name]).astype(np.float64)))
        return expected

    def _kept(self) -> list[str]:
        made = {step.parameters.get("output_name") or step.parameters.get("target") for step in self.steps}
        return [name for name in self.output.outputs if name in self.source.outputs and name not in made]


def open_whole(source: Model, output: Model, steps: Sequence[Step]) -> Whole:
    """Load both models. UnsupportedModelError or MissingDataError when ONNX Runtime cannot."""
    made: set[str] = set()
    needed = []
    for step in steps:
        if step.edit == MOVE:
            continue
        start = step.parameters.get("hidden_state") or step.parameters.get("target")
        if start is not None and start not in made:
            needed.append(start)
        made.add(step.parameters.get("output_name") or step.parameters.get("target"))
    return Whole(open_session(source, extra_outputs=needed_inside(source, needed)), open_session(output), steps, tuple(needed))


def needed_inside(source: Model, needed: Sequence[str]) -> list[str]:
    """Those of ``needed`` that are not outputs of the source yet."""
    return [name for name in needed if source.interface.output(name) is None]


def whole_proof(whole: Whole, cases: Iterator[tuple[str, list[Values]]]) -> Check:
    """Compare the output with the reference on every feed of every kind."""
    comparisons = []
    for kind, feeds in cases:
        tally = Tally(kind)
        for feed in feeds:
            found = whole.output.run(feed)
            for name, expected in whole.reference(feed).items():
                tally.add(found[name], expected.values, expected.tolerance)
        comparisons.append(tally.result())
    detail = "source and output end to end in ONNX Runtime, the source's hidden states feeding the float64 reference"
    return Check("whole proof", detail, tuple(comparisons))


def whole_cases(drawer: Drawer, texts: Encoded | None) -> Iterator[tuple[str, list[Values]]]:
    """Drawn feeds of every kind, and real text where there is a tokenizer."""
    for kind, masks in drawer.kinds():
        yield kind, [drawer.feed(mask, seed) for seed, mask in enumerate(masks)]
    if texts is not None:
        yield "real text", [text_feed(drawer, texts)]


def text_feed(drawer: Drawer, texts: Encoded) -> Values:
    """The arrays for tokenised texts."""
    feed = drawer.feed(texts.mask, seed=0)
    roles = drawer.roles
    for value, array in ((roles.ids, texts.ids), (roles.types, texts.types)):
        if value is not None:
            feed[value.name] = array.astype(feed[value.name].dtype)
    return feed


def dependence(whole: Whole, drawer: Drawer, mask: Mask) -> list[str]:
    """How much a row's vector changes with its neighbours in the batch and with the padding after it, in words.

    Many encoders have such a dependence by themselves, so it is reported and never judged; the source's own is named beside it.
    """
    unmeasured = "batch-neighbour and padding dependence: not measured,"
    if drawer.fixed_batch is not None or drawer.fixed_sequence is not None:
        return [f"{unmeasured} the model's batch or sequence size is fixed"]
    runs = (whole.output.run, lambda feed: _plain(whole.reference(feed)))
    batch = drawer.feed(mask, seed=0)
    full = [_embedding(run(batch)) for run in runs]
    if any(len(array) != len(mask) for array in full):
        return [f"{unmeasured} the first output has no row per text"]
    neighbours, padding = [0.0, 0.0], [0.0, 0.0]
    for row in range(len(mask)):
        alone = {name: array[row : row + 1] for name, array in batch.items()}
        trimmed = {name: array[:, : int(mask[row].sum())] if array.ndim > 1 else array for name, array in alone.items()}
        for index, run in enumerate(runs):
            one = _embedding(run(alone))[0]
            neighbours[index] = max(neighbours[index], _apart(one, full[index][row]))
            padding[index] = max(padding[index], _apart(_embedding(run(trimmed))[0], one))
    return [
        f"a row's vector changes by at most {most[0]:.1e} with {what} (the source's by {most[1]:.1e})"
        for what, most in (("its neighbours in the batch", neighbours), ("the padding after it", padding))
    ]


def _plain(expected: dict[str, Expected]) -> Values:
    return {name: one.values for name, one in expected.items()}


def _embedding(values: Values) -> np.ndarray:
    """The first output that is a vector per row."""
    return next((array for array in values.values() if array.ndim == 2), next(iter(values.values())))


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.max(np.abs(one.astype(np.float64) - other.astype(np.float64)), initial=0.0))
