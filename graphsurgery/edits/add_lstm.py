"""add-lstm: a recurrent network over the token embeddings.

torch's gates are i, f, g, o and ONNX's are i, o, f, c, H rows each; ONNX's c is torch's g. torch has a tensor for every layer
and direction, ONNX has one for all directions of a layer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from graphsurgery.deferred import gs
from graphsurgery.edits.draft_operators import FLOAT, INT32, Operators
from graphsurgery.edits.edit import PATH, Resolved, parameter, require_opset, resolved_parameter
from graphsurgery.edits.module_weights import ModuleWeights
from graphsurgery.edits.outputs import (
    TOKENS,
    OutputEdit,
    TokenTarget,
    build_output,
    check_not_repeated,
    choose_name,
    find_tokens,
    keep_target_parameter,
    output_name_parameter,
    tokens_parameter,
)
from graphsurgery.edits.token_mask import Mask, build_mask, find_mask, ids_parameter, mask_parameter
from graphsurgery.errors import WeightsError
from graphsurgery.folders.module_configs import check_setting, read_module_config
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model

CONFIG = "lstm_config.json"
FORWARD, BACKWARD = "", "_reverse"
GATES = (0, 3, 1, 2)
"""The index of each of ONNX's gates i, o, f, c among torch's."""


@dataclass(frozen=True)
class Direction:
    """One direction of one layer: ``weight_ih [4H, in]``, ``weight_hh [4H, H]``, ``bias_ih [4H]``, ``bias_hh [4H]``."""

    weight_ih: np.ndarray
    weight_hh: np.ndarray
    bias_ih: np.ndarray
    bias_hh: np.ndarray

    @property
    def size(self) -> int:
        """H, the width of its states."""
        return int(self.weight_hh.shape[1])


Layer = tuple[Direction, ...]
"""Forward, or forward and backward."""


def lstm(ops: Operators, x: gs.Tensor, m: gs.Tensor, layers: list[Layer]) -> gs.Variable:
    """Build ``x [batch, seq, in]``, ``m [batch, seq]`` bool -> ``[batch, seq, directions * H]``: the last layer's states at
    the first max(sum m, 1) positions of a row, and zeros after them."""
    lengths = _count_tokens(ops, m)
    counts = ops.cast(ops.squeeze(lengths, 1, "lengths_1d"), INT32, "counts")
    states: gs.Tensor = ops.node("Transpose", x, name="by_position", perm=[1, 0, 2])
    for layer in layers:
        states = _layer(ops.within("layer"), states, counts, layer)
    y = ops.node("Transpose", states, name="by_row", perm=[1, 0, 2])
    behind = ops.unsqueeze(ops.node("Greater", ops.positions(m, np.float32), lengths, name="behind"), 2, "behind_3d")
    return ops.node("Where", behind, ops.constant(0.0, np.float32, "zero"), y, name="tokens")


def _layer(ops: Operators, x: gs.Tensor, counts: gs.Tensor, layer: Layer) -> gs.Variable:
    """Build ``x [seq, batch, in]`` -> ``[seq, batch, directions * H]``."""
    w = np.stack([_reorder_gates(one.weight_ih) for one in layer])
    r = np.stack([_reorder_gates(one.weight_hh) for one in layer])
    b = np.stack([np.concatenate([_reorder_gates(one.bias_ih), _reorder_gates(one.bias_hh)]) for one in layer])
    named = [ops.constant(tensor, np.float32, name) for tensor, name in ((w, "weights"), (r, "recurrence"), (b, "biases"))]
    direction = "bidirectional" if len(layer) == 2 else "forward"
    y = ops.node("LSTM", x, *named, counts, name="lstm", hidden_size=layer[0].size, direction=direction)
    if len(layer) == 1:
        return ops.squeeze(y, 1, "states")
    together = ops.node("Transpose", y, name="together", perm=[0, 2, 1, 3])
    dims = ops.constant([0, 0, len(layer) * layer[0].size], np.int64, "dims")
    return ops.node("Reshape", together, dims, name="states")


def _reorder_gates(tensor: np.ndarray) -> np.ndarray:
    """Return a tensor ``[4H, ...]`` with torch's gates in ONNX's order."""
    gates = np.split(tensor, 4)
    return np.concatenate([gates[place] for place in GATES])


def _count_tokens(ops: Operators, m: gs.Tensor) -> gs.Variable:
    """Build max(sum m, 1): ``[batch, 1]`` float32."""
    count = ops.reduce_sum(ops.cast(m, FLOAT, "mask_float"), 1, "count", keepdims=True)
    return ops.node("Max", count, ops.constant(1.0, np.float32, "least"), name="lengths")


def take_layers(weights: ModuleWeights, width: int) -> list[Layer]:
    """Take all layers ``encoder.weight_ih_l0``, ``..._l1``, ... of torch.nn.LSTM. The first one tells whether they have one
    direction or two."""
    suffixes = (FORWARD, BACKWARD) if f"encoder.weight_ih_l0{BACKWARD}" in weights else (FORWARD,)
    layers: list[Layer] = []
    while not layers or f"encoder.weight_ih_l{len(layers)}" in weights:
        width_in = len(suffixes) * layers[0][0].size if layers else width
        layers.append(tuple(_take_direction(weights, f"l{len(layers)}{suffix}", width_in, layers) for suffix in suffixes))
    return layers


def _take_direction(weights: ModuleWeights, name: str, width: int, before: list[Layer]) -> Direction:
    rows = 4 * before[0][0].size if before else None
    weight_ih = weights.take(f"encoder.weight_ih_{name}", (rows, width))
    rows = len(weight_ih)
    if rows % 4:
        what = f"{weights.path}: encoder.weight_ih_{name} has {rows} rows, which cannot be four gates"
        raise WeightsError(what, "give the weights of an LSTM module")
    recurrent = weights.take(f"encoder.weight_hh_{name}", (rows, rows // 4))
    biases = [weights.take(f"encoder.{kind}_{name}", (rows,)) for kind in ("bias_ih", "bias_hh")]
    return Direction(weight_ih, recurrent, *biases)


@dataclass(frozen=True)
class Recurrence:
    """The layers of an LSTM, the token embeddings that it runs over, and their mask."""

    target: TokenTarget
    mask: Mask
    layers: list[Layer]


@dataclass(frozen=True)
class AddLstm(OutputEdit[Recurrence]):
    """Run an LSTM over the token embeddings: ``x [batch, seq, in]`` -> ``token_embeddings [batch, seq, directions * H]``.

    Each position computes, from the state h and the cell c of the previous one (0 at first):
    ``i, f, o = sigmoid(W x + b + R h + d)`` and ``g = tanh(W x + b + R h + d)``, each with its own weights; then
    ``c = f c + i g`` and ``h = o tanh(c)``, in float32. Each layer reads the one below. A second direction starts at a row's
    last token, and its h are concatenated to those of the first. The weights are those of a model folder's LSTM module. The
    result equals that of sentence-transformers' LSTM module with pack_padded_sequence: a row is as long as it has tokens, at
    least 1, and starts at position 0, so padding has to be on the right. Zeros follow after a row's length.
    (sentence-transformers cuts the result to the longest row; this edit does not.)
    """

    weights: str = parameter(
        "The LSTM module's folder, or its model.safetensors or pytorch_model.bin: encoder.weight_ih_l0 [4H, in] and so on, as "
        "torch.nn.LSTM names them.",
        "",
        PATH,
        required=True,
    )
    target: str | None = tokens_parameter()
    mask: str | None = mask_parameter(
        "The mask, which gives each row's length: an input's name, not:NAME, additive:NAME, lengths:NAME, ones, or pad:ID (as "
        "in add-pooling)."
    )
    ids: str | None = ids_parameter()
    output_name: str = output_name_parameter(TOKENS)
    keep_target: bool = keep_target_parameter()
    width: int = resolved_parameter(0)
    digests: tuple[str, ...] = resolved_parameter(())

    def resolve(self, model: Model) -> Resolved[Self, Recurrence]:
        """Find target, mask and weights.

        Raises WeightsError (missing, misshapen or unreadable weights), FolderError (a contradicting config), MaskError,
        NothingToPoolError, NameNotFoundError, RequestError, UnsupportedModelError, WeightsDifferError.
        """
        require_opset(model, self.verb)
        target = find_tokens(model, self.target, self.ids)
        mask = find_mask(model, self.mask, self.ids, target.name)
        weights = ModuleWeights(model, self.weights, self.verb)
        layers = self._take_layers(weights, target.width)
        check_not_repeated(model, self.verb, weights.digests)
        edit = replace(
            self, weights=weights.place, target=target.name, mask=str(mask.spec), ids=mask.ids, width=target.width,
            output_name=choose_name(model, self.output_name, target.name, self.keep_target), digests=weights.digests,
        )  # fmt: skip
        directions = "both directions" if len(layers[0]) == 2 else "one direction"
        note = f"an LSTM of {len(layers)} layer(s) in {directions} over {target.name}, mask {mask.spec}"
        return Resolved(edit, Recurrence(target, mask, layers), (note, *mask.warnings))

    def _take_layers(self, weights: ModuleWeights, width: int) -> list[Layer]:
        layers = take_layers(weights, width)
        path, config = read_module_config(weights.path, CONFIG)
        check_setting(config, "hidden_dim", layers[0][0].size, path)
        check_setting(config, "num_layers", len(layers), path)
        check_setting(config, "bidirectional", len(layers[0]) == 2, path)
        weights.check(self.digests)
        return layers

    def change(self, draft: Draft, found: Recurrence) -> None:
        ops, layers = Operators(draft, "graphsurgery/lstm"), found.layers
        build_output(
            draft, found.target.value, self.output_name, ops, lambda x: lstm(ops, x, build_mask(ops, found.mask, x), layers),
            last=len(layers[0]) * layers[0][0].size, keep=self.keep_target,
        )  # fmt: skip
