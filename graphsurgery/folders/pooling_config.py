"""The ``1_Pooling/config.json`` of a sentence-transformers folder, in both of its forms.

Up to sentence-transformers 5.3 it has one boolean per mode (``pooling_mode_mean_tokens``, ...); from 5.4 on
``pooling_mode``, a name or a list. With several booleans the modes concatenate in the module's own order, not the file's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from graphsurgery.errors import RequestError

BOOLEANS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""The older form's keys, in the order in which sentence-transformers concatenates them."""


@dataclass(frozen=True)
class PoolingConfig:
    """The modes that a folder pools with, and the file that says so."""

    path: Path
    modes: tuple[str, ...]
    include_prompt: bool = True
    """Whether the tokens of a prompt are pooled, too."""


def find_pooling_config(model: Path) -> PoolingConfig | None:
    """The pooling config beside ``model`` or one folder above it (``onnx/model.onnx``), or None; RequestError when it is
    broken."""
    for folder in (model.parent, model.parent.parent):
        path = folder / "1_Pooling" / "config.json"
        if path.is_file():
            return _read(path)
    return None


def _read(path: Path) -> PoolingConfig:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{path} cannot be read: {error}", "give the pooling mode with --mode") from error
    if not isinstance(config, dict):
        raise RequestError(f"{path} holds no JSON object", "give the pooling mode with --mode")
    named = config.get("pooling_mode")
    if named is None:
        modes = [mode for key, mode in BOOLEANS.items() if config.get(key) is True]
    else:
        modes = [named] if isinstance(named, str) else named
    if not isinstance(modes, list) or not modes or not all(mode in BOOLEANS.values() for mode in modes):
        raise RequestError(
            f"{path} names no pooling mode that is known: {modes or sorted(config)}",
            f"give one of {', '.join(BOOLEANS.values())} with --mode",
        )
    return PoolingConfig(path, tuple(modes), config.get("include_prompt") is not False)
