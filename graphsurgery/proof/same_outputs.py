"""Two files with the same inputs and no edit between them: their outputs on the same feeds.

A file that `optimize` made records how it was rewritten, and that says what it must keep to: the source's numbers in float32,
or the angles and lengths of the source's vectors in half precision, in the opinion of two engines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx

from graphsurgery.anatomy.head import head_steps
from graphsurgery.anatomy.wiring import all_nodes
from graphsurgery.compare.limits import LEAST_COSINE, Limits
from graphsurgery.compare.models import NAME, Feed, Given, compared
from graphsurgery.compare.tolerance import most_stretch
from graphsurgery.contracts import present
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.halving.loss import Opinion, opinions
from graphsurgery.interface import Value
from graphsurgery.model.dtypes import FLOATS, NAMES
from graphsurgery.model.filling import filled
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import rewrites
from graphsurgery.model.schema import tensors
from graphsurgery.proof.chain import starts
from graphsurgery.proof.reference import computes_in_half
from graphsurgery.proof.whole_proof import whole_cases
from graphsurgery.report import Check, Comparison, Report, Verdict
from graphsurgery.runtime.feeds import Drawer, text_feeds
from graphsurgery.runtime.reach import Reach, found_reach, reaching
from graphsurgery.runtime.session import Session, open_session
from graphsurgery.runtime.texts import Encoded

SECOND = "second opinion"
MEASURED = ("right padding", "left padding", "long")
MOST_TEXTS = 4
"""Batches of real text that losses are measured on."""
HALVES = {NAMES[kind].lower(): kind for kind in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)}


@dataclass(frozen=True)
class Relation:
    """What an output file must keep to, told from what both files are and record."""

    names: tuple[str, ...]
    """The values that are compared."""
    is_exact: bool
    """Whether they are held to float32's tolerances, and not to an angle and a length."""
    empty_rows: bool
    """Whether the vectors of rows without a token count."""
    half: int | None
    """The half type that the output was converted to; None where it was not."""
    not_checked: tuple[str, ...]
    """What is left out, and why."""

    @classmethod
    def of(cls, source: Model, output: Model, limits: Limits) -> Relation:
        """What ``output`` must keep to as a rewrite of ``source``, or as any file beside it."""
        records = rewrites(output.proto) if rewrites(output.proto) != rewrites(source.proto) else []
        half = next((HALVES.get(str(step.parameters.get("precision"))) for step in reversed(records)), None)
        half = half if half is not None and _computes_in(output, half) else None
        is_exact = half is None and not computes_in_half(source) if records else limits.min_cosine is None
        head, had = bool(head_steps(output)), bool(head_steps(source))
        names, not_checked = _compared(source, output, only_floats=bool(records))
        if records and head and not had:
            empty_rows = False
            not_checked.append("rows without a token: our head gives zeros there, the source's may give anything")
        else:
            empty_rows = is_exact or head
        if not empty_rows and not (records and head):
            not_checked.append("rows without a token: an encoder's output there depends on the number that masks scores")
        return cls(tuple(names), is_exact, empty_rows, half, tuple(not_checked))


