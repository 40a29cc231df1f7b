"""Golden inputs and vectors within a file. `verify --self` compares the file with them, years later on another runtime.

The vectors come from the float64 reference and the source's own run when the file was made, not from the file itself. A seal
over them, the file's fingerprint and that of its weights shows any later change. It detects accidents, not forgery.
"""

from __future__ import annotations

from dataclasses import replace

from graphsurgery.argument_types import check_argument_types
from graphsurgery.compare.tally import ABSENT
from graphsurgery.deferred import onnxruntime
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
from graphsurgery.remarks import Warn
from graphsurgery.report import Check, Report, Verdict
from graphsurgery.runtime.session import open_session
from graphsurgery.version import __version__

NAME, UNCHANGED = "golden vectors", "file unchanged"
CHANGED = "the golden inputs or vectors were changed after they were recorded"
UNREADABLE = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, SyntaxError)


def record_goldens(source: Model, model: Model) -> Model:
    """Return ``model``, made from ``source``, with golden inputs and vectors recorded in it.

    If ONNX Runtime cannot run the source here, or if its weights are missing, a note says so and nothing is recorded. Raise
    ModelError if none of the values is finite.
    """
    try:
        goldens = make_goldens(source, model)
        weights = digest_weights(model)
    except (UnsupportedModelError, MissingDataError) as error:
        note = Warn(f"no golden vectors are recorded, so `verify --self` cannot check the file: {error}")
        return replace(model, remarks=(*model.remarks, note))
    return _record(model, goldens, weights)


def copy_goldens(source: Model, model: Model, limits: tuple[float, float] | None = None) -> Model:
    """Return ``model``, which was rewritten from ``source``, with the golden values that ``source`` records, if there are any.

    ``limits``, a difference and a smallest cosine, take the place of the recorded limits if they are wider.
    """
    try:
        goldens = read_goldens(source)
    except UnsupportedModelError:  # nothing could be compared with them
        goldens = None
    if goldens is None:
        return model
    names = {value.name for value in model.interface.outputs}
    goldens = replace(goldens, outputs={name: output for name, output in goldens.outputs.items() if name in names})
    if limits is not None:
        goldens = replace(goldens, allowed=max(goldens.allowed, limits[0]), least_cosine=min(goldens.least_cosine, limits[1]))
    return _record(model, goldens, digest_weights(model)) if goldens.outputs else model


def read_goldens(model: Model) -> Goldens | None:
    """Return the golden values that a file records; None if there are none, or if they do not match their seal.

    Raise UnsupportedModelError if they cannot be read.
    """
    golden = next((step for step in list_steps_since_edit(model.proto) if step.edit == GOLDEN), None)
    if golden is None or not (golden.unreadable or has_valid_checksum(golden)):
        return None
    return _parse(golden)


def _record(model: Model, goldens: Goldens, weights: str) -> Model:
    """Return ``model`` with ``goldens`` recorded in it and sealed."""
    content = goldens.to_json() | {"weights": weights}
    content["seal"] = compute_checksum(content, __version__, model.fingerprint)
    return replace(model, document=record_edit(model.document, model.document, GOLDEN, content))


def _parse(golden: Step) -> Goldens:
    """Return the golden values of a record. Raise UnsupportedModelError if they cannot be read."""
    try:
        return Goldens.from_json(golden.parameters)
    except UNREADABLE as error:
        what = f"the golden vectors that the file records cannot be read: {error}"
        raise UnsupportedModelError(what, "verify the file --against its source") from error


@check_argument_types()
def verify_itself(model: Loadable) -> Report:
    """Compare a file with what it records: its golden vectors, its fingerprint and the sha256 of its weights.

    The verdict is NOT CHECKED if it records no golden vectors that can be read, or if it was edited since. Raises what `load`
    raises.
    """
    loaded = load(model)
    recorded = read_steps(loaded.proto)
    place = max((place for place, step in enumerate(recorded) if step.edit == GOLDEN), default=None)
    if place is None:
        return _report_not_checked(
            "the file records no golden vectors (`graphsurgery bake` records them); verify it --against its source"
        )
    edits = [step.edit for step in recorded[place:] if step.edit not in HOUSEKEEPING]
    if edits:
        return _report_not_checked(f"the file was edited ({', '.join(edits)}) since its golden vectors were recorded")
    golden = recorded[place]
    sealed = not golden.unreadable and has_valid_checksum(golden)
    try:
        goldens = _parse(golden)
    except UnsupportedModelError as error:
        if not golden.unreadable and not sealed:
            return Report((Check(NAME, f"{CHANGED}: {error}", stated=Verdict.FAILED),))
        return _report_not_checked(str(error))
    compared = _compare(loaded, goldens, sealed)
    certificate = read_certificate(loaded)
    observed = (*_list_observations(goldens), *([] if certificate is None else [str(certificate)]))
    return Report(
        (_check_unchanged(loaded, golden), compared), observed, (*_list_left_out(loaded, goldens), *compared.left_out)
    )


def _report_not_checked(why: str) -> Report:
    return Report((Check(NAME, why, stated=Verdict.NOT_CHECKED),), (), (why,))


def _check_unchanged(model: Model, golden: Step) -> Check:
    """Check that graph and weights are those for which the golden values were recorded."""
    try:
        if _fingerprint_before(model, golden) != golden.source:
            return Check(UNCHANGED, "the graph or the metadata were changed after they were recorded", stated=Verdict.FAILED)
        if digest_weights(model) != golden.parameters.get("weights"):
            return Check(UNCHANGED, "the weights were changed after they were recorded", stated=Verdict.FAILED)
        entry = find_certificate_step(model)
        if entry is not None and not (has_valid_checksum(entry) and _fingerprint_before(model, entry) == entry.source):
            return Check(UNCHANGED, "the certificate was changed after it was recorded", stated=Verdict.FAILED)
    except GraphSurgeryError as error:
        return Check(UNCHANGED, str(error), stated=Verdict.FAILED)
    return Check(
        UNCHANGED,
        "graph and metadata have the recorded fingerprint, the weights their sha256",
        stated=Verdict.PASSED,
    )


def _fingerprint_before(model: Model, golden: Step) -> str | None:
    """Return the fingerprint of the file for which ``golden`` was recorded.

    None if the file has changed by more than the steps that were recorded since.
    """
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
    """Return the sha256 (hex) of all large tensors, in the order of the graph, wherever their bytes lie. Reads all of them."""
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
        outputs = open_session(model).run(goldens.inputs)
    except GraphSurgeryError as error:
        return Check(NAME, str(error), stated=Verdict.FAILED)
    comparisons = (
        output.compare(name, outputs.get(name, ABSENT), goldens.allowed, goldens.least_cosine)
        for name, output in goldens.outputs.items()
    )
    return Check(NAME, "on the inputs that the file records, compared with its recorded vectors", tuple(comparisons))


def _list_observations(goldens: Goldens) -> list[str]:
    observations = [f"recorded with ONNX Runtime {goldens.runtime}, checked with {onnxruntime.__version__}"]
    for name, output in goldens.outputs.items():
        if output.open is not None and output.share_open > 0:
            what = "bits, made of values near 0," if output.packed else "bytes, by ranges narrow for this encoder,"
            observations.append(f"{name}: {output.share_open:.1%} of its {what} may differ on another runtime")
    return observations


def _list_left_out(model: Model, goldens: Goldens) -> list[str]:
    names = [value.name for value in model.interface.outputs if value.name not in goldens.outputs]
    return [f"{name}: the file records no golden values of it" for name in names]
