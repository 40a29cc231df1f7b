"""add-word-weights: token embeddings times a weight of their word."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.contracts import present
from graphsurgery.edits.edit import PATH, GraphEdit, parameter, require_opset, settled
from graphsurgery.edits.mask_graph import MaskChoice, choose_mask, ids_parameter, mask_parameter, token_mask
from graphsurgery.edits.module_weights import recorded_place, resolved_path
from graphsurgery.edits.operators import Operators
from graphsurgery.edits.targets import check_free, ensure_only, put_in_place
from graphsurgery.edits.token_targets import TOKENS, check_not_repeated, settled_tokens_name, token_target
from graphsurgery.encoder.roles import roles_of
from graphsurgery.encoder.tables import tables_of
from graphsurgery.errors import NameNotFoundError, RequestError, WeightsDifferError
from graphsurgery.folders.word_weights import WordWeights, read_word_weights
from graphsurgery.interface import Interface
from graphsurgery.model.digest import digest
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model

WEIGHTS = "token_weights"
"""What the weights of a text's tokens are called, and the name that their digest is recorded under."""


def weighted(ops: Operators, x: gs.Tensor, ids: gs.Tensor, m: gs.Tensor, table: np.ndarray, name: str) -> gs.Variable:
    """x w: ``x [batch, seq, dim]``, ``ids [batch, seq]``, ``m [batch, seq]`` bool, ``table [vocabulary]``; the value ``name``
    is w = table[ids] at tokens and 0 at padding, ``[batch, seq]``."""
    zero = ops.constant(0.0, np.float32, "zero")
    looked_up = ops.node("Gather", ops.constant(table, np.float32, "table"), ids, name="looked_up", axis=0)
    w = ops.node("Where", m, looked_up, zero, name="weights", output=name)
    masked = ops.node("Where", ops.unsqueeze(m, 2, "mask_3d"), x, zero, name="masked")
    return ops.node("Mul", masked, ops.unsqueeze(w, 2, "weights_3d"), name="tokens")


@dataclass(frozen=True)
class AddWordWeights(GraphEdit):
    """Multiply each token embedding with the weight of its word: ``x [batch, seq, dim]`` -> ``token_embeddings`` float32.

    ``y = x w``, w being the weight of the token's id where the mask has a token, and 0 at padding. The weights (idf, say) are
    built from the config of a model folder's WordWeights module, as sentence-transformers' module does: that of the word, else
    of the word in lower case, else ``unknown_word_weight``. w is left in the graph as the value ``token_weights [batch, seq]``:
    the pooling that follows divides by its sum where it would by the number of tokens. Ids beyond the config's vocabulary,
    where the encoder's is larger, count as unknown words.
    """

    weights: str = parameter("The WordWeights module's folder, or its config.json.", "", PATH, required=True)
    target: str | None = parameter("The token embeddings.", None, "NAME", otherwise="the hidden state that the graph shows")
    mask: str | None = mask_parameter()
    ids: str | None = ids_parameter()
    output_name: str = parameter("The name of the result.", TOKENS, "NAME")
    token_weights: str = parameter(
        "The name of the weights [batch, seq] in the graph. A later add-pooling divides means by their sum.", WEIGHTS, "NAME"
    )
    keep_target: bool = parameter("Keep the target as an output as well.", False)
    width: int = settled(0)
    digests: tuple[str, ...] = settled(())

    def resolve(self, model: Model) -> tuple[AddWordWeights, tuple[str, ...]]:
        """Settle target, mask, ids and weights.

        Raises FolderError (a missing or malformed config), MaskError, NothingToPoolError, NameNotFoundError (no ids),
        RequestError, UnsupportedModelError, WeightsDifferError.
        """
        require_opset(model, self.verb)
        target = token_target(model, self.target, self.ids)
        choice = self._choice(model)
        self._check_weights_name(model)
        words, table = self._table(model, choice)
        digests = (f"{WEIGHTS}={digest(table)}",)
        check_not_repeated(model, self.verb, digests)
        resolved = replace(
            self, weights=recorded_place(model, resolved_path(model, self.weights)), target=target.name, mask=choice.spec,
            ids=choice.ids, output_name=settled_tokens_name(model, self.output_name, target, self.keep_target),
            width=target.width, digests=digests,
        )  # fmt: skip
        notes = [f"weighs {target.name} by {choice.ids} with {len(words.weights)} weights, mask {choice.spec}"]
        if len(table) > len(words.weights):
            notes.append(f"ids from {len(words.weights)} on, which the config has no word for, weigh {words.unknown:g}")
        return resolved, tuple(notes)

    def _check_weights_name(self, model: Model) -> None:
        """RequestError where the weights cannot have their name."""
        try:
            check_free(model, self.token_weights)
        except RequestError as error:
            raise RequestError(error.message, error.advice.replace("--output-name", "--token-weights")) from error
        if self.token_weights == self.output_name:
            raise RequestError(f"{self.output_name!r} is both the output and its weights", "choose another --token-weights")

    def _choice(self, model: Model) -> MaskChoice:
        choice = choose_mask(model, self.mask, self.ids)
        if choice.ids is None:
            listed = ", ".join(value.name for value in model.interface.inputs) or "none"
            raise NameNotFoundError(f"the model has no input of token ids; its inputs are {listed}", "name it with --ids")
        return choice

    def _table(self, model: Model, choice: MaskChoice) -> tuple[WordWeights, np.ndarray]:
        """The config, and its weights with that of unknown words behind them up to the encoder's vocabulary."""
        if not self.weights:
            raise RequestError(f"{self.verb} needs the module's config", "give its folder with --weights PATH")
        words = read_word_weights(resolved_path(model, self.weights))
        vocabulary = tables_of(model, roles_of(model.interface, choice.ids)).vocabulary or 0
        missing = max(vocabulary - len(words.weights), 0)
        table = np.concatenate([words.weights, np.full(missing, words.unknown, dtype=np.float32)])
        if self.digests and self.digests != (f"{WEIGHTS}={digest(table)}",):
            what = f"{words.path}: its weights are not what was recorded for this edit"
            raise WeightsDifferError(what, "use the model folder that it was made from")
        return words, table

    def change(self, draft: Draft, model: Model) -> None:
        target = token_target(model, self.target, self.ids)
        choice = self._choice(model)
        ids = draft.tensor(present(choice.ids, "ids"))
        _, table = self._table(model, choice)
        ops = Operators(draft, "graphsurgery/word_weights")
        put_in_place(
            draft, target.value, self.output_name, ops,
            lambda x: weighted(ops, x, ids, token_mask(ops, choice, x), table, self.token_weights),
            last=self.width, keep=self.keep_target,
        )  # fmt: skip

    def ensure(self, before: Interface, after: Interface) -> None:
        super().ensure(before, after)
        ensure_only(self.verb, before, after, present(self.target, "target"), [self.output_name])
