"""add-lstm: a recurrent network over the token embeddings."""

from __future__ import annotations

from dataclasses import dataclass, replace

from graphsurgery.contracts import present
from graphsurgery.edits.edit import PATH, GraphEdit, parameter, require_opset, settled
from graphsurgery.edits.lstm_graph import Direction, Layer, lstm
from graphsurgery.edits.mask_graph import choose_mask, ids_parameter, mask_parameter, token_mask
from graphsurgery.edits.module_weights import ModuleWeights
from graphsurgery.edits.operators import Operators
from graphsurgery.edits.targets import ensure_only, put_in_place
from graphsurgery.edits.token_targets import TOKENS, check_not_repeated, settled_tokens_name, token_target
from graphsurgery.errors import WeightsError
from graphsurgery.folders.module_config import check_setting, module_config
from graphsurgery.interface import Interface
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model

CONFIG = "lstm_config.json"
FORWARD, BACKWARD = "", "_reverse"


def read_layers(weights: ModuleWeights, width: int) -> list[Layer]:
    """The layers ``encoder.weight_ih_l0``, ``..._l1``, ... of torch.nn.LSTM, as many as there are, each of one direction or, as
    the first, of two."""
    suffixes = (FORWARD, BACKWARD) if f"encoder.weight_ih_l0{BACKWARD}" in weights else (FORWARD,)
    layers: list[Layer] = []
    while not layers or f"encoder.weight_ih_l{len(layers)}" in weights:
        width_in = len(suffixes) * layers[0][0].size if layers else width
        layers.append(tuple(_direction(weights, f"l{len(layers)}{suffix}", width_in, layers) for suffix in suffixes))
    return layers


def _direction(weights: ModuleWeights, name: str, width: int, before: list[Layer]) -> Direction:
    rows = 4 * before[0][0].size if before else None
    weight_ih = weights.take(f"encoder.weight_ih_{name}", (rows, width))
    rows = len(weight_ih)
    if rows % 4:
        what = f"{weights.path}: encoder.weight_ih_{name} has {rows} rows, which are no four gates"
        raise WeightsError(what, "give the weights of an LSTM module")
    recurrent = weights.take(f"encoder.weight_hh_{name}", (rows, rows // 4))
    biases = [weights.take(f"encoder.{kind}_{name}", (rows,)) for kind in ("bias_ih", "bias_hh")]
    return Direction(weight_ih, recurrent, *biases)


@dataclass(frozen=True)
class AddLstm(GraphEdit):
    """Run an LSTM over the token embeddings: ``x [batch, seq, in]`` -> ``token_embeddings [batch, seq, directions * H]``.

    At each position, from the state h and the cell c of the one before (0 at first): ``i, f, o = sigmoid(W x + b + R h + d)``,
    ``g = tanh(W x + b + R h + d)``, each with weights of its own; ``c = f c + i g``, ``h = o tanh(c)``, in float32. Layers
    stand on each other; a second direction starts at a row's last token, and its h stand beside the first's. The weights are
    those of a model folder's LSTM module. As sentence-transformers' LSTM module and pack_padded_sequence: a row is as long as
    it has tokens, 1 at least, and starts at position 0, so padding has to be on the right; behind a row's length stand zeros.
    (There the result is cut to the longest row; here it keeps the sequence.)
    """

    weights: str = parameter(
        "The LSTM module's folder, or its model.safetensors or pytorch_model.bin: encoder.weight_ih_l0 [4H, in] and so on, as "
        "torch.nn.LSTM names them.",
        "",
        PATH,
        required=True,
    )
    target: str | None = parameter("The token embeddings.", None, "NAME", otherwise="the hidden state that the graph shows")
    mask: str | None = mask_parameter(
        "The mask, which gives each row's length: an input's name, ones, or pad:ID (as in add-pooling)."
    )
    ids: str | None = ids_parameter()
    output_name: str = parameter("The name of the result.", TOKENS, "NAME")
    keep_target: bool = parameter("Keep the target as an output as well.", False)
    width: int = settled(0)
    digests: tuple[str, ...] = settled(())

    def resolve(self, model: Model) -> tuple[AddLstm, tuple[str, ...]]:
        """Settle target, mask and weights.

        Raises WeightsError (missing, misshapen or unreadable weights), FolderError (a config that says otherwise), MaskError,
        NothingToPoolError, NameNotFoundError, RequestError, UnsupportedModelError, WeightsDifferError.
        """
        require_opset(model, self.verb)
        target = token_target(model, self.target, self.ids)
        choice = choose_mask(model, self.mask, self.ids)
        weights, layers = self._layers(model, target.width)
        check_not_repeated(model, self.verb, weights.digests)
        resolved = replace(
            self, weights=weights.place, target=target.name, mask=choice.spec, ids=choice.ids, width=target.width,
            output_name=settled_tokens_name(model, self.output_name, target, self.keep_target), digests=weights.digests,
        )  # fmt: skip
        directions = "both directions" if len(layers[0]) == 2 else "one direction"
        return resolved, (f"an LSTM of {len(layers)} layer(s) in {directions} over {target.name}, mask {choice.spec}",)

    def _layers(self, model: Model, width: int) -> tuple[ModuleWeights, list[Layer]]:
        weights = ModuleWeights(model, self.weights, self.verb)
        layers = read_layers(weights, width)
        path, config = module_config(weights.path, CONFIG)
        check_setting(config, "hidden_dim", layers[0][0].size, path)
        check_setting(config, "num_layers", len(layers), path)
        check_setting(config, "bidirectional", len(layers[0]) == 2, path)
        weights.check(self.digests)
        return weights, layers

    def change(self, draft: Draft, model: Model) -> None:
        target = token_target(model, self.target, self.ids)
        choice = choose_mask(model, self.mask, self.ids)
        _, layers = self._layers(model, self.width)
        ops = Operators(draft, "graphsurgery/lstm")
        put_in_place(
            draft, target.value, self.output_name, ops, lambda x: lstm(ops, x, token_mask(ops, choice, x), layers),
            last=len(layers[0]) * layers[0][0].size, keep=self.keep_target,
        )  # fmt: skip

    def ensure(self, before: Interface, after: Interface) -> None:
        super().ensure(before, after)
        ensure_only(self.verb, before, after, present(self.target, "target"), [self.output_name])
