"""The files that stand beside the ONNX file in a baked folder: tokenizer and configs as they were, the pooling config for both
generations of readers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from graphsurgery.baking.plan import BakePlan
from graphsurgery.folders.files import inside, is_there, open_file
from graphsurgery.folders.module_kinds import TRANSFORMER_CONFIGS
from graphsurgery.folders.modules import Module
from graphsurgery.folders.pooling_config import BOOLEANS, parse_pooling

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json",
    "merges.txt", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model", "bpe.codes", "chat_template.jinja",
    "whitespacetokenizer_config.json", "phrasetokenizer_config.json",
)  # fmt: skip
CONFIG_FILES = ("config.json", "preprocessor_config.json", *TRANSFORMER_CONFIGS)
FOLDER_FILES = ("config_sentence_transformers.json", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE")
POOLING = "1_Pooling/config.json"


def published_files(plan: BakePlan) -> dict[str, bytes]:
    """Everything but the ONNX file, README and certificate, by its place in the baked folder."""
    found: dict[str, bytes] = {}
    for folder, names in ((plan.tokenizer_folder, (*TOKENIZER_FILES, *CONFIG_FILES)), (plan.folder, FOLDER_FILES)):
        for name in names:
            if is_there(folder / name):
                file = open_file(inside(folder, name, str(folder)))
                found[name] = file.read(0, file.size)
    pooling = next((module for module in plan.modules if module.kind == "Pooling"), None)
    if pooling is not None:
        found[POOLING] = as_json(superset_pooling(pooling))
    return found


def superset_pooling(module: Module) -> dict[str, Any]:
    """A pooling config that readers of both generations take: ``pooling_mode`` and a boolean for each mode."""
    config = parse_pooling(module.config, module.path / "config.json")
    modes: str | list[str] = config.modes[0] if len(config.modes) == 1 else list(config.modes)
    width = {} if config.dimension is None else {"word_embedding_dimension": config.dimension}
    booleans = {key: mode in config.modes for key, mode in BOOLEANS.items()}
    return {**width, "pooling_mode": modes, **booleans, "include_prompt": config.include_prompt}


def as_json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def model_place(baked: Path) -> Path:
    """Where the ONNX file is in a baked folder: where transformers.js, text-embeddings-inference and others look for it."""
    return baked / "onnx" / "model.onnx"
