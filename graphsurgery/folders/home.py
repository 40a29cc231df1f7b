"""The model folder of an ONNX file that lies elsewhere, for example where an exporter wrote it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from graphsurgery.errors import FolderError
from graphsurgery.folders.files import is_folder
from graphsurgery.folders.transformer_config import read_folder_config
from graphsurgery.model.model import Model


def place_in_folder(model: Model, folder: Path) -> Model:
    """Return ``model`` as if its file lay in ``onnx/`` of its model ``folder``. Raise FolderError if that is not a folder."""
    if not is_folder(folder):
        raise FolderError(f"{folder} is not a folder", "give the folder of the model, the one with modules.json or config.json")
    return replace(model, home=folder / "onnx")


def list_prompts(folder: Path) -> list[str]:
    """Return a note for each prompt of a model folder. No graph can hold them. Raise FolderError for a broken config."""
    prompts = read_folder_config(folder).prompts
    return [f"prompt {name}: {text!r} (put it before each text)" for name, text in prompts.items() if text]
