"""Towers: the models of a service. A tower takes inputs of one kind (texts, pairs, pictures, clips), and gives rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from graphsurgery.errors import GraphSurgeryError

TEXT, PAIR, IMAGE, AUDIO = "text", "pair", "image", "audio"
"""The kinds of towers: texts, pairs of a query and a text (scored by a cross-encoder), pictures, and clips of speech."""


@dataclass(frozen=True)
class TextOptions:
    """How the texts of a request are tokenised. Texts with different options never share a cache entry or a flight."""

    prompt: str = ""
    """The text that goes before each text, already chosen."""
    on_long: str = "cut"
    """``cut`` or ``error``, as in `Embedder.embed`."""
    cut_from: str = "right"
    """Which end of a text that is too long is cut off."""


@dataclass(frozen=True)
class Prepared:
    """An input that is ready to run."""

    content: Any
    """The content that the tower runs: the ids of a text, the pixels of a picture, or the samples of a clip."""
    size: int
    """Its length, which counts against the budget of a run, in positions (tokens of a text)."""
    tokens: int = 0
    """Its number of tokens, which is reported as usage."""
    is_cut: bool = False
    """Whether the text was longer than the model takes."""
    group: Any = None
    """Inputs run together only if their groups are equal: the count of a prompt's tokens, or the size of a picture."""


@dataclass(frozen=True)
class Facts:
    """The facts that a service states about a tower: in `/info`, in the log, and when it starts."""

    model: str
    """The path of the ONNX file."""
    sha256: str
    """The sha256 of the ONNX file."""
    dims: int
    dtype: str = "float32"
    longest: int | None = None
    """The longest text in tokens. None if there is no limit."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    """The name of the prompt that is used if a request does not name one."""
    similarity: str = "cosine"
    providers: Sequence[str] = ()
    """ONNX Runtime's names of what the model runs on."""
    threads: int | None = None
    is_batch_invariant: bool | None = None
    """Whether a row has the same bits in every batch, as tried on this machine. None if it was not tried."""
    is_normalized: bool = False
    """Whether the vectors have length one, as `Embedder.is_normalized` tells."""
    is_probability: bool = False
    """Whether the scores of a cross-encoder are between 0 and 1 already, because the file ends with a sigmoid or softmax."""


Result = TypeVar("Result")


def run_at_once(run: Callable[[], Result], count: int) -> list[Result]:
    """Call ``run`` in ``count`` threads at once, and return the results."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: run(), range(count)))


class Tower(Protocol):
    """One model. `prepare` and `run` are called by several threads at once, `warm_up` by one."""

    kind: str
    budget: int
    """The most positions of one run."""
    is_padded: bool
    """Whether a run computes padding, so that its positions are rows x longest."""
    most_at_once: int
    """How many runs may go on at once, each in a thread of its own."""
    width: int
    identity: str
    """The sha256 of everything on which a row depends except the input and the options: model, tokenizer, longest text."""

    def prepare(self, inputs: Sequence[Any], options: TextOptions) -> list[Prepared | GraphSurgeryError]:
        """Return each input ready to run, or the error of an input that is wrong. It does not affect the other inputs."""
        ...

    def run(self, inputs: Sequence[Prepared]) -> np.ndarray:
        """Return the rows ``[inputs, width]``, as the file gives them. Raises UnsupportedModelError if the run fails."""
        ...

    def warm_up(self) -> None:
        """Run samples, alone and in as many threads as the engine has, so that the first requests are fast. Find out whether a
        row has the same bits in every batch."""
        ...

    @property
    def facts(self) -> Facts:
        """The facts about the model. Complete after `warm_up`."""
        ...
