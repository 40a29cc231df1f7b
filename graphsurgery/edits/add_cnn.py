"""add-cnn: convolutions over the token embeddings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from graphsurgery.deferred import gs
from graphsurgery.edits.draft_operators import Operators
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
from graphsurgery.errors import FolderError, WeightsError
from graphsurgery.folders.module_configs import check_setting, read_module_config
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model

CONFIG = "cnn_config.json"
Kernel = tuple[np.ndarray, np.ndarray]
"""weight ``[out, in, size]`` and bias ``[out]``"""


def convolve(ops: Operators, x: gs.Tensor, kernels: list[Kernel]) -> gs.Variable:
    """Build ``x [batch, seq, in]`` -> ``[batch, seq, sum of out]``. Each kernel moves over the positions, which are padded with
    (size - 1) / 2 zeros at either end."""
    channels = ops.node("Transpose", x, name="channels", perm=[0, 2, 1])
    parts = []
    for weight, bias in kernels:
        w, b = ops.constant(weight, np.float32, "weight"), ops.constant(bias, np.float32, "bias")
        size, zeros = weight.shape[2], weight.shape[2] // 2
        parts.append(ops.node("Conv", channels, w, b, name="conv", kernel_shape=[size], pads=[zeros, zeros]))
    joined = ops.node("Concat", *parts, name="concatenated", axis=1) if len(parts) > 1 else parts[0]
    return ops.node("Transpose", joined, name="tokens", perm=[0, 2, 1])


@dataclass(frozen=True)
class Convolutions:
    """Kernels, and the token embeddings that they convolve."""

    target: TokenTarget
    kernels: list[Kernel]


@dataclass(frozen=True)
class AddCnn(OutputEdit[Convolutions]):
    """Convolve the token embeddings: ``x [batch, seq, in]`` -> ``token_embeddings [batch, seq, sum of out]`` float32.

    Each kernel gives ``y[t] = b + sum over j of W[:, :, j] x[t + j - (size - 1) / 2]``, where x is 0 before the first position
    and after the last. The results of the kernels are concatenated. W ``[out, in, size]`` and b ``[out]`` are
    ``convs.<i>.weight`` and ``convs.<i>.bias`` of a model folder's CNN module. The result equals that of sentence-transformers'
    CNN module, which also convolves over the values at padded positions, so a token near padding depends on them. Kernels of
    even size are refused because they shorten the sequence.
    """

    weights: str = parameter(
        "The CNN module's folder, or its model.safetensors or pytorch_model.bin: convs.<i>.weight [out, in, size] and "
        "convs.<i>.bias [out].",
        "",
        PATH,
        required=True,
    )
    target: str | None = tokens_parameter()
    output_name: str = output_name_parameter(TOKENS)
    keep_target: bool = keep_target_parameter()
    width: int = resolved_parameter(0)
    digests: tuple[str, ...] = resolved_parameter(())

    def resolve(self, model: Model) -> Resolved[Self, Convolutions]:
        """Find target and weights.

        Raises WeightsError (missing, misshapen or unreadable weights, kernels of even size), FolderError (a contradicting
        config), NothingToPoolError, NameNotFoundError, RequestError, UnsupportedModelError, WeightsDifferError.
        """
        require_opset(model, self.verb)
        target = find_tokens(model, self.target)
        weights = ModuleWeights(model, self.weights, self.verb)
        kernels = self._take_kernels(weights, target.width)
        check_not_repeated(model, self.verb, weights.digests)
        edit = replace(
            self, weights=weights.place, target=target.name, width=target.width, digests=weights.digests,
            output_name=choose_name(model, self.output_name, target.name, self.keep_target),
        )  # fmt: skip
        sizes = ", ".join(str(weight.shape[2]) for weight, _ in kernels)
        note = f"convolves {target.name} with kernels of {sizes} positions, padded positions included"
        return Resolved(edit, Convolutions(target, kernels), (note,))

    def _take_kernels(self, weights: ModuleWeights, width: int) -> list[Kernel]:
        """Take all kernels ``convs.0``, ``convs.1``, ...; there has to be at least one."""
        kernels: list[Kernel] = []
        while not kernels or f"convs.{len(kernels)}.weight" in weights:
            name = f"convs.{len(kernels)}"
            weight = weights.take(f"{name}.weight", (None, width, None))
            kernels.append((weight, weights.take(f"{name}.bias", (len(weight),))))
        for weight, _ in kernels:
            if weight.shape[2] % 2 == 0:
                what = f"{weights.path}: a kernel of {weight.shape[2]} positions makes the sequence one position shorter"
                raise WeightsError(f"{what}, and the mask would no longer fit it", "only kernels of odd size can be added")
        self._check_config(weights, kernels)
        weights.check(self.digests)
        return kernels

    def _check_config(self, weights: ModuleWeights, kernels: list[Kernel]) -> None:
        path, config = read_module_config(weights.path, CONFIG)
        check_setting(config, "kernel_sizes", [weight.shape[2] for weight, _ in kernels], path)
        check_setting(config, "out_channels", len(kernels[0][0]), path)
        strides = (config or {}).get("stride_sizes")
        if strides not in (None, [1] * len(kernels)):
            what = f"{path} says that kernels move by more than one position, which makes the sequence shorter"
            raise FolderError(
                f"{what}, and the mask would no longer fit it", "only kernels that move by one position can be added"
            )

    def change(self, draft: Draft, found: Convolutions) -> None:
        ops = Operators(draft, "graphsurgery/cnn")
        build_output(
            draft, found.target.value, self.output_name, ops, lambda x: convolve(ops, x, found.kernels),
            last=sum(len(weight) for weight, _ in found.kernels), keep=self.keep_target,
        )  # fmt: skip
