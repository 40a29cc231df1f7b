"""The README of a baked folder: what the file is, how to run it, what was proven and what was not checked.

Its front matter is for model hubs. The licence is the source's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from graphsurgery.baking.features import SENTENCE
from graphsurgery.baking.plan import BakePlan
from graphsurgery.baking.program import find_default_prompt, write_baked_program
from graphsurgery.baking.targets import BakedFolder
from graphsurgery.edits.pooling_request import PROMPT_LENGTH
from graphsurgery.embedding.tokenization import Tokenization
from graphsurgery.errors import GraphSurgeryError
from graphsurgery.folders.files import is_there, open_file
from graphsurgery.folders.modules import Module
from graphsurgery.folders.pooling_config import parse_pooling
from graphsurgery.interface import Value
from graphsurgery.outcome import Outcome
from graphsurgery.report import Check, summarize_figures
from graphsurgery.version import __version__

MEANINGS = {
    "sentence_embedding": "the embedding",
    "token_embeddings": "a vector per token",
    "last_hidden_state": "a vector per token",
    "scores": "the score of each pair",
    "sparse_weights": "a weight per token, for learned sparse retrieval",
    "colbert_vectors": "a vector per token, for late interaction",
    "input_ids": "token ids",
    "attention_mask": "1 at tokens, 0 at padding",
    "token_type_ids": "0 or 1: the text of a pair that a token belongs to",
    "position_ids": "0, 1, 2, ... over the tokens of each row",
    PROMPT_LENGTH: "how many tokens at the start belong to the prompt and are not pooled; 0 without a prompt",
}
BYTES = {
    "int8": "one byte per dim, by the ranges that the file was made with",
    "binary": "one bit per dim, eight per byte, minus 128",
    "uint8": "one byte per dim, by the ranges that the file was made with",
    "ubinary": "one bit per dim, eight per byte",
}  # fmt: skip

BAR = "\\|"
"""The spelling of a bar in a Markdown table, also within code."""
CARD = "README.md"
CARD_KEYS = ("license", "license_name", "license_link", "language")
"""Keys of the source's model card to copy."""
MOST_BYTES, MOST_LINES = 1 << 16, 200
"""The number of bytes of a model card to read, and of lines of its front matter to copy."""


def write_readme(plan: BakePlan, outcome: Outcome) -> str:
    """Return Markdown, with the front matter of a model card."""
    parts = [
        f"# {plan.name}, as one ONNX file",
        f"`{plan.file}` holds the whole model: {_list_modules(plan)}.{_describe_data_file(outcome)}",
        *_describe_own_class(plan),
        *_describe_pictures(plan),
        _write_interface(plan, outcome),
        "## Run it",
        f"```python\n{write_baked_program(plan, outcome.model)}\n```",
        "\n".join(f"- {line}" for line in _describe_tokenization(plan)),
        *_describe_target(plan, outcome),
        *_describe_prompts(plan),
        "## What was proven",
        *_describe_proof(outcome),
        f"Made by graphsurgery {__version__}. `graphsurgery verify {plan.file} --self` compares the file with the golden "
        "vectors that it records, on any machine. `graphsurgery.json` lists the sources, the steps and every checksum.",
    ]
    return _write_front_matter(plan) + "\n\n".join(part for part in parts if part) + "\n"


def _write_front_matter(plan: BakePlan) -> str:
    lines = [
        *_copy_card_lines(plan.folder),
        *([f"base_model: {json.dumps(plan.repository)}"] if plan.repository else []),
        f"pipeline_tag: {'text-ranking' if plan.is_cross_encoder else 'sentence-similarity'}",
        "tags: [onnx, graphsurgery]",
    ]
    return "\n".join(["---", *lines, "---", "", ""])


def _copy_card_lines(folder: Path) -> Iterator[str]:
    """Yield the lines of the source's card that give its licence and languages."""
    if not is_there(folder / CARD):
        return
    try:
        file = open_file(folder / CARD)
        text = file.read(0, min(file.size, MOST_BYTES)).decode("utf-8", "replace")
    except GraphSurgeryError:
        return
    matter = re.match(r"---\r?\n(.*?)\r?\n---\s*(\r?\n|$)", text, re.DOTALL)
    is_copied = False
    for line in matter.group(1).splitlines()[:MOST_LINES] if matter else []:
        key = re.match(r"(\w+):", line)
        is_copied = key.group(1) in CARD_KEYS if key else is_copied and line[:1] in (" ", "-")
        if is_copied:
            yield line


def _list_modules(plan: BakePlan) -> str:
    return ", ".join(map(_describe_module, plan.modules))


def _describe_module(module: Module) -> str:
    if module.kind != "Pooling":
        return module.own_class or module.kind
    return f"Pooling ({' and '.join(parse_pooling(module.config, module.path).modes)})"


def _describe_pictures(plan: BakePlan) -> list[str]:
    """Return what the second file of a folder of two towers is for."""
    if not plan.picture_steps:
        return []
    return [
        "`onnx/image.onnx` embeds pictures in the same space: it takes `pixel_values` from the model's image processor, and a "
        "text and a picture are as similar as their embeddings are. `graphsurgery serve` takes both, pictures as files."
    ]


