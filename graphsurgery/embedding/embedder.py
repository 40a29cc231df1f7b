"""`Embedder`: one call turns texts into vectors, with a baked folder or a pooled file, without PyTorch."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from graphsurgery.argument_types import check_argument_types, require_type
from graphsurgery.embedding import vectors as numbers
from graphsurgery.embedding.budgets import choose_cached_device, find_budget
from graphsurgery.embedding.prompts import choose_prompt
from graphsurgery.embedding.tokenization import TOKENIZER, Tokenization, read_folder_tokenization
from graphsurgery.embedding.tokenizer import CUT, LONG, Cut, Part, TextTokenizer
from graphsurgery.encoder.head import EMBEDDING, has_own_head, read_padding_free_form
from graphsurgery.encoder.pooled_output import LAST_POSITION, find_pooled_outputs
from graphsurgery.encoder.unit_length import have_length_one
from graphsurgery.errors import FolderError, GraphSurgeryError, RequestError, SurroundingsError, UnsupportedModelError
from graphsurgery.folders.files import find_onnx, is_folder
from graphsurgery.folders.transformer_config import FolderConfig, read_folder_config
from graphsurgery.graph.graph import Graph
from graphsurgery.model.loading import load
from graphsurgery.model.model import Model
from graphsurgery.progress import Progress, ignore_progress
from graphsurgery.proof.source_feeds import make_feed_generator
from graphsurgery.report import list_few
from graphsurgery.runtime.batches import BUDGET
from graphsurgery.runtime.devices import AUTO, count_processors
from graphsurgery.runtime.embedding import embed_batch, list_batches
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.parallel import ParallelSession
from graphsurgery.runtime.session import Runner
from graphsurgery.runtime.texts import SENTENCES, find_tokenizer
from graphsurgery.suggestions import suggest

Array = np.ndarray
WINDOW = 4096
"""At most this many texts are tokenised and sorted at a time, so that memory stays bounded whatever is asked for."""
CHARACTERS_OF_TOKEN = 4
"""A token has about this many characters."""
MEASURED_FROM = 8192
"""Measuring the best budget of a run takes seconds, so it waits for the first call with about this many tokens."""
NEAR_ONE = 1e-4
"""Vectors count as normalised if their length differs from one by at most this much."""
RAISE, SKIP = "raise", "skip"


class TruncationWarning(UserWarning):
    """Texts were cut, because they are longer than the model takes."""


@dataclass(frozen=True)
class Embedded:
    """The vectors of texts, and what became of the texts."""

    vectors: Array
    """``[texts, dims]``, in the order of the texts. The row of a text that has an error is NaN, or 0 in whole numbers."""
    tokens: int
    """The tokens that were embedded, special ones included."""
    cuts: tuple[Cut, ...] = ()
    """The texts that were cut."""
    errors: Mapping[int, GraphSurgeryError] = field(default_factory=dict)
    """Why texts were not embedded, by the place of the text."""
    budget: int | None = None
    """The most positions of one run."""
    seconds: float = 0.0

    def describe_cuts(self, longest: int | None) -> str:
        """Say which texts were cut; empty if none was."""
        if not self.cuts:
            return ""
        places = list_few([str(one.text) for one in self.cuts])
        return f"{len(self.cuts)} of {len(self.vectors)} texts were cut at {longest} tokens: {places}"

    def to_json(self) -> dict[str, Any]:
        """Return everything but the vectors, ready for JSON."""
        return {
            "texts": len(self.vectors), "dims": self.vectors.shape[-1], "tokens": self.tokens,
            "cuts": [one.to_json() for one in self.cuts], "budget": self.budget, "seconds": self.seconds,
            "errors": {str(place): error.message for place, error in self.errors.items()},
        }  # fmt: skip


class Embedder:
    """Embeds texts with a baked folder, or with a pooled ONNX file beside its tokenizer.json.

    The folder decides the tokenizing, the prompts, the longest text and the padding side. Texts are sorted by length and run in
    batches, each within a budget of positions that is measured once on this machine. Any number of threads may use an Embedder.
    """

    @check_argument_types(model='give the folder that `graphsurgery bake` made: Embedder("my-model-baked")')
    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        providers: str | Sequence[str] = AUTO,
        threads: int | None = None,
        max_batch_tokens: int | None = None,
        output: str | None = None,
    ) -> None:
        """Open a model.

        Args:
            model: a folder with onnx/model.onnx or model.onnx, or an ONNX file with tokenizer.json beside it or above it.
            providers: ``auto`` (CUDA if this ONNX Runtime has it, else the CPU), ``cpu``, ``cuda``, ``tensorrt``, a name of
                ONNX Runtime's own, or several in order of preference.
            threads: the threads that compute: all of them in one run, or one run on each when there is much to embed. Default:
                the processors that this process may use, by its container's quota.
            max_batch_tokens: the most positions of one run, padding included; tokens alone for a padding-free file. Default:
                what is fastest on this machine, measured when many texts are first embedded, and kept in the user's cache.
            output: the output that holds the vectors. Default: ``sentence_embedding``, or the only output ``[batch, dim]``.

        Raises:
            FolderError: the folder lacks an ONNX file or a tokenizer, or its configs cannot be read.
            UnsupportedModelError: the file does not pool, or takes inputs that texts do not give.
            MissingPackageError: ONNX Runtime does not have the provider.
            RequestError: a number is below 1, or a provider or the output is unknown.
            ModelError, SurroundingsError: as `load` raises them.
        """
        for name, number in (("threads", threads), ("max_batch_tokens", max_batch_tokens)):
            if number is not None and number < 1:
                raise RequestError(f"{name} is {number}", f"give 1 or more, or leave {name} out")
        path = Path(os.fspath(model))
        device = choose_cached_device(providers)  # before anything large is read
        self.given = path
        self.path, self.folder = _find_places(path)
        self.model = load(self.path)
        self.config: FolderConfig = read_folder_config(self.folder)
        self.tokenization: Tokenization = read_folder_tokenization(self.folder)
        self.output = choose_output(self.model, output)
        self._generator = _make_generator(self.model, self.output)
        self.max_length = find_longest(self.tokenization, self._generator)
        if self.max_length is not None and _takes_last_position(self.model, self._generator, self.output):
            self._generator = replace(self._generator, baked=(self._generator.baked[0], self.max_length))
        self.tokenizer = TextTokenizer(self.tokenization, self.max_length, self._generator.tables.vocabulary)
        self.threads = threads or count_processors()
        self._device = device
        self._session = ParallelSession(self.model, self.threads, device)
        self.providers: list[str] = self._session.providers
        self.is_padded = read_padding_free_form(self.model) is None
        self.max_batch_tokens = max_batch_tokens

    def __repr__(self) -> str:
        """Return one line: the file, its output, and where it runs."""
        return f"<Embedder {self.path}: {self.output}, {self.providers[0]}, {self.threads} threads>"

    @property
    def most_at_once(self) -> int:
        """How many runs may go on at once, each on a thread of its own."""
        return self._session.most

    def prepare_for_many(self) -> None:
        """Make runs that go on at the same time faster, by opening the model for them once more."""
        self._session.prepare_for_many()

    @property
    def is_on_cpu(self) -> bool:
        """Whether texts are embedded on the CPU alone."""
        return self._device.is_cpu

    @property
    def prompts(self) -> dict[str, str]:
        """The folder's prompts by their names."""
        return self.config.prompts

    def encode(
        self,
        texts: str | Sequence[str],
        prompt_name: str | None = None,
        dims: int | None = None,
        precision: str | None = None,
        progress: Progress | None = None,
        *,
        prompt: str | None = None,
        on_long: str = CUT,
        ranges: Array | None = None,
    ) -> Array:
        """Return the vectors of ``texts``, ``[texts, dims]`` in the order of the texts; ``[dims]`` for a single text.

        If texts were cut, a `TruncationWarning` says which. `embed` returns that as data, and takes the same arguments.
        """
        is_one = isinstance(texts, str)
        done = self.embed(
            [texts] if isinstance(texts, str) else texts, prompt_name, dims, precision, progress, prompt=prompt,
            on_long=on_long, ranges=ranges,
        )  # fmt: skip
        if done.cuts:
            warnings.warn(done.describe_cuts(self.max_length), TruncationWarning, stacklevel=2)
        return done.vectors[0] if is_one else done.vectors

    def embed(
        self,
        texts: Sequence[str],
        prompt_name: str | None = None,
        dims: int | None = None,
        precision: str | None = None,
        progress: Progress | None = None,
        *,
        prompt: str | None = None,
        on_long: str = CUT,
        on_error: str = RAISE,
        ranges: Array | None = None,
        first: int = 0,
    ) -> Embedded:
        """Return the vectors of ``texts``, and which of them were cut or could not be embedded.

        Args:
            texts: one string each.
            prompt_name: the name of one of the folder's prompts, which goes before each text. Default: the folder's default
                prompt, if it has one.
            dims: keep the first dims of each vector (Matryoshka). Vectors of length one are normalised again.
            precision: float32, float16, int8, uint8, or bits: binary and ubinary. Default: the output's own numbers.
            progress: called with what is being done, and how many of how many texts are done.
            prompt: a text to go before each text, in place of a named prompt.
            on_long: what becomes of a text that is longer than the model takes: ``cut`` embeds its beginning, ``error`` refuses
                it, ``split`` gives the mean of its parts, weighted by their tokens and normalised if the vectors are.
            on_error: ``raise`` the first error of a text, or ``skip`` such texts.
            ranges: ``[2, dims]``, the least and the greatest value of each dim, for int8 and uint8.
            first: the place of the first text, for cuts, errors and messages, if these texts are part of a longer list.

        Raises:
            WrongTypeError: ``texts`` is not a sequence, or, unless errors are skipped, one of them is no string.
            RequestError: an unknown prompt, precision or choice, too many dims, or a text that cannot be embedded.
            UnsupportedModelError: a run fails.
        """
        start = time.perf_counter()
        _check_choices(on_long, on_error)
        for name, value, kind in (
            ("prompt_name", prompt_name, str | None), ("prompt", prompt, str | None), ("dims", dims, int | None),
            ("precision", precision, str | None),
        ):  # fmt: skip
            require_type(value, kind, name)
        if isinstance(texts, str) or not isinstance(texts, Sequence):
            raise RequestError(
                f"texts is {type(texts).__name__}, not a list of strings", "give a list, or one string to encode"
            )
        before = self.choose_prompt(prompt_name, prompt)
        given = self._feed_prompt(before)
        report: Progress = progress or ignore_progress
        budget = self.measure_budget(sum(len(one) for one in texts if isinstance(one, str)) / CHARACTERS_OF_TOKEN, report)
        rows: list[Array] = []
        cuts: list[Cut] = []
        errors: dict[int, GraphSurgeryError] = {}
        tokens = 0
        for start_of_window in range(0, max(len(texts), 1), WINDOW):
            window, place = texts[start_of_window : start_of_window + WINDOW], first + start_of_window
            found = self.tokenizer.tokenize(window, before, on_long, place)
            if found.errors and on_error == RAISE:
                raise found.errors[min(found.errors)]
            errors |= found.errors
            cuts += found.cuts
            tokens += sum(len(one.ids) for one in found.parts)

            def tell(done: int, before_it: int = start_of_window) -> None:
                report("embedding texts", min(before_it + done, len(texts)), len(texts))

            places = np.array([one.text - place for one in found.parts], dtype=np.int64)
            vectors, places = self._join_parts(self._run(found.parts, given, budget, tell), found.parts, places)
            rows.append(_place_rows(self._convert(vectors, dims, precision, ranges), places, len(window)))
        return Embedded(np.concatenate(rows), tokens, tuple(cuts), errors, budget, time.perf_counter() - start)

    def tokenize(self, texts: Sequence[str], prompt_name: str | None = None, *, prompt: str | None = None) -> list[list[int]]:
        """Return the token ids of each text as they are embedded: with its prompt and special tokens, cut, without padding."""
        found = self.tokenizer.tokenize(texts, self.choose_prompt(prompt_name, prompt))
        if found.errors:
            raise found.errors[min(found.errors)]
        return [one.ids.tolist() for one in found.parts]

    def similarity(self, one: Array, other: Array) -> Array:
        """Return the similarity of each vector of one list to each of the other, ``[n, dims], [m, dims] -> [n, m]``.

        The folder names the function; cosine is the default. Distances are negated, so that a larger number is more similar.
        Raises RequestError if the vectors have different numbers of dims.
        """
        first, second = (np.atleast_2d(np.asarray(side)) for side in (one, other))
        if first.shape[1] != second.shape[1]:
            raise RequestError(f"vectors of {first.shape[1]} and {second.shape[1]} dims cannot be compared", "use one model")
        return numbers.SIMILARITIES[self.config.similarity or "cosine"](first, second)

    def measure_budget(self, tokens: float, progress: Progress = ignore_progress) -> int:
        """Return the largest number of positions of one run, for about ``tokens`` tokens to embed.

        It is ``max_batch_tokens`` if that was given. Otherwise it is the fastest one on this machine, measured now or earlier.
        If measuring would take long compared with embedding the tokens, it is a usual number.
        """
        if self.max_batch_tokens is None and tokens >= MEASURED_FROM:
            progress("measuring the best budget of a run, once on this machine", 0, 0)
            self.max_batch_tokens = find_budget(
                self.model, self._session, self._generator, self.threads, self._device, self.is_padded, tokens
            )
        return self.max_batch_tokens or BUDGET

    @cached_property
    def is_normalized(self) -> bool:
        """Whether the file's vectors have length one, as a few sentences show."""
        found = self.tokenizer.tokenize(SENTENCES)
        return have_length_one(self._run(found.parts, self._feed_prompt(""), BUDGET), NEAR_ONE)

    def _run(
        self, parts: Sequence[Part], given: Mapping[str, Array], budget: int, tell: Callable[[int], object] = lambda _: None
    ) -> Array:
        """Return the vectors of ``parts``, ``[parts, dim]``, and ``tell`` how many are done."""
        lengths = np.array([len(one.ids) for one in parts], dtype=np.int64)
        batches = list(list_batches(lengths, self.mixes_lengths, budget, self.is_padded))

        def run(session: Runner, rows: Sequence[int]) -> Array:
            return self._run_once(session, [parts[row] for row in rows], given)

        order: list[int] = []
        done: list[Array] = []
        tell(0)
        with closing(self._session.run_each(run, batches)) as found:  # if ``tell`` raises, batches that wait do not run
            for rows, vectors in zip(batches, found, strict=True):
                done.append(vectors)
                order += rows
                tell(len(order))
        return np.concatenate(done)[np.argsort(order)] if done else np.zeros((0, self.width), np.float32)

    def _run_once(self, session: Runner, parts: Sequence[Part], given: Mapping[str, Array]) -> Array:
        batch = self.tokenizer.make_batch(parts)
        vectors = embed_batch(session, self._generator, batch, [self.output], given)[self.output]
        if vectors is None:
            raise UnsupportedModelError(f"{self.output} does not hold one vector for each text", "name another output")
        return vectors

    def run_batch(self, parts: Sequence[Part], prompt_tokens: int | None = None) -> Array:
        """Run tokenised texts as one batch, and return their vectors, ``[parts, dim]``.

        `tokenizer` makes the parts. All of them have the same number of ``prompt_tokens`` (see `count_prompt`), and the same
        length unless `mixes_lengths` is true. Raises UnsupportedModelError if the run fails.
        """
        return self._run_once(self._session, parts, self._name_prompt(prompt_tokens))

    @property
    def mixes_lengths(self) -> bool:
        """Whether texts of different lengths can share a run: a mask tells padding from tokens, or all are padded alike."""
        return self._generator.has_mask or self._generator.fixed_sequence is not None

    def count_prompt(self, prompt: str) -> int | None:
        """Return the number of a prompt's tokens if the file has an input for it, else None."""
        return None if self._generator.prompt is None else self.tokenizer.count_prompt(prompt)

    def _join_parts(self, found: Array, parts: Sequence[Part], places: Array) -> tuple[Array, Array]:
        """Return (one vector for each text, the places of the texts): the weighted mean of the parts of a text."""
        if len(np.unique(places)) == len(places):
            return found, places
        weights = np.array([self.tokenizer.count_own(one) for one in parts], dtype=np.float64)
        texts, rows = np.unique(places, return_inverse=True)
        sums = np.zeros((len(texts), found.shape[1]))
        np.add.at(sums, rows, found * weights[:, None])
        means = (sums / np.bincount(rows, weights)[:, None]).astype(found.dtype)
        return numbers.normalize(means) if self.is_normalized else means, texts

    def _convert(self, vectors: Array, dims: int | None, precision: str | None, ranges: Array | None) -> Array:
        """Return vectors with the dims and in the precision that were asked for; None changes nothing."""
        if dims is not None:
            vectors = numbers.cut_dims(vectors, dims, self.is_normalized, self.output)
        if precision is None:
            return vectors
        if vectors.dtype.kind != "f":
            raise RequestError(f"{self.output} gives {vectors.dtype} already", "leave precision out")
        return numbers.convert(vectors.astype(np.float32), precision, ranges)

    @property
    def width(self) -> int:
        """The width of the vectors, as the file declares it; 0 if it does not."""
        value = self.model.interface.output(self.output)
        last = value.dims[-1] if value is not None and value.dims else 0
        return last if isinstance(last, int) else 0

    def choose_prompt(self, name: str | None, prompt: str | None = None) -> str:
        """Return the text that goes before each text: ``prompt``, else the folder's prompt ``name``, else its default one."""
        if prompt is not None:
            return prompt
        return choose_prompt(self.prompts, self.config.default_prompt_name, name)

    def _feed_prompt(self, prompt: str) -> dict[str, Array]:
        """Return the array for the input that takes the number of a prompt's tokens; empty if the file has no such input."""
        return self._name_prompt(self.count_prompt(prompt))

    def _name_prompt(self, tokens: int | None) -> dict[str, Array]:
        name = self._generator.prompt
        return {} if name is None or tokens is None else {name: np.array([tokens], dtype=np.int64)}


