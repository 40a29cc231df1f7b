"""The README of a baked folder: what the file is, how to run it, what was proven."""

from __future__ import annotations

from graphsurgery.anatomy.roles import roles_of
from graphsurgery.baking.plan import BakePlan
from graphsurgery.interface import Interface, Value
from graphsurgery.model.dtypes import numpy_dtype
from graphsurgery.runner import Outcome
from graphsurgery.version import __version__


def readme(plan: BakePlan, outcome: Outcome) -> str:
    """Markdown."""
    name = plan.folder.resolve().name
    parts = [
        f"# {name}, as one ONNX file",
        "`onnx/model.onnx` holds the whole model: " + ", ".join(module.kind for module in plan.modules) + ".",
        _interface(outcome.interface),
        "## Run it",
        f"```python\n{program(plan, outcome.interface)}\n```",
        *_prompts(plan),
        "## What was proven",
        _proof(outcome),
        f"Made by graphsurgery {__version__}; `graphsurgery verify onnx/model.onnx --self` checks the file again. "
        "`graphsurgery.json` has its sources, steps and checksums.",
    ]
    return "\n\n".join(parts) + "\n"


def program(plan: BakePlan, interface: Interface) -> str:
    """Python that embeds a batch of texts with the file: ONNX Runtime and the tokenizers package, nothing else."""
    roles = roles_of(interface)
    found = {
        role.name: source
        for role, source in (
            (roles.ids, "ids"), (roles.mask, "attention_mask"), (roles.types, "type_ids"), (roles.positions, "ids"),
        )
        if role is not None
    }  # fmt: skip
    feeds = [f'    "{value.name}": {_source(value, found.get(value.name))},' for value in interface.inputs]
    special = ", add_special_tokens=False" if plan.modules[0].kind == "StaticEmbedding" else ""
    text = '[("How are you?", "Fine.")]' if plan.is_cross_encoder else '["How are you?", "It is cold today."]'
    return "\n".join([
        "import numpy as np, onnxruntime",
        "from tokenizers import Tokenizer",
        "",
        'tokenizer = Tokenizer.from_file("tokenizer.json")',
        *_padding(plan),
        f"encoded = tokenizer.encode_batch({text}{special})",
        'session = onnxruntime.InferenceSession("onnx/model.onnx")',
        f'{interface.outputs[0].name} = session.run(["{interface.outputs[0].name}"], {{',
        *feeds,
        "})[0]",
        f"print({interface.outputs[0].name}.shape)",
    ])  # fmt: skip


def _padding(plan: BakePlan) -> list[str]:
    side, pad, token, longest = plan.padding
    lines = [f'tokenizer.enable_padding(direction="{side}", pad_id={pad}, pad_token={token!r})']
    return lines + ([f"tokenizer.enable_truncation({longest})"] if longest else [])


def _source(value: Value, attribute: str | None) -> str:
    kind = numpy_dtype(value.dtype or 7).name
    if attribute is None:
        return f"np.zeros([0], np.{kind}),  # what this input takes" if value.rank != 1 else f"np.array([0], np.{kind})"
    return f"np.array([one.{attribute} for one in encoded], np.{kind})"


def _interface(interface: Interface) -> str:
    rows = [("in", value) for value in interface.inputs] + [("out", value) for value in interface.outputs]
    lines = [f"| {side} | `{str(value).partition(': ')[0]}` | {str(value).partition(': ')[2]} |" for side, value in rows]
    return "\n".join(["| | name | type |", "| --- | --- | --- |", *lines])


def _prompts(plan: BakePlan) -> list[str]:
    prompts = {name: prompt for name, prompt in plan.config.prompts.items() if prompt}
    if not prompts:
        return []
    lines = [f"- {name}: `{prompt!r}`" for name, prompt in prompts.items()]
    default = plan.config.default_prompt_name
    said = f" By default: {default}." if default else ""
    return [
        "## Prompts",
        f"Texts are prefixed with the prompt of their task before they are tokenised.{said}",
        "\n".join(lines),
    ]


def _proof(outcome: Outcome) -> str:
    report = outcome.report
    if report is None:
        return "Nothing: the proof was left out."
    lines = [f"- {check.name}: {check.verdict.value}. {check.detail}" for check in report.checks]
    worst = f"{report.cases} cases compared, at worst {report.worst:.1e} apart ({report.margin:.1%} of what is allowed)."
    return "\n".join(
        [f"{report.verdict.value}: {worst}", "", *lines, *(f"- not checked: {line}" for line in report.not_checked)]
    )
