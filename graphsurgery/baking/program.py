"""The Python program in a baked folder's README: it embeds texts as the folder's own configs say."""

from __future__ import annotations

from graphsurgery.baking.plan import BakePlan
from graphsurgery.model.model import Model
from graphsurgery.snippet import NO_TOKENIZER, Encoding, write_program

TEMPLATE = "make texts with the model's chat template, and tokenise with transformers"


def write_baked_program(plan: BakePlan, model: Model, folder: str = "") -> str:
    """Return a program that starts in the baked folder. ``folder``, with a slash at its end, is put before its paths."""
    tokens, output = plan.tokenization, model.interface.outputs[0].name
    encoding = Encoding(
        f"{folder}tokenizer.json", tokens.side, tokens.pad_id, tokens.pad_token, tokens.longest, tokens.has_own_limit,
        tokens.adds_special, tokens.ends_special, tokens.lower_case, plan.is_cross_encoder, find_default_prompt(plan),
    )  # fmt: skip
    usable = encoding if tokens.has_tokenizer and not tokens.takes_messages else None
    why_made_up = TEMPLATE if tokens.takes_messages else NO_TOKENIZER
    return write_program(model, f"{folder}{plan.file}", output, usable, why_made_up)


def find_default_prompt(plan: BakePlan) -> str:
    """Return the prompt that goes before a text unless another one is chosen."""
    name = plan.config.default_prompt_name
    return plan.config.prompts.get(name, "") if name is not None and not plan.is_cross_encoder else ""
