"""Prove a file against the one it was made from."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from graphsurgery.compare.tolerance import Limits
from graphsurgery.errors import GraphSurgeryError, NothingToPoolError, UnsupportedModelError, WeightsDifferError
from graphsurgery.model.loading import Loadable, load
from graphsurgery.model.model import Model
from graphsurgery.proof.difference import Difference, find_difference
from graphsurgery.proof.expected import ExpectedOutputs, has_half_weights, open_source
from graphsurgery.proof.head_proof import NAME as HEAD
from graphsurgery.proof.head_proof import extract_head, find_added_values, find_unread_inputs, prove_head
from graphsurgery.proof.inference import find_start_widths
from graphsurgery.proof.interface_check import find_broken_promises, find_record_misfits, name_unexplained_nodes
from graphsurgery.proof.same_outputs import SameOutputs
from graphsurgery.proof.source_feeds import find_texts, make_feed_generator, try_inputs
from graphsurgery.proof.untouched import check_untouched
from graphsurgery.proof.whole_proof import NAME as WHOLE
from graphsurgery.proof.whole_proof import Whole, make_whole_cases, measure_dependence, prove_whole
from graphsurgery.references.chain import Chain
from graphsurgery.references.recorded_weights import RecordedWeights
from graphsurgery.report import Check, Report, Verdict
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.reach import CachedRun, extend_to_reach, find_reach
from graphsurgery.runtime.session import open_session
from graphsurgery.runtime.texts import Encoded

WHOLE_BY_DEFAULT = 2 << 30
"""The whole proof runs unasked up to so many bytes of weights."""
RECORDED = "recorded edits"
Progress = Callable[[str], None]
"""Called with a few words on the next piece of work."""


def verify(
    model: Loadable,
    *,
    against: Loadable,
    texts: str | os.PathLike[str] | None = None,
    atol: float | None = None,
    min_cosine: float | None = None,
    full: bool = False,
    head_only: bool = False,
    progress: Progress = lambda _: None,
) -> Report:
    """Prove that ``model`` computes what the edits that it records must compute, applied to ``against``. If it records no edit
    beyond those of that file, prove that both give the same outputs.

    Args:
        texts: a UTF-8 file, one text a line, to compare on besides the drawn feeds; needs a tokenizer.json beside either model.
        atol: allowed absolute difference, in place of the proofs' own tolerances; where outputs are compared with outputs the
            default is 1e-5 * max(1, max|x|).
        min_cosine: smallest allowed cosine, besides those tolerances; between the outputs of two files that record no rewrite
            instead of them unless ``atol`` is given: lengths may then be off by sqrt(2 (1 - cosine)).
        full: run the whole proof, compare every byte of the weights however large they are, and texts as long as the model
            takes however long that takes.
        head_only: leave the whole proof out.

    Returns:
        a Report, truthy when it PASSED.

    Raises:
        what `load` raises; RequestError when ``texts`` cannot be used.
    """
    limits = Limits(atol, min_cosine)
    output, source = load(model), load(against)
    try:
        chain = Chain.between(source, output)
        generator = make_feed_generator(source, chain)
    except UnsupportedModelError as error:
        return Report((Check(RECORDED, str(error), stated=Verdict.NOT_CHECKED),), (), (f"{RECORDED}: {error}",))
    encoded, why_no_text = find_texts(source, output, generator, texts)
    if not chain:
        progress("comparing outputs")
        return SameOutputs(source, generator, encoded, full).make_report(output, limits, why_no_text)
    wrong = find_record_misfits(source, chain)
    if wrong:
        return Report((Check(RECORDED, "; ".join(wrong), stated=Verdict.FAILED),), (), ("the proofs: nothing was run",))
    return _prove(
        source, output, chain, generator, encoded, why_no_text, limits, full=full, head_only=head_only, progress=progress
    )


def _prove(
    source: Model, output: Model, chain: Chain, generator: FeedGenerator, texts: Encoded | None,
    why_no_text: str | None, limits: Limits, *, full: bool, head_only: bool, progress: Progress,
) -> Report:  # fmt: skip
    fields = chain.apply_fields(source)[-1]
    changed = find_difference(fields, output)
    whole = full or source.weight_bytes <= WHOLE_BY_DEFAULT
    progress("comparing the encoder with the source's")
    broken = find_broken_promises(source, output, chain)
    added = find_added_values(output, chain, changed)
    by_run = any(link.reference.by_run_alone for link in chain)
    broken += [] if added or by_run else name_unexplained_nodes(changed)
    check, unchecked = check_untouched(fields, output, changed, broken, every_byte=full or (whole and not head_only))
    checks, observations, not_checked = [check], [], list(unchecked)
    if chain.links[0].step.source != source.fingerprint:
        observations.append("the fingerprint in the metadata is not this source's: the output was made from another file")
    weights = RecordedWeights.of(output, changed.added)
    checks[0] = replace(check, conclusive=not added and not by_run)  # names, dims: the fields are all there is to it
    proofs: dict[str, Callable[[], Check]] = {
        HEAD: lambda: _prove_head(source, fields, output, chain, generator, changed, weights, limits),
        WHOLE: lambda: _prove_whole(source, output, chain, generator, texts, weights, observations, not_checked, limits, full),
    }
    if not added:
        del proofs[HEAD]
    if head_only and not by_run:
        del proofs[WHOLE]
        not_checked.append(f"{WHOLE}: it runs on the written file")
    elif not whole:
        del proofs[WHOLE]
        size = source.weight_bytes / 2**30
        not_checked.append(f"{WHOLE}: {size:.1f} GiB of weights are beyond the 2 GiB that are run unasked; ask with --full")
    for name, prove in proofs.items():
        progress(name)
        try:
            checks.append(prove())
        except (NothingToPoolError, WeightsDifferError) as error:
            checks.append(Check(name, str(error), stated=Verdict.FAILED))
        except GraphSurgeryError as error:
            checks.append(Check(name, str(error), stated=Verdict.NOT_CHECKED))
            not_checked.append(f"{name}: {error}")
    not_checked += [why_no_text] if why_no_text else []
    observations += [said for check in checks for said in check.not_finite]
    not_checked += [said for check in checks for said in check.left_out]
    return Report(tuple(checks), tuple(observations), tuple(not_checked))


def _prove_head(
    source: Model, fields: Model, output: Model, chain: Chain, generator: FeedGenerator, changed: Difference,
    weights: RecordedWeights, limits: Limits,
) -> Check:  # fmt: skip
    lost = [name for name in chain.stand_ins if name not in changed.made and name in find_added_values(output, chain, changed)]
    if lost:
        return Check(HEAD, f"no node that was added makes {lost[0]}, which nodes of the source take", stated=Verdict.FAILED)
    if chain.made and not any(value.name in changed.made for value in output.interface.outputs):
        return Check(HEAD, "no node that was added computes an output", stated=Verdict.FAILED)
    missing = sorted(chain.made - changed.made)
    if missing:
        return Check(HEAD, f"no node that was added makes {missing[0]}, which a recorded edit makes", stated=Verdict.FAILED)
    taken = [value for value in chain.list_stand_ins(source) if value.name in changed.made]
    head = extract_head(fields, output, changed, taken)
    strange = find_unread_inputs(head, chain, changed.renamed)
    if strange:
        what = f"the added nodes start from {', '.join(strange)}, which no recorded edit reads"
        return Check(HEAD, what, stated=Verdict.FAILED)
    return prove_head(head, chain, generator, find_start_widths(source, chain), changed.renamed, weights, limits)


def _prove_whole(
    source: Model, output: Model, chain: Chain, generator: FeedGenerator, texts: Encoded | None,
    weights: RecordedWeights, observations: list[str], not_checked: list[str], limits: Limits, full: bool,
) -> Check:  # fmt: skip
    plain = has_half_weights(source) and any(link.reference.resizes for link in chain)
    if plain:
        observations.append("run without ONNX Runtime's graph optimisations: they round float16 otherwise at other dims")
    opened_source = open_source(source, output, chain, plain)
    try:
        opened = open_session(output, plain=plain)
    except UnsupportedModelError as error:
        return Check(WHOLE, f"the source can be loaded and the output cannot: {error}", stated=Verdict.FAILED)
    tried = try_inputs(opened_source.session.run, source, chain)
    if tried.wrong:
        return Check(WHOLE, tried.wrong, stated=Verdict.FAILED)
    whole = Whole(ExpectedOutputs(opened_source, chain, weights), opened, output.interface.outputs)
    reference = CachedRun(whole.compute_expected)
    reach = find_reach(source, generator, reference, full)
    check = prove_whole(whole, reference, make_whole_cases(extend_to_reach(generator, reach), texts), limits)
    observations.append(str(reach))
    not_checked += [*reach.not_checked, *generator.left_out, *tried.unknown]
    if check.verdict is Verdict.PASSED:
        observations += measure_dependence(whole, generator)
    return check
