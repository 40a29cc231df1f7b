"""The function ``quantize``: an encoder in 8-bit integers, as fast as a budget of quality allows, and proven."""

from __future__ import annotations

import os
from pathlib import Path

from graphsurgery.argument_types import check_argument_types
from graphsurgery.compare.figures import check_plot
from graphsurgery.compare.tolerance import NO_LIMITS
from graphsurgery.errors import RequestError, VerificationFailed
from graphsurgery.folders.head_modules import renew_module_warning
from graphsurgery.model.loading import Loadable, load
from graphsurgery.optimizer.plot import draw_trade_off
from graphsurgery.optimizer.quantize_search import QuantizeSearch
from graphsurgery.optimizer.search import Search
from graphsurgery.outcome import Outcome
from graphsurgery.progress import Progress, ignore_progress
from graphsurgery.proof.quantized import QuantizedJudge
from graphsurgery.proof.rewrite_proof import RewriteProof
from graphsurgery.rewrites.quantize.targets import DESCRIPTIONS, detect_target
from graphsurgery.rewrites.quantize.texts import BUNDLED, read_calibration_texts
from graphsurgery.rewrites.quantize_encoder import DYNAMIC, INT8, Quantize
from graphsurgery.runner import Writing, choose_output
from graphsurgery.runtime.texts import JUDGE, bundled_texts, read_texts

BUDGET = 0.99
"""The least cosine, if no other is asked for."""
SENSITIVE = 32
"""The number of calibration texts, or a few more, on which the sensitivity of groups is measured."""


@check_argument_types()
def quantize(
    source: Loadable,
    *,
    output: str | os.PathLike[str] | None = None,
    min_cosine: float = BUDGET,
    calibrate: str | os.PathLike[str] | None = None,
    texts: str | os.PathLike[str] | None = None,
    target: str | None = None,
    scheme: str = INT8,
    batch_invariant: bool = True,
    plot: str | os.PathLike[str] | None = None,
    verify: bool = True,
    time: bool = True,
    force: bool = False,
    dry_run: bool = False,
    keep_failed: bool = False,
    strict: bool = False,
    progress: Progress = ignore_progress,
) -> Outcome:
    """Quantise the encoder of a pooled file, as fast as ``min_cosine`` allows, prove the result and save it.

    The products of tokens with weights are computed in 8-bit integers; the head, and groups of products that the budget does
    not allow, in float32. A text's vector does not depend on its batch (`Quantize`). How the groups are chosen is described in
    `QuantizeSearch`. With another ``scheme``, one file is made and held to the budget.

    Args:
        source: a pooled file with a tokenizer.json beside it, or a Model loaded from one.
        output: the path to write. By default it is beside the source, with ``int8`` in its name.
        min_cosine: the budget: the least cosine between a vector and the float32 file's, over all texts.
        calibrate: a UTF-8 file with one text per line on which ranges, divisors and the rounding of weights are calibrated. By
            default, 350 texts of the package in many languages.
        texts: a UTF-8 file with one text per line to judge by. By default, about 1,000 other texts of the package.
        target: the processors and runtimes that the file is for: ``avx512_vnni``, ``avx2``, ``arm64`` or ``portable`` (standard
            operators alone). By default, the target for which ONNX Runtime's products are right on this machine.
        scheme: ``int8``; or ``dynamic`` (one range for the whole batch), ``qdq`` (calibrated ranges, standard operators),
            ``weights-8bit``, ``weights-4bit`` and ``weights-fp16`` (smaller weights, computed in float32).
        batch_invariant: whether a text's vector must not depend on its batch. If not, ``int8`` means ``dynamic``.
        plot: a .png or .svg file to draw quality against speed in, for all that was tried. Needs matplotlib (extra ``plot``).
        verify, force, keep_failed, strict: as in `run`.
        time: whether to time the files on this CPU.
        dry_run: do everything but write.
        progress: called with a few words on what is being done, and how many of how many parts are done.

    Raises:
        VerificationFailed: no file keeps the budget (``error.outcome.choice`` holds what was tried), or the proof did not pass.
        NothingToOptimizeError: the encoder has no product that can be computed in integers.
        RequestError: there is no tokenizer beside the model, no output with one vector per text, or an option is wrong.
        AlreadyAppliedError: the file is quantised already.
        And what `load` and `save` raise.
    """
    if not 0 < min_cosine < 1:
        raise RequestError(f"--min-cosine must lie between 0 and 1, got {min_cosine}", f"give a cosine such as {BUDGET}")
    chosen = target or detect_target()
    if batch_invariant and scheme == DYNAMIC:
        what = "the scheme dynamic has one range for the whole batch, so that a text's vector depends on its batch"
        raise RequestError(what, "add --no-batch-invariant, or leave out --scheme dynamic")
    base = Quantize(
        DYNAMIC if scheme == INT8 and not batch_invariant else scheme,
        chosen,
        BUNDLED if calibrate is None else os.fspath(calibrate),
        min_cosine=min_cosine,
        texts="" if texts is None else os.fspath(texts),
    )
    before = renew_module_warning(load(source))
    before.require_data("quantising")
    if plot is not None:
        check_plot(Path(plot), [before], force=force)
    place = choose_output(before, base, output)
    base.check(before)
    judge = QuantizedJudge(before, bundled_texts(JUDGE) if texts is None else read_texts(os.fspath(texts)), progress)
    known = read_calibration_texts(base.calibrate)
    calibration = QuantizedJudge(before, known[:: max(1, len(known) // SENSITIVE)], progress)
    progress("reading the graph")
    note = f"for {DESCRIPTIONS[chosen]}{'' if target else ', as this machine is'}"
    writing = Writing(place, force, dry_run, keep_failed, strict)
    proof = RewriteProof.of(before, progress=progress)
    search = Search(before, proof, writing, NO_LIMITS, verify, time, progress, doubts=(note,))
    try:
        outcome = QuantizeSearch(search, base, judge, calibration, time).run()
    except VerificationFailed as error:
        _draw(error.outcome, place, plot, force)
        raise
    _draw(outcome, place, plot, force)
    return outcome


def _draw(outcome: object, place: Path, plot: str | os.PathLike[str] | None, force: bool) -> None:
    """Draw what was tried, if that is wanted and known."""
    if plot is not None and isinstance(outcome, Outcome) and outcome.choice is not None:
        draw_trade_off(outcome.choice, place.name, Path(plot), force=force)
