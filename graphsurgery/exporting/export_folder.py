"""export: make an ONNX file of a model folder's transformer, and compare it with PyTorch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphsurgery.argument_types import check_argument_types
from graphsurgery.errors import (
    FolderError,
    OutputExistsError,
    SurroundingsError,
    UnsupportedModelError,
    VerificationFailed,
)
from graphsurgery.exporting.exporters import TASKS, require_exporter, write_onnx
from graphsurgery.exporting.packages import import_torch
from graphsurgery.exporting.samples import Sample
from graphsurgery.exporting.subject import BY_HAND, TOWERS, Subject, load_subject
from graphsurgery.folders.modules import Module, read_modules
from graphsurgery.folders.transformer_config import read_encoder_config, read_transformer_settings
from graphsurgery.model.hub_cache import check_outside_cache
from graphsurgery.model.loading import load
from graphsurgery.model.saving import save
from graphsurgery.progress import Progress, ignore_progress
from graphsurgery.remarks import make_strict_error
from graphsurgery.runtime.session import Session
from graphsurgery.shown import Shown

ALLOWED = 1e-3
"""Allowed difference from PyTorch, relative to max(1, max|x|). A wrong export differs by far more."""
TRANSFORMERS = ("Transformer", "CLIPModel")
"""The modules that hold a transformer."""


@dataclass(frozen=True)
class Exported(Shown):
    """The file that `export` made."""

    path: Path
    """The path of the ONNX file."""
    task: str
    """The task that the model was loaded for: feature-extraction, fill-mask or sequence-classification."""
    worst: float
    """The largest |ONNX Runtime - PyTorch| on inputs of several sizes: texts padded on the right and on the left, one alone."""
    program: str = "another program"
    """The program that wrote the file, with its version."""
    warnings: tuple[str, ...] = ()
    """Warnings about the file that was exported."""

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON-ready data."""
        return {
            "output": str(self.path), "task": self.task, "program": self.program, "max_abs_diff_from_pytorch": self.worst,
            "warnings": list(self.warnings),
        }  # fmt: skip


@check_argument_types()
def export(
    folder: str | os.PathLike[str], output: str | os.PathLike[str] | None = None, *, tower: str | None = None,
    hidden_states: bool = False, force: bool = False, strict: bool = False, progress: Progress = ignore_progress,
) -> Exported:  # fmt: skip
    """Export the transformer of a model folder to ONNX, without the other modules.

    The inputs are those that the folder's tokenizer or processor gives: int64 ``[batch_size, sequence_length]`` for texts;
    ``pixel_values`` for pictures; ``input_values``, and the mask if the model is meant to get one, for waveforms. The output is
    ``last_hidden_state``; ``logits`` for a masked language model or a classifier; ``text_embeds`` or ``image_embeds``
    ``[batch_size, dim]``, not normalised, for a tower. transformers 5 exports by its own exporter; beside older versions the
    export goes through Optimum.

    Args:
        folder: a folder of sentence-transformers, or of transformers (``config.json`` and weights).
        output: the file to write; ``<folder>/onnx/model.onnx`` if None. Weights beyond 2 GiB are written beside it.
        tower: ``text`` or ``image``, for a model of several towers (CLIP, SigLIP). None for the one that sentence-transformers
            takes for texts.
        hidden_states: make every layer's hidden state an output, too: ``hidden_states.0`` and so on.
        force: replace an existing output.
        strict: raise StrictError if there is any warning.

    Raises:
        MissingPackageError without PyTorch, transformers or the exporter; FolderError and UnsupportedModelError for a model
        that cannot be exported; RequestError for a tower that it does not have; VerificationFailed if ONNX Runtime and PyTorch
        disagree; OutputExistsError.
    """
    source = Path(folder).absolute()
    if not source.is_dir():
        raise FolderError(f"the folder {folder} does not exist", "give the folder of a model")
    target = Path(output).absolute() if output is not None else source / "onnx" / "model.onnx"
    check_outside_cache(target)
    if target.exists() and not force:
        raise OutputExistsError(f"{target} already exists", "choose another output with -o, or replace it with --force")
    module = _find_transformer(source)
    task = _read_task(module)
    require_exporter()
    progress("loading with PyTorch")
    subject = load_subject(module.path, task, tower or _find_tower(module), hidden_states=hidden_states)
    with _make_folder(target.parent), tempfile.TemporaryDirectory(prefix=".export-", dir=target.parent) as place:
        made = Path(place) / "model.onnx"
        progress("exporting")
        program = write_onnx(subject, made)
        progress("comparing with PyTorch")
        worst = _compare_with_pytorch(subject, made, program)
        model = load(made)
        if strict and model.warnings:
            raise make_strict_error(model.warnings, "nothing was written")
        save(model, target, force=force)
    return Exported(target, task, worst, program, model.warnings)


