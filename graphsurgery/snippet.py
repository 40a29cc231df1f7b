"""A Python program that runs a file. It needs numpy, ONNX Runtime and, for texts, the tokenizers package, nothing else.

It feeds the file what the proof feeds it: the inputs by their recorded names, in their types, forms and sizes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from graphsurgery.encoder.head import EMBEDDING
from graphsurgery.encoder.limits import find_tables
from graphsurgery.encoder.roles import find_roles
from graphsurgery.errors import GraphSurgeryError
from graphsurgery.interface import Interface, Value
from graphsurgery.model.dtypes import FLOATS, to_numpy_dtype
from graphsurgery.model.model import Model
from graphsurgery.proof.source_feeds import make_feed_generator
from graphsurgery.runtime.baked_sizes import restrict_to_baked_sizes
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.mask_forms import ADDITIVE, LENGTHS, MINUS_INFINITY, NOT
from graphsurgery.runtime.texts import find_tokenizer, read_padding

TEXTS = ('"How are you?"', '"It is cold today."')
PAIRS = ('("How are you?", "Fine.")', '("How are you?", "It is cold today.")')
ARRAYS = {"ids": "ids", "mask": "attention_mask", "types": "type_ids"}
"""Arrays [batch, sequence] of tokenised texts: the program's names, and the tokenizers package's names for their rows."""
MADE_UP = 3
"""Tokens of a made-up text, if there is no tokenizer."""
SAMPLES = 16000
"""The samples of a waveform, one second at the usual rate, if the file does not fix them."""
PROMPT_TOKENS = "np.array([prompt_tokens])"
NO_TOKENIZER = "no tokenizer.json was found, so tokenise with the model's own tokenizer"
MASKS = {NOT: "mask == 0", ADDITIVE: f"np.where(mask, 0, {MINUS_INFINITY:g})", LENGTHS: "mask.sum(axis=1)"}
"""How a mask is said in forms other than 1 at tokens and 0 at padding."""


@dataclass(frozen=True)
class Encoding:
    """How a program makes token ids of texts."""

    tokenizer: str
    """The path to tokenizer.json, as the program opens it."""
    side: str = "right"
    pad_id: int = 0
    pad_token: str = "[PAD]"
    longest: int | None = None
    """The longest text in tokens. None for any length."""
    has_own_limit: bool = True
    """Whether tokenizer.json itself sets the limit."""
    adds_special: bool = True
    ends_special: bool = False
    """Whether a text ends with a special token, which does not count as one of the prompt's."""
    lower_case: bool = False
    takes_pairs: bool = False
    prompt: str = ""
    """The text that goes before each text."""


def make_snippet(model: Model, path: Path, beside: Path | None = None) -> str:
    """Return a program that runs ``model``, saved at ``path``, on two texts, or on made-up numbers.

    It uses the tokenizer.json beside the file or beside ``beside``.
    """
    tokenizer = find_tokenizer(path) or find_tokenizer(beside)
    encoding = None
    if tokenizer is not None:
        try:
            side, pad_id, pad_token = read_padding(tokenizer)
            encoding = Encoding(shorten_path(tokenizer), side, pad_id, pad_token)
        except GraphSurgeryError:  # one that cannot be read is as good as none
            encoding = None
    return write_program(model, shorten_path(path), _choose_output(model.interface), encoding)