def _describe_own_class(plan: BakePlan) -> list[str]:
    """Return what is not known of a first module whose class is the folder's own."""
    own = plan.modules[0].own_class
    if own is None:
        return []
    taken = f"{own} is a class of the model's own. The folder's ONNX file was taken as that module; nothing compared the two."
    return [" ".join([taken, *(f"{one[:1].upper()}{one[1:]}." for one in plan.warnings)])]


def _describe_target(plan: BakePlan, outcome: Outcome) -> list[str]:
    """Return how the user of the program that the folder was baked for sets it up."""
    if plan.target is None:
        return []
    data = outcome.saved.data if outcome.saved is not None else None
    folder = BakedFolder(plan.name, plan.file, None if data is None else f"onnx/{data.name}", outcome.interface)
    return [f"## In {plan.target.consumer}", *plan.target.write_setting(folder)]


def _describe_data_file(outcome: Outcome) -> str:
    data = outcome.saved.data if outcome.saved is not None else None
    return f" Its weights are in `onnx/{data.name}`, which has to stay beside it." if data is not None else ""


def _write_interface(plan: BakePlan, outcome: Outcome) -> str:
    interface = outcome.interface
    sides = (("in", interface.inputs), ("in, optional", interface.optional), ("out", interface.outputs))
    rows = [(side, value) for side, values in sides for value in values]
    lines = []
    for side, value in rows:
        name, _, kind = str(value).partition(": ")
        lines.append(f"| {side} | {_quote(name.replace('|', BAR))} | {kind} | {_describe_value(outcome, value)} |")
    return "\n".join(["| | name | type | |", "| --- | --- | --- | --- |", *lines])


def _describe_value(outcome: Outcome, value: Value) -> str:
    """Return what an input or output holds, as far as its name and the steps tell."""
    meaning = MEANINGS.get(value.name, "")
    cut = re.fullmatch(rf"({SENTENCE})_(\d+)", value.name)
    name = value.name
    if cut is not None:
        meaning, name = f"{MEANINGS[SENTENCE]}'s first {cut.group(2)} dims", SENTENCE
    is_unit = False
    for step in outcome.steps:
        parameters = step["parameters"]
        if parameters.get("target") != name:
            continue
        if step["edit"] == "output-precision":
            return f"{meaning}: {BYTES.get(parameters['to'], '')}"
        is_whole = "," in parameters.get("dim", "") and cut is None  # several cuts are outputs of their own
        if step["edit"] != "truncate" or not is_whole:
            is_unit = step["edit"] == "add-normalize" or (step["edit"] == "truncate" and not parameters["keep_length"])
    return f"{meaning}, of unit length" if is_unit and meaning else meaning


def _describe_tokenization(plan: BakePlan) -> Iterable[str]:
    """Yield a sentence for each fact that is needed to tokenise as the model was trained."""
    tokens = plan.tokenization
    yield _describe_limit(tokens)
    yield f"Padding is on the {tokens.side}, has the id {tokens.pad_id} and 0 in the mask, and is never pooled."
    if tokens.lower_case:
        yield "Texts are lowercased before they are tokenised."
    if not tokens.adds_special:
        yield "No special tokens are put around a text."
    if not tokens.has_tokenizer:
        yield "There is no tokenizer.json. The tokenizer files of the model's folder are here."
    if tokens.takes_messages:
        yield "The tokenizer's chat template makes one text of each input, before it is tokenised."
    if plan.is_cross_encoder:
        yield "An input is a pair of texts."
    elif plan.config.similarity is not None:
        yield f"Embeddings are compared by {plan.config.similarity} similarity."


def _describe_limit(tokens: Tokenization) -> str:
    if tokens.longest is not None:
        return f"Texts are cut after {tokens.longest} tokens, special ones included."
    if tokens.has_own_limit:
        return "Texts are cut at the length that tokenizer.json sets, if it sets one."
    return "The model's configs set no limit on the length of texts."


def _describe_prompts(plan: BakePlan) -> list[str]:
    prompts = {name: prompt for name, prompt in plan.config.prompts.items() if prompt}
    if not prompts:
        return []
    lines = [f"- {_quote(name)}: {_quote(json.dumps(prompt, ensure_ascii=False))}" for name, prompt in prompts.items()]
    default = plan.config.default_prompt_name
    about = "The model was trained with a prompt in front of each text. The file does not add it: add it before tokenising."
    if default and find_default_prompt(plan):
        about += f" The default is {_quote(default)}."
    return ["## Prompts", about, "\n".join(lines)]


def _describe_check(check: Check) -> str:
    """Return a check with its verdict, its figures and its subject."""
    figures = summarize_figures(check)
    parts = [check.verdict.value, *([figures] if figures else []), f"{check.detail[:1].upper()}{check.detail[1:]}"]
    return f"- {check.name}: {'. '.join(parts)}."


def _describe_proof(outcome: Outcome) -> list[str]:
    report = outcome.report
    if report is None:
        return ["Nothing: the proof was skipped (`--no-verify`)."]
    lines = [_describe_check(check) for check in report.checks]
    lines += [f"- warning: {line}" for line in report.warnings]
    lines += [f"- note: {line}" for line in report.observations]
    lines += [f"- not checked: {line}" for line in report.not_checked]
    subject = "The encoder is the source's, bit for bit. The added head was compared with an independent float64 reference."
    return [f"{report.verdict.value}, over {report.cases} cases. {subject}", "\n".join(lines)]


def _quote(text: str) -> str:
    """Return ``text`` as a Markdown code span, whatever characters it has."""
    text = text.replace("\n", "\\n")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"
