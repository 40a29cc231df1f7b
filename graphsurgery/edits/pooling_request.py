"""What is asked of pooling, held against the folder's own config: modes, and whether the prompt's tokens are pooled."""

from __future__ import annotations

from pathlib import Path

import onnx

from graphsurgery.edits.pooling_graph import MODES
from graphsurgery.errors import RequestError
from graphsurgery.folders.pooling_config import PoolingConfig, find_pooling_config
from graphsurgery.interface import Value
from graphsurgery.model.model import Model
from graphsurgery.model.namer import Namer

AUTO, INPUT = "auto", "input"
PROMPT_LENGTH = "prompt_length"
"""The input that says how many positions a prompt takes."""
PROMPT_VALUE = Value(PROMPT_LENGTH, onnx.TensorProto.INT64, (1,))
MOST_DIGITS = 9
HOW_LONG = (
    "its length is what sentence-transformers calls prompt_length: the tokens of the prompt alone, special tokens before it "
    "counted and the one behind it not"
)


def settled_prompt(model: Model, asked: str | None) -> str | None:
    """``input`` or a number in plain digits. RequestError for anything else, and where the input's name is taken."""
    if asked is None:
        return None
    text = str(asked).strip()
    if text == INPUT:
        if Namer.of(model.proto).has(PROMPT_LENGTH):
            raise RequestError(f"the name {PROMPT_LENGTH!r} is taken in this graph", "give the prompt's length as a number")
        return INPUT
    if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS):
        raise RequestError(f"{asked!r} is no number of positions", f"give one such as --skip-prompt 5 ({HOW_LONG}), or input")
    return str(int(text))


def settled_modes(asked: tuple[str, ...], model: Path | None, prompt: str | None) -> tuple[tuple[str, ...], list[str]]:
    """(the modes asked for, or those of the folder's config for ``auto``; warnings where the two contradict)."""
    if asked == (AUTO,):
        config = find_pooling_config(model) if model is not None else None
        if config is None:
            raise RequestError(
                "there is no 1_Pooling/config.json beside or above the model to read the pooling mode from",
                "give the mode that the model was trained with: --mode mean or cls for most encoders, lasttoken for decoders",
            )
        if not config.include_prompt and prompt is None:
            raise RequestError(
                f"{config.path} says include_prompt: false: a prompt's tokens are not to be pooled, and not how many there are",
                f"give --skip-prompt N ({HOW_LONG}; 0 for texts without a prompt), or input to say it at every run",
            )
        return config.modes, _about_prompt(config, prompt)
    for mode in asked:
        if mode not in MODES:
            raise RequestError(f"there is no pooling mode {mode!r}", f"choose from {', '.join(MODES)}, or auto")
    return asked, _contradictions(asked, model, prompt)


def _contradictions(asked: tuple[str, ...], model: Path | None, prompt: str | None) -> list[str]:
    try:
        config = find_pooling_config(model) if model is not None else None
    except RequestError as error:
        return [f"warning: {error}"]
    if config is None:
        return []
    found = _about_prompt(config, prompt)
    if asked != config.modes:
        says = ",".join(config.modes)
        found.append(f"warning: {config.path} says {says}, and {','.join(asked)} was asked for: vectors will differ")
    return found


def _about_prompt(config: PoolingConfig, prompt: str | None) -> list[str]:
    if not config.include_prompt and prompt is None:
        return [
            f"warning: {config.path} says include_prompt: false, and the prompt's tokens are pooled here: vectors will differ; "
            "leave them out with --skip-prompt"
        ]
    if config.include_prompt and prompt is not None:
        return [f"warning: {config.path} says that a prompt's tokens are pooled, and here they are not: vectors will differ"]
    return []