def write_program(
    model: Model, place: str, output: str, encoding: Encoding | None = None, why_made_up: str = NO_TOKENIZER
) -> str:
    """Return a program that gives the ``output`` of ``model`` at the path ``place``.

    It makes up token ids without an ``encoding``, and says the reason, ``why_made_up``.
    """
    inputs = describe_inputs(model)
    if inputs.roles.ids is None:
        encoding = None
    sources = _list_sources(inputs, encoding)
    used = [name for name in ARRAYS if name == "ids" or any(_names(source, name) for source in sources.values())]
    prepare = _make_up(inputs, used, why_made_up) if encoding is None else _write_encoding(encoding, inputs, used)
    arrays = ((value.name, _write_array(value, sources.get(value.name), inputs)) for value in model.interface.inputs)
    variable = output if output.isidentifier() else "embedding"
    return "\n".join([
        "import numpy as np, onnxruntime",
        *prepare,
        f"session = onnxruntime.InferenceSession({_quote(place)})",
        f"{variable} = session.run([{_quote(output)}], {{",
        *(f"    {_quote(name)}: {array}," for name, array in arrays),
        *(f"    # {_quote(value.name)} is optional, and left out here" for value in model.interface.optional),
        "})[0]",
        f"print({variable}.shape)",
    ])  # fmt: skip


def describe_inputs(model: Model) -> FeedGenerator:
    """Return a generator of feeds for ``model``, which knows the roles, forms and sizes of its inputs."""
    try:
        return make_feed_generator(model)
    except GraphSurgeryError:  # its record cannot be read: names and types tell what they tell
        roles = find_roles(model.interface)
        return restrict_to_baked_sizes(model, FeedGenerator(roles, find_tables(model, roles)))


def shorten_path(path: Path) -> str:
    """Return a path relative to the current folder, if it is inside."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _quote(text: str) -> str:
    """Return a Python string in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def _choose_output(interface: Interface) -> str:
    """Return the output that the program gives: the embedding, or else the first."""
    return (interface.output(EMBEDDING) or interface.outputs[0]).name


def _list_sources(inputs: FeedGenerator, encoding: Encoding | None) -> dict[str, str]:
    """Return the expressions for the arrays of the inputs whose meaning is known, by the inputs' names."""
    roles = inputs.roles
    prompt = inputs.prompt if encoding is not None else None
    found = (
        (roles.ids, "ids"), (roles.mask, MASKS.get(inputs.form, "mask")), (roles.types, "types"),
        (roles.positions, "np.maximum(np.cumsum(mask, axis=1) - 1, 0)"),
    )  # fmt: skip
    sources = {role.name: source for role, source in found if role is not None}
    return sources | ({prompt: PROMPT_TOKENS} if prompt is not None else {})


def _names(source: str, name: str) -> bool:
    """Return whether an expression reads the variable ``name``."""
    return re.search(rf"\b{name}\b", source) is not None


def _write_encoding(encoding: Encoding, inputs: FeedGenerator, used: Sequence[str]) -> list[str]:
    """Return the lines that make the ``used`` ones of `ARRAYS` of texts, and count the prompt's tokens if that is fed."""
    special = "" if encoding.adds_special else ", add_special_tokens=False"
    closing = " - 1" if encoding.ends_special else ""
    counts = inputs.prompt is not None
    length = inputs.fixed_sequence
    padding = f'direction="{encoding.side}", pad_id={encoding.pad_id}, pad_token={encoding.pad_token!r}'
    padding += "" if length is None else f", length={length}"
    return [
        "from tokenizers import Tokenizer",
        "",
        f"texts = {_write_texts(PAIRS if encoding.takes_pairs else TEXTS, inputs.fixed_batch)}",
        *([f"prompt = {encoding.prompt!r}"] if encoding.prompt or counts else []),
        f"tokenizer = Tokenizer.from_file({_quote(encoding.tokenizer)})",
        *_write_truncation(encoding, length),
        *([f"prompt_tokens = sum(tokenizer.encode(prompt).attention_mask){closing} if prompt else 0"] if counts else []),
        f"tokenizer.enable_padding({padding})",
        f"encoded = tokenizer.encode_batch({_write_batch(encoding)}{special})",
        *(f"{name} = np.array([one.{ARRAYS[name]} for one in encoded])" for name in used),
    ]


def _write_texts(texts: Sequence[str], batch: int | None) -> str:
    """Return a list of as many texts as the model takes."""
    return f"[{', '.join(texts[:batch])}]" if batch is None or batch <= len(texts) else f"[{texts[0]}] * {batch}"