def _place_rows(vectors: Array, places: Array, texts: int) -> Array:
    """Return a row for each of ``texts``: NaN, or 0 in whole numbers, where there is no vector."""
    if len(vectors) == texts:
        return vectors
    whole = np.full((texts, vectors.shape[1]), np.nan if vectors.dtype.kind == "f" else 0, dtype=vectors.dtype)
    whole[places] = vectors
    return whole


def _find_places(path: Path) -> tuple[Path, Path]:
    """Return (the ONNX file, the folder of its tokenizer and configs) for a folder or a file."""
    if is_folder(path):
        return find_onnx(path)[0], path
    if not path.exists():
        raise SurroundingsError(f"there is no {path}", "give the folder that `graphsurgery bake` made, or a pooled ONNX file")
    tokenizer = find_tokenizer(path)
    if tokenizer is None:
        raise FolderError(
            f"there is no {TOKENIZER} beside {path} or above it", "put the model's tokenizer.json beside the file"
        )
    return path, tokenizer.parent


def choose_output(model: Model, asked: str | None = None) -> str:
    """Return the name of the output that holds one vector for each input, ``[batch, dim]``.

    Raises RequestError if the output ``asked`` for does not exist or several qualify, UnsupportedModelError if none qualifies.
    """
    found = [value.name for value in model.interface.outputs if value.rank == 2]
    names = [value.name for value in model.interface.outputs]
    if asked is not None:
        if asked not in names:
            raise RequestError(f"there is no output {asked!r}", f"{suggest(asked, names)}the outputs are {', '.join(names)}")
        return asked
    if EMBEDDING in found:
        return EMBEDDING
    if not found:
        what = f"the file gives {', '.join(map(str, model.interface.outputs))}, and no output [batch, dim]"
        raise UnsupportedModelError(what, "it does not pool: `graphsurgery bake` its folder, or `graphsurgery add-pooling` it")
    if len(found) > 1:
        raise RequestError(f"several outputs hold one vector for each input: {', '.join(found)}", "choose one with output=")
    return found[0]


