"""Detect the architecture of a model file from its graph, and from the config.json of its folder if there is one."""

from __future__ import annotations

from dataclasses import replace

from graphsurgery.encoder.architecture import Architecture, find_architecture
from graphsurgery.errors import FolderError
from graphsurgery.folders.files import list_model_folders
from graphsurgery.folders.transformer_config import read_encoder_config
from graphsurgery.model.model import Model
from graphsurgery.remarks import Warn


def detect_architecture(model: Model) -> Architecture | None:
    """Return the architecture of ``model``, or None if neither its graph nor its config tells it.

    The config is the one beside the file, or one folder above it (``onnx/model.onnx``). A config that cannot be read becomes a
    warning in the architecture's notes.
    """
    complaint: tuple[str, ...] = ()
    for folder in list_model_folders(model.place):
        try:
            config = read_encoder_config(folder)
        except FolderError as error:
            complaint = (Warn(str(error)),)
            break
        if config is not None:
            return find_architecture(model, config.raw)
    found = find_architecture(model)
    return None if found is None else replace(found, notes=(*found.notes, *complaint))
