"""The facts about a model that a recipe states, held against the model's graph and folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from graphsurgery.encoder.architecture import find_family
from graphsurgery.encoder.blocks import find_blocks
from graphsurgery.errors import GraphSurgeryError, RecipeError
from graphsurgery.folders.files import find_model_folder, list_model_folders, read_json
from graphsurgery.folders.transformer_config import FOLDER_CONFIG, read_encoder_config, read_folder_config
from graphsurgery.model.model import Model
from graphsurgery.recipe import Recipe
from graphsurgery.remarks import Warn

TOKENIZER_CONFIG = "tokenizer_config.json"
FAMILIES = {
    "bert": ("BERT", "DistilBERT", "ELECTRA"),
    "distilbert": ("DistilBERT", "BERT"),
    "electra": ("ELECTRA", "BERT"),
    "albert": ("ALBERT",),
    "roberta": ("RoBERTa", "BERT", "DistilBERT"),
    "xlm_roberta": ("RoBERTa", "BERT", "DistilBERT"),
    "mpnet": ("MPNet",),
    "deberta": ("DeBERTa",),
    "deberta_v2": ("DeBERTa",),
    "t5": ("T5",),
    "modernbert": ("ModernBERT",),
    "nomic_bert": ("a rotary encoder", "ModernBERT"),
    "gemma3_text": ("a rotary encoder", "ModernBERT", "Qwen3", "Llama"),
    "qwen3": ("Qwen3",),
    "qwen2": ("Llama",),
}
"""For each of transformers' model_types, the structures (`find_family`) that the graph of such an encoder may show. Exports
fold token types and positions into constants, so several structures are possible. Other architectures are not held against the
graph."""


def check_facts(recipe: Recipe, model: Model, *, force: bool) -> tuple[str, ...]:
    """Return warnings about facts of ``recipe`` that contradict the graph of ``model`` or its folder.

    Raises RecipeError if there are any, unless ``force`` is set.
    """
    mismatches = (
        *_check_architecture(recipe, model),
        *_check_padding_side(recipe, model.place),
        *_check_prompts(recipe, model.place),
    )
    if not mismatches or force:
        return tuple(Warn(f"the recipe is for another model: {one}") for one in mismatches)
    name = f"the recipe {recipe.name!r}" if recipe.name else "the recipe"
    raise RecipeError(
        f"{name} is for another model: {'; '.join(mismatches)}",
        "run the recipe of this model (`graphsurgery recipe list` shows them), or add --force-recipe to run this one "
        "nevertheless",
    )


def _check_architecture(recipe: Recipe, model: Model) -> Iterator[str]:
    """Yield a mismatch of the architecture with config.json, or with the graph if there is no config.json."""
    if not recipe.architecture:
        return
    wanted = _normalize(recipe.architecture)
    for folder in list_model_folders(model.place):
        config = read_encoder_config(folder)
        if config is None or config.model_type is None:
            continue
        inner = config.raw.get("text_config")
        inner_type = inner.get("model_type") if isinstance(inner, dict) else None
        if wanted not in map(_normalize, (config.model_type, str(inner_type))):
            yield f"it states the architecture {recipe.architecture}, and {folder / 'config.json'} says {config.model_type}"
        return
    expected = FAMILIES.get(wanted)
    found = _find_family(model) if expected is not None else None
    if expected is not None and found is not None and found not in expected:
        yield f"it states the architecture {recipe.architecture}, and the graph has the structure of {found}"


def _normalize(name: str) -> str:
    return name.lower().replace("-", "_")


def _find_family(model: Model) -> str | None:
    """Return the structure of the graph, or None if no attention is recognised."""
    try:
        blocks = find_blocks(model)
        return find_family(blocks) if blocks.attentions else None
    except GraphSurgeryError:
        return None


def _check_padding_side(recipe: Recipe, place: Path | None) -> Iterator[str]:
    folder = find_model_folder(place, TOKENIZER_CONFIG)
    if recipe.padding_side is None or folder is None:
        return
    path = folder / TOKENIZER_CONFIG
    side = read_json(path).get("padding_side", "right")
    if isinstance(side, str) and side != recipe.padding_side:
        yield f"it needs padding on the {recipe.padding_side}, and {path} pads on the {side}"


def _check_prompts(recipe: Recipe, place: Path | None) -> Iterator[str]:
    """Yield the prompts whose text is another one in the folder. Empty prompts of a folder are not stated."""
    folder = find_model_folder(place, FOLDER_CONFIG)
    stated = read_folder_config(folder).prompts if folder is not None else {}
    for name, text in recipe.prompts.items():
        if stated.get(name) and stated[name] != text:
            yield f"its prompt {name} is {text!r}, and {FOLDER_CONFIG} has {stated[name]!r}"
