"""The files beside the ONNX file in a baked folder: tokenizer and configs as they were, and the pooling config for both
generations of readers. If sentence-transformers' ONNX backend can load the folder, its modules as well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from graphsurgery.baking.plan import BakePlan
from graphsurgery.edits.add_pooling import AddPooling
from graphsurgery.folders.files import is_folder, is_there, open_file, resolve_inside
from graphsurgery.folders.modules import MODULES, TRANSFORMER_CONFIGS, Module
from graphsurgery.folders.pooling_config import BOOLEANS, parse_pooling
from graphsurgery.folders.transformer_config import FOLDER_CONFIG
from graphsurgery.folders.weights import NAMES
from graphsurgery.model.sources import FileBytes

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json",
    "merges.txt", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model", "bpe.codes", "chat_template.jinja",
    "whitespacetokenizer_config.json", "phrasetokenizer_config.json",
)  # fmt: skip
CONFIG_FILES = ("config.json", "preprocessor_config.json", *TRANSFORMER_CONFIGS)
FOLDER_FILES = (FOLDER_CONFIG, "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE")
POOLING = "1_Pooling/config.json"
MODULE_FILES = (".json", *NAMES)
"""The ends of the names of a module's files."""


def collect_companion_files(plan: BakePlan) -> dict[str, bytes | FileBytes]:
    """Return everything except the ONNX file, README and certificate, by its place in the baked folder.

    FolderError if one is not a file or leads out of the model's folder.
    """
    files: dict[str, bytes | FileBytes] = {**find_copied_files(plan), **_find_module_files(plan)}
    pooling = next((module for module in plan.modules if module.kind == "Pooling"), None)
    if pooling is not None:
        place = f"{pooling.path.relative_to(plan.folder).as_posix()}/config.json" if MODULES in files else POOLING
        files[place] = to_json(_merge_pooling_configs(pooling, plan.width))
    return files


def find_copied_files(plan: BakePlan) -> dict[str, FileBytes]:
    """Return the files to copy: each from the folder of the tokenizer, else of the first module, else of the model."""
    folders = (plan.tokenization.folder, plan.modules[0].path, plan.folder)
    places = dict.fromkeys((*TOKENIZER_FILES, *CONFIG_FILES), folders) | dict.fromkeys(FOLDER_FILES, (plan.folder,))
    files = {}
    for name, candidates in places.items():
        folder = next((one for one in candidates if _is_wanted(one, name)), None)
        if folder is not None:
            files[name] = open_file(resolve_inside(folder, name, str(folder)))
    return files


def _is_wanted(folder: Path, name: str) -> bool:
    """Return whether ``folder`` has something of that name. A folder named LICENSE does not count as a licence."""
    return is_there(folder / name) and not (name in FOLDER_FILES and is_folder(folder / name))


def _find_module_files(plan: BakePlan) -> dict[str, FileBytes]:
    """Return ``modules.json``, and configs and weights of the modules after the encoder, by their places in the folder.

    Return nothing if sentence-transformers cannot use them: its ONNX backend needs the encoder's own hidden state, which the
    first module after the encoder pools, as an output.
    """
    kinds = tuple(module.kind for module in plan.modules[:2])
    is_kept = any(isinstance(step, AddPooling) and step.hidden_state in step.keep_output for step in plan.steps)
    if kinds != ("Transformer", "Pooling") or plan.modules[0].own_class or not is_kept:
        return {}
    paths = [plan.folder / MODULES]
    for module in plan.modules[1:]:
        if module.path != plan.folder and is_folder(module.path):
            paths += sorted(path for path in module.path.iterdir() if path.name.endswith(MODULE_FILES))
    return {
        path.relative_to(plan.folder).as_posix(): open_file(resolve_inside(path.parent, path.name, str(path.parent)))
        for path in paths
    }


def _merge_pooling_configs(module: Module, width: int | None) -> dict[str, Any]:
    """Return a pooling config for readers of both generations: ``pooling_mode`` and a boolean for each mode.

    ``width`` is the width of the token embeddings, in case the config does not say it.
    """
    config = parse_pooling(module.config, module.path / "config.json")
    modes: str | list[str] = config.modes[0] if len(config.modes) == 1 else list(config.modes)
    dimension = config.dimension if config.dimension is not None else width
    widths = {} if dimension is None else {"word_embedding_dimension": dimension}
    booleans = {key: mode in config.modes for key, mode in BOOLEANS.items()}
    return {**widths, "pooling_mode": modes, **booleans, "include_prompt": config.include_prompt}


def to_json(content: Any) -> bytes:
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    return text.encode(errors="backslashreplace")  # half a surrogate pair, as JSON spells it
