"""The three outputs of bge-m3 (arXiv 2402.03216) from one run of the encoder: besides the dense embedding a weight per
token, for learned sparse retrieval, and a vector per token, for late interaction.

    sparse_weights [batch, seq, 1] = relu(x Ws + bs)                 0 at padding
    colbert_vectors [batch, seq, dim] = unit(x Wc + bc)              0 at padding and at the first token

x are the token embeddings; the layers are ``sparse_linear.pt`` and ``colbert_linear.pt`` beside modules.json. FlagEmbedding
leaves the first position out of its vectors; here it stays and is zero, so that positions are those of the ids, whichever
side is padded.
"""

from __future__ import annotations

from pathlib import Path

from graphsurgery.edits.add_dense import AddDense
from graphsurgery.edits.add_normalize import AddNormalize
from graphsurgery.edits.edit import Edit
from graphsurgery.edits.mask_tokens import MaskTokens
from graphsurgery.errors import FolderError
from graphsurgery.folders.files import inside, is_there

SPARSE, COLBERT = "sparse_weights", "colbert_vectors"
LAYERS = {SPARSE: "sparse_linear.pt", COLBERT: "colbert_linear.pt"}


def m3_steps(folder: Path, wanted: tuple[str, ...], tokens: str) -> list[Edit]:
    """The edits that make those of `LAYERS` that are ``wanted`` from the output ``tokens``, which stays. FolderError where the
    folder has not the layer."""
    steps: list[Edit] = []
    for name in (name for name in LAYERS if name in wanted):
        if not is_there(folder / LAYERS[name]):
            raise FolderError(f"{folder} has no {LAYERS[name]}, which {name} are made with", "ask for what this model has")
        weights = str(inside(folder, LAYERS[name], str(folder)))
        activation = "relu" if name == SPARSE else "identity"
        steps.append(AddDense(weights, activation, target=tokens, output_name=name, keep_target=True))
        steps += [AddNormalize(name)] if name == COLBERT else []
        steps.append(MaskTokens(name, skip_first=name == COLBERT))
    return steps
