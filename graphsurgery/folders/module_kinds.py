"""The modules that model folders are made of: which class paths mean which kind, and where each kind's config is.

sentence-transformers moved its classes twice: ``sentence_transformers.models.Pooling`` (up to 5.3, and
``sentence_transformers.sparse_encoder.models.SpladePooling``) became
``sentence_transformers.sentence_transformer.modules.pooling.Pooling`` and ``sentence_transformers.base.modules.dense.Dense``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

TRANSFORMER_CONFIGS = tuple(
    f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Where the Transformer module's own settings are, in the order in which they are looked for."""
DIMENSION = MappingProxyType({"word_embedding_dimension": "embedding_dimension"})


@dataclass(frozen=True)
class Kind:
    """How one kind of module is stored."""

    configs: tuple[str, ...] = ("config.json",)
    """Names of its config, the first that is there is the one."""
    needs_config: bool = True
    needs_folder: bool = True
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Older names of keys, and what they are called since."""
    has_vocabulary: bool = False
    """Whether its config holds a vocabulary and may be large."""


_TRANSFORMER = Kind(
    TRANSFORMER_CONFIGS,
    needs_config=False,
    renamed={"model_args": "model_kwargs", "tokenizer_args": "processor_kwargs", "config_args": "config_kwargs"},
)
KINDS = {
    "Transformer": _TRANSFORMER,
    "CLIPModel": _TRANSFORMER,
    "Pooling": Kind(renamed=DIMENSION),
    "Dense": Kind(),
    "Normalize": Kind((), needs_config=False, needs_folder=False),
    "LayerNorm": Kind(),
    "Dropout": Kind(needs_config=False, needs_folder=False),
    "WeightedLayerPooling": Kind(renamed=DIMENSION),
    "WordWeights": Kind(has_vocabulary=True),
    "WordEmbeddings": Kind(("wordembedding_config.json",)),
    "CNN": Kind(("cnn_config.json",), renamed={"in_word_embedding_dimension": "in_embedding_dimension"}),
    "LSTM": Kind(("lstm_config.json",), renamed=DIMENSION),
    "BoW": Kind(has_vocabulary=True),
    "StaticEmbedding": Kind((), needs_config=False),
    "SpladePooling": Kind(renamed=DIMENSION),
    "SparseStaticEmbedding": Kind(needs_config=False),
    "SparseAutoEncoder": Kind(),
    "LogitScore": Kind(),
    "Router": Kind(("router_config.json", "config.json")),
}
"""Every kind of sentence-transformers 5.7. Normalize computes from nothing, and Dropout does nothing after training, so that
their folders, which downloads leave out when they are empty, may be missing."""
UNLESS_SAID: dict[str, dict[str, Any]] = {
    "MLMTransformer": {"transformer_task": "fill-mask"},
    "CLIPModel": {
        "module_output_name": "sentence_embedding",
        "modality_config": {"text": {"method": "get_text_features", "method_output_name": None}},
    },
}
ALWAYS: dict[str, dict[str, Any]] = {
    "pylate Dense": {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"},
}
"""What a class means beyond its kind: where its config does not say otherwise, and whatever its config says."""
OTHER_NAMES = {"Asym": "Router", "MLMTransformer": "Transformer", "pylate Dense": "Dense"}
SENTENCE_TRANSFORMERS = re.compile(
    r"sentence_transformers\.(?:(?:base|sentence_transformer|sparse_encoder|cross_encoder)\.)?(?:models|modules)\.(?:\w+\.)?(\w+)"
)
PYLATE = re.compile(r"pylate\.models\.(?:Dense\.)?Dense")


def class_of(type_name: str) -> str | None:
    """The class that a ``type`` in a modules.json means, as `KINDS` and `OTHER_NAMES` name it, or None."""
    if PYLATE.fullmatch(type_name):
        return "pylate Dense"
    found = SENTENCE_TRANSFORMERS.fullmatch(type_name)
    name = found.group(1) if found else None
    return name if name in KINDS or name in OTHER_NAMES else None


def kind_of(class_name: str) -> str:
    """The kind that stands for a class of `class_of`."""
    return OTHER_NAMES.get(class_name, class_name)
