"""Golden inputs and vectors within a file: what `verify --self` holds the file against, years later on another runtime.

The vectors are the float64 reference's, made from the source's own run when the file was made, and not the file's. A seal over
them, the file's fingerprint and that of its weights tells when any of it was changed; it keeps out accidents, not forgers.
"""

from __future__ import annotations

from dataclasses import replace

import onnxruntime

from graphsurgery.compare.tally import ABSENT
from graphsurgery.errors import GraphSurgeryError, MissingDataError, UnsupportedModelError
from graphsurgery.model.certificate import find_certificate_step, read_certificate
from graphsurgery.model.checksums import compute_checksum, has_valid_checksum
from graphsurgery.model.external import is_external
from graphsurgery.model.loading import Loadable, load
from graphsurgery.model.model import Model, open_data
from graphsurgery.model.provenance import GOLDEN, HOUSEKEEPING, Step, list_steps_since_edit, read_steps, record_edit, undo_step
from graphsurgery.model.records import Span, hash_payloads
from graphsurgery.model.schema import walk_tensors
from graphsurgery.proof.golden_making import make_goldens
from graphsurgery.proof.golden_values import Goldens
from graphsurgery.report import Check, Report, Verdict
from graphsurgery.runtime.session import open_session
from graphsurgery.version import __version__

NAME, UNCHANGED = "golden vectors", "file unchanged"
CHANGED = "golden inputs or vectors are not those that were recorded"
UNREADABLE = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, SyntaxError)


def record_goldens(source: Model, model: Model) -> Model:
    """``model``, made from ``source``, with golden inputs and vectors recorded in it; without them, and with a note that says
    why, where ONNX Runtime cannot run the source here, or its weights are not there. ModelError when nothing that it gives is
    finite."""
    try:
        goldens = make_goldens(source, model)
        weights = digest_weights(model)
    except (UnsupportedModelError, MissingDataError) as error:
        note = f"warning: no golden vectors are recorded, so that `verify --self` will have nothing to go by: {error}"
        return replace(model, notes=(*model.notes, note))
    return _record(model, goldens, weights)


def copy_goldens(source: Model, model: Model, limits: tuple[float, float] | None = None) -> Model:
    """``model``, which was rewritten from ``source``, with the golden values that ``source`` records of itself; as it is where
    there are none. ``limits``, the difference and the least cosine, are allowed where they are wider."""
    try:
        goldens = read_goldens(source)
    except UnsupportedModelError:  # nothing could be held against them
        goldens = None
    if goldens is None:
        return model
    given = {value.name for value in model.interface.outputs}
    goldens = replace(goldens, outputs={name: output for name, output in goldens.outputs.items() if name in given})
    if limits is not None:
        goldens = replace(goldens, allowed=max(goldens.allowed, limits[0]), least_cosine=min(goldens.least_cosine, limits[1]))
    return _record(model, goldens, digest_weights(model)) if goldens.outputs else model


def read_goldens(model: Model) -> Goldens | None:
    """The golden values that a file records of itself; None where there are none, or not as they were sealed.
    UnsupportedModelError where they cannot be read."""
    golden = next((step for step in list_steps_since_edit(model.proto) if step.edit == GOLDEN), None)
    if golden is None or not (golden.unreadable or has_valid_checksum(golden)):
        return None
    return _parse(golden)


def _record(model: Model, goldens: Goldens, weights: str) -> Model:
    """``model`` with ``goldens`` recorded in it, and sealed."""
    content = goldens.to_json() | {"weights": weights}
    content["seal"] = compute_checksum(content, __version__, model.fingerprint)
    return replace(model, document=record_edit(model.document, model.document, GOLDEN, content))


def _parse(golden: Step) -> Goldens:
    """The golden values of a record. UnsupportedModelError where they cannot be read."""
    try:
        return Goldens.from_json(golden.parameters)
    except UNREADABLE as error:
        what = f"the golden vectors that the file records cannot be read: {error}"
        raise UnsupportedModelError(what, "verify the file --against its source") from error


