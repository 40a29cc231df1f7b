"""Facts about a model that only a run can tell: how wide a value is, and the ranges of its embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from graphsurgery.encoder.hidden_state import HiddenState
from graphsurgery.encoder.roles import find_roles
from graphsurgery.errors import GraphSurgeryError, RequestError, UnsupportedModelError
from graphsurgery.model.model import Model
from graphsurgery.runtime.baked_sizes import make_feed_generator_for
from graphsurgery.runtime.feeds import generate_text_feeds, make_short_mask
from graphsurgery.runtime.session import open_session
from graphsurgery.runtime.texts import BATCH, find_tokenizer, read_texts, tokenize

FEWEST = 100
"""The smallest number of texts to take ranges from. sentence-transformers warns below the same number."""


def measure_width(model: Model, hidden: HiddenState) -> int:
    """Run the model on one short text and return the last dim of ``hidden``. Raises UnsupportedModelError if that fails."""
    value = run_short_text(model, hidden.name, "hidden size")
    if value.ndim != 3 or not np.issubdtype(value.dtype, np.floating):
        raise UnsupportedModelError(
            f"in a run {hidden.name} is {value.dtype} of shape {list(value.shape)}; pooling needs floats [batch, seq, hidden]",
            "name another value with --hidden-state",
            ("--hidden-state",),
        )
    return int(value.shape[-1])


def run_short_text(model: Model, name: str, sought: str) -> np.ndarray:
    """Run the model on one short text and return the value ``name``.

    Raises UnsupportedModelError if that fails. Its message names ``sought``, what the caller wants to learn from the value.
    """
    try:
        generator = make_feed_generator_for(model, find_roles(model.interface))
        session = open_session(model, extra_outputs=[name])
        return session.run(generator.generate(make_short_mask(generator), seed=0), [name])[name]
    except GraphSurgeryError as error:
        raise UnsupportedModelError(
            f"the weights do not tell the {sought} of {name}, and running the model failed: {error}",
            error.advice,
            error.options,
        ) from error


def measure_ranges(model: Model, output: str, texts: Path) -> np.ndarray:
    """Return the min and max of each dim of ``output [batch, dim]`` over the lines of the file ``texts``: ``[2, dim]`` float32.

    The texts are tokenised with the tokenizer.json beside the model. sentence-transformers takes the ranges of its
    ``calibration_embeddings`` in the same way.

    Raises RequestError if there is no tokenizer or there are fewer than `FEWEST` texts, and what `read_texts`, `tokenize` and
    `embed_texts` raise.
    """
    tokenizer = find_tokenizer(model.place)
    if tokenizer is None:
        raise RequestError(
            f"the texts of {texts} cannot be tokenised: there is no tokenizer.json beside the model or in the folder above it",
            "put the model's tokenizer.json beside it, or give the ranges themselves, as .npy or .json",
        )
    lines = read_texts(texts)
    if len(lines) < FEWEST:
        raise RequestError(f"{texts} has {len(lines)} texts", f"give {FEWEST} or more of the kind that will be embedded")
    generator = make_feed_generator_for(model, find_roles(model.interface))
    session = open_session(model)
    low, high = [], []
    for start in range(0, len(lines), BATCH):
        encoded = tokenize(tokenizer, lines[start : start + BATCH], generator.longest_text)
        for feed in generate_text_feeds(generator, encoded):
            embeddings = session.run(feed, [output])[output].astype(np.float32)
            low.append(embeddings.min(axis=0))
            high.append(embeddings.max(axis=0))
    return np.vstack((np.min(low, axis=0), np.max(high, axis=0)))
