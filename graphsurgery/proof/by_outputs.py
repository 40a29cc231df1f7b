"""The comparison of two files of different makers, by their outputs alone: what they record plays no part."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace

import numpy as np

from graphsurgery.compare.models import NAME
from graphsurgery.compare.quality import BEYOND, TOP_K, QualityBudget, measure_quality
from graphsurgery.compare.tolerance import NARROW, Limits
from graphsurgery.errors import GraphSurgeryError, UnsupportedModelError
from graphsurgery.model.model import Model
from graphsurgery.model.schema import GRAPH
from graphsurgery.progress import Progress, ignore_progress
from graphsurgery.proof.pairing import Pairing, pair_models
from graphsurgery.proof.relation import Relation, explain_other_inputs
from graphsurgery.proof.same_outputs import SameOutputs
from graphsurgery.proof.source_feeds import encode_texts, find_texts
from graphsurgery.proof.text_quality import verify_quality
from graphsurgery.references.chain import Chain
from graphsurgery.report import Check, Report, Verdict
from graphsurgery.runtime.embedding import embed_texts
from graphsurgery.runtime.session import open_session
from graphsurgery.runtime.texts import JUDGE, bundled_texts, read_texts

RECORDS = "recorded edits: only the outputs of both files were compared"
UNASKED = "the two graphs have almost no node in common, so only their outputs are compared, as --outputs does"
ROWS = "rows without a token: what a file gives there is up to its maker"
FEW_SHARED = 0.1
"""Two graphs share nothing if they have fewer of their nodes in common than this share."""
NEIGHBOURS = 100
"""The number of texts of the package whose neighbours are compared."""
NODE = GRAPH.fields_by_name["node"].number
Path = str | os.PathLike[str] | None


def are_of_different_makers(source: Model, output: Model) -> bool:
    """Return whether two files can be compared by their outputs alone.

    Their graphs share nothing, and ``output`` records edits of another file, or takes or gives something else than ``source``.
    """
    first, second = (_count_nodes(model) for model in (source, output))
    shared = (first & second).total()
    if shared > FEW_SHARED * min(first.total(), second.total()) or not first or not second:
        return False
    try:
        chain = Chain.between(source, output)
    except UnsupportedModelError:  # an edit that this version does not know
        return False
    if chain:
        return chain.links[0].step.source != source.fingerprint
    has_same = any(source.interface.output(value.name) is not None for value in output.interface.outputs)
    return not has_same or explain_other_inputs(source, output) is not None


def _count_nodes(model: Model) -> Counter[bytes]:
    return Counter(record.content for record in model.document.graph if record.field == NODE)


def verify_outputs(
    output: Model,
    source: Model,
    texts: Path,
    limits: Limits,
    budget: QualityBudget | None,
    *,
    asked: bool = True,
    full: bool = False,
    progress: Progress = ignore_progress,
) -> Report:
    """Compare the outputs of two files on the inputs that both have.

    They are judged by float32's tolerances or ``limits``, on drawn feeds and real text; with a ``budget``, by the budget, on
    real text alone. If a user has not ``asked`` for it, the report says why. Raises what `verify_quality` and `find_texts`
    raise.
    """
    progress("matching inputs and outputs")
    try:
        pairing = pair_models(source, output)
    except UnsupportedModelError as error:
        return Report((Check(NAME, str(error), stated=Verdict.NOT_CHECKED),), (), (RECORDS,))
    if not asked:
        pairing = replace(pairing, remarks=(UNASKED, *pairing.remarks))
    if budget is not None:
        return verify_quality(output, source, texts, budget, pairing=pairing, full=full, progress=progress)
    encoded, why_no_text = find_texts(source, output, pairing.generator, texts)
    if pairing.generator.without_padding and pairing.generator.fixed_sequence is not None:
        encoded, why_no_text = None, "real text: it would be padded to the fixed length, and only one file can tell padding"
    names = tuple(pairing.outputs)
    relation = Relation(names, limits.min_cosine is None, False, None, 0, 1.0, (ROWS,))
    progress("comparing outputs")
    both = SameOutputs(source, pairing.generator, encoded, full, progress)
    checks, left_out = both.compare(pairing.open_output, relation, limits)
    observed = [*pairing.remarks, *(line for check in checks for line in check.not_finite), *_list_reach(both)]
    not_checked = [RECORDS, *relation.not_checked, *pairing.left_out, *([why_no_text] if why_no_text else []), *left_out]
    if encoded is not None and all(check.cases for check in checks):
        progress("comparing neighbours")
        found, missing = _compare_neighbours(source, output, pairing, texts)
        observed += found
        not_checked += missing
    return Report(tuple(checks), tuple(observed), tuple(dict.fromkeys(not_checked)))


def _list_reach(both: SameOutputs) -> list[str]:
    return [] if both.reach is None else [str(both.reach)]


def _compare_neighbours(source: Model, output: Model, pairing: Pairing, texts: Path) -> tuple[list[str], list[str]]:
    """Say how near both files' vectors of real texts are, and whether they have the same neighbours; and what was not measured.

    The texts are the user's, or some of the package.
    """
    names = [name for name in pairing.outputs if (one := source.interface.output(name)) is not None and one.rank in (2, None)]
    try:
        if texts is None:
            every = bundled_texts(JUDGE)
            chosen = [every[int(place)] for place in np.linspace(0, len(every) - 1, NEIGHBOURS)]
        else:
            chosen = read_texts(texts if isinstance(texts, str) else os.fspath(texts))
        encoded = encode_texts(source, output, pairing.generator, chosen, pairing.generator.longest_text)
        sessions = (open_session(source), pairing.open_output())
        sides = [embed_texts(session, pairing.generator, encoded, names) for session in sessions] if names else [{}, {}]
        top_k = min(TOP_K, len(chosen) - BEYOND)
        said = [
            f"{name} of {len(chosen)} texts: {measure_quality(sides[0][name], sides[1][name], top_k)}"
            for name in sides[0].keys() & sides[1].keys() if sides[0][name].shape[1] > NARROW
        ]  # fmt: skip
    except GraphSurgeryError as error:
        return [], [f"neighbours: {error}"]
    return said, [] if said else ["neighbours: no output has one vector of more than two numbers per text"]
