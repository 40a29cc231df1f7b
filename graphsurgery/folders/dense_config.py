"""What a Dense module's config.json says beside its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from graphsurgery.folders.files import setting
from graphsurgery.folders.module_config import module_config

IDENTITY, TANH = "identity", "tanh"
CONFIG, RESIDUAL = "config.json", "use_residual"


@dataclass(frozen=True)
class DenseConfig:
    """``activation`` as the config names it; ``residual``: whether the input is added to the result; ``named``: whether there
    is a config."""

    activation: str = IDENTITY
    residual: bool = False
    named: bool = False


def dense_config(weights: Path) -> DenseConfig:
    """The config.json beside ``weights``, a module folder or a file in it; identity without residual where there is none.

    A config without activation means what it means to the class that reads it: Tanh to sentence-transformers' Dense, Identity
    to PyLate's (it alone writes ``use_residual``). A config that says nothing of a Dense module, such as the transformer's own,
    is none. FolderError when it cannot be read.
    """
    path, config = module_config(weights, CONFIG)
    if config is None or not {"in_features", "activation_function", RESIDUAL} & config.keys():
        return DenseConfig()
    default = IDENTITY if RESIDUAL in config else TANH
    activation = setting(config, "activation_function", str, path, default)
    return DenseConfig(activation, setting(config, RESIDUAL, bool, path, False), named=True)
