"""How golden values are made: for a few texts, the float64 reference computes them from the source's own run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from graphsurgery.deferred import onnxruntime
from graphsurgery.errors import GraphSurgeryError, ModelError, UnsupportedModelError
from graphsurgery.model.model import Model
from graphsurgery.proof.difference import find_difference
from graphsurgery.proof.expected import ExpectedOutputs, OpenedSource, has_half_weights, open_source
from graphsurgery.proof.golden_values import COARSE, EXACT, HALF, GoldenOutput, Goldens, find_largest
from graphsurgery.proof.source_feeds import make_feed_generator
from graphsurgery.references.chain import Chain
from graphsurgery.references.recorded_weights import RecordedWeights
from graphsurgery.references.reference import Array, Expected, RunModel, Values
from graphsurgery.runtime.feeds import FeedGenerator, generate_text_feeds
from graphsurgery.runtime.masks import EMPTY_ROW, RIGHT
from graphsurgery.runtime.texts import SENTENCES, find_tokenizer, tokenize

ROWS, LONGEST = 4, 24
"""The number of texts, and the most tokens of each."""
LARGEST = 1 << 18
"""The most bytes of golden values of one output. If rows are wide, fewer are recorded."""
PRECISION, BITS = "output-precision", ("binary", "ubinary")
BYTES = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
QUANTISED = {
    "MatMulInteger", "MatMulIntegerToFloat", "ConvInteger", "DynamicQuantizeLinear", "DynamicQuantizeMatMul",
    "DynamicQuantizeLSTM", "QLinearMatMul", "QLinearConv", "QGemm", "QAttention", "QuantizeLinear", "MatMulNBits",
}  # fmt: skip
OTHER_RUNTIMES = 2
"""The rounding errors of float32 are allowed this many times, because other runtimes round differently."""


def make_goldens(source: Model, model: Model) -> Goldens:
    """Return golden values of ``model``, which was made from ``source``.

    Raise UnsupportedModelError or MissingDataError if ONNX Runtime cannot run the source here, and ModelError if none of the
    values is finite.
    """
    chain = Chain.between(source, model)
    changed = find_difference(chain.apply_fields(source)[-1], model)
    weights = RecordedWeights.of(model, changed.added)
    generator, names = make_feed_generator(source, chain), [value.name for value in model.interface.outputs]
    opened = open_source(source, model, chain)
    reference = ExpectedOutputs(opened, chain, weights)
    feed = _choose_feed(source, generator, ROWS)
    expected = reference(feed, names)
    rows = _count_rows(expected)
    if rows < ROWS and generator.fixed_batch is None:
        feed = _choose_feed(source, generator, rows)
        expected = reference(feed, names)
    if not expected:
        raise UnsupportedModelError("no output of the file has a reference", "verify it --against its source")
    if not any(np.isfinite(one.values).any() for one in expected.values()):
        what = "the model gives only NaN and infinities, even for ordinary text"
        raise ModelError(what, "its weights are damaged, or too large for float16: export it again, in float32")
    allowed, least_cosine = _choose_limits(source)
    octets = [value.name for value in model.interface.outputs if value.dtype in BYTES]
    rounded = _record_bytes(opened, chain, weights, allowed, feed, octets)
    outputs = {name: rounded.get(name) or _record_floats(one, allowed) for name, one in expected.items()}
    return Goldens(feed, outputs, allowed, least_cosine, onnxruntime.__version__)


def _record_floats(one: Expected, allowed: float) -> GoldenOutput:
    """Return the golden values of an output of floats.

    The rounding of float32 is recorded, too, if it is more than ``allowed``, a share of each row's largest value.
    """
    values = one.values.astype(np.float32)
    rounding = _measure_uncertainty(one).max(axis=tuple(range(1, values.ndim)), keepdims=True, initial=0)
    within = bool(np.all(rounding <= allowed * find_largest(values)))
    return GoldenOutput(values, rounding=None if within else rounding.astype(np.float32))


def _measure_uncertainty(one: Expected) -> Array:
    """Return how far each value may be off in another runtime, which computes in float32."""
    rounding = np.zeros(1) if one.rounding is None else one.rounding
    return np.broadcast_to(OTHER_RUNTIMES * np.where(np.isfinite(rounding), rounding, 0), one.values.shape)


def _record_bytes(
    source: OpenedSource, chain: Chain, weights: RecordedWeights, allowed: float, feed: Values, names: Sequence[str]
) -> dict[str, GoldenOutput]:
    """Return the golden values of the outputs ``names``, which are bytes, and how far another runtime may be off in them.

    The floats that they are made of may be off by ``allowed`` times the largest value of their row.
    """
    place = next((place for place, link in enumerate(chain) if link.edit == PRECISION), None)
    if place is None or not names:
        return {}
    to = str(chain.links[place].parameters["to"])
    floats = _widen(chain.compose(source, weights, slice(place)), allowed)
    outputs = chain.compose(floats, weights, slice(place, None))(feed)
    kind = np.dtype(np.int8 if to in ("int8", "binary") else np.uint8)
    made = {name: outputs[name] for name in names if name in outputs}
    return {
        name: GoldenOutput(
            one.values.astype(kind), np.broadcast_to(one.tolerance, one.values.shape).astype(np.uint8), to in BITS
        )
        for name, one in made.items()
    }


def _widen(before: RunModel, allowed: float) -> RunModel:
    def widened(one: Expected) -> Expected:
        values = np.abs(np.asarray(one.values, dtype=np.float64))
        largest = values.max(axis=-1, keepdims=True, initial=0) if values.ndim else values
        widest = np.maximum(np.maximum(one.tolerance, allowed * largest), _measure_uncertainty(one))
        return replace(one, tolerance=np.broadcast_to(widest, values.shape))

    return lambda feed: {name: widened(one) for name, one in before(feed).items()}


def _choose_feed(source: Model, generator: FeedGenerator, rows: int) -> Values:
    """Return a few of our own sentences, cut short, if there is a tokenizer that fits, and drawn inputs otherwise."""
    folder = source.home or source.folder
    tokenizer = find_tokenizer(folder / "model.onnx") if folder is not None else None
    if (
        tokenizer is not None
        and generator.roles.ids is not None
        and generator.fixed_batch is None
        and generator.fixed_sequence is None
    ):
        try:
            encoded = tokenize(tokenizer, SENTENCES[:rows], min(LONGEST, generator.longest_text))
        except GraphSurgeryError:
            encoded = None
        vocabulary = generator.tables.vocabulary
        if encoded is not None and encoded.ids.size and (vocabulary is None or int(encoded.ids.max()) < vocabulary):
            return generate_text_feeds(generator, encoded)[0]
    masks = dict(generator.generate_masks())
    mask = next(masks[kind][0] for kind in (RIGHT, EMPTY_ROW) if kind in masks)
    return generator.generate(mask if generator.fixed_batch is not None else mask[:rows], seed=0)


def _count_rows(expected: Mapping[str, Expected]) -> int:
    """Return how many rows of every output are recorded."""
    widest = max((one.values[:1].size * 4 for one in expected.values()), default=1)
    return max(1, min(ROWS, LARGEST // max(widest, 1)))


def _choose_limits(source: Model) -> tuple[float, float]:
    if any(node.op_type in QUANTISED for node in source.proto.graph.node):
        return COARSE
    return HALF if has_half_weights(source) else EXACT
