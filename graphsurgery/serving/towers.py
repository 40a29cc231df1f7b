"""What a service computes with: a tower takes inputs of one kind (texts, pairs, pictures, clips) and gives one row for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from graphsurgery.errors import GraphSurgeryError

TEXT, PAIR, IMAGE, AUDIO = "text", "pair", "image", "audio"
"""The kinds of towers: a text, a text beside a query (the scores of a cross-encoder), a picture, a clip of speech."""


@dataclass(frozen=True)
class TextOptions:
    """How texts of a request are tokenised. What differs here never shares a batch, an entry of the cache or a flight."""

    prompt: str = ""
    """The text that goes before each text, already chosen."""
    on_long: str = "cut"
    """``cut`` or ``error``, as `Embedder.embed` has it."""
    cut_from: str = "right"
    """Which end of a text that is too long is cut off."""


@dataclass(frozen=True)
class Prepared:
    """An input that is ready to run."""

    content: Any
    """What the tower runs: the ids of a text, the pixels of a picture, the samples of a clip."""
    size: int
    """Its length for the budget of a run: tokens, or 1 for what has no length."""
    tokens: int = 0
    """Its tokens, as usage counts them."""
    is_cut: bool = False
    """Whether the text was longer than the model takes."""
    group: Any = None
    """Inputs run together only if their groups are equal: the count of a prompt's tokens, or the size of a picture."""


@dataclass(frozen=True)
class Facts:
    """What a service tells about a tower: in `/info`, in the log, and when it starts."""

    model: str
    """The path of the ONNX file."""
    sha256: str
    """That of the ONNX file."""
    dims: int
    dtype: str = "float32"
    longest: int | None = None
    """The longest text in tokens. None if there is no limit."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    """The name of the prompt that is used if a request names none."""
    similarity: str = "cosine"
    providers: Sequence[str] = ()
    """ONNX Runtime's names of what the model runs on."""
    threads: int | None = None
    is_batch_invariant: bool | None = None
    """Whether a row has the same bits in any batch, as tried on this machine. None if it was not tried."""
    is_normalized: bool = False
    """Whether the vectors have length one, as `Embedder.is_normalized` tells."""
    is_probability: bool = False
    """Whether the scores of a cross-encoder are between 0 and 1 already, because the file ends with a sigmoid or softmax."""


Result = TypeVar("Result")


def run_at_once(run: Callable[[], Result], count: int) -> list[Result]:
    """Return what ``run`` gives in each of ``count`` threads at once."""
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
    """How many runs may go on at once: each of them has a thread of its own then."""
    width: int
    identity: str
    """The sha256 of everything that decides a row but the input itself and the options: model, tokenizer, longest text."""

    def prepare(self, inputs: Sequence[Any], options: TextOptions) -> list[Prepared | GraphSurgeryError]:
        """Return each input ready to run, or why it cannot be, which concerns no other input."""
        ...

    def run(self, inputs: Sequence[Prepared]) -> np.ndarray:
        """Return ``[inputs, width]``, as the file gives it. Raises UnsupportedModelError if the run fails."""
        ...

    def warm_up(self) -> None:
        """Run, once and as often at once as the engine does, so that the first requests do not pay for it, and try whether rows
        are the same bits in any batch."""
        ...

    @property
    def facts(self) -> Facts:
        """What is known of the model. Complete after `warm_up`."""
        ...
