"""The base class of the towers of pictures and of speech: an ONNX file that gives one row for each input."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from graphsurgery.embedding.budgets import choose_cached_device
from graphsurgery.embedding.embedder import NEAR_ONE, choose_output
from graphsurgery.encoder.unit_length import have_length_one
from graphsurgery.errors import GraphSurgeryError, UnsupportedModelError, require_value
from graphsurgery.folders.files import find_model_folder, hash_file
from graphsurgery.folders.transformer_config import FOLDER_CONFIG, read_folder_config
from graphsurgery.model.model import Model
from graphsurgery.runtime.batches import BUDGET
from graphsurgery.runtime.devices import count_processors
from graphsurgery.runtime.masks import Sizes
from graphsurgery.runtime.parallel import ParallelSession
from graphsurgery.serving.errors import InvalidRequestError
from graphsurgery.serving.settings import ServeSettings
from graphsurgery.serving.towers import Facts, Prepared, TextOptions, run_at_once

Arrays = Mapping[str, np.ndarray]
COSINE = "cosine"


class FileTower(ABC):
    """A tower whose inputs are files of bytes. Each kind decodes them, and feeds what it decoded."""

    kind: str
    is_padded = False

    def __init__(self, model: Model, settings: ServeSettings, samples: Arrays, *others: str | int) -> None:
        """Open a session and run ``samples``. So a file that cannot run is refused at the start.

        Args:
            model: the file as it was loaded, or with edits.
            settings: the provider, the threads, and the budget of a run.
            samples: a feed of a few rows.
            others: facts besides the model and the input on which a row depends. They become part of the cache keys.

        Raises:
            UnsupportedModelError: the file has no output ``[batch, width]``, or cannot be run.
            RequestError, MissingPackageError: as `choose_cached_device` and `choose_output` raise them.
        """
        self.model, self.output = model, choose_output(model)
        self.path = require_value(model.place, "the place of the model")
        self.threads = settings.threads or count_processors()
        self.budget = settings.max_batch_tokens or BUDGET
        device = choose_cached_device(settings.providers)
        self._session = ParallelSession(model, self.threads, device)
        self.most_at_once = self._session.most
        fields = [self.kind, model.fingerprint, model.weights_fingerprint(), self._session.providers, *others]
        self.identity = hashlib.sha256(json.dumps(fields).encode()).hexdigest()
        self._samples = samples
        rows = self.run_feed(samples)
        self.width = int(rows.shape[1])
        self.facts = self._describe(rows)
        """The facts about the model. Complete after `warm_up`."""

    def prepare(self, inputs: Sequence[Any], options: TextOptions) -> list[Prepared | GraphSurgeryError]:
        """Decode each input. Return an error in place of one that cannot be decoded. ``options`` concern texts alone."""
        return [self._try_to_decode(one) for one in inputs]

    def _try_to_decode(self, data: object) -> Prepared | GraphSurgeryError:
        try:
            return self.decode(data)
        except InvalidRequestError as error:
            return error

    @abstractmethod
    def decode(self, data: object) -> Prepared:
        """Return an input ready to run. Raises InvalidRequestError if it cannot be decoded."""

    @abstractmethod
    def run(self, inputs: Sequence[Prepared]) -> np.ndarray:
        """Return ``[inputs, width]``. Raises UnsupportedModelError if the run fails."""

    def run_feed(self, feed: Arrays) -> np.ndarray:
        """Return ``[rows, width]``. A file with a fixed batch size runs as often as the rows need.

        Raises UnsupportedModelError if a run fails, or gives something else than a row for each row of the feed.
        """
        rows = len(next(iter(feed.values())))
        batches = Sizes(self._find_fixed_batch(feed)).split_into_batches(np.arange(rows))
        parts = ({name: array[batch] for name, array in feed.items()} for batch in batches)
        found = np.concatenate([self._session.run(part, [self.output])[self.output] for part in parts])
        if found.ndim != 2 or len(found) < rows:
            shape = " x ".join(map(str, found.shape))
            what = f"{self.output} of {self.path} is {shape} for {rows} inputs, and not one row for each"
            raise UnsupportedModelError(what, "let it pool first: graphsurgery add-pooling")
        return found[:rows]

    def _find_fixed_batch(self, feed: Arrays) -> int | None:
        """Return the batch size that an input declares, or None if the file takes any."""
        values = (self.model.interface.input(name) for name in feed)
        return next((one.dims[0] for one in values if one is not None and one.dims and isinstance(one.dims[0], int)), None)

    def warm_up(self) -> None:
        """Run the samples together, in as many threads as the engine has, and each alone. Compare the bits of the rows."""
        self._session.prepare_for_many()
        rows = range(len(next(iter(self._samples.values()))))
        each = [self.run_feed({name: array[row : row + 1] for name, array in self._samples.items()}) for row in rows]
        alone = np.concatenate(each).tobytes()
        together = run_at_once(lambda: self.run_feed(self._samples), self.most_at_once)
        is_invariant = all(one.tobytes() == alone for one in together)
        self.facts = replace(self.facts, is_batch_invariant=is_invariant)

    def _describe(self, rows: np.ndarray) -> Facts:
        folder = find_model_folder(self.path, FOLDER_CONFIG)
        said = None if folder is None else read_folder_config(folder).similarity
        return Facts(
            str(self.path), hash_file(self.path), self.width, rows.dtype.name, similarity=said or COSINE,
            is_normalized=have_length_one(rows, NEAR_ONE), providers=tuple(self._session.providers),
            threads=self.threads,
        )  # fmt: skip
