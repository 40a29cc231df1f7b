"""The modules of a model's folder that its file lacks: sentence-transformers applies them after the pooling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from graphsurgery.encoder.head import has_own_head, read_head_steps
from graphsurgery.errors import FolderError
from graphsurgery.folders.files import find_model_folder
from graphsurgery.folders.modules import MODULES, ListedModule, list_modules
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import Step
from graphsurgery.remarks import Warn

COVERING = {
    "Pooling": "add-pooling", "Dense": "add-dense", "Normalize": "add-normalize", "LayerNorm": "add-layer-norm",
    "CNN": "add-cnn", "LSTM": "add-lstm", "WordWeights": "add-word-weights", "SpladePooling": "add-splade-pooling",
    "WeightedLayerPooling": "add-weighted-layer-pooling", "LogitScore": "add-logit-score",
}  # fmt: skip
"""The edit that does what a module does, by the module's kind. Any other kind is covered by none."""
POOLING = ("Pooling", "SpladePooling", "LogitScore")
"""Kinds that make one vector, or one score, of the tokens."""
IDLE = ("Dropout",)
"""Kinds that do nothing after training."""


class MissingModules(Warn):
    """The warning about modules that a file lacks. The next edit takes it away, or renews it."""


def find_modules_folder(model: Model) -> Path | None:
    """Return the folder that holds the modules.json of a model: its file's, or the one above (``onnx/model.onnx``)."""
    return find_model_folder(model.place, MODULES)


def list_folder_modules(model: Model) -> tuple[ListedModule, ...]:
    """Return the modules of the model's folder, none without a modules.json. Raise FolderError if that cannot be read."""
    folder = find_modules_folder(model)
    return () if folder is None else list_modules(folder)


def warn_of_missing_modules(model: Model) -> tuple[str, ...]:
    """Return a warning if the folder has modules after the pooling that graphsurgery recorded in the file."""
    folder = find_modules_folder(model)
    if folder is None or not has_own_head(model):
        return ()
    try:
        missing = _list_missing(list_modules(folder), model)
    except FolderError as error:
        return (MissingModules(str(error)),)
    if not missing:
        return ()
    names = missing[0] if len(missing) == 1 else f"{', '.join(missing[:-1])} and {missing[-1]}"
    what = f"{folder / MODULES} goes on with {names}, which this file lacks: its vectors are not those of the model"
    elsewhere = f" --onnx {model.path}" if model.home is not None and model.path is not None else ""
    return (MissingModules(f"{what}. `graphsurgery bake {folder}{elsewhere}` makes a file that has all modules"),)


def renew_module_warning(model: Model) -> Model:
    """Return ``model`` with its warning about missing modules brought up to date."""
    others = (one for one in model.remarks if not isinstance(one, MissingModules))
    remarks = (*others, *warn_of_missing_modules(model))
    return model if remarks == model.remarks else replace(model, remarks=remarks)  # what was read of the model stays with it


def _list_missing(modules: tuple[ListedModule, ...], model: Model) -> list[str]:
    """Return the modules from the first one on that no recorded edit covers, in the modules' order.

    Empty for a Router, whose routes are files of their own, and for a folder without pooling.
    """
    kinds = [one.kind for one in modules[1:]]
    pooled = next((place for place, kind in enumerate(kinds) if kind in POOLING), None)
    if pooled is None:
        return []
    wanted = [kind for place, kind in enumerate(kinds) if kind not in IDLE and (place >= pooled or kind != "Normalize")]
    done = [kind for step in read_head_steps(model) for kind in _list_covered(step)]
    missing = []
    for kind in wanted:
        if kind in done:
            done = done[done.index(kind) + 1 :]
        else:
            missing.append(kind)
    return missing


def _list_covered(step: Step) -> Iterator[str]:
    """Yield the kinds of modules that a recorded edit stands for."""
    yield from (kind for kind, verb in COVERING.items() if verb == step.edit)
    normalizes = step.given.get("normalize") or (step.edit == "truncate" and not step.given.get("keep_length"))
    if normalizes:
        yield "Normalize"
