"""split-towers: one file for each tower of a joint model of texts and pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graphsurgery.argument_types import check_argument_types
from graphsurgery.baking.output_folder import commit_folder, stage_folder
from graphsurgery.baking.similarities import check_similarities
from graphsurgery.baking.towers import take_tower
from graphsurgery.edits.add_normalize import AddNormalize
from graphsurgery.edits.edit import Edit
from graphsurgery.encoder.towers import IMAGE, KINDS, TEXT
from graphsurgery.errors import OutputExistsError
from graphsurgery.model import atomic
from graphsurgery.model.hub_cache import check_outside_cache
from graphsurgery.model.loading import Loadable, load
from graphsurgery.model.model import Model
from graphsurgery.model.saving import LARGEST_PROTOBUF, DataFile, plan_output
from graphsurgery.model.staging import Plan, Saved, Stage, choose_data_name, is_same_folder, stage_output
from graphsurgery.outcome import Outcome, Output, require_wanted
from graphsurgery.progress import Progress, ignore_progress
from graphsurgery.proof.intent import check_intent
from graphsurgery.proof.verify import verify as verify_model
from graphsurgery.remarks import make_strict_error
from graphsurgery.report import Report, Verdict, join_reports
from graphsurgery.runner import ROOM
from graphsurgery.shown import Shown

WEIGHTS = "weights"
"""The name of both towers' data file, without its ending, if they do not use the source's own."""


@dataclass(frozen=True)
class SplitTowers(Shown):
    """The result of `split_towers`."""

    folder: Path
    """The folder of the two files, or where they would have been without a dry run."""
    towers: Mapping[str, Outcome]
    """The outcome of each tower, ``text`` and ``image``: its edits, its file and its proof."""
    report: Report | None
    """The check that both together give the joint model's similarities; None if no proof was requested."""
    files: tuple[str, ...]
    """The files that were written, none after a dry run."""

    def __repr__(self) -> str:
        """Return one line: the folder, and the outcome of each file."""
        return f"<{type(self).__name__} {self.folder}: {self.towers[TEXT]!r}, {self.towers[IMAGE]!r}>"

    @property
    def warnings(self) -> tuple[str, ...]:
        """All warnings about the towers, their files and their proofs."""
        return tuple(dict.fromkeys(line for one in self.towers.values() for line in one.warnings))

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON-ready data."""
        return {
            "folder": str(self.folder) if self.files else None,
            "files": list(self.files),
            "towers": {kind: one.to_json() for kind, one in self.towers.items()},
            "report": self.report.to_json() if self.report is not None else None,
            "warnings": list(self.warnings),
        }


@check_argument_types()
def split_towers(
    model: Loadable,
    output: str | os.PathLike[str],
    *,
    text: str | None = None,
    image: str | None = None,
    raw: bool = False,
    separate: bool = False,
    verify: bool = True,
    full: bool = False,
    force: bool = False,
    dry_run: bool = False,
    strict: bool = False,
    progress: Progress = ignore_progress,
) -> SplitTowers:
    """Write the two towers of a joint model (CLIP, Chinese-CLIP, SigLIP) as ``text.onnx`` and ``image.onnx``.

    Each has one output, the embedding ``[batch, dim]`` of length one, and the inputs, nodes and weights that it needs. The
    similarities ``scale * (text . image) + bias`` of both are compared with the joint model's own logits, in both directions
    and with unequal batches. Sizes of pictures become literal if the tower runs at no other size.

    Weights in external data are not copied if ``output`` is the source's own folder: both files then refer to its data file.
    In another folder both refer to one file, ``weights.data``, which holds each range once.

    Args:
        model: the joint model.
        output: the folder of the two files. It is made if it does not exist.
        text, image: the outputs that are the embeddings, if the graph leaves that open.
        raw: leave the vectors as they are before any normalisation.
        separate: one data file for each tower, with its own weights alone.
        verify: prove both files and compare their similarities with the joint model's.
        full, force, strict: as in `run`.
        dry_run: do everything except writing. The towers are proven in memory.

    Raises:
        UnsupportedModelError for a model without two towers; VerificationFailed, with nothing written; what `extract_tower`
        and `run` raise.
    """
    source, place = load(model), Path(output).absolute()
    check_outside_cache(place)
    progress("taking the towers out of the model")
    towers = {kind: _make_tower(source, kind, named, raw) for kind, named in ((TEXT, text), (IMAGE, image))}
    proof = _Proof(source, full, progress) if verify else None
    if dry_run:
        return _judge(source, place, towers, proof, strict=strict)
    with _open_folder(place) as folder, ExitStack() as stack:
        plans = _plan(towers, folder, source, separate=separate, force=force)
        stages = {kind: stack.enter_context(stage_output(plan, force=force)) for kind, plan in plans}
        written = {
            kind: replace(one, written=load(stages[kind].path), remarks=tuple(stages[kind].plan.remarks))
            for kind, one in towers.items()
        }
        split = _judge(source, place, written, proof, strict=strict)
        progress("writing the folder")
        saved = _commit(stages)
        if folder != place:
            commit_folder(folder, place, force=False)
    names = {path.name for one in saved.values() for path in (one.path, one.data) if path is not None}
    return replace(
        split, files=tuple(sorted(names)),
        towers={kind: one.with_saved(_move(saved[kind], place)) for kind, one in split.towers.items()},
    )  # fmt: skip


@dataclass(frozen=True)
class _Tower:
    """A tower, the edits that made it, and the file in which it was written so far."""

    model: Model
    edits: Sequence[Edit]
    written: Model | None = None
    remarks: tuple[str, ...] = ()
    """Notes on how it was written."""


def _make_tower(source: Model, kind: str, target: str | None, raw: bool) -> _Tower:
    """Take one tower out of ``source``, and normalise its vectors unless they are wanted ``raw``."""
    taken = take_tower(source, kind, target)
    if raw:
        return _Tower(taken.model, taken.edits)
    normalize = AddNormalize()
    return _Tower(normalize.apply(taken.model), (*taken.edits, normalize))


def _plan(
    towers: Mapping[str, _Tower], folder: Path, source: Model, *, separate: bool, force: bool
) -> Iterator[tuple[str, Plan]]:
    """Yield the plan of each file. Both use the source's data file if that lies in ``folder``, and otherwise one of their own.

    With ``separate`` each has a data file of its own.
    """
    models = [one.model for one in towers.values()]
    is_beside = is_same_folder(source.folder, folder) and not source.linked_data
    shared = None if is_beside else DataFile(choose_data_name(folder / WEIGHTS), models)
    for kind, one in towers.items():
        path = folder / f"{kind}.onnx"
        data = DataFile(choose_data_name(path), (one.model,)) if separate else shared
        yield kind, plan_output(one.model, path, force=force, largest=LARGEST_PROTOBUF - ROOM, data=data)


@contextmanager
def _open_folder(place: Path) -> Iterator[Path]:
    """Return ``place`` if it is a folder, else a temporary one that gets its name at the end."""
    if place.is_dir():
        yield place
        return
    if os.path.lexists(place):
        raise OutputExistsError(f"{place} is not a folder", "choose another folder with -o")
    with stage_folder(place) as stage:
        yield stage


def _commit(stages: Mapping[str, Stage]) -> dict[str, Saved]:
    """Give both files their names. If one cannot get it, neither file stays."""
    saved: dict[str, Saved] = {}
    try:
        for kind, stage in stages.items():
            saved[kind] = stage.commit()
    except BaseException:
        for path in (path for one in saved.values() for path in (one.path, one.data) if path is not None):
            atomic.remove(path)
        raise
    return saved


def _move(saved: Saved, place: Path) -> Saved:
    """Return ``saved`` with the paths that its files have in ``place``."""
    return replace(saved, path=place / saved.path.name, data=None if saved.data is None else place / saved.data.name)


@dataclass(frozen=True)
class _Proof:
    """Proves towers against the joint model ``source``."""

    source: Model
    full: bool
    progress: Progress

    def prove_tower(self, kind: str, tower: _Tower) -> Report:
        """Prove the edits of one tower, on its written file if there is one."""
        self.progress(f"proving the {kind} tower")
        written = tower.written or tower.model
        report = verify_model(written, against=self.source, full=self.full, progress=self.progress)
        return join_reports(report, check_intent(self.source, written, [edit.parameters() for edit in tower.edits]))

    def prove_both(self, towers: Mapping[str, _Tower]) -> Report:
        """Compare the similarities of both towers with the joint model's."""
        self.progress("comparing similarities")
        text, image = (towers[kind].written or towers[kind].model for kind in KINDS)
        return check_similarities(self.source, text, image)


def _judge(source: Model, place: Path, towers: Mapping[str, _Tower], proof: _Proof | None, *, strict: bool) -> SplitTowers:
    """Return the result of the proofs.

    Raises VerificationFailed if one did not pass, and StrictError for warnings if ``strict`` allows none.
    """
    outcomes = {
        kind: Outcome(
            source,
            (Output(one.model, place / f"{kind}.onnx"),),
            (*one.model.remarks, *one.remarks),
            None if proof is None else proof.prove_tower(kind, one),
        )
        for kind, one in towers.items()
    }
    for outcome in outcomes.values():
        require_wanted(outcome, strict=False)
    split = SplitTowers(place, outcomes, None if proof is None else proof.prove_both(towers), ())
    if split.report is not None and split.report.verdict is Verdict.FAILED:
        require_wanted(replace(outcomes[TEXT], report=split.report), strict=False)
    if strict and split.warnings:
        raise make_strict_error(split.warnings, "nothing was written")
    return split
