"""Find the known faults of an export, and the edits that mend them.

Each search starts from the model as the edits before it left it: a mask that fails has to be mended before other sizes can be
tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import onnx

from graphsurgery.edits.align_mask import AlignMask
from graphsurgery.edits.dynamic_dim import DynamicDim
from graphsurgery.edits.edit import OLDEST_OPSET, Edit
from graphsurgery.edits.fix_dim import FixDim
from graphsurgery.edits.fixed_sizes import BATCH, HEIGHT, WIDTH, TriedSize, find_failing_node, list_fixed_sizes
from graphsurgery.edits.input_type import InputType
from graphsurgery.edits.inputs import list_symbolic_dims
from graphsurgery.edits.misaligned_masks import list_suspects
from graphsurgery.edits.relax_dim import RelaxDim, try_fixed_sizes
from graphsurgery.encoder.head import read_head_steps
from graphsurgery.encoder.modalities import WAVEFORM, find_modality
from graphsurgery.encoder.roles import find_roles, is_cache
from graphsurgery.errors import GraphSurgeryError, RequestError
from graphsurgery.interface import Value
from graphsurgery.model.model import Model
from graphsurgery.runtime.baked_sizes import make_feed_generator_for
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.media import Medium
from graphsurgery.runtime.media_sizes import MOST_WEIGHTS
from graphsurgery.runtime.session import open_session

MASK, DECLARED, BAKED, HALF, LOUD = "mask", "declared size", "baked size", "half precision", "overflow"
"""The kinds of faults."""
SEQUENCE = "sequence"
LARGEST_SAMPLE = 32767.0
"""The largest sample of sound in 16-bit integers."""


@dataclass(frozen=True)
class Fault:
    """A fault of a file."""

    kind: str
    """`MASK`, `DECLARED`, `BAKED`, `HALF` or `LOUD`."""
    where: str
    """The node, or the input or output, that has it."""
    what: str
    """What is wrong, as a sentence."""
    mended_by: str | None = None
    """The verb of the edit that mends it. None if it is only named."""
    why: str = ""
    """Why it is only named, and what to do about it."""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f" ({self.why})" if self.why else "")

    def to_json(self) -> dict[str, Any]:
        """Return the fault as JSON-ready data."""
        return {"kind": self.kind, "where": self.where, "what": self.what, "mended_by": self.mended_by, "why": self.why}


@dataclass(frozen=True)
class Examined:
    """The faults of a model, and the edits that mend some of them, in order."""

    faults: tuple[Fault, ...]
    edits: tuple[Edit, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the faults as JSON-ready data."""
        return {"faults": [fault.to_json() for fault in self.faults]}


@dataclass(frozen=True)
class _Findings:
    """What one search found: faults, the edits that mend them, and the model after these edits."""

    model: Model
    faults: tuple[Fault, ...] = ()
    edits: tuple[Edit, ...] = ()

    def mend(self, edit: Edit, *faults: Fault) -> _Findings:
        return _Findings(edit.apply(self.model), (*self.faults, *faults), (*self.edits, edit))

    def name(self, *faults: Fault) -> _Findings:
        return replace(self, faults=(*self.faults, *faults))


def examine(model: Model) -> Examined:
    """Find the known faults of ``model``."""
    found = _Findings(model)
    for search in (_find_masks, _find_sizes, _find_half_inputs):
        found = search(found)
    return Examined(found.faults, found.edits)


def _find_masks(found: _Findings) -> _Findings:
    """Find masks that hide channels in place of frames."""
    if found.model.opset < OLDEST_OPSET:
        return found
    if found.model.weight_bytes > MOST_WEIGHTS:
        what, why = "its mask may hide channels in place of frames", "the model has more than 2 GiB of weights, and was not run"
        return found.name(*(Fault(MASK, f"Where {one.node!r}", what, why=why) for one, _ in list_suspects(found.model)))
    try:
        resolved = AlignMask().resolve(found.model)
    except RequestError:
        return found
    what = "its mask [batch, frames] hides channels, or the model fails, because ONNX aligns the mask with [frames, channels]"
    faults = [Fault(MASK, f"Where {one.where.node!r}", what, AlignMask.verb) for one in resolved.found]
    return found.mend(AlignMask(), *faults)


def _find_sizes(found: _Findings) -> _Findings:
    """Find sizes that are declared as numbers although the nodes take others, and sizes that nodes hold."""
    if any(step.edit == FixDim.verb for step in read_head_steps(found.model)):
        return found  # they were fixed on purpose
    ids = find_roles(found.model.interface).ids
    found = _find_sizes_of_media(found) if ids is None or ids.rank != 2 else _find_sizes_of_texts(found, ids)
    return found.name(*_list_lies(found.model))