@contextmanager
def _make_folder(path: Path) -> Iterator[None]:
    """Make the folder ``path`` if it does not exist. Remove it again if nothing was written into it."""
    made = not path.is_dir()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SurroundingsError(f"cannot make the folder {path}: {error.strerror}", "choose another output with -o") from error
    try:
        yield
    finally:
        if made:
            with suppress(OSError):
                path.rmdir()  # fails for a folder that is not empty


def _find_transformer(folder: Path) -> Module:
    """Return the transformer module: the first one, or the folder itself if it has no modules.json."""
    if not (folder / "modules.json").is_file():
        return Module("Transformer", "", folder, {"transformer_task": _read_plain_task(folder)}, "")
    first = read_modules(folder)[0]
    if first.own_class is not None:
        raise FolderError(
            f"{first.path}: the first module is a {first.own_class}, whose code is the model's own; export does not run it",
            "take the ONNX file that was published with the model, at onnx/model.onnx or with bake --onnx",
        )
    if first.kind not in TRANSFORMERS:
        raise FolderError(
            f"{first.path}: the first module is a {first.kind}", "only a Transformer can be exported; bake the folder as it is"
        )
    return first


def _read_plain_task(folder: Path) -> str:
    config = read_encoder_config(folder)
    if config is None:
        raise FolderError(f"{folder} has neither modules.json nor config.json", "give the folder of a model")
    return "sequence-classification" if config.is_classifier else "feature-extraction"


def _read_task(module: Module) -> str:
    task = read_transformer_settings(module).task
    if task not in TASKS:
        raise FolderError(
            f"{module.path}: a Transformer for the task {task} cannot be exported", f"the known tasks are {', '.join(TASKS)}"
        )
    return task


def _find_tower(module: Module) -> str | None:
    """Return the tower that sentence-transformers takes for texts, or None if the model has no towers."""
    method = read_transformer_settings(module).method
    return next((tower for tower in TOWERS if method == f"get_{tower}_features"), None)


def _compare_with_pytorch(subject: Subject, made: Path, program: str) -> float:
    """Return the largest |ONNX Runtime - PyTorch| over all samples and outputs.

    Raises VerificationFailed if it is too large.
    """
    torch, _ = import_torch()
    session, names = Session(made), [value.name for value in load(made).interface.inputs]
    worst = 0.0
    for sample in subject.samples:
        feed = make_feed(names, sample.arrays)
        try:
            found = session.run(feed, subject.outputs)
        except UnsupportedModelError as error:
            raise VerificationFailed(
                f"the export by {program} does not run on {sample.name}: {error}", f"nothing was written; {BY_HAND}"
            ) from error
        with torch.no_grad():
            wanted = subject.run(**{name: torch.from_numpy(array) for name, array in feed.items()})
        for output in subject.outputs:
            worst = max(worst, measure_distance(found[output], wanted[output].float().numpy(), sample, program))
    return worst


def make_feed(names: Sequence[str], encoded: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the inputs ``names`` from a sample's. Raises UnsupportedModelError for an unknown input."""
    known = dict(encoded)
    if "attention_mask" in encoded:
        mask = encoded["attention_mask"]
        made_up = {"position_ids": np.maximum(np.cumsum(mask, axis=1) - 1, 0), "token_type_ids": np.zeros_like(mask)}
        known = {**made_up, **encoded}
    for name in names:
        if name not in known:
            raise UnsupportedModelError(
                f"the exported model has the input {name!r}, but the model's own are {', '.join(encoded)}", BY_HAND
            )
    return {name: known[name] for name in names}


def measure_distance(found: np.ndarray, wanted: np.ndarray, sample: Sample, program: str) -> float:
    """Return the largest |found - wanted|, at tokens alone where the sample says which positions are tokens.

    Raises VerificationFailed if it is too large, or if the shapes differ.
    """
    apart = np.full((1,), np.inf) if found.shape != wanted.shape else np.abs(found.astype(np.float64) - wanted)
    is_by_token = sample.mask is not None and apart.shape[:2] == sample.mask.shape and apart.ndim == 3
    worst = float(apart[sample.mask == 1].max() if is_by_token else apart.max())
    if not worst <= ALLOWED * max(1.0, float(np.abs(wanted).max())):
        raise VerificationFailed(
            f"the export by {program} differs from PyTorch by up to {worst:.1e} on {sample.name}",
            f"nothing was written; {BY_HAND}",
        )
    return worst
