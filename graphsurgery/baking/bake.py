"""bake: turn a whole model folder into one verified file, in a folder ready to publish."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from graphsurgery.argument_types import check_argument_types
from graphsurgery.baking.certificate import hash_sources, make_certificate
from graphsurgery.baking.companion_files import collect_companion_files, to_json
from graphsurgery.baking.error_places import name_place
from graphsurgery.baking.output_folder import (
    STEP,
    check_folder,
    choose_default_folder,
    commit_folder,
    stage_folder,
    write_file,
)
from graphsurgery.baking.plan import BakePlan, Request, check_uncut, plan_bake
from graphsurgery.baking.program import write_baked_program
from graphsurgery.baking.readme import write_readme
from graphsurgery.baking.targets import check_target, find_target
from graphsurgery.edits.edit import Edit
from graphsurgery.errors import (
    AlreadyAppliedError,
    FolderError,
    GraphSurgeryError,
    MaskError,
    NothingToPoolError,
    StrictError,
    VerificationFailed,
)
from graphsurgery.exporting import export_folder
from graphsurgery.exporting.export_folder import Exported
from graphsurgery.folders.files import BAKED
from graphsurgery.folders.head_modules import MissingModules
from graphsurgery.folders.hub import find_model_folder
from graphsurgery.outcome import Outcome, Output, describe_failure, describe_output
from graphsurgery.progress import Progress, ignore_progress
from graphsurgery.remarks import make_strict_error
from graphsurgery.runner import run
from graphsurgery.shown import Shown
from graphsurgery.snippet import shorten_path

PICTURES = "onnx/image.onnx"
"""The second file of a folder whose encoder is a joint model. The first one embeds texts."""
ENCODER_ERRORS = (AlreadyAppliedError, MaskError, NothingToPoolError)
"""Errors that are about the encoder's file, whichever edit raises them."""


