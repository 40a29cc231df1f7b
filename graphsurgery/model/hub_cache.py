"""The cache of the Hugging Face hub: which of its links may be followed, and that nothing is written into it.

A snapshot holds links to the files of one revision, which are named by the hash of their content. They lie in the repository's
own ``blobs/``. From huggingface_hub 1.32 on, large ones lie in a store that all repositories share; ``blobs/`` holds links::

    <cache>/models--<owner>--<name>/snapshots/<revision>/onnx/model.onnx
    <cache>/models--<owner>--<name>/blobs/<hash>
    <cache>/blobs/<first two digits of the hash>/<hash>
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from graphsurgery.errors import RequestError

SNAPSHOTS, BLOBS = "snapshots", "blobs"
REPOSITORY = re.compile(r"(?:models|datasets|spaces|kernels)--(.+)")
SHARED_BLOB = re.compile(r"[0-9a-f]{2}/[0-9a-f]+")
STORE_MARK = ".huggingface-shared-blobs"
"""A file in the store for all repositories, by which huggingface_hub knows it."""


def find_cache() -> Path:
    """Return the folder of the hub's cache, as huggingface_hub finds it: by the environment, else in the user's home."""
    for variable, inner in (("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub")):
        if os.environ.get(variable):
            return Path(os.environ[variable]).expanduser() / inner
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base) / "huggingface" / "hub"


def lies_in(path: Path, folder: Path) -> bool:
    """Return whether ``path`` lies in ``folder``, with all symlinks followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def leads_to_blob(path: Path, folder: Path) -> bool:
    """Return whether ``folder`` lies in a snapshot, and ``path``, with all symlinks followed, is one of its repository's files.

    These lie in the repository's own blobs, or in the store beside it if the repository is named as the hub names them.
    """
    target, real = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    repository = next((one.parent.parent for one in (real, *real.parents) if one.parent.name == SNAPSHOTS), None)
    if repository is None:
        return False
    store = repository.parent / BLOBS
    if not REPOSITORY.fullmatch(repository.name) or not target.is_relative_to(store):
        return target.parent == repository / BLOBS
    return SHARED_BLOB.fullmatch(target.relative_to(store).as_posix()) is not None


def name_repository(folder: Path) -> str | None:
    """Return the name on the hub, such as ``owner/name``, of the repository whose snapshot ``folder`` is, or None."""
    if folder.parent.name != SNAPSHOTS:
        return None
    found = REPOSITORY.fullmatch(folder.parent.parent.name)
    return found and found[1].replace("--", "/")


def is_in_cache(path: Path) -> bool:
    """Return whether ``path``, a file or folder that need not exist, lies in a repository of the cache or in its store."""
    real = Path(os.path.realpath(path.parent)) / path.name
    return any(
        (REPOSITORY.fullmatch(folder.name) is not None and os.path.isdir(folder / SNAPSHOTS))  # noqa: PTH112
        or os.path.isfile(folder / STORE_MARK)  # noqa: PTH113 -- the methods of Path raise for what may not be read
        for folder in real.parents
    )


def check_outside_cache(output: Path) -> None:
    """Raise RequestError if ``output``, a file or folder to be made, would lie in the cache of the hub.

    The hub's own tools manage that folder: they delete a revision with everything in it, and share its files between programs.
    """
    if is_in_cache(output):
        raise RequestError(
            f"{output} would lie in the cache of a model hub, which must hold no other files",
            "choose an output outside the cache with -o",
        )
