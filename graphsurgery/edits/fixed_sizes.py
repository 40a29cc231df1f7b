"""Sizes of pictures and sound that a file declares as numbers, and runs that show whether its nodes take other sizes, too.

A batch of another size has to give each row what the file gives it at its own size. For another height, width or length there
is nothing to compare with: the model has to run at two other sizes (for sound, at none that is a multiple of its own), and a
row must not depend on the rows beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx

from graphsurgery.edits.trials import SIZES_TOLERANCE, count_agreeing
from graphsurgery.encoder.modalities import PICTURE, SPECTROGRAM, WAVEFORM, Modality, list_modalities
from graphsurgery.encoder.roles import find_roles
from graphsurgery.errors import GraphSurgeryError
from graphsurgery.interface import Value
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model
from graphsurgery.runtime.baked_sizes import make_feed_generator_for
from graphsurgery.runtime.media import Medium
from graphsurgery.runtime.session import Session, open_session

BATCH, SAMPLES, HEIGHT, WIDTH, FRAMES = "batch", "samples", "height", "width", "frames"
SIZES = (BATCH, SAMPLES, HEIGHT, WIDTH, FRAMES)
DERIVED = {SAMPLES: "frames", HEIGHT: "rows", WIDTH: "columns", FRAMES: "positions", BATCH: "rows"}
"""The name of an output's dim that changes with an input's size without being equal to it, by the name of that size."""
RESISTING = re.compile(r"running (\w+) node\. Name:'([^']*)'")
Place = tuple[str, int]
"""A dim: the name of an input or output, and the axis."""
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class FixedSize:
    """A size that inputs declare as a number."""

    which: str
    """One of `SIZES`."""
    size: int
    places: tuple[Place, ...]
    """The dims of inputs that have it."""
    step: int = 1
    """How far the windows of the first convolution are apart along it."""


@dataclass(frozen=True)
class TriedSize:
    """What runs at other sizes have shown."""

    fixed: FixedSize
    others: tuple[int, ...] = ()
    """The other sizes."""
    follows: Mapping[Place, str] = field(default_factory=dict)
    """The dims of outputs that change with it, each with its name. The name of the size itself stands for the same number."""
    reason: str | None = None
    """Why the size is still fixed. None if it is free."""

    @property
    def resisting(self) -> str | None:
        """The node that fails at other sizes, if ONNX Runtime names it."""
        return find_failing_node(self.reason or "")


def find_failing_node(message: str) -> str | None:
    """Return the operator and the name of the node at which a run failed, as ONNX Runtime's ``message`` tells."""
    found = RESISTING.search(message)
    return None if found is None else f"{found[1]} {found[2]!r}"


def list_fixed_sizes(model: Model) -> list[FixedSize]:
    """Return the sizes that the inputs of pictures and sound declare as numbers. A size that no export frees is left out."""
    found = next((one for one in list_modalities(model) if one.stem is not None), None)
    if found is None or found.value.dims is None:
        return []
    return list(_list_fixed(model, found, found.value.dims))


def _list_fixed(model: Model, found: Modality, dims: Sequence[int | str | None]) -> Iterator[FixedSize]:
    for axis, (which, step) in {0: (BATCH, 1), **_find_axes(found)}.items():
        size = dims[axis]
        if not isinstance(size, int):
            continue
        others = [one for one in model.interface.inputs if one.name != found.value.name and one.dims]
        places = [(found.value.name, axis)]
        if which == BATCH:
            places += [(one.name, 0) for one in others if (one.dims or ())[0] == size]
        elif which == SAMPLES:
            places += [(one.name, 1) for one in others if len(one.dims or ()) == 2 and (one.dims or ())[1] == size]
        yield FixedSize(which, size, tuple(places), step)


def _find_axes(found: Modality) -> dict[int, tuple[str, int]]:
    """Return the axes of an input whose sizes may vary, each with its name and the step of the first convolution along it."""
    dims, stem = found.value.dims or (), found.stem
    if stem is None:
        return {}
    if found.kind == WAVEFORM:
        return {len(dims) - 1: (SAMPLES, stem.step[-1])}
    if found.kind == PICTURE:
        first = 1 if dims[-1] == stem.channels != dims[1] else 2  # bytes have their channels last
        return {first: (HEIGHT, stem.step[0]), first + 1: (WIDTH, stem.step[-1])}
    if found.kind == SPECTROGRAM and len(stem.kernel) == 1:
        return {next((axis for axis in (2, 1) if dims[axis] != stem.channels), 2): (FRAMES, stem.step[0])}
    return {}