@dataclass
class SameOutputs:
    """What a source gives, run once for all files that are held against it."""

    source: Model
    drawer: Drawer
    texts: Encoded | None
    full: bool = False
    reach: Reach | None = None
    _given: dict[tuple[object, ...], Given] = field(default_factory=dict)

    def report(self, output: Model, limits: Limits, why_no_text: str | None) -> Report:
        """Run both files and compare the outputs that have the same name."""
        relation = Relation.of(self.source, output, limits)
        not_checked = [why_no_text] if why_no_text else []
        other = _other_inputs(self.source, output)
        if other is not None or not relation.names:
            what = other or "the two models have no output in common"
            return Report((Check(NAME, what, stated=Verdict.NOT_CHECKED),), (), (*not_checked, *relation.not_checked))
        checks, _, left_out = self.checks(output, relation, limits)
        return Report(tuple(checks), self.observed(checks), (*not_checked, *relation.not_checked, *left_out))

    def observed(self, checks: Sequence[Check]) -> tuple[str, ...]:
        """Where the source itself is not finite, and up to which length texts were compared."""
        reach = [] if self.reach is None else [str(self.reach)]
        return (*(said for check in checks for said in check.not_finite), *reach)

    def checks(
        self, output: Model, relation: Relation, limits: Limits
    ) -> tuple[list[Check], tuple[Opinion, Opinion] | None, list[str]]:
        """(what the comparison came to, what half precision loses in the opinion of two engines, what was left out)."""
        asked = limits if relation.is_exact else replace(limits, min_cosine=_cosine(limits))
        checks, left_out = self._run(output, relation, asked)
        told = None
        if relation.half is not None and all(check.verdict is not Verdict.FAILED for check in checks):
            told = self._opinions(output, relation)
            checks += [_second(told[1], asked)] if told[1].loss is not None else []
            left_out += [] if told[1].loss is not None else [f"{SECOND}: {told[1].why}"]
        return checks, told, left_out

    def _run(self, output: Model, relation: Relation, limits: Limits) -> tuple[list[Check], list[str]]:
        if relation.half == onnx.TensorProto.BFLOAT16:
            return [], [f"{NAME}: ONNX Runtime's CPU has no kernels for bfloat16"]
        try:
            given = self.given(relation.names, relation.empty_rows)
        except UnsupportedModelError as error:
            check = Check(NAME, f"the source cannot be run: {error}", stated=Verdict.NOT_CHECKED)
            return [check], [f"{NAME}: of the source, {error}"]
        left_out = [*given.left_out, *self.drawer.left_out]
        if self.drawer.roles.mask is None and self.drawer.roles.others:
            names = ", ".join(value.name for value in self.drawer.roles.others)
            left_out.append(f"padding: no attention mask was recognised among the inputs (of unknown use: {names})")
        check = compared(
            given,
            lambda plain: open_session(output, extra_outputs=relation.names, plain=plain),
            limits,
            is_exact=relation.is_exact,
        )
        return [check], [*left_out, *present(self.reach, "how long texts are").not_checked, *check.left_out]

    def runs(self, relation: Relation) -> bool:
        """Whether the source can be run here."""
        try:
            self.given(relation.names, relation.empty_rows)
        except UnsupportedModelError:
            return False
        return True

    def given(self, names: Sequence[str], empty_rows: bool) -> Given:
        """The values ``names`` of the source on every kind of feed. UnsupportedModelError where it cannot be run."""
        key = (empty_rows, *names)
        if key not in self._given:

            def opened(plain: bool) -> Session:
                return open_session(self.source, extra_outputs=names, plain=plain)

            session = opened(False)
            if self.reach is None:
                self.reach = found_reach(self.source, self.drawer, lambda feed: session.run(feed, names), self.full)
                self.drawer = reaching(self.drawer, self.reach)
            per_token = self._per_token()
            feeds = (
                Feed(kind, arrays, self.drawer.mask_of(arrays), empty_rows, per_token)
                for kind, every in whole_cases(self.drawer, self.texts) for arrays in every
            )  # fmt: skip
            self._given[key] = Given.of(opened, names, feeds, session)
        return self._given[key]

    def _per_token(self) -> frozenset[str]:
        """The outputs ``[batch, seq]``, as their dims are called."""
        mask = self.drawer.roles.mask
        dims = mask.dims if mask is not None and mask.rank == 2 else None
        if dims is None or not isinstance(dims[1], str):
            return frozenset()
        return frozenset(value.name for value in self.source.interface.outputs if value.dims == dims)

    @property
    def measured(self) -> list[dict[str, np.ndarray]]:
        """What activations and losses are measured on: real text where there is some, and drawn ids."""
        drawn = [
            self.drawer.feed(mask, seed)
            for kind, masks in self.drawer.kinds() if kind in MEASURED for seed, mask in enumerate(masks)
        ]  # fmt: skip
        batches = [] if self.texts is None else list(self.texts.batches())[:MOST_TEXTS]
        return [*(feed for batch in batches for feed in text_feeds(self.drawer, batch)), *drawn]

    def _opinions(self, output: Model, relation: Relation) -> tuple[Opinion, Opinion]:
        no_kernels = "ONNX Runtime's CPU has no kernels for bfloat16"
        cannot_run = no_kernels if relation.half == onnx.TensorProto.BFLOAT16 else None
        source, candidate = (filled(model.proto, model) for model in (self.source, output))
        return opinions(source, candidate, self.measured, cannot_run=cannot_run)


