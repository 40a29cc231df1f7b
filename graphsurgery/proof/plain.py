"""Two models with the same inputs, compared output by output."""

from __future__ import annotations

import numpy as np
import onnx

from graphsurgery.errors import GraphSurgeryError
from graphsurgery.interface import Value
from graphsurgery.model.model import Model
from graphsurgery.proof.compare import Limits, Tally
from graphsurgery.proof.whole_proof import whole_cases
from graphsurgery.report import Check, Report, Verdict
from graphsurgery.runtime.feeds import Drawer
from graphsurgery.runtime.session import Session, open_session
from graphsurgery.runtime.texts import Encoded

RELATIVE = 1e-5
NAME = "same outputs"


def plain_comparison(
    source: Model, output: Model, drawer: Drawer, texts: Encoded | None,
    limits: Limits, why_no_text: str | None,
) -> Report:  # fmt: skip
    """Run both models on the same feeds and compare the outputs that have the same name.

    Tolerance: that of ``limits``, else (with ``min_cosine``) only the cosine, else 1e-5 * max(1, max|x|).
    """
    not_checked = [why_no_text] if why_no_text else []
    numeric, odd = _numeric(output), [value.name for value in output.interface.outputs if value not in _numeric(output)]
    shared = [value.name for value in numeric if source.interface.output(value.name) in _numeric(source)]
    only = [value.name for value in numeric if value.name not in shared]
    not_checked += [f"output {name}: it is no tensor of numbers" for name in odd]
    not_checked += [f"output {name}: the source has none of that name" for name in only]
    lost = [value.name for value in source.interface.outputs if value.name not in [*shared, *odd]]
    not_checked += [f"output {name} of the source: the model has none of that name" for name in lost]
    if not shared:
        check = Check(NAME, "the two models have no output in common", stated=Verdict.NOT_CHECKED)
        return Report((check,), (), tuple(not_checked))
    try:
        check = _compare(open_session(source), open_session(output), shared, drawer, texts, limits)
    except GraphSurgeryError as error:
        return Report((Check(NAME, str(error), stated=Verdict.NOT_CHECKED),), (), (*not_checked, f"{NAME}: {error}"))
    skipped = [(one.kind, one.skipped) for one in check.comparisons if one.skipped]
    observations = [f"the source itself is not finite in {count} row(s) of {kind!r}" for kind, count in skipped]
    return Report((check,), tuple(observations), tuple(not_checked))


def _numeric(model: Model) -> list[Value]:
    """Outputs that are tensors of numbers: not strings, sequences or maps."""
    strange = (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING)
    return [value for value in model.interface.outputs if value.dtype not in strange]


def _compare(
    source: Session, output: Session, names: list[str], drawer: Drawer, texts: Encoded | None,
    limits: Limits,
) -> Check:  # fmt: skip
    comparisons = []
    for kind, feeds in whole_cases(drawer, texts):
        tally = Tally(kind, limits.min_cosine)
        for feed in feeds:
            expected, found = source.run(feed, names), output.run(feed, names)
            for name in names:
                tally.add(found[name], expected[name], _tolerance(expected[name], limits))
        comparisons.append(tally.result())
    return Check(NAME, f"{', '.join(names)} of both models, on the same feeds", tuple(comparisons))


def _tolerance(values: np.ndarray, limits: Limits) -> np.ndarray:
    if limits.atol is not None:
        return np.array(limits.atol)
    if limits.min_cosine is not None:
        return np.array(np.inf)
    finite = values[np.isfinite(values)] if np.issubdtype(values.dtype, np.floating) else values
    return np.array(RELATIVE * max(1.0, float(np.max(np.abs(finite.astype(np.float64)), initial=0.0))))
