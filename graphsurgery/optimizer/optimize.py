"""optimize: run the ONNX Runtime transformer optimizer, say what it did and what it did not, and prove that the result is
right."""

from __future__ import annotations

import os
from pathlib import Path

from graphsurgery.compare.limits import Limits
from graphsurgery.errors import RequestError
from graphsurgery.model.loading import Loadable, load
from graphsurgery.optimizer.attempts import first_right
from graphsurgery.optimizer.job import Job
from graphsurgery.optimizer.outcome import Optimized
from graphsurgery.optimizer.proof import Prover
from graphsurgery.optimizer.request import Request
from graphsurgery.optimizer.writing import Writing
from graphsurgery.proof.drawing import drawer_of
from graphsurgery.proof.real_text import real_texts
from graphsurgery.proof.same_outputs import SameOutputs
from graphsurgery.proof.verify import Progress
from graphsurgery.runner import OPTIMIZED, default_place


def optimize(
    source: Loadable,
    *,
    output: str | os.PathLike[str] | None = None,
    target: str = "cpu",
    model_type: str | None = None,
    heads: int | None = None,
    hidden_size: int | None = None,
    fp16: bool = False,
    bf16: bool = False,
    half_io: bool = False,
    portable: bool = False,
    rehead: bool = False,
    strict: bool = False,
    texts: str | os.PathLike[str] | None = None,
    atol: float | None = None,
    min_cosine: float | None = None,
    verify: bool = True,
    time: bool = True,
    force: bool = False,
    dry_run: bool = False,
    keep_failed: bool = False,
    progress: Progress = lambda _: None,
) -> Optimized:
    """Fuse an encoder for ONNX Runtime, with its head as it was, prove the result against ``source`` and save it.

    Args:
        output: where to; beside the source with ``optimized`` in its name when None.
        target: ``cpu`` or ``cuda``: what has no kernel there is avoided.
        model_type, heads, hidden_size: of the optimizer, in place of what is found in the graph.
        fp16, bf16: compute the encoder in half precision, but for nodes that overflow or lose most; the head stays float32, and
            so does what goes in and out.
        half_io: float inputs and outputs of an encoder without a head in half precision, too.
        portable: no fusions: what can be simplified with standard operators only.
        rehead: give a pooled export of another program our head in place of its own.
        strict: fail where anything that should fuse did not.
        texts, atol, min_cosine: as in `verify`.
        time: time both files on the CPU.
        verify, force, keep_failed: as in `run`.
        dry_run: do everything but write; the proof is the whole one, as it always is.
        progress: told in a few words what is done.

    Raises:
        VerificationFailed: no fused graph gives the source's vectors, nothing could be checked, or with ``strict`` something
            did not fuse (``error.outcome`` is the `Optimized`). Nothing is left behind, unless with ``keep_failed``.
        NothingToOptimizeError: the optimizer changes nothing.
        RequestError: what is asked for contradicts itself or does not fit the model.
        UnsupportedModelError: no rewrite of the graph can be made.
        MissingPackageError: the optimizer or sympy is not there.
        What `load` and `save` raise.
    """
    if fp16 and bf16:
        raise RequestError("an encoder computes in float16 or in bfloat16, and both were asked for", "ask for one of them")
    precision = "fp16" if fp16 else "bf16" if bf16 else None
    request = Request(target, model_type, heads, hidden_size, precision, portable, rehead, strict, half_io)
    before = load(source)
    before.require_data("optimizing")
    place = Path(output) if output is not None else default_place(before, OPTIMIZED)
    progress("reading the graph")
    job = Job.of(before, request)
    drawer = drawer_of(before, [])
    encoded, why_no_text = real_texts(before, before, drawer, texts)
    same = SameOutputs(before, drawer, encoded)
    prover = Prover(same, why_no_text, Limits(atol, min_cosine), job.half, rehead, half_io)
    return first_right(job, prover, Writing(place, verify, time, force, dry_run, keep_failed), progress)
