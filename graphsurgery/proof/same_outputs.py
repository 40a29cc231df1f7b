"""The comparison of two files with the same inputs and no edit between them: their outputs on the same feeds.

A file that `optimize` made records how it was rewritten. This decides whether it must keep the source's numbers in float32, or
in half precision the angles and lengths of the source's vectors, as two engines measure them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx

from graphsurgery.compare.loss import REFERENCE, EngineLoss, Loss, measure_by_both_engines
from graphsurgery.compare.models import NAME, Feed, OpenModel, SourceOutputs, compare_models
from graphsurgery.compare.tolerance import Limits, compute_stretch_limit
from graphsurgery.encoder.head import read_head_steps
from graphsurgery.errors import UnsupportedModelError, require_value
from graphsurgery.model.model import Model, fill_weights
from graphsurgery.progress import Progress, count_parts, ignore_progress
from graphsurgery.proof.integer_products import check_integer_products
from graphsurgery.proof.relation import RECORDED, Relation, explain_other_inputs
from graphsurgery.proof.same_bits import describe_bits
from graphsurgery.proof.whole_proof import count_whole_feeds, make_whole_cases
from graphsurgery.remarks import Warn
from graphsurgery.report import Check, Comparison, Report, Verdict, list_few
from graphsurgery.runtime.feeds import FeedGenerator, generate_text_feeds
from graphsurgery.runtime.reach import FINDING_REACH, Reach, extend_to_reach, find_reach
from graphsurgery.runtime.session import NO_KERNELS, Session, open_session
from graphsurgery.runtime.texts import Encoded

BY_OUTPUTS = "--outputs compares files of different makers, on the inputs that both have"
SECOND = "second opinion"
MEASURED = ("right padding", "left padding", "long")
MOST_TEXTS = 4
"""The number of batches of real text on which losses are measured."""


@dataclass
class SameOutputs:
    """Compares files with a source, which is run once for all of them."""

    source: Model
    generator: FeedGenerator
    texts: Encoded | None
    full: bool = False
    progress: Progress = ignore_progress
    reach: Reach | None = None
    _outputs: dict[tuple[object, ...], SourceOutputs] = field(default_factory=dict)

    def make_report(self, output: Model, limits: Limits, why_no_text: str | None) -> Report:
        """Run both files and compare the outputs that have the same name."""
        relation = Relation.of(self.source, output, limits)
        not_checked = [why_no_text] if why_no_text else []
        other = explain_other_inputs(self.source, output)
        if other is not None or not relation.names:
            what = f"{other or 'the two models have no output of the same name'}; {BY_OUTPUTS}"
            return Report((Check(NAME, what, stated=Verdict.NOT_CHECKED),), (), (*not_checked, *relation.not_checked))
        checks, _, left_out = self.make_checks(output, relation, limits)
        if relation.integer_products:
            products = self._check_products(output)
            checks += [] if products.verdict is Verdict.NOT_CHECKED else [products]
            left_out += [f"{products.name}: {products.detail}"] if products.verdict is Verdict.NOT_CHECKED else []
        made = self._explain_made_outputs(output)
        if made is not None and all(check.verdict is not Verdict.FAILED for check in checks):
            checks = [Check(RECORDED, made, stated=Verdict.NOT_CHECKED)]
        observed = self.list_remarks(checks)
        if all(check.verdict is Verdict.PASSED for check in checks):
            observed += tuple(describe_bits(output, open_session(output), self.generator))
        return Report(tuple(checks), observed, (*not_checked, *relation.not_checked, *left_out))

    def _check_products(self, output: Model) -> Check:
        """Hold the integer products of ``output`` against float64: this tells whether they are right on this processor."""
        texts = [] if self.texts is None else generate_text_feeds(self.generator, self.texts)
        return check_integer_products(self.source, output, None, texts or self.measured, self.generator.find_mask)

    def _explain_made_outputs(self, output: Model) -> str | None:
        """Say that recorded edits make outputs that the source does not have, or return None if they make none."""
        made = [value.name for value in output.interface.outputs if self.source.interface.output(value.name) is None]
        if not made or read_head_steps(output) == read_head_steps(self.source):
            return None
        what = f"the model records edits that make {list_few(made)}, and the source has no output of that name"
        return f"{what}: compare the model with the file that its rewrites were applied to"

    def list_remarks(self, checks: Sequence[Check]) -> tuple[str, ...]:
        """Say where the source itself is not finite, at which sizes it runs, and up to which length texts were compared."""
        reach = [] if self.reach is None else [str(self.reach)]
        baked = [*map(Warn, self.generator.baked_in)] if reach else []
        return (*(line for check in checks for line in check.not_finite), *baked, *reach)

    def make_checks(self, output: Model, relation: Relation, limits: Limits) -> tuple[list[Check], list[EngineLoss], list[str]]:
        """Return the checks of ``output``, the losses of half precision that two engines measure, and what was left out."""
        asked = limits if relation.is_exact else replace(limits, min_cosine=_choose_cosine(limits, relation))
        checks, left_out = self._run(output, relation, asked)
        if relation.half is None or any(check.verdict is Verdict.FAILED for check in checks):
            return checks, [], left_out
        losses = self._measure_losses(output, relation)
        second = [one for one in losses if one.engine == REFERENCE]
        measured = {one.output: one.loss for one in second if one.loss is not None}
        checks += [_judge_second(measured, asked)] if measured else []
        return checks, losses, left_out + _explain_unmeasured(second)

    def _run(self, output: Model, relation: Relation, limits: Limits) -> tuple[list[Check], list[str]]:
        if relation.half == onnx.TensorProto.BFLOAT16:
            return [], [f"{NAME}: {NO_KERNELS}"]

        def open_output(plain: bool) -> Session:
            return open_session(output, extra_outputs=relation.names, plain=plain)

        return self.compare(open_output, relation, limits)

    def compare(self, open_output: OpenModel, relation: Relation, limits: Limits) -> tuple[list[Check], list[str]]:
        """Compare another file with the source on every kind of feed. Return the checks, and what was left out."""
        try:
            source = self.run_source(relation.names, relation.empty_rows)
        except UnsupportedModelError as error:
            check = Check(NAME, f"the source cannot be run: {error}", stated=Verdict.NOT_CHECKED)
            return [check], [f"{NAME}: the source cannot be run: {error}"]
        left_out = [*source.left_out, *self.generator.left_out]
        unknown = [value.name for value in self.generator.roles.others if self.generator.find_medium(value) is None]
        if self.generator.roles.mask is None and unknown:
            names = list_few(unknown)
            left_out.append(f"padding: no input was recognised as the attention mask (inputs of unknown use: {names})")
        check = compare_models(source, open_output, limits, is_exact=relation.is_exact)
        return [check], [*left_out, *require_value(self.reach, "how long texts are").not_checked, *check.left_out]

    def can_run_source(self, relation: Relation) -> bool:
        """Return whether the source can be run here."""
        try:
            self.run_source(relation.names, relation.empty_rows)
        except UnsupportedModelError:
            return False
        return True

    def run_source(self, names: Sequence[str], empty_rows: bool) -> SourceOutputs:
        """Return the values ``names`` of the source on every kind of feed. Raise UnsupportedModelError if it cannot be run."""
        key = (empty_rows, *names)
        if key not in self._outputs:

            def open_source(plain: bool) -> Session:
                return open_session(self.source, extra_outputs=names, plain=plain)

            session = open_source(False)
            if self.reach is None:
                self.progress(FINDING_REACH)
                self.reach = find_reach(self.source, self.generator, lambda feed: session.run(feed, names), self.full)
                self.generator = extend_to_reach(self.generator, self.reach)
            per_token = self._find_per_token()
            feeds = (
                Feed(kind, arrays, self.generator.find_mask(arrays), empty_rows, per_token)
                for kind, every in make_whole_cases(self.generator, self.texts) for arrays in every
            )  # fmt: skip
            total = count_whole_feeds(self.generator, self.texts)
            counted = count_parts(feeds, total, self.progress, "running the source")
            self._outputs[key] = SourceOutputs.of(open_source, names, counted, session, self.progress)
        return self._outputs[key]

    def _find_per_token(self) -> frozenset[str]:
        """Return the outputs ``[batch, seq]``, recognised by the names of their dims."""
        mask = self.generator.roles.mask
        dims = mask.dims if mask is not None and mask.rank == 2 else None
        if dims is None or not isinstance(dims[1], str):
            return frozenset()
        return frozenset(value.name for value in self.source.interface.outputs if value.dims == dims)

    @property
    def measured(self) -> list[dict[str, np.ndarray]]:
        """The feeds on which activations and losses are measured: real text if there is a tokenizer, and drawn ids."""
        drawn = [
            self.generator.generate(mask, seed)
            for kind, masks in self.generator.generate_masks() if kind in MEASURED for seed, mask in enumerate(masks)
        ]  # fmt: skip
        batches = [] if self.texts is None else list(self.texts.split_into_batches())[:MOST_TEXTS]
        return [*(feed for batch in batches for feed in generate_text_feeds(self.generator, batch)), *drawn]

    def _measure_losses(self, output: Model, relation: Relation) -> list[EngineLoss]:
        cannot_run = NO_KERNELS if relation.half == onnx.TensorProto.BFLOAT16 else None
        source, candidate = (_set_outputs(fill_weights(model.proto, model), relation.names) for model in (self.source, output))
        per_token = self._find_per_token()
        return measure_by_both_engines(source, candidate, self.measured, per_token=per_token, cannot_run=cannot_run)


def _choose_cosine(limits: Limits, relation: Relation) -> float:
    return relation.least_cosine if limits.min_cosine is None else limits.min_cosine


def _set_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Give ``model`` the outputs ``names``, which may be values inside the graph, and return it."""
    declared = {info.name: info for info in model.graph.output}
    outputs = [declared.get(name, onnx.ValueInfoProto(name=name)) for name in names]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    return model