def free_dims(draft: Draft, names: Mapping[Place, str], follows: Mapping[Place, str] | None) -> None:
    """Give dims of inputs and outputs names in place of numbers. Declarations of inner values that use these numbers are
    removed.

    If ``follows``, the dims of outputs, is None, nothing is declared of the outputs' dims.
    """

    def free(kind: str, info: onnx.ValueInfoProto) -> bool:
        if kind == "output" and follows is None and info.type.HasField("tensor_type"):
            info.type.tensor_type.ClearField("shape")
        named = names if kind == "input" else (follows or {}) if kind == "output" else {}
        for axis, dim in enumerate(info.type.tensor_type.shape.dim if named else ()):
            if (info.name, axis) in named:
                dim.dim_param = named[info.name, axis]
        return kind != "value_info"

    draft.changes.infos.append(free)


def lift_sizes(model: Model) -> Model:
    """Return ``model`` with all sizes of `list_fixed_sizes` declared free, whether or not its nodes take others."""
    names = {place: one.which for one in list_fixed_sizes(model) for place in one.places}
    if not names:
        return model
    draft = Draft(model)
    free_dims(draft, names, None)
    return replace(model, document=draft.finish())


class SizeTrials:
    """Runs a model of pictures or sound at other sizes than it declares."""

    def __init__(self, model: Model) -> None:
        """Open ``model`` and run it at its own sizes. Raises the errors of a run."""
        self._model, self._freed = model, dict[Place, str]()
        self._generator = make_feed_generator_for(model, find_roles(model.interface))
        self._session = open_session(model)
        fixed = {one.which: one.size for one in list_fixed_sizes(model)}
        self._rows = fixed.get(BATCH) or self._generator.fixed_batch or 2
        samples = fixed.get(SAMPLES)
        self._columns = self._generator.count_columns(samples) if samples else self._generator.fixed_sequence or 5
        self._own = self._session.run(self._draw(model, self._rows, self._columns))

    def run(self, fixed: FixedSize, name: str) -> TriedSize:
        """Try other sizes in place of a ``fixed`` one. If the model takes them, the size is free in later trials as well."""
        names = {**self._freed, **dict.fromkeys(fixed.places, name)}
        draft = Draft(self._model)
        free_dims(draft, names, None)
        lifted = replace(self._model, document=draft.finish())
        try:
            session = open_session(lifted)
            tried = self._try_batch(lifted, session, fixed) if fixed.which == BATCH else self._try_size(lifted, session, fixed)
        except GraphSurgeryError as error:
            return TriedSize(fixed, reason=error.message)
        if tried.reason is None:
            self._freed = names
        return tried

    def _try_batch(self, lifted: Model, session: Session, fixed: FixedSize) -> TriedSize:
        others = (fixed.size + 1, 2 * fixed.size + 1)
        seen = []
        for rows in others:
            feed = self._draw(lifted, rows, self._columns)
            found, wanted = session.run(feed), self._run_in_groups(feed, fixed, rows)
            reason = _explain_difference(found, wanted, f"in a batch of {rows}")
            if reason is not None:
                return TriedSize(fixed, others, reason=reason)
            seen.append(found)
        return TriedSize(fixed, others, self._find_changes(fixed, seen, others))

    def _try_size(self, lifted: Model, session: Session, fixed: FixedSize) -> TriedSize:
        """Run at two other sizes. If the batch may vary, each row has to give what it gives alone."""
        seen: list[Arrays] = []
        others: list[int] = []
        value = lifted.interface.input(fixed.places[0][0])
        has_fixed_batch = value is None or not value.dims or isinstance(value.dims[0], int)
        rows = self._rows if has_fixed_batch else 3
        for feed, size in self._draw_others(lifted, fixed, rows):
            found = session.run(feed)
            reason = _explain_lack(found, self._own, rows, self._rows, f"at a size of {size}")
            if reason is None and not has_fixed_batch:
                alone = [session.run(_take_rows(feed, rows, slice(row, row + 1))) for row in range(rows)]
                reason = _explain_difference(found, _join(alone, rows), f"in a batch of {rows} at a size of {size}")
            if reason is not None:
                return TriedSize(fixed, (*others, size), reason=reason)
            seen.append(found)
            others.append(size)
        return TriedSize(fixed, tuple(others), self._find_changes(fixed, seen, others))

    def _draw_others(self, lifted: Model, fixed: FixedSize, rows: int) -> Iterator[tuple[Arrays, int]]:
        name, axis = fixed.places[0]
        media = self._generator.media
        if fixed.which == SAMPLES:
            own = self._columns
            for columns in (own - 1 if own > 1 else own + 2, 2 * own + 1):
                feed = self._draw(lifted, rows, columns, media)
                if feed[name].shape[axis] % fixed.size == 0:  # what is cut into pieces of the declared size would run
                    feed = self._draw(lifted, rows, columns + 1, media)
                yield feed, feed[name].shape[axis]
            return
        for size in (fixed.size + fixed.step, 2 * fixed.size + fixed.step):
            resized = tuple(self._resize(one, name, axis, size) for one in media)
            yield self._draw(lifted, rows, self._columns, resized), size

    @staticmethod
    def _resize(medium: Medium, name: str, axis: int, size: int) -> Medium:
        sizes = tuple(size if place == axis - 1 else one for place, one in enumerate(medium.sizes))
        return replace(medium, sizes=sizes) if medium.name == name else medium

    def _draw(self, model: Model, rows: int, columns: int, media: tuple[Medium, ...] | None = None) -> Arrays:
        media = self._generator.media if media is None else media
        generator = replace(self._generator, roles=find_roles(model.interface), media=media)
        return generator.generate(np.ones((rows, columns), dtype=np.bool_), seed=0)

    def _run_in_groups(self, feed: Arrays, fixed: FixedSize, rows: int) -> Arrays:
        """Return the outputs of all rows. The model runs as many rows at a time as it declares."""
        chosen = [np.minimum(np.arange(start, start + fixed.size), rows - 1) for start in range(0, rows, fixed.size)]
        return _join([self._session.run(_take_rows(feed, rows, some)) for some in chosen], rows)

    def _find_changes(self, fixed: FixedSize, seen: Sequence[Arrays], sizes: Sequence[int]) -> dict[Place, str]:
        """Return the dims of outputs that change with the size."""
        rows = [self._rows, *sizes] if fixed.which == BATCH else []
        changes: dict[Place, str] = {}
        for name, own in self._own.items():
            for axis, before in enumerate(np.shape(own)):
                after = [np.shape(run[name])[axis] for run in seen]
                is_batch = axis == 0 and fixed.which != BATCH  # its rows may be others in a trial of another size
                if is_batch or all(one == before for one in after):
                    continue
                is_same = [before, *after] == (rows or [fixed.size, *sizes])
                changes[name, axis] = fixed.which if is_same else DERIVED[fixed.which]
        return changes


