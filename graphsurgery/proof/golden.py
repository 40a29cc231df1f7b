"""Golden inputs and vectors within a file: what `verify --self` holds the file against, years later on another runtime.

The vectors are the float64 reference's, made from the source's own run when the file was made, and not the file's. A seal over
them, the file's fingerprint and that of its weights tells when any of it was changed; it keeps out accidents, not forgers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime

from graphsurgery.errors import GraphSurgeryError, MissingDataError, ModelError, UnsupportedModelError
from graphsurgery.model.loading import Loadable, load
from graphsurgery.model.model import Model, open_data
from graphsurgery.model.provenance import GOLDEN, HOUSEKEEPING, OUTWARD, Step, recorded, steps, undone
from graphsurgery.proof.chain import after, declared, steps_beyond
from graphsurgery.proof.compare import ABSENT
from graphsurgery.proof.difference import difference
from graphsurgery.proof.drawing import drawer_of
from graphsurgery.proof.golden_values import GoldenOutput, Goldens, seal
from graphsurgery.proof.meaning import Before, Expected, Values
from graphsurgery.proof.reference import Reference, Source, open_source
from graphsurgery.proof.weights import RecordedWeights
from graphsurgery.report import Check, Report, Verdict
from graphsurgery.runtime.feeds import Drawer, text_feed
from graphsurgery.runtime.session import open_session
from graphsurgery.runtime.texts import SENTENCES, find_tokenizer, tokenize

NAME, UNCHANGED = "golden vectors", "file unchanged"
ROWS, LONGEST = 4, 24
"""Texts, and tokens of each at most."""
LARGEST = 1 << 18
"""Bytes of golden values of one output at most: there are fewer rows where they are wide."""
PRECISION, BITS = "output-precision", ("binary", "ubinary")
BYTES = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
HALVES = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
QUANTISED = {
    "MatMulInteger",
    "ConvInteger",
    "DynamicQuantizeLinear",
    "DynamicQuantizeMatMul",
    "QLinearMatMul",
    "QuantizeLinear",
}
EXACT, HALF, COARSE = (1e-4, 0.99999), (1e-2, 0.999), (5e-2, 0.99)
"""How far another runtime may be: the difference, times max(1, max|x|), and the least cosine. For encoders that compute in
float32, in float16 or bfloat16, and in integers, whose products saturate on some processors and not on others."""
UNREADABLE = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)


def with_goldens(source: Model, model: Model) -> Model:
    """``model``, made from ``source``, with golden inputs and vectors recorded in it; without them, and with a note that says
    why, where ONNX Runtime cannot run the source here, or its weights are not there. ModelError when nothing that it gives is
    finite."""
    try:
        goldens = _made(source, model)
        weights = model.weights_fingerprint()
    except (UnsupportedModelError, MissingDataError) as error:
        note = f"warning: no golden vectors are recorded, so that `verify --self` will have nothing to go by: {error}"
        return replace(model, notes=(*model.notes, note))
    content = goldens.to_json()
    content["seal"] = seal(content, model.fingerprint, weights)
    return replace(model, document=recorded(model.document, model.document, GOLDEN, content, weights))


def verify_itself(model: Loadable) -> Report:
    """Hold a file against what it records of itself: its golden vectors, its fingerprint, the sha256 of its weights.

    NOT CHECKED where it records none that can be read, or was edited since.
    """
    loaded = load(model)
    found = steps(loaded.proto)
    place = max((place for place, step in enumerate(found) if step.edit == GOLDEN), default=None)
    if place is None:
        return _not_checked(
            "the file records no golden vectors; files made by `graphsurgery bake` do: verify it --against its source"
        )
    edits = [step.edit for step in found[place:] if step.edit not in HOUSEKEEPING]
    if edits:
        return _not_checked(f"the file was edited ({', '.join(edits)}) since its golden vectors were recorded")
    golden = found[place]
    try:
        goldens = Goldens.from_json(golden.parameters)
        sealed = seal(golden.parameters, golden.source, golden.weights) == golden.parameters.get("seal")
    except UNREADABLE as error:
        return _not_checked(f"the golden vectors that the file records cannot be read: {error}")
    checks = (_unchanged(loaded, golden), _compared(loaded, goldens, sealed))
    return Report(checks, tuple(_observed(goldens)), tuple(_left_out(loaded, goldens)))


def _not_checked(why: str) -> Report:
    return Report((Check(NAME, why, stated=Verdict.NOT_CHECKED),), (), (why,))


def _unchanged(model: Model, golden: Step) -> Check:
    """Whether graph and weights are those that the goldens were recorded for."""
    try:
        document, weights = model.document, None
        for step in reversed(steps(model.proto)):
            if step.edit != OUTWARD and weights is None:  # the order in which they are hashed is that of one file
                weights = replace(model, document=document).weights_fingerprint()
            document = undone(document, step, lambda location: open_data(model.files[location]))
            if step == golden:
                break
        if document.fingerprint != golden.source:
            return Check(UNCHANGED, "graph or metadata are not those that were recorded", stated=Verdict.FAILED)
        if weights != golden.weights:
            return Check(UNCHANGED, "the weights are not those that were recorded", stated=Verdict.FAILED)
    except GraphSurgeryError as error:
        return Check(UNCHANGED, str(error), stated=Verdict.FAILED)
    return Check(UNCHANGED, "graph and metadata have the recorded fingerprint, the weights their sha256", stated=Verdict.PASSED)


def _compared(model: Model, goldens: Goldens, sealed: bool) -> Check:
    if not sealed:
        return Check(NAME, "golden inputs or vectors are not those that were recorded", stated=Verdict.FAILED)
    try:
        found = open_session(model).run(goldens.inputs)
    except GraphSurgeryError as error:
        return Check(NAME, str(error), stated=Verdict.FAILED)
    comparisons = (
        output.compare(name, found.get(name, ABSENT), goldens.allowed, goldens.least_cosine)
        for name, output in goldens.outputs.items()
    )
    return Check(NAME, "on the inputs that the file records, against its recorded reference", tuple(comparisons))


def _observed(goldens: Goldens) -> list[str]:
    found = [f"recorded with ONNX Runtime {goldens.runtime}, checked with {onnxruntime.__version__}"]
    for name, output in goldens.outputs.items():
        if output.open is not None and output.share_open > 0:
            what = "bits, made of values near 0," if output.packed else "bytes, by ranges narrow for this encoder,"
            found.append(f"{name}: {output.share_open:.1%} of its {what} may differ on another runtime")
    return found


def _left_out(model: Model, goldens: Goldens) -> list[str]:
    names = [value.name for value in model.interface.outputs if value.name not in goldens.outputs]
    return [f"{name}: the file records no golden values of it" for name in names]


# --- making them ----------------------------------------------------------------------------------------------------------


def _made(source: Model, model: Model) -> Goldens:
    chain = steps_beyond(source, model)
    changed = difference(declared(source, chain), model)
    weights = RecordedWeights.of(model, changed.added)
    drawer, names = drawer_of(source, chain), [value.name for value in model.interface.outputs]
    opened = open_source(source, model, chain)
    reference = Reference(opened, chain, weights)
    feed = _feed(source, drawer, ROWS)
    given = reference(feed, names)
    rows = _rows(given)
    if rows < ROWS and drawer.fixed_batch is None:
        feed = _feed(source, drawer, rows)
        given = reference(feed, names)
    if not given:
        raise UnsupportedModelError("no output of the file has a reference", "verify it --against its source")
    if not any(np.isfinite(one.values).any() for one in given.values()):
        what = "the model gives nothing but NaN and infinities, for ordinary text as well"
        raise ModelError(what, "its weights are damaged, or too large for float16: export it again, in float32")
    allowed, least_cosine = _limits(source)
    octets = [value.name for value in model.interface.outputs if value.dtype in BYTES]
    rounded = _rounded(opened, chain, weights, allowed, feed, octets)
    outputs = {name: rounded.get(name) or GoldenOutput(one.values.astype(np.float32)) for name, one in given.items()}
    return Goldens(feed, outputs, allowed, least_cosine, onnxruntime.__version__)


def _rounded(
    source: Source, chain: Sequence[Step], weights: RecordedWeights, allowed: float, feed: Values, names: Sequence[str]
) -> dict[str, GoldenOutput]:
    """The outputs that are bytes, ``names``, with what another runtime may make of them, whose floats are off by ``allowed``
    times the largest value of their row."""
    place = next((place for place, step in enumerate(chain) if step.edit == PRECISION), None)
    if place is None or not names:
        return {}
    to = str(chain[place].parameters["to"])
    floats = _widened(after(chain[:place], source, weights), allowed)
    given = after(chain[place:], floats, weights)(feed)
    kind = np.dtype(np.int8 if to in ("int8", "binary") else np.uint8)
    made = {name: given[name] for name in names if name in given}
    return {
        name: GoldenOutput(
            one.values.astype(kind), np.broadcast_to(one.tolerance, one.values.shape).astype(np.uint8), to in BITS
        )
        for name, one in made.items()
    }


def _widened(before: Before, allowed: float) -> Before:
    def widened(one: Expected) -> Expected:
        values = np.abs(np.asarray(one.values, dtype=np.float64))
        largest = values.max(axis=-1, keepdims=True, initial=0) if values.ndim else values
        return replace(one, tolerance=np.broadcast_to(np.maximum(one.tolerance, allowed * largest), values.shape))

    return lambda feed: {name: widened(one) for name, one in before(feed).items()}


def _feed(source: Model, drawer: Drawer, rows: int) -> Values:
    """A few of our own sentences, cut short, where there is a tokenizer that fits; drawn inputs otherwise."""
    tokenizer = find_tokenizer(source.path) or find_tokenizer(source.folder / "model.onnx" if source.folder else None)
    if tokenizer is not None and drawer.roles.ids is not None and drawer.fixed_batch is None and drawer.fixed_sequence is None:
        try:
            encoded = tokenize(tokenizer, SENTENCES[:rows], min(LONGEST, drawer.longest_text))
        except GraphSurgeryError:
            encoded = None
        vocabulary = drawer.tables.vocabulary
        if encoded is not None and encoded.ids.size and (vocabulary is None or int(encoded.ids.max()) < vocabulary):
            return text_feed(drawer, encoded)
    masks = dict(drawer.kinds())["right padding"]
    return drawer.feed(masks[0] if drawer.fixed_batch is not None else masks[0][:rows], seed=0)


def _rows(given: Mapping[str, Expected]) -> int:
    """How many rows of every output are recorded."""
    widest = max((one.values[:1].size * 4 for one in given.values()), default=1)
    return max(1, min(ROWS, LARGEST // max(widest, 1)))


def _limits(source: Model) -> tuple[float, float]:
    if any(node.op_type in QUANTISED for node in source.proto.graph.node):
        return COARSE
    return HALF if any(tensor.data_type in HALVES for tensor in source.initializers.values()) else EXACT
