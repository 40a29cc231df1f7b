"""Python that embeds texts with a baked file: ONNX Runtime and the tokenizers package, nothing else."""

from __future__ import annotations

from graphsurgery.baking.plan import BakePlan
from graphsurgery.edits.pooling_request import PROMPT_LENGTH
from graphsurgery.encoder.roles import Roles, find_roles
from graphsurgery.interface import Interface, Value
from graphsurgery.model.dtypes import numpy_dtype

TEXTS, PAIRS = '["How are you?", "It is cold today."]', '[("How are you?", "Fine."), ("How are you?", "It is cold today.")]'
ARRAYS = {"ids": "ids", "mask": "attention_mask", "types": "type_ids"}
"""What the program calls the arrays [batch, sequence] of tokenised texts, and what the tokenizers package calls their rows."""
MADE_UP = 3
"""Tokens of a text where there is no tokenizer."""
PROMPT_TOKENS = "np.array([prompt_tokens])"


def program(plan: BakePlan, interface: Interface, folder: str = "") -> str:
    """The program, which starts in the baked folder; ``folder``, with a slash at its end, is put before its paths."""
    roles, output = find_roles(interface), interface.outputs[0].name
    encoded, left_out = plan.tokens.has_tokenizer and roles.ids is not None, interface.input(PROMPT_LENGTH)
    sources = {
        role.name: source
        for role, source in (
            (roles.ids, "ids"), (roles.mask, "mask"), (roles.types, "types"),
            (roles.positions, "np.maximum(np.cumsum(mask, axis=1) - 1, 0)"), (left_out if encoded else None, PROMPT_TOKENS),
        )
        if role is not None
    }  # fmt: skip
    used = {name for value in interface.inputs for name in ARRAYS if name in sources.get(value.name, "")} | {"ids"}
    encode = _encode(plan, folder, used, prompt_known=left_out is not None) if encoded else _made_up()
    feeds = [f'    "{value.name}": {_source(value, sources.get(value.name), roles)},' for value in interface.inputs]
    return "\n".join([
        "import numpy as np, onnxruntime",
        *encode,
        f'session = onnxruntime.InferenceSession("{folder}onnx/model.onnx")',
        f'{_variable(output)} = session.run(["{output}"], {{',
        *feeds,
        "})[0]",
        f"print({_variable(output)}.shape)",
    ])  # fmt: skip


def default_prompt(plan: BakePlan) -> str:
    """What is put before a text unless another prompt is asked for."""
    name = plan.config.default_prompt_name
    return plan.config.prompts.get(name, "") if name is not None and not plan.is_cross_encoder else ""


def _encode(plan: BakePlan, folder: str, used: set[str], *, prompt_known: bool) -> list[str]:
    """Lines that make those of `ARRAYS` that are ``used``."""
    tokens, prompt = plan.tokens, default_prompt(plan)
    special = "" if tokens.special else ", add_special_tokens=False"
    closing = " - 1" if tokens.closed else ""
    lines = [
        "from tokenizers import Tokenizer", "",
        f"texts = {PAIRS if plan.is_cross_encoder else TEXTS}",
        *([f"prompt = {prompt!r}"] if prompt or prompt_known else []),
        f'tokenizer = Tokenizer.from_file("{folder}tokenizer.json")',
        *_limit(plan),
        *([f"prompt_tokens = len(tokenizer.encode(prompt).ids){closing} if prompt else 0"] if prompt_known else []),
        f'tokenizer.enable_padding(direction="{tokens.side}", pad_id={tokens.pad_id}, pad_token={tokens.pad_token!r})',
        f"encoded = tokenizer.encode_batch({_batch(plan)}{special})",
    ]  # fmt: skip
    made = ((name, attribute) for name, attribute in ARRAYS.items() if name in used)
    return lines + [f"{name} = np.array([one.{attribute} for one in encoded])" for name, attribute in made]


def _batch(plan: BakePlan) -> str:
    """The texts as they are tokenised."""
    if plan.is_cross_encoder:
        return "[(one.lower(), other.lower()) for one, other in texts]" if plan.tokens.lower_case else "texts"
    text = "prompt + text" if default_prompt(plan) else "text"
    text = f"({text}).lower()" if plan.tokens.lower_case else text
    return "texts" if text == "text" else f"[{text} for text in texts]"


def _limit(plan: BakePlan) -> list[str]:
    if plan.tokens.own_limit:
        return []
    longest = plan.tokens.longest
    return ["tokenizer.no_truncation()"] if longest is None else [f"tokenizer.enable_truncation({longest})"]


def _made_up() -> list[str]:
    """Made-up ids where the folder has no tokenizer.json."""
    return [
        "", "# made-up tokens: this folder has no tokenizer.json, so tokenise with the model's own tokenizer",
        f"ids = np.arange({MADE_UP})[None, :]", "mask, types = np.ones_like(ids), np.zeros_like(ids)",
    ]  # fmt: skip


def _source(value: Value, source: str | None, roles: Roles) -> str:
    """A numpy array for one input."""
    kind = numpy_dtype(value.dtype or 7).name
    if source is not None:
        return f"{source}.astype(np.{kind})"
    return f"np.zeros({_shape(value, roles)}, np.{kind})"


def _shape(value: Value, roles: Roles) -> str:
    """The shape of an input of unknown role, with the sizes of the ids where it shares their dims."""
    leading = roles.ids.dims if roles.ids is not None and roles.ids.dims is not None else ()
    sizes = {dim: f"ids.shape[{place}]" for place, dim in enumerate(leading) if isinstance(dim, str)}
    unnamed = "0" if "past" in value.name else "1"
    return f"[{', '.join(str(dim) if isinstance(dim, int) else sizes.get(dim or '', unnamed) for dim in value.dims or ())}]"


def _variable(name: str) -> str:
    return name if name.isidentifier() else "embedding"
