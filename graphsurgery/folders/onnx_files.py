"""Which ONNX file of a model folder is the encoder."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from graphsurgery.errors import FolderError
from graphsurgery.folders.files import inside, is_folder, is_there
from graphsurgery.model.locations import stays_inside
from graphsurgery.model.parsing import shown

USUAL = ("onnx/model.onnx", "model.onnx")
"""Where exporters put the file in full precision; the first that is there is taken."""
FOLDERS = ("onnx", "")
MOST_VARIANTS = 100


def find_onnx(folder: Path, name: str | None = None) -> tuple[Path, tuple[str, ...]]:
    """(the ONNX file, the other ONNX files of the folder, relative to it).

    ``onnx/model.onnx``, else ``model.onnx``; with ``name`` that file, in the folder or in its ``onnx/``. FolderError when there
    is none, or when it leads out of the folder.
    """
    there = onnx_files(folder)
    wanted = USUAL if name is None else (name, f"onnx/{name}")
    for one in wanted:
        path = inside(folder, one, str(folder) if name is None else "the ONNX file that was asked for")
        if is_there(path) and not is_folder(path):
            return path, tuple(other for other in there if folder / other != path)
    what = " and no ".join(USUAL) if name is None else shown(name)
    others = f"; it has {', '.join(there)}" if there else ""
    advice = "choose one of these by its name" if there else f"make one: graphsurgery export {folder}"
    raise FolderError(f"{folder} has no {what}{others}", advice)


def onnx_files(folder: Path) -> tuple[str, ...]:
    """The ONNX files of a model folder, in the folder itself and in ``onnx/``, relative to it."""
    if not is_folder(folder):
        raise FolderError(f"{folder} is no folder", "give the folder of a model")
    found = (path for place in FOLDERS for path in sorted((folder / place).glob("*.onnx")))
    there = (path for path in found if stays_inside(path, folder) and path.is_file())
    return tuple(path.relative_to(folder).as_posix() for path in islice(there, MOST_VARIANTS))
