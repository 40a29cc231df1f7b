"""Plots, drawn with matplotlib, an optional package. They are checked before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from graphsurgery.errors import MissingPackageError, OutputExistsError, RequestError, SurroundingsError
from graphsurgery.model.atomic import make_temporary_name, move_into_place, remove, write_new_file
from graphsurgery.model.model import Model
from graphsurgery.model.staging import translate_system_errors

FORMATS = (".png", ".svg")
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
"""The colours of models or batches, in turn. Colour-blind readers can tell them apart (Paul Tol, bright)."""


def check_plot(path: Path, models: Sequence[Model], *, force: bool) -> None:
    """Check that a plot can be drawn at ``path``, before anything is measured.

    Raises:
        RequestError: the name ends with neither .png nor .svg.
        OutputExistsError: the path is one of the ``models`` or a folder, or it exists and ``force`` is false.
        SurroundingsError: the folder of the path does not exist.
        MissingPackageError: matplotlib is not installed.
    """
    if path.suffix.lower() not in FORMATS:
        raise RequestError(f"{path} is no file that a plot can be drawn in", "give --plot a name that ends with .png or .svg")
    if path.exists() and any(model.path is not None and path.samefile(model.path) for model in models):
        raise OutputExistsError(f"{path} is a model, which is never overwritten", "give --plot another name")
    if path.is_dir() or (path.exists() and not force):
        raise OutputExistsError(f"{path} exists", "give --plot another name, or replace the file with --force")
    if not path.parent.is_dir():
        raise SurroundingsError(f"the folder {path.parent} does not exist", "create it first, or give --plot another name")
    import_figure()


def save_figure(figure: Any, path: Path, *, force: bool) -> None:
    """Write ``figure`` to ``path``, completely or not at all. Raises SurroundingsError if it cannot be written."""
    picture = BytesIO()
    figure.savefig(picture, format=path.suffix[1:].lower(), bbox_inches="tight")
    with translate_system_errors(path):
        temporary = make_temporary_name(path)
        write_new_file(temporary, [(0, picture.getvalue())], len(picture.getvalue()))
        try:
            move_into_place(temporary, path, force=force)
        except BaseException:
            remove(temporary)
            raise


def import_figure() -> Any:
    """Return matplotlib's class ``Figure``. Raises MissingPackageError if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError(
            "a plot needs the matplotlib package", "pip install matplotlib, or leave out --plot"
        ) from error
    return Figure