def _take_rows(feed: Arrays, rows: int, chosen: slice | np.ndarray) -> Arrays:
    return {name: array[chosen] if array.ndim and len(array) == rows else array for name, array in feed.items()}


def _join(parts: Sequence[Arrays], rows: int) -> Arrays:
    """Return the outputs of all parts, one after the other. An output without rows is the first part's."""
    return {
        name: np.concatenate([part[name] for part in parts])[:rows] if array.ndim else array for name, array in parts[0].items()
    }


def _explain_difference(found: Arrays, wanted: Arrays, when: str) -> str | None:
    for name, array in found.items():
        agreed = count_agreeing(array, wanted[name], SIZES_TOLERANCE)
        if agreed is None:
            return f"{when}, {name} {list(array.shape)} differs from what the rows give alone {list(wanted[name].shape)}"
        if not agreed:
            return f"{when}, the model gives no finite number in {name}"
    return None


def _explain_lack(found: Arrays, own: Arrays, rows: int, own_rows: int, when: str) -> str | None:
    """Say why outputs cannot be right, compared with what the model gives at its own size. None if they can."""
    for name, array in found.items():
        if array.ndim != own[name].ndim or not array.size or not np.isfinite(array.astype(np.float64)).any():
            return f"{when}, the model gives no finite number in {name}"
        if array.ndim and len(own[name]) == own_rows and len(array) != rows:
            return f"{when}, {name} has {len(array)} rows in place of {rows}"
    return None


def list_declared(values: Sequence[Value]) -> dict[Place, int]:
    """Return the dims of ``values`` that are declared as numbers."""
    return {(one.name, axis): dim for one in values for axis, dim in enumerate(one.dims or ()) if isinstance(dim, int)}
