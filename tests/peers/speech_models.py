"""Tiny speech models of transformers with random weights, and their exports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from installed import HAS_OPTIMUM
from torch import nn

TINY: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 8,
    "conv_dim": (8, 8, 8), "conv_kernel": (10, 3, 2), "conv_stride": (5, 2, 2), "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "num_buckets": 16, "max_bucket_distance": 20,
    "mask_time_prob": 0.0, "mask_feature_prob": 0.0, "layerdrop": 0.0,
}  # fmt: skip
GROUP: dict[str, Any] = {"feat_extract_norm": "group"}
LAYER: dict[str, Any] = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
MODELS = {
    "hubert, group norm": ("hubert", GROUP),
    "hubert, layer norm": ("hubert", LAYER),
    "wav2vec2, group norm": ("wav2vec2", GROUP),
    "wav2vec2, layer norm": ("wav2vec2", LAYER),
    "wavlm, group norm": ("wavlm", GROUP),
    "wavlm, layer norm": ("wavlm", LAYER),
    "unispeech": ("unispeech", GROUP),
    "unispeech-sat": ("unispeech-sat", LAYER),
    "data2vec": ("data2vec-audio", {"conv_pos_kernel_size": 5, "num_conv_pos_embeddings": 3}),
}
"""transformers' model types, and what their configs have besides `TINY`."""


class Encoder(nn.Module):
    """A model as a function of tensors to its last hidden state."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.model(input_values, attention_mask=attention_mask).last_hidden_state


def make_model(name: str) -> Any:
    """The model in eval mode. Weights are large enough for attention to be far from uniform."""
    from transformers import AutoConfig, AutoModel

    kind, more = MODELS[name]
    torch.manual_seed(len(name))
    model = AutoModel.from_config(AutoConfig.for_model(kind, **{**TINY, **more}, attn_implementation="eager"))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape) * (1.5 * parameter[0].numel() ** -0.5))
            else:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.eval()


def export_model(model: Any, path: Path, masked: bool = False) -> Path:
    """Write the encoder by torch's exporter: in TorchScript's form beside Optimum, else in dynamo's.

    ``masked``: with a mask of samples.
    """
    sound, mask = torch.randn(2, 900), torch.ones(2, 900, dtype=torch.long)
    mask[1, 600:] = 0
    inputs = {"input_values": sound} | ({"attention_mask": mask} if masked else {})
    names = {"input_names": list(inputs), "output_names": ["last_hidden_state"]}
    if HAS_OPTIMUM:
        dims = {name: {0: "batch", 1: "samples"} for name in inputs} | {"last_hidden_state": {0: "batch", 1: "frames"}}
        torch.onnx.export(
            Encoder(model).eval(), tuple(inputs.values()), str(path), dynamo=False, opset_version=14, dynamic_axes=dims, **names
        )
    else:
        dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("samples", min=100)}
        torch.onnx.export(
            Encoder(model).eval(), tuple(inputs.values()), str(path), dynamo=True, external_data=False, verbose=False,
            dynamic_shapes=tuple(dims for _ in inputs), **names,
        )  # fmt: skip
    return path
