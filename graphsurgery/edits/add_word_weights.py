"""add-word-weights: multiply each token embedding by the weight of its word."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from graphsurgery.deferred import gs
from graphsurgery.edits.draft_operators import Operators
from graphsurgery.edits.edit import PATH, Resolved, parameter, require_opset, resolved_parameter
from graphsurgery.edits.module_weights import to_absolute_path, to_recorded_path
from graphsurgery.edits.outputs import (
    TOKENS,
    OutputEdit,
    TokenTarget,
    build_output,
    check_free,
    check_not_repeated,
    choose_name,
    find_tokens,
    keep_target_parameter,
    output_name_parameter,
    tokens_parameter,
)
from graphsurgery.edits.token_mask import Mask, build_mask, find_mask, ids_parameter, mask_parameter
from graphsurgery.encoder.limits import find_tables
from graphsurgery.encoder.roles import find_roles
from graphsurgery.errors import NameNotFoundError, RequestError, WeightsDifferError
from graphsurgery.folders.module_configs import WordWeights, read_word_weights
from graphsurgery.model.checksums import hash_tensor
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model

WEIGHTS = "token_weights"
"""The default name of the value that holds the tokens' weights. Their digest is recorded under the same name."""


def weigh_tokens(ops: Operators, x: gs.Tensor, ids: gs.Tensor, m: gs.Tensor, table: np.ndarray, name: str) -> gs.Variable:
    """Build x w from ``x [batch, seq, dim]``, ``ids [batch, seq]``, ``m [batch, seq]`` bool and ``table [vocabulary]``.

    The value ``name`` is w ``[batch, seq]``: table[ids] at tokens and 0 at padding.
    """
    zero = ops.constant(0.0, np.float32, "zero")
    looked_up = ops.node("Gather", ops.constant(table, np.float32, "table"), ids, name="looked_up", axis=0)
    w = ops.node("Where", m, looked_up, zero, name="weights", output=name)
    masked = ops.node("Where", ops.unsqueeze(m, 2, "mask_3d"), x, zero, name="masked")
    return ops.node("Mul", masked, ops.unsqueeze(w, 2, "weights_3d"), name="tokens")


def _require_ids(model: Model, mask: Mask) -> str:
    """Return the input of token ids. Raises NameNotFoundError if there is none."""
    if mask.ids is None:
        listed = ", ".join(value.name for value in model.interface.inputs) or "none"
        what = f"the model has no input of token ids; its inputs are {listed}"
        raise NameNotFoundError(what, "name it with --ids", ("--ids",))
    return mask.ids


@dataclass(frozen=True)
class Weighing:
    """The token embeddings to weigh, their mask and ids, and the weight of each word, ``table [vocabulary]``."""

    target: TokenTarget
    mask: Mask
    ids: str
    table: np.ndarray


@dataclass(frozen=True)
class AddWordWeights(OutputEdit[Weighing]):
    """Multiply each token embedding by the weight of its word: ``x [batch, seq, dim]`` -> ``token_embeddings`` float32.

    ``y = x w``, where w is the weight of the token's id, and 0 at padding. The weights (for example idf) come from the
    config of a model folder's WordWeights module, as in sentence-transformers: the weight of the word, else of the word in
    lower case, else ``unknown_word_weight``. The graph keeps w as the value ``token_weights [batch, seq]``, and a later pooling
    divides means by its sum instead of the number of tokens. Ids beyond the config's vocabulary count as unknown words.
    """

    weights: str = parameter("The WordWeights module's folder, or its config.json.", "", PATH, required=True)
    target: str | None = tokens_parameter()
    mask: str | None = mask_parameter()
    ids: str | None = ids_parameter()
    output_name: str = output_name_parameter(TOKENS)
    token_weights: str = parameter(
        "The name of the weights [batch, seq] in the graph. A later add-pooling divides means by their sum.", WEIGHTS, "NAME"
    )
    keep_target: bool = keep_target_parameter()
    width: int = resolved_parameter(0)
    digests: tuple[str, ...] = resolved_parameter(())

    def resolve(self, model: Model) -> Resolved[Self, Weighing]:
        """Find target, mask, ids and weights.

        Raises FolderError (a missing or malformed config), MaskError, NothingToPoolError, NameNotFoundError (no ids),
        RequestError, UnsupportedModelError, WeightsDifferError.
        """
        require_opset(model, self.verb)
        target = find_tokens(model, self.target, self.ids)
        mask = find_mask(model, self.mask, self.ids, target.name)
        ids = _require_ids(model, mask)
        check_free(model, self.token_weights, "choose another with --token-weights")
        if self.token_weights == self.output_name:
            raise RequestError(
                f"{self.output_name!r} is the name of both the output and the weights", "choose another --token-weights"
            )
        words, table = self._read_table(model, ids)
        digests = (f"{WEIGHTS}={hash_tensor(table)}",)
        check_not_repeated(model, self.verb, digests)
        place = to_recorded_path(model, to_absolute_path(model, self.weights))
        edit = replace(
            self, weights=place, target=target.name, mask=str(mask.spec), ids=ids, digests=digests,
            output_name=choose_name(model, self.output_name, target.name, self.keep_target), width=target.width,
        )  # fmt: skip
        notes = [f"weighs {target.name} by {ids} with {len(words.weights)} weights, mask {mask.spec}"]
        if len(table) > len(words.weights):
            notes.append(f"ids from {len(words.weights)} on have no word in the config; their weight is {words.unknown:g}")
        return Resolved(edit, Weighing(target, mask, ids, table), (*notes, *mask.warnings))

    def _read_table(self, model: Model, ids: str) -> tuple[WordWeights, np.ndarray]:
        """Read the config. Return it and its weights, extended to the encoder's vocabulary with the weight of unknown words."""
        if not self.weights:
            raise RequestError(f"{self.verb} needs the module's config", "give its folder with --weights PATH")
        words = read_word_weights(to_absolute_path(model, self.weights))
        vocabulary = find_tables(model, find_roles(model.interface, ids)).vocabulary or 0
        missing = max(vocabulary - len(words.weights), 0)
        table = np.concatenate([words.weights, np.full(missing, words.unknown, dtype=np.float32)])
        if self.digests and self.digests != (f"{WEIGHTS}={hash_tensor(table)}",):
            what = f"{words.path}: the weights differ from those that the file records for this edit"
            raise WeightsDifferError(what, "use the model folder that the file was made from")
        return words, table

    def change(self, draft: Draft, found: Weighing) -> None:
        ops, ids = Operators(draft, "graphsurgery/word_weights"), draft.tensor(found.ids)
        build_output(
            draft, found.target.value, self.output_name, ops,
            lambda x: weigh_tokens(ops, x, ids, build_mask(ops, found.mask, x), found.table, self.token_weights),
            last=self.width, keep=self.keep_target,
        )  # fmt: skip