def _other_inputs(source: Model, output: Model) -> str | None:
    """How the models do not take the same feeds, in words; None where they do."""
    given = {value.name: value for value in source.interface.inputs}
    taken = {value.name: value for value in output.interface.inputs}
    if given.keys() == taken.keys() and all(_takes(taken[name], given[name]) for name in given):
        return None
    one, other = (", ".join(map(str, side.values())) or "nothing" for side in (taken, given))
    return f"the models take other inputs: {one}, where the source takes {other}"


def _takes(value: Value, given: Value) -> bool:
    """Whether an input takes whatever ``given`` takes: of its type (or both of floats), and of its sizes."""
    if value.dtype != given.dtype and not (_is_float(value) and _is_float(given)):
        return False
    if value.dims is None or given.dims is None:
        return True
    sizes = zip(value.dims, given.dims, strict=False)
    return len(value.dims) == len(given.dims) and all(not isinstance(one, int) or one == other for one, other in sizes)


def _computes_in(model: Model, kind: int) -> bool:
    """Whether a file computes in the half type that it records: whether a weight is of it, or a node casts to it."""
    casts = (node for node in all_nodes(model.proto.graph) if node.op_type == "Cast")
    return any(tensor.data_type == kind for _, tensor in tensors(model.proto)) or any(
        attribute.i == kind for node in casts for attribute in node.attribute
    )


def _cosine(limits: Limits) -> float:
    return LEAST_COSINE if limits.min_cosine is None else limits.min_cosine


def _compared(source: Model, output: Model, *, only_floats: bool) -> tuple[list[str], list[str]]:
    """(the values of both that are compared, what is left out and why): shared outputs of numbers; ``only_floats``: of floats,
    or where all outputs are bytes, what the head starts from."""
    shared, not_checked = [], []
    for value in output.interface.outputs:
        other = source.interface.output(value.name)
        if not _is_numeric(value) or (other is not None and not _is_numeric(other)):
            not_checked.append(f"output {value.name}: it is no tensor of numbers")
        elif other is None:
            not_checked.append(f"output {value.name}: the source has none of that name")
        elif only_floats and not (_is_float(value) and _is_float(other)):
            not_checked.append(f"output {value}: only floats are compared")
        else:
            shared.append(value.name)
    given = {value.name for value in output.interface.outputs}
    lost = [value.name for value in source.interface.outputs if value.name not in given]
    not_checked += [f"output {name} of the source: the model has none of that name" for name in lost]
    return shared or (list(_inside(source, output)) if only_floats else []), not_checked


def _inside(source: Model, output: Model) -> Iterator[str]:
    """What the head that both files record starts from."""
    try:
        names = starts(head_steps(output))
    except UnsupportedModelError:  # an edit that this version does not know
        return
    for name in names:
        if all(any(name in node.output for node in model.proto.graph.node) for model in (source, output)):
            yield name


def _is_numeric(value: Value) -> bool:
    return value.dtype not in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING)


def _is_float(value: Value) -> bool:
    return value.dtype in FLOATS


def _second(opinion: Opinion, limits: Limits) -> Check:
    """The loss that onnx's reference evaluator finds, each operator in the type that the file says."""
    loss, cosine = present(opinion.loss, "the loss"), present(limits.min_cosine, "the smallest cosine")
    asked = loss.max_abs / limits.atol if limits.atol else 0.0
    margin = max(asked, loss.relative / (2 * most_stretch(cosine)))
    one = Comparison("first rows", loss.vectors, loss.max_abs, margin, loss.min_cosine, loss.not_finite, cosine)
    return Check(SECOND, f"by {opinion.engine} evaluator, on the first rows: {loss}", (one,))
