"""export: make an ONNX file of a model folder's transformer with Optimum (extra ``export``), and compare it with PyTorch.

Only this module imports PyTorch, transformers and Optimum, and only during an export.
"""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphsurgery.errors import (
    FolderError,
    MissingPackageError,
    OutputExistsError,
    SurroundingsError,
    UnsupportedModelError,
    VerificationFailed,
)
from graphsurgery.folders.modules import Module, read_modules
from graphsurgery.folders.transformer_config import read_encoder_config, read_transformer_settings
from graphsurgery.model.hub_cache import check_outside_cache
from graphsurgery.model.loading import load
from graphsurgery.model.saving import save
from graphsurgery.runtime.session import Session
from graphsurgery.runtime.texts import SENTENCES

TASKS = {"feature-extraction": "feature-extraction", "fill-mask": "fill-mask", "sequence-classification": "text-classification"}
"""Optimum's name for each task of sentence-transformers' Transformer module."""
OUTPUTS = {"feature-extraction": "last_hidden_state", "fill-mask": "logits", "sequence-classification": "logits"}
T5_OPSET = 18
LONGEST = 64
SIDES = ("right", "left")
ALLOWED = 1e-3
"""Allowed difference from PyTorch, relative to max(1, max|x|). A wrong export differs by far more."""
ADVICE = "pip install 'graphsurgery[export]' (with torch pinned to a CPU build where there is no GPU)"
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Exported:
    """The file that `export` made. ``worst`` is the largest |ONNX Runtime - PyTorch| on a few sentences, padded on the right
    and on the left."""

    path: Path
    task: str
    worst: float

    def to_json(self) -> dict[str, Any]:
        return {"output": str(self.path), "task": self.task, "max_abs_diff_from_pytorch": self.worst}


def export(
    folder: str | os.PathLike[str], output: str | os.PathLike[str] | None = None, *, force: bool = False,
    progress: Progress = lambda _: None,
) -> Exported:  # fmt: skip
    """Export the transformer of a model folder to ONNX, without the other modules.

    The output is ``last_hidden_state``, or ``logits`` for a masked language model or a classifier.

    Args:
        folder: a folder of sentence-transformers, or of transformers (``config.json`` and weights).
        output: the file to write; ``<folder>/onnx/model.onnx`` if None. Weights beyond 2 GiB are written beside it.
        force: replace an existing output.

    Raises:
        MissingPackageError without Optimum; FolderError for a folder that cannot be exported; VerificationFailed if ONNX
        Runtime and PyTorch disagree; OutputExistsError.
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
    with _make_folder(target.parent), tempfile.TemporaryDirectory(prefix=".export-", dir=target.parent) as place:
        made = Path(place) / "model.onnx"
        progress("exporting with Optimum")
        _export(module.path, made, task)
        progress("comparing with PyTorch")
        worst = _compare_with_pytorch(module.path, made, task)
        save(load(made), target, force=force)
    return Exported(target, task, worst)


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
    if first.kind != "Transformer":
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


def _import_optional(name: str) -> Any:
    """Import a package that only exports need. Raises MissingPackageError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPackageError(f"export needs {name.partition('.')[0]}: {error}", ADVICE) from error


def _export(folder: Path, made: Path, task: str) -> None:
    config = read_encoder_config(folder)
    if config is not None and config.model_type == "t5" and task == "feature-extraction":
        _export_t5(folder, made)
        return
    main_export = _import_optional("optimum.exporters.onnx").main_export
    try:
        main_export(str(folder), made.parent, task=TASKS[task], library_name="transformers", do_validation=False)
    except Exception as error:  # Optimum raises whatever transformers and torch raise
        raise UnsupportedModelError(
            f"Optimum cannot export {folder.name}: {error}", "try a newer version of Optimum"
        ) from error
    if not made.is_file():
        raise UnsupportedModelError(
            f"Optimum wrote no model.onnx for {folder.name}", "export it by hand with torch.onnx.export"
        )


