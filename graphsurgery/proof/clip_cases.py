"""Feeds of clips: every way in which what lies behind or beside a clip could reach its vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphsurgery.interface import Value
from graphsurgery.model.dtypes import to_numpy_dtype
from graphsurgery.references.chain import Chain
from graphsurgery.references.clips import EXACT
from graphsurgery.references.recorded_mask import LENGTHS, ZERO_AT_TOKENS, RecordedMask
from graphsurgery.references.reference import Values
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.masks import make_mask

SHORT, LONG = 3, 30
"""The frames of a clip, and of one that is about ten times longer."""
OFFSET = 3.0
"""The mean of a signal whose deviation is 1."""
BEHIND = {"NaN": np.nan, "infinity": np.inf, "1e9": 1e9}
"""What lies behind a clip whose padding must make no difference."""


@dataclass(frozen=True)
class ClipFeeds:
    """Draws feeds for a file whose clips have lengths."""

    generator: FeedGenerator
    waveform: Value
    mask: RecordedMask
    steps: Sequence[tuple[int, int]]
    is_exact: bool
    """Whether what lies behind a clip must make no difference, whatever it is."""

    @classmethod
    def of(cls, generator: FeedGenerator, chain: Chain) -> ClipFeeds | None:
        """Return the feeds of the file that ``chain`` makes, or None if its clips have no lengths."""
        values = {value.name: value for value in (*generator.roles.known, *generator.roles.others)}
        for link, behind in chain.walk_inputs_from_output():
            parameters = link.parameters
            if parameters.get("frame_steps") is None:
                continue
            waveform, mask = values.get(behind(parameters["waveform"])), parameters["mask"]
            name = behind(mask.input)
            if waveform is None or name not in values:
                return None
            is_exact = parameters["padding"] == EXACT or bool(parameters["rewired"])
            return cls(generator, waveform, RecordedMask(name, mask.kind), parameters["frame_steps"], is_exact)
        return None

    @property
    def samples(self) -> int | None:
        """The only number of samples that the file takes, if there is one."""
        dim = (self.waveform.dims or (None,))[-1]
        return dim if isinstance(dim, int) else None

    def list_cases(self) -> list[tuple[str, list[Values]]]:
        """Return every kind with its feeds. A file of one size gets those that fit into it."""
        few, many = self.measure(SHORT), self.measure(LONG)
        field, stride = self.measure(1), self.measure(2) - self.measure(1)
        edges = [many, 0, 1, self.steps[0][0], field - 1, field, field + stride - 1, field + stride, few]
        ragged = [many, few + 1, few, field]
        cases = {
            "clips around the length of one frame": self._make(edges),
            "a clip beside one ten times longer": self._make([many, few]),
            "an offset in the signal": self._make(ragged, offset=OFFSET),
        }
        if self.is_exact:
            cases |= {f"{what} behind clips": self._make(ragged, behind=number) for what, number in BEHIND.items()}
        return [(kind, feeds) for kind, feeds in cases.items() if feeds]

    def measure(self, frames: int) -> int:
        """Return the least number of samples that make this many ``frames``."""
        for kernel, stride in reversed(self.steps):
            frames = (frames - 1) * stride + kernel
        return frames

    def _make(self, lengths: list[int], behind: float = 0.0, offset: float = 0.0) -> list[Values]:
        """Return feeds of clips of these lengths."""
        samples = self.samples or max(lengths)
        fitting = np.array([min(length, samples) for length in lengths])
        batch = self.generator.fixed_batch or len(fitting)
        parts = -(-len(fitting) // batch)
        rows = np.resize(fitting, parts * batch).reshape(parts, batch)
        return [self._make_feed(part, samples, behind, offset) for part in rows]

    def _make_feed(self, lengths: np.ndarray, samples: int, behind: float, offset: float) -> Values:
        rng = np.random.default_rng(len(lengths) + samples)
        sound = np.where(make_mask(list(lengths), samples), rng.standard_normal((len(lengths), samples)) + offset, behind)
        feed: dict[str, Any] = self.generator.generate(make_mask([1] * len(lengths)), seed=0)
        shape = (len(lengths), *[1] * ((self.waveform.rank or 2) - 2), samples)
        feed[self.waveform.name] = sound.reshape(shape).astype(to_numpy_dtype(self.waveform.dtype))
        name = self.mask.input or ""
        marks = (
            lengths if self.mask.kind == LENGTHS else make_mask(list(lengths), samples) != (self.mask.kind in ZERO_AT_TOKENS)
        )
        feed[name] = marks.astype(feed[name].dtype)
        return feed


def list_clip_cases(generator: FeedGenerator, chain: Chain) -> list[tuple[str, list[Values]]]:
    """Return the feeds of clips, by kind; none for a file whose clips have no lengths."""
    feeds = ClipFeeds.of(generator, chain)
    return [] if feeds is None else feeds.list_cases()
