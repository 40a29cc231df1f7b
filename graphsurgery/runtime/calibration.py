"""Each dim's smallest and largest value over the embeddings of a file of texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from graphsurgery.encoder.roles import roles_of
from graphsurgery.errors import RequestError
from graphsurgery.model.model import Model
from graphsurgery.runtime.feeds import Drawer, text_feeds
from graphsurgery.runtime.session import open_session
from graphsurgery.runtime.texts import find_tokenizer, read_texts, tokenize

BATCH = 32
FEWEST = 100
"""Texts, below which ranges say little; sentence-transformers warns as well."""


def embedding_ranges(model: Model, output: str, texts: Path) -> np.ndarray:
    """``[2, dim]`` float32: min and max of ``output [batch, dim]`` over the lines of ``texts``, tokenised with the
    tokenizer.json beside the model. As sentence-transformers takes them of ``calibration_embeddings``.

    Raises RequestError without a tokenizer or with fewer than `FEWEST` texts, and what reading and running raise.
    """
    tokenizer = find_tokenizer(model.path)
    if tokenizer is None:
        raise RequestError(
            f"the texts of {texts} cannot be tokenised: there is no tokenizer.json beside the model or above it",
            "put the model's tokenizer.json beside it, or give the ranges themselves, as .npy or .json",
        )
    lines = read_texts(texts)
    if len(lines) < FEWEST:
        raise RequestError(f"{texts} has {len(lines)} texts", f"give {FEWEST} or more of the kind that will be embedded")
    drawer = Drawer.of(model, roles_of(model.interface))
    session = open_session(model)
    low, high = [], []
    for start in range(0, len(lines), BATCH):
        for feed in text_feeds(drawer, tokenize(tokenizer, lines[start : start + BATCH], drawer.longest_text)):
            found = session.run(feed, [output])[output].astype(np.float32)
            low.append(found.min(axis=0))
            high.append(found.max(axis=0))
    return np.vstack((np.min(low, axis=0), np.max(high, axis=0)))