def _export_t5(folder: Path, made: Path) -> None:
    """Export a T5 encoder with torch, because Optimum 0.1.0 fails on it without its decoder. The dummy mask contains zeros;
    without them torch would write the mask into the graph as a constant."""
    torch, transformers = _import_optional("torch"), _import_optional("transformers")
    model = transformers.T5EncoderModel.from_pretrained(folder).eval()

    class HiddenState(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    names = ["input_ids", "attention_mask"]
    mask = torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
    dynamic = {0: "batch_size", 1: "sequence_length"}
    torch.onnx.export(
        HiddenState().eval(), (torch.arange(3, 19).reshape(2, 8), mask), str(made), input_names=names,
        output_names=["last_hidden_state"], dynamic_axes=dict.fromkeys([*names, "last_hidden_state"], dynamic),
        opset_version=T5_OPSET, dynamo=False,
    )  # fmt: skip


def _compare_with_pytorch(folder: Path, made: Path, task: str) -> float:
    """Return the largest |ONNX Runtime - PyTorch| at the tokens of a few sentences, padded on the right and on the left.

    Raises VerificationFailed if it is too large.
    """
    torch, transformers = _import_optional("torch"), _import_optional("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    config = read_encoder_config(folder)
    model = _load_pytorch_model(transformers, folder, task, config.model_type if config is not None else None).eval()
    session, output = Session(made), OUTPUTS[task]
    names = [value.name for value in load(made).interface.inputs]
    worst = 0.0
    for side in SIDES:
        tokenizer.padding_side = side
        encoded = tokenizer(list(SENTENCES), padding=True, truncation=True, max_length=LONGEST, return_tensors="np")
        feed = make_feed(names, encoded)
        found = session.run(feed, [output])[output]
        with torch.no_grad():
            given = {name: torch.from_numpy(array) for name, array in feed.items()}
            wanted = getattr(model(**given), output).float().numpy()
        worst = max(worst, measure_distance(found, wanted, encoded["attention_mask"], side))
    return worst


def make_feed(names: Sequence[str], encoded: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the inputs ``names`` for tokenized texts, int64. Raises UnsupportedModelError for an unknown input."""
    mask = encoded["attention_mask"]
    made_up = {"position_ids": np.maximum(np.cumsum(mask, axis=1) - 1, 0), "token_type_ids": np.zeros_like(mask)}
    known = {**made_up, **encoded}
    for name in names:
        if name not in known:
            raise UnsupportedModelError(
                f"the exported model has the input {name!r}, but the tokenizer gives only {', '.join(encoded)}",
                "export it by hand with torch.onnx.export, and compare it yourself",
            )
    return {name: np.asarray(known[name]).astype(np.int64) for name in names}


def measure_distance(found: np.ndarray, wanted: np.ndarray, mask: np.ndarray, side: str) -> float:
    """Return the largest |found - wanted| at tokens; ``side`` is the side of the padding.

    Raises VerificationFailed if it is too large.
    """
    apart = np.abs(found.astype(np.float64) - wanted)
    worst = float(apart[mask == 1].max() if apart.ndim == 3 else apart.max())
    if not worst <= ALLOWED * max(1.0, float(np.abs(wanted).max())):
        raise VerificationFailed(
            f"the export differs from PyTorch by up to {worst:.1e} on texts padded on the {side}",
            "nothing was written; report it to Optimum",
        )
    return worst


def _load_pytorch_model(transformers: Any, folder: Path, task: str, model_type: str | None) -> Any:
    if task == "fill-mask":
        return transformers.AutoModelForMaskedLM.from_pretrained(folder)
    if task == "sequence-classification":
        return transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    if model_type == "t5":
        return transformers.T5EncoderModel.from_pretrained(folder)
    return transformers.AutoModel.from_pretrained(folder)
