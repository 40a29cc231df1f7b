"""The commands that come next, after a verb has written something. They run as they are printed."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from graphsurgery.folders.modules import MODULES
from graphsurgery.outcome import Outcome
from graphsurgery.runtime.texts import find_tokenizer
from graphsurgery.snippet import shorten_path

if TYPE_CHECKING:  # a verb does not import what others need
    from graphsurgery.baking.bake import Baked
    from graphsurgery.baking.split_towers import SplitTowers
    from graphsurgery.exporting.export_folder import Exported


def list_next(outcome: Outcome) -> list[str]:
    """Return one or two commands for a file that edits or rewrites made; none after a dry run."""
    if outcome.saved is None:
        return []
    place, source = _quote(outcome.output), outcome.source.path
    if outcome.report is None and source is not None:
        return [f"graphsurgery verify {place} --against {_quote(source)}"]
    has_vector = any(value.rank == 2 for value in outcome.interface.outputs)
    if outcome.model.rewrites:
        return _list_next_of_rewritten(outcome, place, has_vector)
    if outcome.steps and has_vector:
        return [f"graphsurgery optimize {place}", f"graphsurgery inspect {place}"]
    return [f"graphsurgery inspect {place}"]


def _list_next_of_rewritten(outcome: Outcome, place: str, has_vector: bool) -> list[str]:
    runs_here = not any(step.given.get("precision") == "bfloat16" for step in outcome.model.rewrites)  # no CPU kernels
    source = outcome.source.path
    commands = [f"graphsurgery bench {_quote(source)} {place}"] if source is not None and runs_here else []
    is_float32 = outcome.loss is None and not any("quantized" in step.given for step in outcome.model.rewrites)
    if is_float32 and has_vector and find_tokenizer(outcome.output) is not None:
        commands.append(f"graphsurgery quantize {place}")
    return commands or [f"graphsurgery inspect {place}"]


def list_next_of_baked(baked: Baked) -> list[str]:
    """Return the commands for a folder that was baked."""
    if baked.outcome.saved is None:
        return []
    place = _quote(baked.outcome.output)
    return [f"graphsurgery verify {place} --self", f"graphsurgery optimize {place}"]


def list_next_of_towers(split: SplitTowers) -> list[str]:
    """Return the commands for the two files of a joint model; none after a dry run."""
    places = [_quote(outcome.output) for outcome in split.towers.values()] if split.files else []
    return [f"graphsurgery optimize {place}" for place in places]


def list_next_of_exported(exported: Exported) -> list[str]:
    """Return the command for a file that was exported: bake its folder, if it lies where `bake` looks for it."""
    folder = exported.path.parent.parent
    if exported.path.parent.name == "onnx" and (folder / MODULES).exists():
        return [f"graphsurgery bake {_quote(folder)}"]
    return [f"graphsurgery inspect {_quote(exported.path)}"]


def _quote(path: Path) -> str:
    return shlex.quote(shorten_path(path))