@dataclass(frozen=True)
class Baked(Shown):
    """The result of `bake`."""

    folder: Path
    """The folder that `bake` made, or would have made without a dry run."""
    plan: BakePlan
    """The modules of the folder, and the edits that they became."""
    outcome: Outcome
    """The outcome of the edits: the ONNX file and its proof."""
    pictures: Outcome | None
    """The outcome of the second file, which embeds pictures, if the folder's file is a joint model of texts and pictures."""
    files: tuple[str, ...]
    """The files in the folder, none after a dry run."""

    def __repr__(self) -> str:
        """Return one line: the folder, and the outcome of its ONNX file."""
        return f"<{type(self).__name__} {self.folder}: {self.outcome!r}>"

    @property
    def warnings(self) -> tuple[str, ...]:
        """All warnings: about the folder, the encoder, the file and its proof."""
        more = self.pictures.warnings if self.pictures is not None else ()
        return tuple(dict.fromkeys((*self.outcome.warnings, *more)))

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON-ready data."""
        outcome = self.outcome.to_json()
        return {
            "folder": str(self.folder) if self.files else None,
            "files": list(self.files),
            "modules": [{"name": module.name, "kind": module.kind} for module in self.plan.modules],
            "pictures": self.pictures.to_json() if self.pictures is not None else None,
            **{key: outcome[key] for key in ("steps", "interface", "notes", "warnings", "report", "consumers")},
        }


@check_argument_types()
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
    target: str | None = None,
    verify: bool = True,
    full: bool = False,
    force: bool = False,
    dry_run: bool = False,
    keep_failed: bool = False,
    strict: bool = False,
    progress: Progress = ignore_progress,
) -> Baked:
    """Bake a sentence-transformers model folder into one proven ONNX file that holds everything, in a folder ready to publish.

    Args:
        folder: the model folder: ``modules.json`` (a cross-encoder: ``config.json``) and the transformer-only ONNX file; or the
            name of a model on the Hugging Face hub, ``owner/name``: it is taken from the hub's cache, or downloaded into it.
        output: the folder to make; None for ``<folder>-baked`` beside it, or in the current folder for a model of the hub.
        onnx: the encoder's file, if it is not onnx/model.onnx or model.onnx; it may lie anywhere, for example where Optimum
            wrote it.
        export: make that file from the folder's weights first, as `export` does (extra ``export``); the folder stays as it is.
        route: the route of a Router module; a file holds one route.
        truncate_dim: keep the first dims of the embedding, normalised again; several numbers give several outputs.
        precision, ranges: as in `output_precision`.
        keep_output: ``token_embeddings`` keeps the hidden state as an output; ``sparse_weights`` and ``colbert_vectors`` make
            those of bge-m3; the name of another output of the encoder's file keeps that.
        skip_prompt: how many tokens of the prompt are not pooled, for a Pooling module that leaves the prompt out; None to make
            this number an input of the graph.
        target: the program that is to load the folder, a key of `graphsurgery.baking.targets.TARGETS`: outputs and file names
            are as that program expects them, and the README says how to set it up.
        verify, full, force, dry_run, keep_failed, strict: as in `run`. ``force`` replaces only a folder that graphsurgery made,
            with the files that graphsurgery made in it since.

    Raises:
        FolderError and WeightsError for faults in the folder; RequestError if the ``target`` program cannot run the file;
            VerificationFailed; what `run` raises. Nothing is left behind, except with ``keep_failed``.
    """
    source = Path(folder).absolute()
    found = None if source.exists() else find_model_folder(os.fspath(folder), weights=export, onnx=not export and onnx is None)
    if found is not None:
        source, output = found, output if output is not None else f"{Path(folder).name}-{STEP}"
    if not source.is_dir():
        what = f"{folder} is not a folder" if source.exists() else f"the folder {folder} does not exist"
        raise FolderError(what, "give the folder of a model, the one with modules.json")
    place = Path(output).absolute() if output is not None else choose_default_folder(source)
    derived = check_folder(source, place, force=force)
    progress("reading the folder")
    kept = (keep_output,) if isinstance(keep_output, str) else tuple(keep_output)
    ranges_path = None if ranges is None else str(Path(ranges).absolute())
    dims = truncate_dim if truncate_dim is None or isinstance(truncate_dim, str) else _join_dims(truncate_dim)
    with ExitStack() as stack:
        exported = _export(source, stack, progress) if export else None
        program = find_target(target)
        plan = plan_bake(source, Request(onnx, route, dims, precision, ranges_path, kept, skip_prompt, program, exported))
        baked = _bake(
            plan,
            place,
            verify=verify,
            full=full,
            force=force,
            dry_run=dry_run,
            keep_failed=keep_failed,
            strict=strict,
            progress=progress,
        )
    if not derived:
        return baked
    gone = f"with the old {place.name} go the files that graphsurgery made in it since: {', '.join(derived)}"
    return replace(baked, outcome=replace(baked.outcome, remarks=(gone, *baked.outcome.remarks)))


def _bake(
    plan: BakePlan,
    target: Path,
    *,
    verify: bool,
    full: bool,
    force: bool,
    dry_run: bool,
    keep_failed: bool,
    strict: bool,
    progress: Progress,
) -> Baked:
    with stage_folder(target) as stage:
        sources = hash_sources(plan)
        for name, content in collect_companion_files(plan).items():
            write_file(stage / name, content)
        (stage / plan.file).parent.mkdir()

        def make(steps: Sequence[Edit], file: str) -> Outcome:
            try:
                outcome = run(
                    steps, plan.encoder, output=stage / file, verify=verify, full=full, dry_run=dry_run,
                    keep_failed=keep_failed, goldens=True, sources=sources, progress=progress,
                )  # fmt: skip
            except VerificationFailed as error:
                raise _explain_failure(error, plan, file, sources, stage, target, force) from error
            except GraphSurgeryError as error:
                name_place(error, _find_culprit(error, plan), plan.encoder.path)
                raise
            return _move_outcome(outcome, plan, file, target)

        outcome = make(plan.steps, plan.file)
        pictures = make(plan.picture_steps, PICTURES) if plan.picture_steps else None
        check_uncut(plan, outcome.interface)
        if plan.target is not None:
            check_target(plan.target, outcome.interface)
        baked = Baked(target, plan, outcome, pictures, ())
        publish = partial(_publish, plan, sources, outcome, stage, target, force)
        if strict and baked.warnings:
            raise _make_strict_error(baked, publish if keep_failed and not dry_run else None)
        if dry_run:
            return baked
        progress("writing the folder")
        return replace(baked, files=publish())


def _make_strict_error(baked: Baked, publish: Callable[[], object] | None) -> StrictError:
    """Return the error for the warnings of a folder. If ``publish`` is given, it keeps the folder, and the error says so."""
    if publish is not None:
        publish()
    outcome = baked.outcome if publish is not None else baked.outcome.with_saved(None)
    return make_strict_error(baked.warnings, describe_output(outcome, baked.folder), outcome)


def _find_culprit(error: GraphSurgeryError, plan: BakePlan) -> Path | None:
    """Return the file or folder that an error is about: the origin of the edit that raised it, or else the encoder's file.

    None for an edit that the user asked for.
    """
    file = plan.encoder.path or plan.modules[0].path
    if isinstance(error, ENCODER_ERRORS):
        return file
    origins = zip(plan.steps, plan.origins, strict=True)  # the edits of pictures are about the encoder's file
    return next((origin for step, origin in origins if step is error.edit), file)


def _move_outcome(outcome: Outcome, plan: BakePlan, file: str, target: Path) -> Outcome:
    """Return the outcome of ``file`` with the paths that its files have in ``target``, and with the plan's notes."""
    place, saved = target / file, outcome.saved
    if saved is not None:
        saved = replace(saved, path=place, data=place.with_name(saved.data.name) if saved.data is not None else None)
    embed = None if file == PICTURES else write_baked_program(plan, outcome.model, f"{shorten_path(target)}/")
    outputs = (Output(outcome.model, place, saved),)
    remarks = (one for one in outcome.remarks if not isinstance(one, MissingModules))  # the plan has all modules
    noted = () if file == PICTURES else plan.remarks
    return replace(outcome, outputs=outputs, remarks=(*noted, *remarks), program=embed)


