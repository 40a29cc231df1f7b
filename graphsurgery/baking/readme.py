"""The README of a baked folder: what the file is, how to run it, what was proven, what it does not say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from graphsurgery.baking.features import SENTENCE
from graphsurgery.baking.plan import BakePlan
from graphsurgery.baking.program import default_prompt, program
from graphsurgery.baking.source_card import front_matter
from graphsurgery.edits.pooling_request import PROMPT_LENGTH
from graphsurgery.folders.pooling_config import parse_pooling
from graphsurgery.interface import Value
from graphsurgery.outcome import Outcome
from graphsurgery.report import Check, Report
from graphsurgery.version import __version__

CALLED = {
    "sentence_embedding": "the embedding",
    "token_embeddings": "a vector per token",
    "last_hidden_state": "a vector per token",
    "scores": "the score of each pair",
    "sparse_weights": "a weight per token, for learned sparse retrieval",
    "colbert_vectors": "a vector per token, for late interaction",
    "input_ids": "token ids",
    "attention_mask": "1 at tokens, 0 at padding",
    "token_type_ids": "which of two texts a token is of",
    "position_ids": "0, 1, 2, ... over the tokens of each row",
    PROMPT_LENGTH: "how many tokens at the start, the prompt's, are not pooled; 0 without a prompt",
}
BYTES = {
    "int8": "a byte a dim, by the ranges that the file was made with", "binary": "a bit a dim, eight a byte, less 128",
    "uint8": "a byte a dim, by the ranges that the file was made with", "ubinary": "a bit a dim, eight a byte",
}  # fmt: skip

BAR = "\\|"
"""How a table spells a bar, in code as well."""


def readme(plan: BakePlan, outcome: Outcome) -> str:
    """Markdown, with the front matter of a model card."""
    parts = [
        f"# {plan.name}, as one ONNX file",
        f"`onnx/model.onnx` holds the whole model: {_modules(plan)}.{_beside(outcome)}",
        _interface(plan, outcome),
        "## Run it",
        f"```python\n{program(plan, outcome.interface)}\n```",
        "\n".join(f"- {line}" for line in _facts(plan)),
        *_prompts(plan),
        "## What was proven",
        *_proof(outcome),
        f"Made by graphsurgery {__version__}. `graphsurgery verify onnx/model.onnx --self` holds the file against the golden "
        "vectors that it records, on any machine; `graphsurgery.json` has the sources, the steps and every checksum.",
    ]
    return front_matter(plan) + "\n\n".join(part for part in parts if part) + "\n"


def _modules(plan: BakePlan) -> str:
    return ", ".join(_module(plan, place) for place in range(len(plan.modules)))


def _module(plan: BakePlan, place: int) -> str:
    module = plan.modules[place]
    if module.kind != "Pooling":
        return module.kind
    return f"Pooling ({' and '.join(parse_pooling(module.config, module.path).modes)})"


def _beside(outcome: Outcome) -> str:
    data = outcome.saved.data if outcome.saved is not None else None
    return f" Its weights are in `onnx/{data.name}`, which has to stay beside it." if data is not None else ""


def _interface(plan: BakePlan, outcome: Outcome) -> str:
    rows = [("in", value) for value in outcome.interface.inputs] + [("out", value) for value in outcome.interface.outputs]
    lines = []
    for side, value in rows:
        name, _, kind = str(value).partition(": ")
        lines.append(f"| {side} | {code(name.replace('|', BAR))} | {kind} | {_meaning(plan, outcome, value)} |")
    return "\n".join(["| | name | type | |", "| --- | --- | --- | --- |", *lines])


def _meaning(plan: BakePlan, outcome: Outcome, value: Value) -> str:
    """What an input or output is, as far as its name and the steps tell."""
    called = CALLED.get(value.name, "")
    cut = re.fullmatch(rf"({SENTENCE})_(\d+)", value.name)
    name = value.name
    if cut is not None:
        called, name = f"{CALLED[SENTENCE]}'s first {cut.group(2)} dims", SENTENCE
    unit = False
    for step in outcome.steps:
        parameters = step["parameters"]
        if parameters.get("target") != name:
            continue
        if step["edit"] == "output-precision":
            return f"{called}: {BYTES.get(parameters['to'], '')}"
        whole = "," in parameters.get("dim", "") and cut is None  # of several cuts each is an output of its own
        if step["edit"] != "truncate" or not whole:
            unit = step["edit"] == "add-normalize" or (step["edit"] == "truncate" and not parameters["keep_length"])
    return f"{called}, of unit length" if unit and called else called


def _facts(plan: BakePlan) -> Iterable[str]:
    """What whoever tokenises has to know."""
    tokens = plan.tokens
    if tokens.longest is not None:
        yield f"Texts are cut after {tokens.longest} tokens, special ones included."
    elif tokens.own_limit:
        yield "Texts are cut where tokenizer.json says, if anywhere."
    else:
        yield "The model's configs name no longest text."
    yield f"Padding goes on the {tokens.side}, with id {tokens.pad_id}, and has 0 in the mask; it is never pooled."
    if tokens.lower_case:
        yield "Texts are lowercased before they are tokenised."
    if not tokens.special:
        yield "No special tokens are put around a text."
    if not tokens.has_tokenizer:
        yield "There is no tokenizer.json; what the model's folder had of its tokenizer is here."
    if plan.is_cross_encoder:
        yield "An input is a pair of texts."
    elif plan.config.similarity is not None:
        yield f"Embeddings are compared by {plan.config.similarity} similarity."


def _prompts(plan: BakePlan) -> list[str]:
    prompts = {name: prompt for name, prompt in plan.config.prompts.items() if prompt}
    if not prompts:
        return []
    lines = [f"- {code(name)}: {code(json.dumps(prompt, ensure_ascii=False))}" for name, prompt in prompts.items()]
    default = plan.config.default_prompt_name
    said = f" Without one of your choice, that of {code(default)} is put there." if default and default_prompt(plan) else ""
    about = (
        "The model was trained with a prompt in front of a text, by task, which the file does not put there: do it before the"
    )
    return ["## Prompts", f"{about} text is tokenised.{said}", "\n".join(lines)]


def _line(check: Check) -> str:
    """A check: its verdict, its figures, what it looked at."""
    compared = [one for one in check.comparisons if one.cases]
    figures = ""
    if compared:
        nearest = max(compared, key=lambda one: one.margin)
        cases = sum(one.cases for one in compared)
        figures = f" {cases} cases, at worst {nearest.worst:.1e} apart, {nearest.margin:.2g} of what is allowed."
    return f"- {check.name}: {check.verdict.value}.{figures} {check.detail[:1].upper()}{check.detail[1:]}."


def _proof(outcome: Outcome) -> list[str]:
    report = outcome.report
    if report is None:
        return ["Nothing: the proof was left out (`--no-verify`)."]
    lines = [_line(check) for check in report.checks]
    lines += [f"- observed: {line}" for line in report.observations]
    lines += [f"- not checked: {line}" for line in report.not_checked]
    return [_summary(report), "\n".join(lines)]


def _summary(report: Report) -> str:
    kept = "The encoder is the source's, bit for bit; what was added to it was held against an independent float64 reference."
    return f"{report.verdict.value}, over {report.cases} cases. {kept}"


def code(text: str) -> str:
    """A code span that holds any text of one line."""
    text = text.replace("\n", "\\n")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"