def _make_generator(model: Model, output: str) -> FeedGenerator:
    """Return a generator that makes inputs of token ids. Raises UnsupportedModelError if ``output`` needs any other input."""
    generator = make_feed_generator(model)
    graph = Graph.of(model)
    value = graph.value(output)
    read = {one.name for one in graph.ancestors([] if value is None else [value])}
    unknown = [one for one in generator.roles.others if one.name in read - {generator.prompt, *generator.ones}]
    if generator.roles.ids is None or unknown:
        what = "it has no input of token ids" if generator.roles.ids is None else f"{output} depends on {unknown[0]}"
        raise UnsupportedModelError(f"the file cannot be fed with texts: {what}", "see its inputs with `graphsurgery inspect`")
    return generator


def _takes_last_position(model: Model, generator: FeedGenerator, output: str) -> bool:
    """Return whether the last position is pooled, even if it is padding. Texts are padded to full length then, as SigLIP's."""
    if generator.roles.mask is not None or has_own_head(model):
        return False
    return any((one.name, one.pooled_by) == (output, LAST_POSITION) for one in find_pooled_outputs(model))


def find_longest(tokenization: Tokenization, generator: FeedGenerator) -> int | None:
    """Return the longest text in tokens: the folder's limit, within what the file takes; None for no limit."""
    if generator.fixed_sequence is not None:
        return generator.fixed_sequence
    table = generator.tables
    limits = [generator.max_length] + ([tokenization.longest, table.positions] if tokenization.longest else [table.longest])
    return min((one for one in limits if one is not None), default=None)


def _check_choices(on_long: str, on_error: str) -> None:
    check_choice("on_long", on_long, LONG)
    check_choice("on_error", on_error, (RAISE, SKIP))


def check_choice(name: str, given: str, choices: Sequence[str]) -> None:
    """Raise RequestError unless the argument ``name`` is one of ``choices``."""
    if given not in choices:
        raise RequestError(f"{name} is {given!r}", f"{suggest(str(given), choices)}choose from {', '.join(choices)}")
