"""The function ``optimize``: fuse an encoder for ONNX Runtime, or rewrite it otherwise, and prove that the result is right."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphsurgery.argument_types import check_argument_types
from graphsurgery.compare.figures import check_plot
from graphsurgery.compare.tolerance import Limits
from graphsurgery.encoder.attention import walk_attentions
from graphsurgery.encoder.flow import Flow
from graphsurgery.errors import GraphSurgeryError, RequestError
from graphsurgery.folders.head_modules import renew_module_warning
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import QUANTISED, ROTATIONS, get_operator, get_short_name
from graphsurgery.model.loading import Loadable, load
from graphsurgery.model.model import Model
from graphsurgery.optimizer.plot import draw_choice
from graphsurgery.optimizer.search import Search
from graphsurgery.optimizer.speed import SpeedSearch, list_candidates
from graphsurgery.optimizer.workload import make_workload
from graphsurgery.outcome import Optimized
from graphsurgery.progress import Progress, ignore_progress
from graphsurgery.proof.rewrite_proof import RewriteProof
from graphsurgery.remarks import Warn
from graphsurgery.rewrites.convert_to_half import Half
from graphsurgery.rewrites.fuse.report import ATTENTION, ROTARY
from graphsurgery.rewrites.fuse_attention import FuseAttention
from graphsurgery.rewrites.fuse_encoder import Fuse
from graphsurgery.rewrites.fuse_rotary import FuseRotary
from graphsurgery.rewrites.reattach_head import ReattachHead
from graphsurgery.rewrites.rewrite import Rewrite
from graphsurgery.rewrites.simplify_encoder import Simplify
from graphsurgery.runner import Writing, choose_output

MOST_LISTED = 3
"""The most operators that a warning lists."""


@check_argument_types()
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
    speed: bool = False,
    workload: str | os.PathLike[str] | None = None,
    plot: str | os.PathLike[str] | None = None,
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
    progress: Progress = ignore_progress,
) -> Optimized:
    """Fuse an encoder for ONNX Runtime, with its head as it was, prove the result against ``source`` and save it.

    Args:
        source: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model.
        output: the path to write. By default it is beside the source, with ``optimized`` in its name.
        target: ``cpu`` or ``cuda``. Operators that have no kernel there are avoided. Attentions that the optimizer does not
            fuse are fused by `FuseAttention`, and rotary positions by `FuseRotary`; for ``cpu`` they stay as they are if these
            operators are measured to be slower.
        model_type, heads, hidden_size: the optimizer's parameters. By default they are found in the graph.
        fp16, bf16: compute the encoder in half precision, except nodes that overflow or contribute most to the rounding error.
            The head, inputs and outputs stay float32.
        half_io: give the float inputs and outputs half precision, too. Only for an encoder without a head.
        portable: fuse nothing, and only simplify the graph with standard operators.
        speed: time many combinations of rewrites on this machine, beside the source, and write the fastest one whose proof
            passes.
        workload: what ``speed`` times: ``online`` (one text, or a few), ``offline`` (full batches), both if None, or a text
            file.
        plot: a .png or .svg file to draw the candidates of ``speed`` in. Needs matplotlib (the extra ``plot``).
        rehead: replace the pooling head of another program's export by graphsurgery's own.
        strict: fail if a part that should fuse did not, or if there is any warning.
        texts, atol, min_cosine: as in `verify`.
        time: whether to time both files on the CPU.
        verify, force, keep_failed: as in `run`.
        dry_run: do everything but write. The proof is the whole one, as always.
        progress: called with a few words on what is being done, and how many of how many parts are done.

    Raises:
        VerificationFailed: no fused graph gives the source's vectors, nothing could be checked, or with ``strict`` something
            did not fuse or there is a warning (``error.outcome`` is the `Optimized`). No file is left behind, except with
            ``keep_failed``.
        NothingToOptimizeError: the optimizer changes nothing, or with ``speed`` nothing is clearly faster.
        SurroundingsError: with ``speed``, the machine is too busy to judge.
        RequestError: the options contradict each other or do not fit the model.
        UnsupportedModelError: no rewrite of the graph can be made.
        MissingPackageError: the optimizer or sympy is not installed.
        And what `load` and `save` raise.
    """
    _require_consistent(
        fp16 and bf16, half_io and not (fp16 or bf16), portable,
        {"--model-type": model_type, "--heads": heads, "--for cuda": target == "cuda"},
    )  # fmt: skip
    others = {"--fp16": fp16, "--bf16": bf16, "--rehead": rehead, "--model-type": model_type,
              "--heads": heads, "--for cuda": target == "cuda", "--no-timing": not time}  # fmt: skip
    _require_speed_alone(speed, {"--workload": workload, "--plot": plot}, [option for option, value in others.items() if value])
    fuse = Fuse(target, model_type, heads, hidden_size)
    rewrites: list[Rewrite] = [ReattachHead()] if rehead else []
    rewrites += [Simplify()] if portable else [fuse]
    rewrites += [Half("fp16" if fp16 else "bf16", half_io)] if fp16 or bf16 else []
    before = renew_module_warning(load(source))
    before.require_data("optimizing")
    if plot is not None:
        check_plot(Path(plot), [before], force=force)
    place = choose_output(before, rewrites[-1], output)
    progress("reading the graph")
    proof = RewriteProof.of(before, texts, progress=progress)
    writing = Writing(place, force, dry_run, keep_failed, strict)
    quantised = _describe_quantised(before)
    timed_after = time and not speed  # the candidates are timed before one is chosen
    search = Search(before, proof, writing, Limits(atol, min_cosine), verify, timed_after, progress, doubts=quantised)
    try:
        if speed:
            batches = make_workload(before, proof.same.generator, workload)
            outcome = SpeedSearch(search, batches).run(list_candidates(portable=portable, rotary=_has_rotary_positions(before)))
            if plot is not None and outcome.choice is not None:
                draw_choice(outcome.choice, place.name, Path(plot), force=force)
            return outcome
        return search.run(rewrites, {} if portable else {ROTARY: FuseRotary(), ATTENTION: FuseAttention()})
    except GraphSurgeryError as error:
        error.advice = "; ".join((*quantised, error.advice))
        raise


def _describe_quantised(model: Model) -> tuple[str, ...]:
    """Return a warning if the graph is quantised: it then has few of the products that can fuse or be half precision."""
    counts = Counter(get_short_name(node) for node in Graph.of(model).nodes if get_operator(node) in QUANTISED)
    if not counts:
        return ()
    listed = ", ".join(f"{name} {count}" for name, count in counts.most_common(MOST_LISTED))
    return (Warn(f"the file is quantised ({listed}): optimize the float32 file, and quantise the result"),)


def _has_rotary_positions(model: Model) -> bool:
    """Return whether queries or keys have rotary positions that are not a single operator yet."""
    rotations = (one for attention in walk_attentions(Flow.of(model)) for one in attention.rotations)
    return any(get_operator(one.node) not in ROTATIONS for one in rotations)


def _require_speed_alone(speed: bool, its_own: Mapping[str, object], others: Sequence[str]) -> None:
    """Raise RequestError for options that contradict a choice by time."""
    given = [option for option, value in its_own.items() if value is not None]
    if given and not speed:
        raise RequestError(
            f"{given[0]} is for a choice by time, which was not asked for", f"add --speed, or leave out {given[0]}"
        )
    if speed and others:
        what = f"--speed chooses exact rewrites by their time on this CPU, which {others[0]} does not fit"
        raise RequestError(what, f"leave out {others[0]}, or --speed")


def _require_consistent(both: bool, io_alone: bool, portable: bool, of_fusions: Mapping[str, Any]) -> None:
    """Raise RequestError for options that contradict each other."""
    if both:
        raise RequestError("both float16 and bfloat16 were asked for, but an encoder computes in one", "ask for one of them")
    if io_alone:
        raise RequestError("half precision was asked for inputs and outputs, but not for the encoder", "add --fp16 or --bf16")
    given = [option for option, value in of_fusions.items() if value]
    if portable and given:
        raise RequestError(f"{given[0]} is about fusions, but --portable makes none", "leave out one of them")