def _write_batch(encoding: Encoding) -> str:
    """Return the expression for the texts to tokenise."""
    if encoding.takes_pairs:
        return "[(one.lower(), other.lower()) for one, other in texts]" if encoding.lower_case else "texts"
    text = "prompt + text" if encoding.prompt else "text"
    text = f"({text}).lower()" if encoding.lower_case else text
    return "texts" if text == "text" else f"[{text} for text in texts]"


def _write_truncation(encoding: Encoding, length: int | None) -> list[str]:
    """Return the line that cuts texts where the model's folder does, and to the only ``length`` that the file takes."""
    if length is not None:
        return [f"tokenizer.enable_truncation({length})"]
    if encoding.has_own_limit:
        return []
    return ["tokenizer.no_truncation()" if encoding.longest is None else f"tokenizer.enable_truncation({encoding.longest})"]


def _make_up(inputs: FeedGenerator, used: Sequence[str], why: str) -> list[str]:
    """Return the lines that make the ``used`` ones of `ARRAYS` without a tokenizer. A file without ids gets noise elsewhere."""
    rows, columns = inputs.fixed_batch or 1, inputs.fixed_sequence or MADE_UP
    if inputs.roles.ids is not None:
        row = f"np.arange({columns})" if columns <= MADE_UP else f"(np.arange({columns}) % {MADE_UP})"
        ids = f"{row}[None, :]" if rows == 1 else f"np.tile({row}, ({rows}, 1))"
        lines = {"ids": f"ids = {ids}", "mask": "mask = np.ones_like(ids)", "types": "types = np.zeros_like(ids)"}
        return ["", f"# made-up tokens: {why}", *(lines[name] for name in used)]
    columns = _count_samples(inputs) or inputs.fixed_sequence or MADE_UP
    return ["", *([f"mask = np.ones(({rows}, {columns}), np.int64)"] if "mask" in used else [])]


def _count_samples(inputs: FeedGenerator) -> int | None:
    """Return how many samples to make up for a waveform: as many as the file takes, or a second. None without a waveform."""
    wave = next((value for value in inputs.roles.others if inputs.waveform and value.name == inputs.waveform.name), None)
    if inputs.waveform is None or wave is None:
        return None
    return wave.last_dim if isinstance(wave.last_dim, int) else max(SAMPLES, inputs.waveform.field)


def _write_array(value: Value, source: str | None, inputs: FeedGenerator) -> str:
    """Return the expression for the array of one input."""
    kind = f"np.{to_numpy_dtype(value.dtype or onnx.TensorProto.INT64).name}"
    kind = "bool" if kind == "np.bool" else kind
    if source is not None:
        return f"{source}.astype({kind})" if source.isidentifier() or source.endswith(")") else f"({source}).astype({kind})"
    return _write_unknown(value, kind, inputs)


def _write_unknown(value: Value, kind: str, inputs: FeedGenerator) -> str:
    """Return an array for an input of unknown use: noise for pictures and waveforms, ones or zeros for all others."""
    has_ids = inputs.roles.ids is not None
    rows: int | str = "ids.shape[0]" if has_ids else inputs.fixed_batch or 1
    columns: int | str = "ids.shape[1]" if has_ids else inputs.fixed_sequence or MADE_UP
    sizes = inputs.list_sizes(value, rows, columns)
    if inputs.waveform is not None and inputs.waveform == inputs.find_medium(value):
        sizes[-1] = _count_samples(inputs) or sizes[-1]
    shape = f"[{', '.join(map(str, sizes))}]"
    if value.dtype in FLOATS and not has_ids and 0 not in sizes:
        return f"np.random.default_rng(0).standard_normal({shape}).astype({kind})"
    if inputs.is_counted(value):
        return f"np.arange({sizes[0]}, dtype={kind})"
    return f"np.{'ones' if value.name in inputs.ones else 'zeros'}({shape}, {kind})"