def _find_sizes_of_texts(found: _Findings, ids: Value) -> _Findings:
    """Free what `DynamicDim` can free, together or else one by one: the declared batch and sequence, and what nodes hold."""
    try:
        generator = make_feed_generator_for(found.model, find_roles(found.model.interface))
    except GraphSurgeryError:
        return found
    dims = zip((BATCH, SEQUENCE), ids.dims or (), generator.baked, strict=True)
    sizes = [
        TextSize(ids.name, which, dim, dim if isinstance(dim, int) else held)
        for which, dim, held in dims
        if isinstance(dim, int) or (held is not None and dim is not None)
    ]
    together = _free_texts(found, sizes)
    if len(together.faults) > len(found.faults) and together.edits == found.edits and len(sizes) > 1:
        for one in sizes:
            found = _free_texts(found, [one])
        return found
    return together


class TextSize(NamedTuple):
    """A batch or sequence size of texts that is fixed."""

    ids: str
    which: str
    dim: int | str
    """The dim as the ids declare it."""
    size: int | None
    """The only number that it may be."""

    @property
    def what(self) -> str:
        """Say what is wrong."""
        if isinstance(self.dim, int):
            return f"{self.which} {self.size} is declared fixed"
        return f"the model runs only at {self.which} {self.size}, although the file declares any size ({self.dim})"


def _free_texts(found: _Findings, sizes: Sequence[TextSize]) -> _Findings:
    """Free ``sizes`` together, or name each of them."""
    if not sizes:
        return found
    held = tuple(f"{one.dim}={one.size}" for one in sizes if isinstance(one.dim, str))
    names = [one.dim if isinstance(one.dim, str) else _choose_name(found.model, one.which) for one in sizes]
    freed = DynamicDim(tuple(f"{one.which}={name}" for one, name in zip(sizes, names, strict=True)))
    try:
        mended = found.mend(FixDim(held)).mend(freed) if held else found.mend(freed)
    except GraphSurgeryError as error:
        node = find_failing_node(error.message)
        return found.name(*(Fault(BAKED, node or one.ids, one.what, why=error.message) for one in sizes))
    kinds = (DECLARED if isinstance(one.dim, int) else BAKED for one in sizes)
    return mended.name(*(Fault(kind, one.ids, one.what, DynamicDim.verb) for kind, one in zip(kinds, sizes, strict=True)))


def _choose_name(model: Model, which: str) -> str:
    """Return a name for a dim that no other dim has."""
    taken = list_symbolic_dims((*model.interface.inputs, *model.interface.outputs))
    name = which
    while name in taken:
        name = f"any_{name}"
    return name


def _find_sizes_of_media(found: _Findings) -> _Findings:
    """Relax the sizes of pictures and sound at which the nodes take others, and name the nodes that resist."""
    names = {one.which: _choose_name(found.model, one.which) for one in list_fixed_sizes(found.model)}
    try:
        tried = try_fixed_sizes(found.model, names)
    except GraphSurgeryError as error:
        where = ", ".join(value.name for value in found.model.interface.inputs)
        return found.name(Fault(DECLARED, where, "its fixed sizes cannot be tried", why=error.message))
    free = [one for one in tried if one.reason is None]
    if free:
        edit = RelaxDim(tuple(f"{one.fixed.which}={names[one.fixed.which]}" for one in free))
        found = found.mend(edit, *map(_describe_freed, free))
    return found.name(*(_describe_resisting(one) for one in tried if one.reason is not None))


def _describe_freed(one: TriedSize) -> Fault:
    what = f"{one.fixed.which} {one.fixed.size} is declared fixed, and the nodes take other sizes"
    return Fault(DECLARED, _list_places(one), what, RelaxDim.verb)


def _describe_resisting(one: TriedSize) -> Fault:
    where = one.resisting or _list_places(one)
    what = f"{one.fixed.which} {one.fixed.size} is fixed inside: the model fails at other sizes, or gives other numbers"
    advice = "export the model again with dynamic axes"
    if one.fixed.which in (HEIGHT, WIDTH):
        advice = "this is right for a model with a table of positions that it does not interpolate"
    return Fault(BAKED, where, what, why=f"{one.reason}; {advice}")


def _list_places(one: TriedSize) -> str:
    return ", ".join(name for name, _ in one.fixed.places)


