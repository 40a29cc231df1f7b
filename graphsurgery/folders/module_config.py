"""The config of one module of a model folder, found beside its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphsurgery.errors import FolderError
from graphsurgery.folders.files import DOWNLOAD, LARGEST_CONFIG, inside, is_folder, is_there, read_json
from graphsurgery.model.parsing import shown


def module_config(place: Path, name: str, largest: int = LARGEST_CONFIG) -> tuple[Path, dict[str, Any] | None]:
    """(the path of ``name`` beside ``place``, a module folder or a file in it; the config at it, None where there is none).

    FolderError when it cannot be read.
    """
    folder = place if is_folder(place) else place.parent
    if not is_there(folder / name):
        return folder / name, None
    path = inside(folder, name, str(folder))
    return path, read_json(path, largest=largest)


def check_setting(config: dict[str, Any] | None, key: str, found: object, path: Path) -> None:
    """FolderError where the config says another ``key`` than the weights, which have ``found``; it may leave it out."""
    said = (config or {}).get(key)
    if said is not None and said != found:
        what = f"{path} says {key}: {shown(str(said))}, and the weights beside it have {found}"
        raise FolderError(what, DOWNLOAD)
