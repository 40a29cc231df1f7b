"""Golden inputs and vectors within a file: what `verify --self` holds the file against, years later on another runtime.

The vectors are the float64 reference's, made from the source's own run when the file was made, and not the file's.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime

from graphsurgery.errors import GraphSurgeryError
from graphsurgery.model.loading import Loadable, load
from graphsurgery.model.model import Model, open_data
from graphsurgery.model.provenance import GOLDEN, OUTWARD, Step, recorded, steps, undone
from graphsurgery.proof.chain import declared, steps_beyond
from graphsurgery.proof.compare import ABSENT, Tally
from graphsurgery.proof.difference import difference
from graphsurgery.proof.drawing import drawer_of
from graphsurgery.proof.meaning import Expected, Values
from graphsurgery.proof.reference import Reference, open_source
from graphsurgery.proof.weights import RecordedWeights
from graphsurgery.proof.whole_proof import text_feed
from graphsurgery.report import Check, Report, Verdict
from graphsurgery.runtime.feeds import Drawer
from graphsurgery.runtime.session import open_session
from graphsurgery.runtime.texts import SENTENCES, find_tokenizer, tokenize

NAME = "golden vectors"
ROWS, LONGEST = 4, 24
"""Texts, and tokens of each at most."""
LARGEST = 1 << 18
"""Bytes of golden values of one output at most: there are fewer rows where they are wide."""
BYTES = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
HALVES = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
ALLOWED, ALLOWED_HALF = 1e-4, 2e-2
"""Difference that another runtime may make, times max(1, max|x|); for encoders that compute in float16 or bfloat16."""


def with_goldens(source: Model, model: Model) -> Model:
    """``model``, made from ``source``, with golden inputs and vectors recorded in it. Raises what running the source raises."""
    chain = steps_beyond(source, model)
    changed = difference(declared(source, chain), model)
    feed = _feed(source, drawer_of(source, chain))
    names = [value.name for value in model.interface.outputs]
    reference = Reference(open_source(source, model, chain), chain, RecordedWeights.of(model, changed.added))
    given = reference(feed, names)
    rows = _rows(given, names)
    content = {
        "inputs": {name: _packed(array[:rows]) for name, array in feed.items()},
        "outputs": {name: _packed(given[name].values[:rows].astype(np.float32)) for name in names if name in given},
        "allowed": ALLOWED_HALF if _is_half(source) else ALLOWED,
        "onnxruntime": onnxruntime.__version__,
    }
    return replace(model, document=recorded(model.document, model.document, GOLDEN, content, model.weights_fingerprint()))


def verify_itself(model: Loadable) -> Report:
    """Hold a file against what it records of itself: its golden vectors, its fingerprint, the sha256 of its weights.

    NOT CHECKED where it records none that can be read.
    """
    loaded = load(model)
    step = next((step for step in reversed(steps(loaded.proto)) if step.edit == GOLDEN), None)
    if step is None:
        why = "the file records no golden vectors; files made by `graphsurgery bake` do: verify it --against its source"
        return Report((Check(NAME, why, stated=Verdict.NOT_CHECKED),), (), (why,))
    try:
        feed = {name: _unpacked(entry) for name, entry in step.parameters["inputs"].items()}
        outputs = {name: _unpacked(entry) for name, entry in step.parameters["outputs"].items()}
        allowed = float(step.parameters["allowed"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        why = f"the golden vectors that the file records cannot be read: {error}"
        return Report((Check(NAME, why, stated=Verdict.NOT_CHECKED),), (), (why,))
    versions = f"recorded with ONNX Runtime {step.parameters.get('onnxruntime')}, checked with {onnxruntime.__version__}"
    return Report((_unchanged(loaded, step), _compared(loaded, feed, outputs, allowed)), (versions,))


def _unchanged(model: Model, golden: Step) -> Check:
    """Whether graph and weights are those that the goldens were recorded for."""
    name = "file unchanged"
    try:
        document, weights = model.document, None
        for step in reversed(steps(model.proto)):
            if step.edit != OUTWARD and weights is None:  # the order in which they are hashed is that of one file
                weights = replace(model, document=document).weights_fingerprint() if golden.weights is not None else ""
            document = undone(document, step, lambda location: open_data(model.files[location]))
            if step == golden:
                break
        if document.fingerprint != golden.source:
            return Check(name, "graph or metadata are not those that were recorded", stated=Verdict.FAILED)
        if golden.weights is not None and weights != golden.weights:
            return Check(name, "the weights are not those that were recorded", stated=Verdict.FAILED)
    except GraphSurgeryError as error:
        return Check(name, str(error), stated=Verdict.FAILED)
    return Check(name, "graph and metadata have the recorded fingerprint, the weights their sha256", stated=Verdict.PASSED)


def _compared(model: Model, feed: Values, outputs: Values, allowed: float) -> Check:
    tally = Tally("golden inputs")
    try:
        found = open_session(model).run(feed)
    except GraphSurgeryError as error:
        return Check(NAME, str(error), stated=Verdict.FAILED)
    for name, wanted in outputs.items():
        largest = float(np.abs(wanted[np.isfinite(wanted)]).max(initial=1.0))
        tally.add(found.get(name, ABSENT), wanted, np.array(_slack(model, name, allowed, largest)))
    return Check(
        NAME, f"{', '.join(outputs)} on the inputs that the file records, against its recorded reference", (tally.result(),)
    )


def _slack(model: Model, name: str, allowed: float, largest: float) -> float:
    """``allowed`` times the largest value; for bytes one bucket of their range."""
    value = model.interface.output(name)
    return 1.0 if value is not None and value.dtype in BYTES else allowed * largest


def _feed(source: Model, drawer: Drawer) -> Values:
    """A few of our own sentences, cut short, where there is a tokenizer; drawn inputs otherwise."""
    tokenizer = find_tokenizer(source.path)
    if tokenizer is not None and drawer.roles.ids is not None:
        encoded = tokenize(tokenizer, SENTENCES[:ROWS], min(LONGEST, drawer.longest_text))
        vocabulary = drawer.tables.vocabulary
        if vocabulary is None or int(encoded.ids.max()) < vocabulary:
            return text_feed(drawer, encoded)
    masks = dict(drawer.kinds())["right padding"]
    return drawer.feed(masks[0], seed=0)


def _rows(given: Mapping[str, Expected], names: Sequence[str]) -> int:
    """How many rows of every output are recorded."""
    sizes = [given[name].values[:1].size * 4 for name in names if name in given]
    count = min(len(given[name].values) for name in names if name in given)
    return max(1, min(count, LARGEST // max(*sizes, 1)))


def _is_half(source: Model) -> bool:
    return any(tensor.data_type in HALVES for tensor in source.initializers.values())


def _packed(array: np.ndarray) -> dict[str, Any]:
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": data}


def _unpacked(entry: Mapping[str, Any]) -> np.ndarray:
    array = np.frombuffer(base64.b64decode(entry["data"], validate=True), dtype=np.dtype(str(entry["dtype"])))
    return array.reshape([int(size) for size in entry["shape"]])
