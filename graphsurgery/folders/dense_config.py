"""What a Dense module's config.json says beside its weights."""

from __future__ import annotations

from pathlib import Path

from graphsurgery.errors import FolderError
from graphsurgery.folders.files import read_json

IDENTITY = "identity"


def dense_activation(weights: Path) -> str:
    """The activation that the config.json beside ``weights`` (a module folder or a file in it) names; identity without one."""
    config = (weights if weights.is_dir() else weights.parent) / "config.json"
    if not config.is_file():
        return IDENTITY
    found = read_json(config).get("activation_function", IDENTITY)
    if not isinstance(found, str):
        raise FolderError(f"{config}: activation_function is {found!r}", "name one of torch.nn, such as torch.nn.Tanh")
    return found
