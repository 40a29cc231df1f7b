"""Find token embeddings inside a file that does not output them: by the structure of its graph, confirmed by a run.

Exports of bge-m3 give what its three heads make (a vector, a weight per token, a vector per token), and other exports only the
pooled vector. The token embeddings are inside: one of the encoder's last normalisations. The file's own outputs tell which one
it is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphsurgery.baking.features import SENTENCE
from graphsurgery.encoder.hidden_state import find_hidden_state, list_hidden_candidates
from graphsurgery.encoder.pooled_output import find_pooled_outputs
from graphsurgery.encoder.roles import find_roles
from graphsurgery.errors import GraphSurgeryError, NothingToPoolError
from graphsurgery.folders.files import is_there, resolve_inside
from graphsurgery.folders.weights import read_weights, require_tensor
from graphsurgery.model.model import Model
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.masks import make_mask
from graphsurgery.runtime.session import open_session

LOG = logging.getLogger(__name__)
LENGTHS = [7, 4, 1]
"""The number of tokens in each row that is fed. Rows are padded on the right."""
AGREEMENT, ROUNDING = 1e-4, 8
"""How far an output may be from a head's formula, as a share of the largest number (float32 orders its sums in other ways), or
in units of the output type's precision if that is more (float16)."""
SPARSE, COLBERT = "sparse_weights", "colbert_vectors"
LAYERS = {SPARSE: "sparse_linear.pt", COLBERT: "colbert_linear.pt"}
"""Additional outputs of bge-m3, and the files of their layers."""


@dataclass(frozen=True)
class TokenEmbeddings:
    """The token embeddings of an encoder's file, and what else of `LAYERS` the file makes of them."""

    name: str
    width: int | None
    heads: tuple[str, ...] = ()
    is_inside: bool = False
    """Whether they are an inner value, and not an output of the file."""


def find_token_embeddings(encoder: Model, folder: Path) -> TokenEmbeddings:
    """Return the token embeddings: those that the file gives, or else the inner value that its outputs are made of.

    A run decides: at least one output has to be what a head makes of that value. Heads are the first token or the mean of the
    tokens, with or without normalisation, and the layers of bge-m3 beside modules.json. Raises NothingToPoolError if there is
    no such value.
    """
    try:
        hidden = find_hidden_state(encoder)
        return TokenEmbeddings(hidden.name, hidden.width)
    except NothingToPoolError:
        found = _match_outputs(encoder, folder)
        if found is None:
            raise
        name, heads = found
        return TokenEmbeddings(name, find_hidden_state(encoder, name).width, heads, is_inside=True)


def _match_outputs(encoder: Model, folder: Path) -> tuple[str, tuple[str, ...]] | None:
    """Return the inner value that an output is made of, and the layers of bge-m3 that other outputs hold. None without any."""
    outputs = [value.name for value in encoder.interface.outputs]
    pooled = [one.hidden_state for one in find_pooled_outputs(encoder) if one.hidden_state is not None]
    candidates = [one for one in dict.fromkeys((*pooled, *list_hidden_candidates(encoder))) if one not in outputs]
    if not candidates:
        return None
    generator = FeedGenerator.for_model(encoder, find_roles(encoder.interface))
    mask = generator.sizes.split_into_batches(make_mask(LENGTHS, generator.sizes.fit_width(max(LENGTHS))))[0]
    try:
        made = open_session(encoder, extra_outputs=candidates).run(generator.generate(mask, seed=0), [*outputs, *candidates])
    except GraphSurgeryError as error:  # the caller says what it looked for
        LOG.debug("the encoder cannot be run: %s", error)
        return None
    layers = list(_read_layers(folder))
    for name in (one for one in candidates if made[one].ndim == 3 and made[one].shape[:2] == mask.shape):
        heads = list(compute_heads(made[name].astype(np.float64), mask, layers))
        found = [head for head, values in heads if any(_agrees(made[output], values, mask) for output in outputs)]
        if found:
            return name, tuple(one for one in LAYERS if one in found)
    return None


def _read_layers(folder: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield the layers of bge-m3 that the folder has: the output's name, weight ``[out, in]`` and bias ``[out]``."""
    for name, file in LAYERS.items():
        if is_there(folder / file):
            weights = read_weights(resolve_inside(folder, file, str(folder)))
            yield name, require_tensor(weights, "weight", (None, None)), require_tensor(weights, "bias", (None,))


def compute_heads(
    x: np.ndarray, mask: np.ndarray, layers: Iterable[tuple[str, np.ndarray, np.ndarray]]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what each head makes of token embeddings ``x [batch, seq, dim]``; ``mask [batch, seq]`` is true at tokens.

    Vectors ``[batch, dim]``; for the layers of bge-m3 ``relu(x Ws + bs) [batch, seq, 1]`` and ``unit(x Wc + bc)``, with and
    without the first position.
    """
    for vector in (x[:, 0], np.sum(x * mask[:, :, None], axis=1) / np.sum(mask, axis=1, keepdims=True)):
        yield SENTENCE, vector
        yield SENTENCE, _normalize(vector)
    for name, weight, bias in layers:
        if weight.shape[1] != x.shape[-1]:
            continue
        made = x @ weight.T.astype(np.float64) + bias
        for vectors in (np.maximum(made, 0),) if name == SPARSE else (_normalize(made), _normalize(made[:, 1:])):
            yield name, vectors


def _normalize(x: np.ndarray) -> np.ndarray:
    unit: np.ndarray = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    return unit


def _agrees(output: np.ndarray, head: np.ndarray, mask: np.ndarray) -> bool:
    """Return whether an output is what a head makes, at the tokens if it has positions."""
    if output.shape != head.shape or not np.issubdtype(output.dtype, np.floating):
        return False
    if output.ndim == 3:
        at = mask[:, mask.shape[1] - output.shape[1] :]
        output, head = output[at], head[at]
    allowed = max(AGREEMENT, ROUNDING * float(np.finfo(output.dtype).eps)) * float(np.max(np.abs(head), initial=0))
    return allowed > 0 and bool(np.max(np.abs(output - head), initial=0) <= allowed)
