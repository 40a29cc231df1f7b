"""The files that stand beside the ONNX file in a baked folder: tokenizer and configs as they were, the pooling config for both
generations of readers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from graphsurgery.baking.loadable import module_files
from graphsurgery.baking.plan import BakePlan
from graphsurgery.folders.files import inside, is_folder, is_there, open_file
from graphsurgery.folders.module_kinds import TRANSFORMER_CONFIGS
from graphsurgery.folders.modules import MODULES, Module
from graphsurgery.folders.pooling_config import BOOLEANS, parse_pooling
from graphsurgery.folders.transformer_config import FOLDER_CONFIG
from graphsurgery.model.sources import FileBytes

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json",
    "merges.txt", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model", "bpe.codes", "chat_template.jinja",
    "whitespacetokenizer_config.json", "phrasetokenizer_config.json",
)  # fmt: skip
CONFIG_FILES = ("config.json", "preprocessor_config.json", *TRANSFORMER_CONFIGS)
FOLDER_FILES = (FOLDER_CONFIG, "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE")
POOLING = "1_Pooling/config.json"


def published_files(plan: BakePlan) -> dict[str, bytes | FileBytes]:
    """Everything but the ONNX file, README and certificate, by its place in the baked folder. FolderError for what is no file,
    or leads out of the model's folder."""
    found: dict[str, bytes | FileBytes] = {**copied_files(plan), **module_files(plan)}
    pooling = next((module for module in plan.modules if module.kind == "Pooling"), None)
    if pooling is not None:
        place = f"{pooling.path.relative_to(plan.folder).as_posix()}/config.json" if MODULES in found else POOLING
        found[place] = as_json(superset_pooling(pooling, plan.width))
    return found


def copied_files(plan: BakePlan) -> dict[str, FileBytes]:
    """Those of them that are the model folder's own, from the first place that has them: the tokenizer's folder, that of the
    first module, the model's."""
    folders = (plan.tokens.folder, plan.modules[0].path, plan.folder)
    places = dict.fromkeys((*TOKENIZER_FILES, *CONFIG_FILES), folders) | dict.fromkeys(FOLDER_FILES, (plan.folder,))
    found = {}
    for name, candidates in places.items():
        folder = next((one for one in candidates if _is_wanted(one, name)), None)
        if folder is not None:
            found[name] = open_file(inside(folder, name, str(folder)))
    return found


def _is_wanted(folder: Path, name: str) -> bool:
    """Whether anything is there under that name; a folder of licences is no licence."""
    return is_there(folder / name) and not (name in FOLDER_FILES and is_folder(folder / name))


def superset_pooling(module: Module, width: int | None) -> dict[str, Any]:
    """A pooling config that readers of both generations take: ``pooling_mode`` and a boolean for each mode. ``width``: that of
    the token embeddings, where the config does not say it."""
    config = parse_pooling(module.config, module.path / "config.json")
    modes: str | list[str] = config.modes[0] if len(config.modes) == 1 else list(config.modes)
    dimension = config.dimension if config.dimension is not None else width
    said = {} if dimension is None else {"word_embedding_dimension": dimension}
    booleans = {key: mode in config.modes for key, mode in BOOLEANS.items()}
    return {**said, "pooling_mode": modes, **booleans, "include_prompt": config.include_prompt}


def as_json(content: Any) -> bytes:
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    return text.encode(errors="backslashreplace")  # half a surrogate pair, as JSON spells it


def model_place(baked: Path) -> Path:
    """Where the ONNX file is in a baked folder: where transformers.js, text-embeddings-inference and others look for it."""
    return baked / "onnx" / "model.onnx"
