"""A Python program that embeds texts with a baked file. It needs ONNX Runtime and the tokenizers package, nothing else."""

from __future__ import annotations

from graphsurgery.baking.plan import BakePlan
from graphsurgery.edits.pooling_request import PROMPT_LENGTH
from graphsurgery.encoder.roles import Roles, find_roles
from graphsurgery.interface import Interface, Value
from graphsurgery.model.dtypes import to_numpy_dtype

TEXTS, PAIRS = '["How are you?", "It is cold today."]', '[("How are you?", "Fine."), ("How are you?", "It is cold today.")]'
ARRAYS = {"ids": "ids", "mask": "attention_mask", "types": "type_ids"}
"""Arrays [batch, sequence] of tokenised texts: the program's names, and the tokenizers package's names for their rows."""
MADE_UP = 3
"""Tokens of a made-up text, if there is no tokenizer."""
PROMPT_TOKENS = "np.array([prompt_tokens])"


def write_program(plan: BakePlan, interface: Interface, folder: str = "") -> str:
    """Return a program that starts in the baked folder. ``folder``, with a slash at its end, is put before its paths."""
    roles, output = find_roles(interface), interface.outputs[0].name
    has_tokenizer = plan.tokenization.has_tokenizer and not plan.tokenization.takes_messages and roles.ids is not None
    prompt = interface.input(PROMPT_LENGTH)
    sources = {
        role.name: source
        for role, source in (
            (roles.ids, "ids"), (roles.mask, "mask"), (roles.types, "types"),
            (roles.positions, "np.maximum(np.cumsum(mask, axis=1) - 1, 0)"), (prompt if has_tokenizer else None, PROMPT_TOKENS),
        )
        if role is not None
    }  # fmt: skip
    used = {name for value in interface.inputs for name in ARRAYS if name in sources.get(value.name, "")} | {"ids"}
    encode = _write_encoding(plan, folder, used, counts_prompt=prompt is not None) if has_tokenizer else _make_up_ids(plan)
    feeds = [f'    "{value.name}": {_write_array(value, sources.get(value.name), roles)},' for value in interface.inputs]
    return "\n".join([
        "import numpy as np, onnxruntime",
        *encode,
        f'session = onnxruntime.InferenceSession("{folder}onnx/model.onnx")',
        f'{_choose_variable(output)} = session.run(["{output}"], {{',
        *feeds,
        "})[0]",
        f"print({_choose_variable(output)}.shape)",
    ])  # fmt: skip


def find_default_prompt(plan: BakePlan) -> str:
    """Return the prompt that goes before a text unless another one is chosen."""
    name = plan.config.default_prompt_name
    return plan.config.prompts.get(name, "") if name is not None and not plan.is_cross_encoder else ""


def _write_encoding(plan: BakePlan, folder: str, used: set[str], *, counts_prompt: bool) -> list[str]:
    """Return the lines that make the ``used`` ones of `ARRAYS`, and count the prompt's tokens if needed."""
    tokens, prompt = plan.tokenization, find_default_prompt(plan)
    special = "" if tokens.adds_special else ", add_special_tokens=False"
    closing = " - 1" if tokens.ends_special else ""
    lines = [
        "from tokenizers import Tokenizer", "",
        f"texts = {PAIRS if plan.is_cross_encoder else TEXTS}",
        *([f"prompt = {prompt!r}"] if prompt or counts_prompt else []),
        f'tokenizer = Tokenizer.from_file("{folder}tokenizer.json")',
        *_write_truncation(plan),
        *([f"prompt_tokens = len(tokenizer.encode(prompt).ids){closing} if prompt else 0"] if counts_prompt else []),
        f'tokenizer.enable_padding(direction="{tokens.side}", pad_id={tokens.pad_id}, pad_token={tokens.pad_token!r})',
        f"encoded = tokenizer.encode_batch({_write_batch(plan)}{special})",
    ]  # fmt: skip
    arrays = ((name, attribute) for name, attribute in ARRAYS.items() if name in used)
    return lines + [f"{name} = np.array([one.{attribute} for one in encoded])" for name, attribute in arrays]


def _write_batch(plan: BakePlan) -> str:
    """Return the expression for the texts to tokenise."""
    if plan.is_cross_encoder:
        return "[(one.lower(), other.lower()) for one, other in texts]" if plan.tokenization.lower_case else "texts"
    text = "prompt + text" if find_default_prompt(plan) else "text"
    text = f"({text}).lower()" if plan.tokenization.lower_case else text
    return "texts" if text == "text" else f"[{text} for text in texts]"


def _write_truncation(plan: BakePlan) -> list[str]:
    if plan.tokenization.has_own_limit:
        return []
    longest = plan.tokenization.longest
    return ["tokenizer.no_truncation()"] if longest is None else [f"tokenizer.enable_truncation({longest})"]


def _make_up_ids(plan: BakePlan) -> list[str]:
    why = "this folder has no tokenizer.json, so tokenise with the model's own tokenizer"
    if plan.tokenization.takes_messages:
        why = "make texts with the model's chat template, and tokenise with transformers"
    return [
        "", f"# made-up tokens: {why}",
        f"ids = np.arange({MADE_UP})[None, :]", "mask, types = np.ones_like(ids), np.zeros_like(ids)",
    ]  # fmt: skip


def _write_array(value: Value, source: str | None, roles: Roles) -> str:
    """Return the expression for the array of one input."""
    kind = to_numpy_dtype(value.dtype or 7).name
    if source is not None:
        return f"{source}.astype(np.{kind})"
    return f"np.zeros({_write_shape(value, roles)}, np.{kind})"


def _write_shape(value: Value, roles: Roles) -> str:
    """Return the shape of an input of unknown role. Dims that it shares with the ids have the sizes of the ids."""
    leading = roles.ids.dims if roles.ids is not None and roles.ids.dims is not None else ()
    sizes = {dim: f"ids.shape[{place}]" for place, dim in enumerate(leading) if isinstance(dim, str)}
    unnamed = "0" if "past" in value.name else "1"
    return f"[{', '.join(str(dim) if isinstance(dim, int) else sizes.get(dim or '', unnamed) for dim in value.dims or ())}]"


def _choose_variable(name: str) -> str:
    return name if name.isidentifier() else "embedding"
