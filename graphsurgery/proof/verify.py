"""The proof of a file against the file that it was made from."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain as join

from graphsurgery.argument_types import check_argument_types
from graphsurgery.compare.quality import TOP_K, QualityBudget
from graphsurgery.compare.tally import MOST_BEYOND
from graphsurgery.compare.tolerance import Limits
from graphsurgery.errors import (
    GraphSurgeryError,
    MissingDataError,
    NothingToPoolError,
    RequestError,
    UnsupportedModelError,
    WeightsDifferError,
)
from graphsurgery.model.loading import Loadable, load
from graphsurgery.model.model import Model
from graphsurgery.progress import Progress, ignore_progress
from graphsurgery.proof.by_outputs import are_of_different_makers, verify_outputs
from graphsurgery.proof.clip_cases import list_clip_cases
from graphsurgery.proof.corrected_source import list_made_inside
from graphsurgery.proof.difference import find_difference
from graphsurgery.proof.expected import ExpectedOutputs, has_half_weights, open_source
from graphsurgery.proof.head_proof import NAME as HEAD
from graphsurgery.proof.head_proof import extract_head, find_added_values, find_unread_inputs, prove_head
from graphsurgery.proof.inference import find_start_widths
from graphsurgery.proof.interface_check import (
    find_broken_promises,
    find_record_misfits,
    name_unexplained_nodes,
    name_values_that_are_back,
)
from graphsurgery.proof.mended_cases import list_left_out, list_mended_cases
from graphsurgery.proof.relation import RECORDED
from graphsurgery.proof.same_bits import describe_bits
from graphsurgery.proof.same_outputs import SameOutputs
from graphsurgery.proof.source_feeds import find_texts, make_feed_generator, try_inputs
from graphsurgery.proof.text_quality import verify_quality
from graphsurgery.proof.untouched import check_untouched
from graphsurgery.proof.whole_proof import NAME as WHOLE
from graphsurgery.proof.whole_proof import (
    Whole,
    count_whole_feeds,
    make_whole_cases,
    measure_dependence,
    prove_whole,
    report_feeds,
)
from graphsurgery.references.chain import Chain
from graphsurgery.references.recorded_weights import RecordedWeights
from graphsurgery.remarks import Warn
from graphsurgery.report import Check, Report, Verdict, list_few
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.reach import FINDING_REACH, CachedRun, extend_to_reach, find_reach
from graphsurgery.runtime.session import NO_KERNELS, open_session
from graphsurgery.runtime.texts import Encoded

WHOLE_BY_DEFAULT = 2 << 30
"""Up to this many bytes of weights, the whole proof runs without being asked for."""


@check_argument_types()
def verify(
    model: Loadable,
    *,
    against: Loadable,
    texts: str | os.PathLike[str] | None = None,
    atol: float | None = None,
    min_cosine: float | None = None,
    top_k: int | None = None,
    min_overlap: float | None = None,
    rank: float | None = None,
    outputs: bool = False,
    full: bool = False,
    head_only: bool = False,
    progress: Progress = ignore_progress,
) -> Report:
    """Prove that ``model`` computes what its recorded edits must compute when they are applied to ``against``.

    If it records no edit beyond those of that file, prove that both files give the same outputs.

    With ``top_k``, ``min_overlap`` or ``rank``, judge a lossy file (int8, float16) instead: by how near its vectors of real
    texts come to those of ``against``. The report has the worst cosine, the first percentile and the mean, the share of each
    text's nearest neighbours that both files have in common, and the rank correlation of the similarities of all pairs of
    texts. Those with a bound are judged. Needs a tokenizer.json beside either model.

    With ``outputs``, compare two files of different makers by their outputs alone, on the inputs that both have. An input that
    only one of them takes gets zeros, or its meaning if it is a mask or positions. Outputs are matched by name, or else by
    shape. This is the default if the two graphs share nothing and nothing else can be proven.

    Args:
        model: the file to prove: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model.
        against: the file that it was made from, in any of these forms.
        texts: a UTF-8 file, one text a line, to compare on besides the drawn feeds. Needs a tokenizer.json beside either model.
            A lossy file is judged on it alone; without it, on texts of the package.
        atol: the allowed absolute difference, in place of the proofs' own tolerances. When outputs are compared with outputs,
            the default is 1e-5 * max(1, max|x|).
        min_cosine: the smallest allowed cosine, besides those tolerances. Between the outputs of two files that record no
            rewrite it takes their place, unless ``atol`` is given; lengths may then be off by sqrt(2 (1 - cosine)). For a lossy
            file, the smallest allowed cosine of any text.
        top_k: the number of nearest neighbours of each text, 10 by default.
        min_overlap: the least share of these that both files have in common, on average.
        rank: the least rank correlation of the similarities.
        outputs: compare outputs alone, whatever the files record.
        full: run the whole proof and compare every byte of the weights however large they are, and compare on texts as long as
            the model takes, however long the proof then runs.
        head_only: prove the head alone, and leave the whole proof out.

    Returns:
        A Report, truthy if it PASSED.

    Raises:
        RequestError if ``texts`` cannot be used, and the errors of `load`. For a lossy file, also if there is no tokenizer, if
        ``atol`` is given, and if the files' inputs (unless ``outputs``) or the widths of their vectors differ.
    """
    limits = Limits(atol, min_cosine)
    budget = _read_budget(limits, top_k, min_overlap, rank)
    output, source = load(model), load(against)
    if outputs or are_of_different_makers(source, output):
        return verify_outputs(output, source, texts, limits, budget, asked=outputs, full=full, progress=progress)
    if budget is not None:
        return verify_quality(output, source, texts, budget, full=full, progress=progress)
    try:
        chain = Chain.between(source, output)
        generator = make_feed_generator(source, chain)
    except UnsupportedModelError as error:
        return Report((Check(RECORDED, str(error), stated=Verdict.NOT_CHECKED),), (), (f"{RECORDED}: {error}",))
    encoded, why_no_text = find_texts(source, output, generator, texts)
    if not chain:
        progress("comparing outputs")
        return SameOutputs(source, generator, encoded, full, progress).make_report(output, limits, why_no_text)
    wrong = find_record_misfits(source, chain)
    if wrong:
        return Report((Check(RECORDED, "; ".join(wrong), stated=Verdict.FAILED),), (), ("the proofs: nothing was run",))
    return _EditProof(source, output, chain, generator, encoded, limits, full, progress).run(why_no_text, head_only)


def _read_budget(limits: Limits, top_k: int | None, min_overlap: float | None, rank: float | None) -> QualityBudget | None:
    """Return the budget by which a lossy file is judged, or None if none was asked for."""
    if top_k is None and min_overlap is None and rank is None:
        return None
    if limits.atol is not None:
        raise RequestError(
            "--atol cannot be given with --top-k, --min-overlap or --rank: these judge a file by directions on real text",
            "leave out --atol, or give --min-cosine in its place",
        )
    return QualityBudget(limits.min_cosine, min_overlap, rank, TOP_K if top_k is None else top_k)


@dataclass
class _EditProof:
    """The proof of the edits that an output records beyond its source."""

    source: Model
    output: Model
    chain: Chain
    generator: FeedGenerator
    texts: Encoded | None
    limits: Limits
    full: bool
    progress: Progress = ignore_progress
    remarks: list[str] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Read off the differences that the proofs start from."""
        self.fields = self.chain.apply_fields(self.source)[-1]
        self.changed = find_difference(self.fields, self.output)
        self.added = find_added_values(self.output, self.chain, self.changed)
        self.weights = RecordedWeights.of(self.output, self.changed.added)
        self.by_run = any(link.reference.by_run_alone for link in self.chain)
        self.runs_whole = self.full or self.source.weight_bytes <= WHOLE_BY_DEFAULT

    def run(self, why_no_text: str | None, head_only: bool) -> Report:
        """Run all proofs that apply, and report what they found."""
        self.progress("comparing the encoder with the source's")
        checks = [self._check_untouched(every_byte=self.full or (self.runs_whole and not head_only))]
        if self.chain.links[0].step.source != self.source.fingerprint:
            self.remarks.append("the fingerprint in the metadata is not this source's: the output was made from another file")
        for name, prove in self._list_proofs(head_only).items():
            self.progress(name)
            try:
                checks.append(prove())
            except (NothingToPoolError, WeightsDifferError) as error:
                checks.append(Check(name, str(error), stated=Verdict.FAILED))
            except GraphSurgeryError as error:
                can_run = not error.message.startswith(NO_KERNELS) and not isinstance(error, MissingDataError)
                checks.append(Check(name, str(error), stated=Verdict.NOT_CHECKED, needed=name == WHOLE and can_run))
                self.not_checked.append(f"{name}: {error}")
        self.not_checked += [why_no_text] if why_no_text else []
        self.remarks += [line for check in checks for line in check.not_finite]
        self.not_checked += [line for check in checks for line in check.left_out]
        return Report(tuple(checks), tuple(self.remarks), tuple(self.not_checked))

    def _check_untouched(self, every_byte: bool) -> Check:
        broken = find_broken_promises(self.source, self.output, self.chain)
        broken += [] if self.added or self.by_run else name_unexplained_nodes(self.changed)
        broken += name_values_that_are_back(self.source, self.fields, self.chain, self.changed)
        check, unchecked = check_untouched(self.fields, self.output, self.changed, broken, every_byte=every_byte)
        self.not_checked += unchecked
        return replace(check, conclusive=not self.added and not self.by_run)  # the edits change nothing but fields

    def _list_proofs(self, head_only: bool) -> dict[str, Callable[[], Check]]:
        """Return the proofs that run both the head and the whole model, as far as they apply."""
        by_run = any(link.reference.by_run_alone and link.makes for link in self.chain)
        proofs = {HEAD: self._prove_head} if self.added and not by_run else {}
        if head_only and not self.by_run:
            self.not_checked.append(f"{WHOLE}: it runs on the written file")
        elif not self.runs_whole:
            size = self.source.weight_bytes / 2**30
            self.not_checked.append(
                f"{WHOLE}: the model has {size:.1f} GiB of weights, and more than 2 GiB are run only with --full"
            )
        else:
            proofs[WHOLE] = self._prove_whole
        return proofs

    def _require_inputs(self) -> None:
        """Raise UnsupportedModelError for a source without inputs: every run of it gives the same, whatever a proof draws."""
        if not self.source.interface.inputs:
            raise UnsupportedModelError("the model has no inputs, so there are no texts to compare on")

    def _prove_head(self) -> Check:
        self._require_inputs()
        chain, changed = self.chain, self.changed
        lost = [name for name in chain.stand_ins if name not in changed.made and name in self.added]
        if lost:
            return Check(HEAD, f"no added node makes {lost[0]}, which nodes of the source take", stated=Verdict.FAILED)
        if chain.made and not any(value.name in changed.made for value in self.output.interface.outputs):
            return Check(HEAD, "no added node computes an output", stated=Verdict.FAILED)
        missing = sorted(chain.made - changed.made)
        if missing:
            return Check(HEAD, f"no added node makes {missing[0]}, which a recorded edit makes", stated=Verdict.FAILED)
        taken = [value for value in chain.list_stand_ins(self.source) if value.name in changed.made]
        head = extract_head(self.fields, self.output, changed, taken, list_made_inside(chain))
        unread = find_unread_inputs(head, chain, changed.renamed)
        if unread:
            what = f"the added nodes start from {list_few(unread)}, which no recorded edit reads"
            return Check(HEAD, what, stated=Verdict.FAILED)
        widths = find_start_widths(self.source, chain)
        stored = {
            name: self.source.values(self.source.initializers[name])
            for name in chain.starts
            if name in self.source.initializers
        }
        return prove_head(head, chain, self.generator, widths, changed.renamed, self.weights, stored, self.limits)

    def _prove_whole(self) -> Check:
        """Run the whole proof.

        ONNX Runtime's graph optimisations depend on declared sizes, and so does their rounding. If an edit changes sizes, and
        numbers differ by no more than rounding may, the proof runs again without these optimisations, by the same tolerances.
        """
        self._require_inputs()
        resizes = any(link.reference.resizes for link in self.chain)
        plain = resizes and has_half_weights(self.source)
        check, notes = self._run_whole(plain)
        may_be_rounding = check.comparisons and all(one.margin <= MOST_BEYOND for one in check.comparisons)
        if resizes and not plain and may_be_rounding and check.verdict is Verdict.FAILED:
            again, found = self._run_whole(plain=True)
            if again.verdict is Verdict.PASSED:
                worst = max(one.worst for one in check.comparisons)
                plain, check, notes = True, again, [f"with these optimisations, the files are {worst:.1e} apart", *found]
        if plain:
            self.remarks.append("run without ONNX Runtime's graph optimisations, which round otherwise if dims or types change")
        self.remarks += notes
        return check

    def _run_whole(self, plain: bool) -> tuple[Check, Sequence[str]]:
        """Run the whole proof, ``plain`` without ONNX Runtime's graph optimisations. Return it and what was observed."""
        source = open_source(self.source, self.output, self.chain, plain)
        try:
            session = open_session(self.output, plain=plain)
        except UnsupportedModelError as error:
            return Check(WHOLE, f"the source can be loaded and the output cannot: {error}", stated=Verdict.FAILED), ()
        tried = try_inputs(source.session.run, self.source, self.chain)
        if tried.wrong:
            return Check(WHOLE, tried.wrong, stated=Verdict.FAILED), ()
        whole = Whole(ExpectedOutputs(source, self.chain, self.weights), session, self.output.interface.outputs)
        reference = CachedRun(whole.compute_expected)
        self.progress(FINDING_REACH)
        reach = find_reach(self.source, self.generator, reference, self.full)
        longest = extend_to_reach(self.generator, reach)
        special = [*list_clip_cases(self.generator, self.chain), *list_mended_cases(self.generator, self.chain)]
        total = count_whole_feeds(longest, self.texts) + sum(len(feeds) for _, feeds in special)
        cases = report_feeds(join(make_whole_cases(longest, self.texts), special), total, self.progress)
        check = prove_whole(whole, reference, cases, self.limits)
        notes = [*map(Warn, self.generator.baked_in), str(reach)]
        unchecked = (*reach.not_checked, *list_left_out(self.generator, self.chain), *tried.unknown)
        self.not_checked += [line for line in unchecked if line not in self.not_checked]
        if check.verdict is Verdict.PASSED:
            self.progress("measuring how the batch and padding change a vector")
            notes += measure_dependence(whole, self.generator)
            notes += describe_bits(self.output, session, self.generator)
        return check, notes