def verify_itself(model: Loadable) -> Report:
    """Hold a file against what it records of itself: its golden vectors, its fingerprint, the sha256 of its weights.

    NOT CHECKED where it records none that can be read, or was edited since.
    """
    loaded = load(model)
    found = read_steps(loaded.proto)
    place = max((place for place, step in enumerate(found) if step.edit == GOLDEN), default=None)
    if place is None:
        return _report_not_checked(
            "the file records no golden vectors; files made by `graphsurgery bake` do: verify it --against its source"
        )
    edits = [step.edit for step in found[place:] if step.edit not in HOUSEKEEPING]
    if edits:
        return _report_not_checked(f"the file was edited ({', '.join(edits)}) since its golden vectors were recorded")
    golden = found[place]
    sealed = not golden.unreadable and has_valid_checksum(golden)
    try:
        goldens = _parse(golden)
    except UnsupportedModelError as error:
        if not golden.unreadable and not sealed:
            return Report((Check(NAME, f"{CHANGED}: {error}", stated=Verdict.FAILED),))
        return _report_not_checked(str(error))
    compared = _compare(loaded, goldens, sealed)
    told = read_certificate(loaded)
    observed = (*_list_observations(goldens), *([] if told is None else [str(told)]))
    return Report(
        (_check_unchanged(loaded, golden), compared), observed, (*_list_left_out(loaded, goldens), *compared.left_out)
    )


def _report_not_checked(why: str) -> Report:
    return Report((Check(NAME, why, stated=Verdict.NOT_CHECKED),), (), (why,))


def _check_unchanged(model: Model, golden: Step) -> Check:
    """Whether graph and weights are those that the goldens were recorded for."""
    try:
        if _fingerprint_before(model, golden) != golden.source:
            return Check(UNCHANGED, "graph or metadata are not those that were recorded", stated=Verdict.FAILED)
        if digest_weights(model) != golden.parameters.get("weights"):
            return Check(UNCHANGED, "the weights are not those that were recorded", stated=Verdict.FAILED)
        entry = find_certificate_step(model)
        if entry is not None and not (has_valid_checksum(entry) and _fingerprint_before(model, entry) == entry.source):
            return Check(UNCHANGED, "the certificate is not what was recorded", stated=Verdict.FAILED)
    except GraphSurgeryError as error:
        return Check(UNCHANGED, str(error), stated=Verdict.FAILED)
    return Check(UNCHANGED, "graph and metadata have the recorded fingerprint, the weights their sha256", stated=Verdict.PASSED)


def _fingerprint_before(model: Model, golden: Step) -> str | None:
    """The fingerprint of what ``golden`` was recorded for; None where the file holds more than that and what was recorded
    since."""
    document = model.document
    for step in reversed(read_steps(model.proto)):
        earlier = undo_step(
            document, step, lambda _: open_data(next(iter(model.files.values())))
        )  # whose bytes do not matter here
        if (len(earlier.model), len(earlier.graph)) != (len(document.model) - 1, len(document.graph)):
            return None
        document = earlier
        if step == golden:
            break
    return document.fingerprint


def digest_weights(model: Model) -> str:
    """sha256 (hex) of every large tensor's bytes, in the order of the graph: the same wherever they lie. Reads them all."""
    model.require_data("hashing the weights")
    outside = iter(model.externals)
    spans = []
    for _, tensor in walk_tensors(model.proto):
        span = model.document.payloads.find(tensor)
        if is_external(tensor):
            one = next(outside)
            spans.append(Span(open_data(one.file), one.offset, one.length))
        elif span is not None:
            spans.append(span)
    return hash_payloads(spans)


def _compare(model: Model, goldens: Goldens, sealed: bool) -> Check:
    if not sealed:
        return Check(NAME, CHANGED, stated=Verdict.FAILED)
    try:
        found = open_session(model).run(goldens.inputs)
    except GraphSurgeryError as error:
        return Check(NAME, str(error), stated=Verdict.FAILED)
    comparisons = (
        output.compare(name, found.get(name, ABSENT), goldens.allowed, goldens.least_cosine)
        for name, output in goldens.outputs.items()
    )
    return Check(NAME, "on the inputs that the file records, against its recorded reference", tuple(comparisons))


def _list_observations(goldens: Goldens) -> list[str]:
    found = [f"recorded with ONNX Runtime {goldens.runtime}, checked with {onnxruntime.__version__}"]
    for name, output in goldens.outputs.items():
        if output.open is not None and output.share_open > 0:
            what = "bits, made of values near 0," if output.packed else "bytes, by ranges narrow for this encoder,"
            found.append(f"{name}: {output.share_open:.1%} of its {what} may differ on another runtime")
    return found


def _list_left_out(model: Model, goldens: Goldens) -> list[str]:
    names = [value.name for value in model.interface.outputs if value.name not in goldens.outputs]
    return [f"{name}: the file records no golden values of it" for name in names]
