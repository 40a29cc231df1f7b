"""bake: a whole model folder into one verified file, in a folder ready to publish."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graphsurgery import exporting
from graphsurgery.baking.certificate import certificate, source_digests
from graphsurgery.baking.folder import CERTIFICATE, check_folder, commit_folder, default_folder, staged_folder, write_file
from graphsurgery.baking.naming import name_place
from graphsurgery.baking.plan import BakePlan, Request, check_uncut, plan_bake
from graphsurgery.baking.program import program
from graphsurgery.baking.published import as_json, model_place, published_files
from graphsurgery.baking.readme import readme
from graphsurgery.errors import (
    AlreadyAppliedError,
    FolderError,
    GraphSurgeryError,
    MaskError,
    NothingToPoolError,
    VerificationFailed,
)
from graphsurgery.outcome import Outcome, Output, describe_failure
from graphsurgery.proof.verify import Progress
from graphsurgery.runner import run
from graphsurgery.snippet import shown

OF_THE_ENCODER = (AlreadyAppliedError, MaskError, NothingToPoolError)
"""Errors that are about the encoder's file, whichever edit raises them."""


@dataclass(frozen=True)
class Baked:
    """What `bake` did: ``folder`` is what it made (not there after a dry run), ``outcome`` the ONNX file's own story."""

    folder: Path
    plan: BakePlan
    outcome: Outcome
    files: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data."""
        told = self.outcome.to_json()
        return {
            "folder": str(self.folder) if self.files else None,
            "files": list(self.files),
            "modules": [{"name": module.name, "kind": module.kind} for module in self.plan.modules],
            **{key: told[key] for key in ("steps", "interface", "notes", "report", "consumers")},
        }


def bake(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    onnx: str | None = None,
    export: bool = False,
    route: str | None = None,
    truncate_dim: int | Sequence[int] | str | None = None,
    precision: str | None = None,
    ranges: str | os.PathLike[str] | None = None,
    keep_output: Sequence[str] = (),
    skip_prompt: str | None = None,
    verify: bool = True,
    full: bool = False,
    force: bool = False,
    dry_run: bool = False,
    keep_failed: bool = False,
    progress: Progress = lambda _: None,
) -> Baked:
    """Bake a model folder of sentence-transformers into one ONNX file with everything inside, proven, in a folder ready to
    publish.

    Args:
        folder: with ``modules.json`` (or a cross-encoder's ``config.json``) and the transformer-only ONNX file.
        output: the folder to make; ``<folder>-baked`` beside it when None.
        onnx: the encoder's file, where it is not onnx/model.onnx or model.onnx.
        export: make that file with Optimum first (extra ``export``); the folder itself stays as it is.
        route: the route of a Router module; a file holds one.
        truncate_dim: keep the first dims of the embedding, normalised again; several become outputs of their own.
        precision, ranges: as in `output_precision`.
        keep_output: ``token_embeddings`` keeps the hidden state as an output.
        skip_prompt: how many tokens of the prompt are not pooled, for a Pooling module that leaves the prompt out; an input
            of the graph says it when None.
        verify, full, force, dry_run, keep_failed: as in `run`. ``force`` replaces only a folder that graphsurgery made.

    Raises:
        FolderError, WeightsError for what is wrong in the folder; VerificationFailed; what `run` raises. Nothing is left
        behind.
    """
    source = Path(folder).absolute()
    if not source.is_dir():
        raise FolderError(f"{folder} is no folder", "give the folder of a model, the one with modules.json")
    target = Path(output).absolute() if output is not None else default_folder(source)
    check_folder(source, target, force=force)
    progress("reading the folder")
    kept = (keep_output,) if isinstance(keep_output, str) else tuple(keep_output)
    place = None if ranges is None else str(Path(ranges).absolute())
    with ExitStack() as stack:
        made = _exported(source, stack, progress) if export else None
        plan = plan_bake(source, Request(onnx, route, _dims(truncate_dim), precision, place, kept, skip_prompt, made))
        return _bake(
            plan, target, verify=verify, full=full, force=force, dry_run=dry_run, keep_failed=keep_failed, progress=progress
        )


def _bake(
    plan: BakePlan, target: Path, *, verify: bool, full: bool, force: bool, dry_run: bool, keep_failed: bool, progress: Progress
) -> Baked:
    with staged_folder(target) as stage:
        sources = source_digests(plan)
        for name, content in published_files(plan).items():
            write_file(stage / name, content)
        model_place(stage).parent.mkdir()
        try:
            outcome = run(
                plan.steps, plan.encoder, output=model_place(stage), verify=verify, full=full, dry_run=dry_run,
                keep_failed=keep_failed, goldens=True, sources=sources, progress=progress,
            )  # fmt: skip
        except VerificationFailed as error:
            raise _failed(error, plan, sources, stage, target, force) from error
        except GraphSurgeryError as error:
            name_place(error, _blame(error, plan), plan.encoder.path)
            raise
        check_uncut(plan, outcome.interface)
        told = _told(outcome, plan, target)
        if dry_run:
            return Baked(target, plan, told, ())
        progress("writing the folder")
        return Baked(target, plan, told, _publish(plan, sources, told, stage, target, force))


def _blame(error: GraphSurgeryError, plan: BakePlan) -> Path | None:
    """Return the file or folder that an error is about: the origin of the edit that raised it, else the encoder's file.

    None for an edit that was asked for.
    """
    file = plan.encoder.path or plan.modules[0].path
    if isinstance(error, OF_THE_ENCODER):
        return file
    origins = zip(plan.steps, plan.origins, strict=True)
    return next((origin for step, origin in origins if step is error.edit), file)


def _told(outcome: Outcome, plan: BakePlan, target: Path) -> Outcome:
    """The story of the ONNX file as if it had been made where it will be."""
    place, saved = model_place(target), outcome.saved
    if saved is not None:
        saved = replace(saved, path=place, data=place.with_name(saved.data.name) if saved.data is not None else None)
    embed = program(plan, outcome.interface, f"{shown(target)}/")
    outputs = (Output(outcome.model, place, saved),)
    return replace(outcome, outputs=outputs, notes=(*plan.notes, *outcome.notes), program=embed)


def _failed(
    error: VerificationFailed, plan: BakePlan, sources: Mapping[str, str], stage: Path, target: Path, force: bool
) -> VerificationFailed:
    """The error of a failed proof, about the folder; which is there after it when that was asked for."""
    if not isinstance(error.outcome, Outcome):
        return error
    told = _told(error.outcome, plan, target)
    if told.saved is not None:
        _publish(plan, sources, told, stage, target, force)
    return VerificationFailed(describe_failure(told, target), error.advice, told)


def _exported(source: Path, stack: ExitStack, progress: Progress) -> Path:
    """The folder's transformer, exported to a place that is gone when ``stack`` closes."""
    place = stack.enter_context(tempfile.TemporaryDirectory(prefix="graphsurgery-"))
    return exporting.export(source, Path(place) / "model.onnx", progress=progress).path


def _dims(given: int | Sequence[int] | str | None) -> str | None:
    """Numbers of dims as the edit takes them."""
    if given is None or isinstance(given, str):
        return given
    return str(given) if isinstance(given, int) else ",".join(map(str, given))


def _publish(
    plan: BakePlan, sources: Mapping[str, str], outcome: Outcome, stage: Path, target: Path, force: bool
) -> tuple[str, ...]:
    """Write README and certificate and give the folder its name; the files by their places in it."""
    write_file(stage / "README.md", readme(plan, outcome).encode(errors="backslashreplace"))
    write_file(stage / CERTIFICATE, as_json(certificate(plan, sources, outcome, stage)))
    files = tuple(sorted(path.relative_to(stage).as_posix() for path in stage.rglob("*") if path.is_file()))
    commit_folder(stage, target, force=force)
    return files
