"""Models by their names on the Hugging Face hub: found in its local cache, or downloaded into it by huggingface_hub."""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path
from typing import Any

from graphsurgery.errors import FolderError, SurroundingsError
from graphsurgery.folders.files import list_onnx_files
from graphsurgery.folders.modules import MODULES
from graphsurgery.model.hub_cache import SNAPSHOTS, find_cache

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""A name on the hub: ``owner/name``."""
MAIN = "refs/main"
"""The file of a repository in the cache that says which revision is the newest."""
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
"""Variables of the environment by which users forbid downloads."""
CONFIGS = (
    "*.json", "*.txt", "*.model", "*.jinja", "bpe.codes", "LICENSE*", "NOTICE*", "README.md", "[0-9]*_*/*", "sparse_linear.pt",
    "colbert_linear.pt",
)  # fmt: skip
ENCODERS = tuple(f"{place}model.onnx{end}" for place in ("onnx/", "") for end in ("", "_data", ".data"))
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
"""The files to download: those that every bake may need, the encoder's, and the weights of an export or of a table."""
TABLES = (".StaticEmbedding", ".WordEmbeddings")
"""The classes of modules that are a table of weights, so that no ONNX file is needed."""


def find_model_folder(name: str, *, weights: bool = False, onnx: bool = True) -> Path | None:
    """Return the folder of the model ``name`` on the hub, or None if that cannot be a name on the hub.

    It is the newest snapshot in the cache if that holds what is needed; otherwise huggingface_hub downloads the rest.

    Args:
        weights: whether the weights are needed, for an export.
        onnx: whether an ONNX file is needed.

    Raises FolderError or SurroundingsError with the command to run if it is not there and cannot be downloaded.
    """
    if NAME.fullmatch(name) is None:
        return None
    cached = find_snapshot(name)
    if cached is not None and _is_complete(cached, weights=weights, onnx=onnx):
        return cached
    command = f"hf download {name}"
    if any(os.environ.get(variable, "").upper() in ("1", "TRUE", "YES", "ON") for variable in OFFLINE):
        return _require(cached, name, "downloads are forbidden (HF_HUB_OFFLINE)", f"HF_HUB_OFFLINE=0 {command}")
    try:
        hub: Any = importlib.import_module("huggingface_hub")
    except ImportError:
        return _require(cached, name, "huggingface_hub is not installed", f"pip install huggingface_hub && {command}")
    try:
        folder = Path(hub.snapshot_download(name, allow_patterns=list(CONFIGS)))
        needed = WEIGHTS if weights or _is_table(folder) else ENCODERS if onnx else ()
        return Path(hub.snapshot_download(name, allow_patterns=[*CONFIGS, *needed]))
    except Exception as error:  # it raises errors of its own, of its HTTP library and of the system
        if cached is not None:
            return cached
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        raise SurroundingsError(
            f"{name} is neither a folder nor in the cache of the hub, and it cannot be downloaded: {why}",
            f"check the name and the network, then run: {command} (for a gated model, hf auth login before)",
        ) from error


def find_snapshot(name: str) -> Path | None:
    """Return the newest snapshot of a repository in the hub's cache, or None."""
    repository = find_cache() / f"models--{name.replace('/', '--')}"
    try:
        revision = (repository / MAIN).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        revision = ""
    named = repository / SNAPSHOTS / revision
    if revision and Path(revision).name == revision and named.is_dir():
        return named
    found = [path for path in (repository / SNAPSHOTS).glob("*") if path.is_dir()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _is_complete(folder: Path, *, weights: bool, onnx: bool) -> bool:
    """Return whether a snapshot holds the configs and, if they are needed, an ONNX file and the weights."""
    has_config = any((folder / name).is_file() for name in (MODULES, "config.json"))
    has_weights = any(path.is_file() for pattern in WEIGHTS for path in folder.rglob(pattern))
    if weights or _is_table(folder):
        return has_config and has_weights
    return has_config and (not onnx or bool(list_onnx_files(folder)))


def _is_table(folder: Path) -> bool:
    """Return whether a snapshot's modules are built from a table of weights."""
    modules = folder / MODULES
    return modules.is_file() and any(one in modules.read_text(encoding="utf-8", errors="replace") for one in TABLES)


def _require(cached: Path | None, name: str, why: str, command: str) -> Path:
    """Return what the cache holds, even in part: a bake says what it lacks. Raise FolderError if it holds nothing."""
    if cached is not None:
        return cached
    raise FolderError(f"{name} is neither a folder nor in the cache of the hub ({find_cache()}), and {why}", f"run: {command}")
