"""Saving a model: data stay where they can, the kernel copies the rest, and the output is complete or absent."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graphsurgery.argument_types import check_argument_types
from graphsurgery.errors import SurroundingsError
from graphsurgery.model.atomic import Progress, ignore_progress
from graphsurgery.model.external import ExternalFile
from graphsurgery.model.model import Model, open_data
from graphsurgery.model.provenance import record_externalization, record_move
from graphsurgery.model.records import Span
from graphsurgery.model.relocate import list_used_files
from graphsurgery.model.staging import (
    Plan,
    Saved,
    check_output,
    choose_data_name,
    is_same_folder,
    list_leftover_data,
    stage_output,
    translate_system_errors,
)
from graphsurgery.remarks import Warn

LARGEST_PROTOBUF = (1 << 31) - 1
"""Upper limit on the bytes of one protobuf message. Above it the weights go into external data."""
ALIGNMENT = 4096


@check_argument_types(model="give a Model, as graphsurgery.load and the edits return it")
def save(model: Model, path: str | os.PathLike[str], *, force: bool = False, progress: Progress = ignore_progress) -> Saved:
    """Write ``model`` to ``path``, whole or not at all.

    External data in the output's folder stay where they are. From another folder, or from behind links of the Hugging Face
    cache, they are copied once, into ``<path>.data``. Above 2 GiB the weights inside the file move there too.

    Args:
        model: what `load` or an edit returned.
        path: the file to write, in a folder that exists.
        force: replace an existing file, but none of the model's own.
        progress: called with the number of bytes just written.

    Returns:
        The paths and the number of bytes that were written.

    Raises:
        OutputExistsError: ``path`` exists and ``force`` is not set, or it is one of the model's own files.
        MissingDataError: external data would have to be copied and are not there.
        RequestError: ``path`` lies in the Hugging Face cache.
        SurroundingsError: no space, no permission, no such folder. Nothing is left behind.
    """
    plan = plan_output(model, Path(path), force=force)
    with stage_output(plan, force=force, progress=progress) as stage:
        return stage.commit()


@dataclass
class DataFile:
    """A data file that several outputs in one folder share: it holds each range that one of ``models`` refers to once.

    The first output that is planned with it writes it.
    """

    path: Path
    models: Sequence[Model]
    is_planned: bool = False


def plan_output(
    model: Model, output: Path, *, force: bool = False, largest: int = LARGEST_PROTOBUF, data: DataFile | None = None
) -> Plan:
    """Plan which bytes are written where, without writing. Raises as `save` does.

    With ``data``, external data are copied into that file, also beside the source.
    """
    with translate_system_errors(output):
        check_output(model, output, force=force)
        plan = Plan(output, model.document)
        locations = list_used_files(model.files, model.document)
        old = list_leftover_data(model, output) if output.exists() else []
        if old:
            plan.remarks.append(
                f"data files of the replaced output are kept, in case another model needs them: {', '.join(old)}"
            )
        if locations and (data is not None or model.linked_data or not is_same_folder(model.folder, output.parent)):
            _copy_data(plan, model, locations, data or DataFile(choose_data_name(plan.output), (model,)))
        elif locations:
            _keep_data(plan, model, locations)
        if plan.document.size > largest:
            _externalise(plan)
        return plan


def _keep_data(plan: Plan, model: Model, locations: list[str]) -> None:
    """Leave the data files where they are. Those that existed at load must be unchanged."""
    for location in locations:
        if model.files[location].identity is not None:
            open_data(model.files[location])
        if model.files[location].path.is_symlink():
            plan.remarks.append(
                Warn(
                    f"{location} is a symlink, and onnx.load refuses external data behind one: "
                    "write to another folder (-o), where it is copied"
                )
            )
    plan.remarks.append(f"the weights stay in {', '.join(locations)}: keep them beside the output")


def _copy_data(plan: Plan, model: Model, locations: list[str], data: DataFile) -> None:
    """Plan one data file beside the output with every range that its models refer to, at its own offset after a base per
    file."""
    model.require_data(f"saving into another folder ({plan.output.parent})")
    bases: dict[str, int] = {}
    pieces: list[tuple[int, Span]] = []
    size = 0
    files = {location: file for one in data.models for location, file in one.files.items()}
    for location in dict.fromkeys(name for one in data.models for name in list_used_files(one.files, one.document)):
        base = bases[location] = (size // ALIGNMENT + 1) * ALIGNMENT if bases else 0  # above every offset before it
        source = open_data(files[location])
        for start, end in _list_ranges(data.models, files[location]):
            pieces.append((base + start, Span(source, start, end - start)))
            size = base + end
    if not data.is_planned:
        plan.data, plan.data_pieces, plan.data_size, data.is_planned = data.path, pieces, size, True
    plan.document = record_move(plan.document, data.path.name, {location: bases[location] for location in locations})
    plan.remarks.append(f"the external data were copied to {data.path.name}")


def _externalise(plan: Plan) -> None:
    """Plan the initializers' payloads into the data file."""
    plan.data = plan.data or choose_data_name(plan.output)

    def place(span: Span) -> int:
        offset = -(-plan.data_size // ALIGNMENT) * ALIGNMENT
        plan.data_pieces.append((offset, span))
        plan.data_size = offset + span.length
        return offset

    size = plan.document.size
    plan.document = record_externalization(plan.document, plan.data.name, plan.data_size, place)
    if plan.document.size > LARGEST_PROTOBUF:
        raise SurroundingsError(
            f"{plan.output.name} would have {plan.document.size} bytes without initializers, but protobuf is limited to 2 GiB",
            "move large constants into initializers first",
        )
    what = f"{size / 2**30:.1f} GiB do not fit into one .onnx file (protobuf is limited to 2 GiB)"
    plan.remarks.append(f"{what}: the weights are in {plan.data.name}")


def _list_ranges(models: Sequence[Model], file: ExternalFile) -> list[tuple[int, int]]:
    """Return the sorted byte ranges of ``file`` that the models refer to. Ranges with less than a block between them are
    joined."""
    wanted = sorted((one.offset, one.offset + one.length) for model in models for one in model.externals if one.file == file)
    joined: list[tuple[int, int]] = []
    for start, end in wanted:
        if joined and start - joined[-1][1] < ALIGNMENT:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined
