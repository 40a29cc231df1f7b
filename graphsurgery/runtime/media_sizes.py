"""The sizes of the pictures and sounds that a model takes, found in its graph, in its folder's configs, and by runs.

The size of a picture follows from the rows of the model's position table. If there is none, the folder's config is tried, then
224 pixels, then other numbers of patches. A run decides between them. The size of a spectrogram is found in the same way. A
waveform may have any length that is at least the receptive field of its convolutions.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from weakref import WeakKeyDictionary

import numpy as np

from graphsurgery.encoder.frames import compute_receptive_field, find_frame_steps
from graphsurgery.encoder.limits import list_constant_tables
from graphsurgery.encoder.modalities import PICTURE, SPECTROGRAM, WAVEFORM, Modality, Stem, list_modalities
from graphsurgery.errors import GraphSurgeryError, UnsupportedModelError
from graphsurgery.folders.picture_config import PictureConfig, read_picture_config
from graphsurgery.graph.operators import get_operator
from graphsurgery.interface import Value
from graphsurgery.model.model import Model
from graphsurgery.model.once import Store, find_once
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.media import Medium
from graphsurgery.runtime.session import Session, open_session

MOST_WEIGHTS = 2 << 30
"""A model with more bytes of weights than this is not run to find its sizes."""
USUAL_SIDE = 224
"""The height and width of pictures that most models take."""
MOST_PATCHES = 64
"""The most patches in a row of a picture that is tried."""
OTHER_ROWS = (0, 1, 2, 5)
"""Rows of a position table that are not for patches: a class token, one for distillation, and four registers."""
USUAL_FRAMES = (3000, 1024, 512, 128, 100)
"""Frames of a spectrogram to try if the graph does not tell: those of Whisper, of the Audio Spectrogram Transformer, ..."""
USUAL_BINS = (80, 128, 64)
MOST_NUMBERS = 1 << 23
"""A picture or spectrogram of more numbers is not drawn."""
LONGEST_FIELD = 1 << 15
"""A waveform that has to be longer than this many samples is not drawn."""
LOG = logging.getLogger(__name__)
_FOUND: Store[tuple[Medium, ...]] = WeakKeyDictionary()


def find_media(model: Model, generator: FeedGenerator) -> tuple[Medium, ...]:
    """Return how to draw the pictures and sounds among the inputs of ``model``. ``generator`` draws its other inputs.

    The result is kept with the model. If the model runs at none of the sizes that are tried, the likeliest one is returned.
    """
    others = tuple(value.name for value in generator.roles.others)
    return find_once(_FOUND, model, others, lambda: _find(model, generator))


def _find(model: Model, generator: FeedGenerator) -> tuple[Medium, ...]:
    others = {value.name for value in generator.roles.others}
    config = read_picture_config(model.place)
    stems = [(one, one.stem) for one in list_modalities(model) if one.stem is not None and one.value.name in others]
    listed = ((one, stem, list(_list_choices(model, one, stem, config))) for one, stem in stems)
    shown = [(one, stem, choices) for one, stem, choices in listed if choices]  # no choices: its declared sizes are too large
    media = [choices[0] for *_, choices in shown]
    trial = _Trial(model, generator)
    for place, (one, stem, choices) in enumerate(shown):
        if len(choices) == 1 and one.kind != WAVEFORM:
            continue  # all sizes are declared
        chosen = next((choice for choice in choices if trial.runs([*media[:place], choice, *media[place + 1 :]])), None)
        if chosen is None:
            LOG.debug("no size was found at which the model runs on %s", one.value)
            continue
        media[place] = chosen
        if one.kind != WAVEFORM:
            larger = (replace(chosen, sizes=sizes) for sizes in _list_larger(one, stem, chosen.sizes))
            runs = (trial.runs([*media[:place], other, *media[place + 1 :]]) for other in larger)
            media[place] = replace(chosen, only=not any(runs))
    return tuple(media)


def _list_choices(model: Model, found: Modality, stem: Stem, config: PictureConfig) -> Iterator[Medium]:
    """Yield the media that an input may take, the likeliest first."""
    medium = Medium(found.value.name, found.kind)
    if found.kind == WAVEFORM:
        yield from _list_waveforms(model, replace(medium, sizes=(1,) * ((found.value.rank or 0) - 2)), stem)
        return
    if found.kind == PICTURE:
        medium = replace(medium, mean=config.mean, std=config.std)
    sizes = _list_pictures(model, found.value, stem, config) if found.kind == PICTURE else _list_spectrograms(model, stem)
    declared = (found.value.dims or ())[1:]
    fixed = (tuple(_fix(dim, size) for dim, size in zip(declared, one, strict=True)) for one in sizes)
    yield from (replace(medium, sizes=one) for one in dict.fromkeys(fixed) if math.prod(one) <= MOST_NUMBERS)


def _fix(dim: int | str | None, size: int) -> int:
    """Return the size that an input declares, or else ``size``."""
    return dim if isinstance(dim, int) else size


def _list_waveforms(model: Model, medium: Medium, stem: Stem) -> Iterator[Medium]:
    """Yield waveforms by the receptive field of the convolutions, or else by lengths, the first of which is the window."""
    try:
        steps = find_frame_steps(model, medium.name)
        field, hop = compute_receptive_field(steps), math.prod(stride for _, stride in steps)
    except UnsupportedModelError:
        field, hop = stem.kernel[-1], stem.step[-1]
    while field <= LONGEST_FIELD:
        yield replace(medium, field=field, hop=hop)
        field += field  # pooling or padding after the convolutions needs more than one frame


def _list_pictures(model: Model, value: Value, stem: Stem, config: PictureConfig) -> Iterator[tuple[int, ...]]:
    """Yield ``[channels, height, width]``; bytes have their channels last.

    Pictures of a single patch are left out: one patch is broadcast to any number of positions, so a run would show nothing.
    """
    by_table = [count for rows in list_constant_tables(model) for count in _list_sides(rows)]
    tables = [_measure(stem, count) for count in dict.fromkeys(by_table)]
    usual = [] if tables else [(USUAL_SIDE, USUAL_SIDE)]
    tried = (_measure(stem, count) for count in range(2, MOST_PATCHES + 1))
    is_last = _has_channels_last(value, stem)
    for height, width in (*config.sizes, *tables, *usual, *tried):
        yield (height, width, stem.channels) if is_last else (stem.channels, height, width)


def _has_channels_last(value: Value, stem: Stem) -> bool:
    dims = value.dims or ()
    return dims[-1] == stem.channels != dims[1]


def _list_sides(rows: int) -> Iterator[int]:
    """Yield how many patches a row of a picture may have, if the position table has ``rows`` rows."""
    for others in OTHER_ROWS:
        side = math.isqrt(max(rows - others, 0))
        if side > 1 and side * side == rows - others:
            yield side


def _measure(stem: Stem, count: int) -> tuple[int, int]:
    """Return the height and width of a picture of ``count x count`` patches."""
    height, width = ((count - 1) * step + kernel for step, kernel in zip(stem.step, stem.kernel, strict=True))
    return height, width


def _list_spectrograms(model: Model, stem: Stem) -> Iterator[tuple[int, ...]]:
    """Yield ``[bins, frames]``, or ``[frames, bins]`` if the first convolution has a window over both or reads them so."""
    by_table = [rows * step for rows in list_constant_tables(model) for step in (2, 1, 4)]  # of the convolutions
    for frames in (*by_table, *USUAL_FRAMES):
        if len(stem.kernel) > 1:
            yield from ((frames, bins) for bins in USUAL_BINS)
        else:
            yield (frames, stem.channels) if _is_turned(stem) else (stem.channels, frames)


def _is_turned(stem: Stem) -> bool:
    return len(stem.kernel) > 1 or any(get_operator(node) == "Transpose" for node in stem.before)


def _list_larger(found: Modality, stem: Stem, sizes: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield larger pictures and longer spectrograms: by one step of the first convolution, and twice as large."""
    first = 0 if found.kind == SPECTROGRAM and _is_turned(stem) else 1
    free = range(first, len(sizes) if found.kind == PICTURE else first + 1)
    if found.kind == PICTURE and _has_channels_last(found.value, stem):
        free = range(2)
    for more in ([max(stem.step)] * len(sizes), sizes):
        yield tuple(size + more[index] if index in free else size for index, size in enumerate(sizes))


class _Trial:
    """Runs a model on pictures and sounds. It is opened when it is first needed."""

    def __init__(self, model: Model, generator: FeedGenerator) -> None:
        self._model, self._generator = model, generator
        self._session: Session | None = None

    def runs(self, media: Iterable[Medium]) -> bool:
        """Return whether the model runs on ``media``, and its outputs are not empty."""
        generator = replace(self._generator, media=tuple(media))
        if self._model.weight_bytes > MOST_WEIGHTS or any(math.prod(one.sizes) > MOST_NUMBERS for one in generator.media):
            return False
        mask = np.ones((generator.fixed_batch or 2, generator.fixed_sequence or 1), dtype=np.bool_)
        try:
            self._session = self._session or open_session(self._model)
            outputs = self._session.run(generator.generate(mask, seed=0))
        except (GraphSurgeryError, MemoryError):
            return False
        return all(np.size(array) > 0 for array in outputs.values())