def _explain_failure(
    error: VerificationFailed, plan: BakePlan, file: str, sources: Mapping[str, str], stage: Path, target: Path, force: bool
) -> VerificationFailed:
    """Return the error of a failed proof, about the folder. If the user asked to keep a failed output, publish the folder."""
    if not isinstance(error.outcome, Outcome):
        return error
    outcome = _move_outcome(error.outcome, plan, file, target)
    if outcome.saved is not None:
        _publish(plan, sources, outcome, stage, target, force)
    return VerificationFailed(describe_failure(outcome, target), error.advice, outcome)


def _export(source: Path, stack: ExitStack, progress: Progress) -> Exported:
    """Export the folder's transformer to a temporary file, which is removed when ``stack`` closes."""
    place = stack.enter_context(tempfile.TemporaryDirectory(prefix="graphsurgery-"))
    return export_folder.export(source, Path(place) / "model.onnx", progress=progress)


def _join_dims(dims: int | Sequence[int]) -> str:
    """Return numbers of dims as `Truncate` takes them."""
    return str(dims) if isinstance(dims, int) else ",".join(map(str, dims))


def _publish(
    plan: BakePlan, sources: Mapping[str, str], outcome: Outcome, stage: Path, target: Path, force: bool
) -> tuple[str, ...]:
    """Write README and certificate, and give the folder its name. Return the places of all files in it."""
    write_file(stage / "README.md", write_readme(plan, outcome).encode(errors="backslashreplace"))
    write_file(stage / BAKED, to_json(make_certificate(plan, sources, outcome, stage)))
    files = tuple(sorted(path.relative_to(stage).as_posix() for path in stage.rglob("*") if path.is_file()))
    commit_folder(stage, target, force=force)
    return files
