"""The whole proof: source and output end to end in ONNX Runtime, the source's hidden states feeding the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from graphsurgery.anatomy.hidden_state import inferred
from graphsurgery.interface import Value
from graphsurgery.model.model import Model
from graphsurgery.model.namer import Namer
from graphsurgery.model.provenance import Step
from graphsurgery.proof.chain import expected_values, made_by, starts
from graphsurgery.proof.compare import Limits
from graphsurgery.proof.judging import judged
from graphsurgery.proof.meaning import Expected
from graphsurgery.proof.weights import RecordedWeights
from graphsurgery.report import Check
from graphsurgery.runtime.feeds import Drawer, Mask
from graphsurgery.runtime.session import Session, open_session
from graphsurgery.runtime.texts import Encoded

NAME = "whole proof"
NEGLIGIBLE = 1e-5
"""A dependence on neighbours or padding that is no more than rounding."""
Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Source:
    """The source, loaded so that it gives what the reference starts from."""

    session: Session
    plain: tuple[str, ...]
    """Values that it gives as they are."""
    negated: dict[str, str]
    """Values that it gives in float32 and negated, and what it calls that."""

    def run(self, feed: Values, others: Sequence[str]) -> tuple[Values, Values]:
        """What the reference starts from, and the outputs ``others``."""
        found = self.session.run(feed, list(dict.fromkeys([*self.plain, *self.negated.values(), *others])))
        starting = {name: found[name] for name in self.plain} | {name: -found[given] for name, given in self.negated.items()}
        return starting, {name: found[name] for name in others}


@dataclass(frozen=True)
class Whole:
    """Source and output, loaded, and what the output must give for a feed."""

    source: Source
    output: Session
    declared: tuple[Value, ...]
    """The output's outputs as it declares them."""
    steps: Sequence[Step]
    weights: RecordedWeights

    def reference(self, feed: Values) -> dict[str, Expected]:
        """What the output must give, from the source's own run; outputs of the source that were kept must be equal to 1e-5."""
        starting, kept = self.source.run(feed, self._kept())
        found = expected_values(self.steps, feed | starting, self.weights)
        expected = {name: one for name, one in found.items() if name in self.output.outputs}
        for name, values in kept.items():
            if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
                expected[name] = Expected(values, 1e-5 * np.maximum(1, np.abs(values.astype(np.float64))))
        return expected

    def _kept(self) -> list[str]:
        made = made_by(self.steps)
        return [name for name in self.output.outputs if name in self.source.session.outputs and name not in made]


def open_source(source: Model, output: Model, steps: Sequence[Step]) -> Source:
    """The source, giving what ``steps`` read of it. Raises UnsupportedModelError or MissingDataError when ONNX Runtime cannot.

    Where the CPU has no kernel for float16, ONNX Runtime computes in float32 and rounds what is an output; a head, which starts
    with a cast to float32, gets the value unrounded. The reference then has to start from that as well: the value is cast here,
    too, and negated because a cast that is itself an output is not treated so; and only what ``output`` keeps stays an output.
    """
    inside = [name for name in starts(steps) if source.interface.input(name) is None]
    half = [name for name in inside if _may_be_half(source, name)]
    plain = tuple(name for name in inside if name not in half)
    if not half:
        return Source(open_session(source, extra_outputs=plain), plain, {})
    source.require_data("running the model")
    proto = source.to_proto()
    namer = Namer.of(source.proto)
    negated = {name: namer.new(f"{name}/negated") for name in half}
    for name, given in negated.items():
        cast = namer.new(f"{name}/float32")
        proto.graph.node.append(onnx.helper.make_node("Cast", [name], [cast], namer.new("cast"), to=onnx.TensorProto.FLOAT))
        proto.graph.node.append(onnx.helper.make_node("Neg", [cast], [given], namer.new("negated")))
    kept = {value.name for value in output.interface.outputs} - made_by(steps)
    outputs = [info for info in proto.graph.output if info.name in kept]
    outputs += [onnx.ValueInfoProto(name=name) for name in (*plain, *negated.values()) if name not in kept]
    del proto.graph.output[:]
    proto.graph.output.extend(outputs)
    return Source(Session(proto.SerializeToString(), folder=source.folder), plain, negated)


def _may_be_half(source: Model, name: str) -> bool:
    found = source.interface.output(name) or inferred(source).output(name)
    return found is None or found.dtype not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)


def whole_proof(whole: Whole, cases: Iterator[tuple[str, list[Values]]], limits: Limits) -> Check:
    """Compare the output with the reference on every feed of every kind."""
    detail = "source and output end to end in ONNX Runtime, the source's hidden states feeding the float64 reference"
    pairs = ((kind, ((feed, whole.reference(feed)) for feed in feeds)) for kind, feeds in cases)
    return judged(NAME, detail, whole.output.run, whole.declared, pairs, limits)


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
    runs: list[Callable[[Values], Values]] = [whole.output.run, lambda feed: _plain(whole.reference(feed))]
    batch = drawer.feed(mask, seed=0)
    full = [_embedding(run(batch)) for run in runs]
    if any(array.ndim != 2 or len(array) != len(mask) for array in full):
        return [f"{unmeasured} no output is one vector per text"]
    neighbours, padding = [0.0, 0.0], [0.0, 0.0]
    for row in range(len(mask)):
        alone = {name: array[row : row + 1] for name, array in batch.items()}
        trimmed = {name: array[:, : int(mask[row].sum())] if array.ndim > 1 else array for name, array in alone.items()}
        for index, run in enumerate(runs):
            one = _embedding(run(alone))[0]
            neighbours[index] = max(neighbours[index], _apart(one, full[index][row]))
            shorter = _embedding(run(trimmed))[0]
            if shorter.shape != one.shape:
                return [f"{unmeasured} the output's width follows the sequence"]
            padding[index] = max(padding[index], _apart(shorter, one))
    largest = max(*neighbours, *padding)
    if largest <= NEGLIGIBLE:
        return [f"neighbours in the batch and padding change a row's vector by at most {largest:.1e}"]
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