def _explain_unmeasured(second: Sequence[EngineLoss]) -> list[str]:
    """Say which outputs the second reference could not measure, those with the same reason together."""
    names: dict[str, list[str]] = {}
    for one in second:
        if one.loss is None:
            names.setdefault(one.why, []).append(one.output)
    return [f"{SECOND}: of {', '.join(those)}: {why}" for why, those in names.items()]


def _judge_second(losses: Mapping[str, Loss], limits: Limits) -> Check:
    """Judge the loss at each output that onnx's reference evaluator measures. It computes each operator in the file's type."""
    cosine = require_value(limits.min_cosine, "the smallest cosine")
    comparisons = []
    for name, loss in losses.items():
        asked = loss.max_abs / limits.atol if limits.atol else 0.0
        margin = max(asked, loss.relative / (2 * compute_stretch_limit(cosine)))
        kind = "first rows" if len(losses) == 1 else f"first rows of {name}"
        comparisons.append(Comparison(kind, loss.vectors, loss.max_abs, margin, loss.min_cosine, loss.not_finite, cosine))
    listed = "; ".join(str(loss) if len(losses) == 1 else f"{name}: {loss}" for name, loss in losses.items())
    return Check(SECOND, f"by {REFERENCE} evaluator, on the first rows: {listed}", tuple(comparisons))
