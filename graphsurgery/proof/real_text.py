"""Real text for a proof: the user's, or sentences of our own, where a tokenizer lies beside either model."""

from __future__ import annotations

import os

import numpy as np

from graphsurgery.errors import GraphSurgeryError, RequestError
from graphsurgery.model.model import Model
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.texts import SENTENCES, Encoded, find_tokenizer, read_texts, tokenize


def real_texts(
    source: Model, output: Model, generator: FeedGenerator, path: str | os.PathLike[str] | None
) -> tuple[Encoded | None, str | None]:
    """Tokenised texts, or None and why there are none. What the user asked for fails; what was only tried is reported."""
    tokenizer = find_tokenizer(source.path) or find_tokenizer(output.path)
    if tokenizer is None:
        if path is not None:
            raise RequestError(
                f"the texts of {path} cannot be tokenised: there is no tokenizer.json beside the model or above it",
                "put the model's tokenizer.json beside it, or leave out --texts",
            )
        return None, "real text: there is no tokenizer.json beside the model or above it"
    if generator.roles.ids is None:
        return None, "real text: the model has no input of token ids"
    try:
        encoded = tokenize(tokenizer, read_texts(os.fspath(path)) if path is not None else SENTENCES, generator.longest_text)
    except GraphSurgeryError as error:
        if path is not None:
            raise
        return None, f"real text: {error}"
    vocabulary = generator.tables.vocabulary
    if vocabulary is not None and int(np.max(encoded.ids)) >= vocabulary:
        return None, f"real text: {tokenizer.name} gives ids beyond the {vocabulary} rows of the embedding table"
    return encoded, None
