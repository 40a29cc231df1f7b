"""Our quantised files, by the name of their row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import graphsurgery
from graphsurgery import PaddingFree
from graphsurgery.runtime.texts import CALIBRATE, JUDGE
from quantized.given import Given, Made, open_onnx

INVARIANT = ("ours: `--min-cosine", "ours: padding-free")
"""How the rows begin whose vectors are promised not to depend on the batch."""
BUDGETS = (0.98, 0.99, 0.995, 0.999)
MAIN = 0.99
SCHEMES = ("qdq", "weights-8bit", "weights-4bit", "weights-fp16")
LEAST = 0.01
"""The budget of a scheme that makes one file: it is measured, whatever its quality is."""


def make_file(given: Given, source: Path, name: str, budget: float, scheme: str = "int8") -> Made:
    """Quantise a file, and say how many groups have which level. Raises VerificationFailed if no file keeps the budget."""
    outcome = graphsurgery.quantize(
        source, output=source.with_name(f"{name}.onnx"), min_cosine=budget, scheme=scheme,
        calibrate=given.find_texts(CALIBRATE), texts=given.find_texts(JUDGE), verify=not given.quick, time=False,
    )  # fmt: skip
    chosen = outcome.choice.chosen if outcome.choice is not None and scheme == "int8" else ""
    return replace(open_onnx(outcome.output), note=chosen)


def make_by_budget(budget: float, given: Given) -> Made:
    return make_file(given, given.baked, f"int8-{budget}", budget)


def make_by_scheme(scheme: str, given: Given) -> Made:
    return make_file(given, given.baked, scheme, LEAST, scheme)


def make_padding_free(given: Given) -> Made:
    return open_onnx(_remove_padding(given))


def make_padding_free_quantised(given: Given) -> Made:
    return make_file(given, _remove_padding(given), "padding-free-int8", MAIN)


def _remove_padding(given: Given) -> Path:
    path = given.baked.with_name("padding-free.onnx")
    if not path.exists():
        graphsurgery.run([PaddingFree()], given.baked, output=path, verify=False)
    return path


def list_makers(quick: bool) -> Mapping[str, Callable[[Given], Made]]:
    budgets = (MAIN,) if quick else BUDGETS
    return (
        {f"ours: `--min-cosine {budget}`": partial(make_by_budget, budget) for budget in budgets}
        | {"ours: padding-free, float32": make_padding_free}
        | {f"ours: padding-free, then `--min-cosine {MAIN}`": make_padding_free_quantised}
        | {f"ours: `--scheme {scheme}`": partial(make_by_scheme, scheme) for scheme in SCHEMES}
    )