def _list_lies(model: Model) -> Iterator[Fault]:
    """Yield the sizes that a file declares free, and at which it does not run."""
    if model.weight_bytes > MOST_WEIGHTS:
        return
    try:
        generator = make_feed_generator_for(model, find_roles(model.interface))
    except GraphSurgeryError:
        return
    for medium in (one for one in generator.media if one.only):
        value = model.interface.input(medium.name)
        dims = zip((value.dims or ())[1:] if value is not None else (), medium.sizes, strict=False)
        free = {dim: size for dim, size in dims if isinstance(dim, str)}
        advice = " ".join(f"--dim {dim}={size}" for dim, size in free.items())
        node = _find_resisting_node(model, generator, medium)
        only = " x ".join(map(str, free.values()))
        what = f"{medium.name} is declared of any {', '.join(free)}, and the model runs at {only} alone"
        yield Fault(BAKED, node or medium.name, what, why=f"declare it: graphsurgery fix-dim {advice}")
    yield from _find_fixed_batch(model, generator)


def _find_resisting_node(model: Model, generator: FeedGenerator, medium: Medium) -> str | None:
    """Return the node that fails on larger pictures."""
    larger = replace(medium, sizes=tuple(size if place == 0 else 2 * size for place, size in enumerate(medium.sizes)))
    media = tuple(larger if one == medium else one for one in generator.media)
    return _try(model, replace(generator, media=media), generator.fixed_batch or 2)[1]


def _find_fixed_batch(model: Model, generator: FeedGenerator) -> Iterator[Fault]:
    """Yield a fault if a batch of one runs, and others do not, although the batch is declared free."""
    if generator.fixed_batch is not None or not generator.media or not _try(model, generator, 1)[0]:
        return
    runs, node = _try(model, generator, 3)
    if not runs:
        name = generator.media[0].name
        what = "the batch is declared free, and the model runs in batches of one alone"
        yield Fault(BAKED, node or name, what, why="export the model again with a dynamic batch")


def _try(model: Model, generator: FeedGenerator, rows: int) -> tuple[bool, str | None]:
    """Return whether the model runs and gives as many rows as it is fed, and the node that failed, if ONNX Runtime names it."""
    mask = np.ones((rows, generator.fixed_sequence or 5), dtype=np.bool_)
    try:
        found = open_session(model).run(generator.generate(mask, seed=0))
    except GraphSurgeryError as error:
        return False, find_failing_node(error.message)
    batches = {one.dims[0] for one in model.interface.inputs if one.dims} - {None}
    with_rows = [one.name for one in model.interface.outputs if one.dims and one.dims[0] in batches]
    return all(len(found[name]) == rows for name in with_rows), None


def _find_half_inputs(found: _Findings) -> _Findings:
    """Find inputs of half precision: callers have to convert their numbers, and loud sound overflows."""
    inputs = found.model.interface.inputs
    half = [value for value in inputs if value.dtype == onnx.TensorProto.FLOAT16 and not is_cache(value)]
    brain = [value for value in inputs if value.dtype == onnx.TensorProto.BFLOAT16]
    found = found.name(
        *(Fault(HALF, one.name, "it takes bfloat16", why="ONNX Runtime's CPU has no kernels for it") for one in brain),
        *_list_overflows(found.model, half),
    )
    if not half or found.model.opset < OLDEST_OPSET:
        return found
    faults = [Fault(HALF, one.name, "it takes float16, which callers have to make", InputType.verb) for one in half]
    return found.mend(InputType("float32", tuple(one.name for one in half)), *faults)


def _list_overflows(model: Model, half: Sequence[Value]) -> Iterator[Fault]:
    """Yield a fault for each waveform in half precision that overflows at the scale of 16-bit integers."""
    sounds = [one for one in half if (found := find_modality(model, one.name)) is not None and found.kind == WAVEFORM]
    if not sounds or model.weight_bytes > MOST_WEIGHTS:
        return
    try:
        generator, session = make_feed_generator_for(model, find_roles(model.interface)), open_session(model)
        shape = generator.fixed_batch or 1, generator.fixed_sequence or 5
        feed = generator.generate(np.ones(shape, dtype=np.bool_), seed=0)
        for one in sounds:
            peak = np.abs(feed[one.name]).max()
            loud = {one.name: (feed[one.name].astype(np.float32) / peak * LARGEST_SAMPLE).astype(np.float16)}
            if _are_finite(session.run(feed)) and not _are_finite(session.run(feed | loud)):
                what = "sound at the scale of 16-bit integers overflows, and gives numbers that are not finite"
                yield Fault(LOUD, one.name, what, why="feed samples from -1 to 1, or use an export in float32")
    except GraphSurgeryError:
        return


def _are_finite(outputs: dict[str, np.ndarray]) -> bool:
    return all(bool(np.isfinite(array).all()) for array in outputs.values() if array.dtype.kind == "f")
