"""Paths that a file names, relative to its folder: which spellings and which symlinks stay inside.

Nothing is opened here. A location is refused by why it is wrong, so that each caller can raise its own error.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

LONGEST_LOCATION = 4096
MEMORY_ADDRESS_MARK = "ORT_MEM_ADDR"


def why_misspelt(location: str) -> str | None:
    """What is wrong with how ``location`` is spelt, or None: it must be relative, on every system, and climb nowhere."""
    wrong = {
        "is empty": not location,
        f"has {len(location)} characters, more than a path can have": len(location) > LONGEST_LOCATION,
        "is a memory address of another process": MEMORY_ADDRESS_MARK in location,
        "holds a NUL byte": "\0" in location,
        "names a folder": location.endswith(("/", "\\")),
    }
    for why in (why for why, found in wrong.items() if found):
        return why
    for flavour in (PurePosixPath(location), PureWindowsPath(location)):
        if flavour.is_absolute() or flavour.drive or flavour.root:
            return "is an absolute path"
        if ".." in flavour.parts:
            return "climbs out of its folder with '..'"
    return None


def stays_inside(path: Path, folder: Path) -> bool:
    """Whether ``path``, all symlinks followed, lies in ``folder``, or where the Hugging Face cache keeps its files."""
    target = Path(os.path.realpath(path))
    return target.is_relative_to(os.path.realpath(folder)) or _in_hub_cache(folder, target)


def _in_hub_cache(folder: Path, target: Path) -> bool:
    """Whether ``folder`` lies in ``<repository>/snapshots/<revision>/`` and ``target`` in the same repository's ``blobs/``."""
    real = Path(os.path.realpath(folder))
    for parent in (real, *real.parents):
        if parent.parent.name == "snapshots":
            return target.parent == parent.parent.parent / "blobs"
    return False
