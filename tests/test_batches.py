"""Plans of batches: every text once, within the budget, with little padding, and in as few runs as the order allows."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import graphsurgery
from graphsurgery import plan
from graphsurgery.errors import RequestError

LENGTHS = st.lists(st.integers(0, 300), max_size=60)
BUDGETS = st.integers(1, 700)


@pytest.mark.parametrize(
    ("lengths", "budget", "padded", "batches"),
    [
        ([], 512, True, []),
        ([3], 512, True, [[0]]),
        ([5, 9, 5, 2, 9], 18, True, [[1, 4], [0, 2, 3]]),
        ([5, 9, 5, 2, 9], 10, True, [[1], [4], [0, 2], [3]]),
        ([5, 9, 5, 2, 9], 12, False, [[1], [4], [0, 2, 3]]),
        ([600, 4, 700], 512, True, [[2], [0], [1]]),
        ([600, 4, 700], 512, False, [[2], [0], [1]]),
        ([0, 0, 0], 2, True, [[0, 1], [2]]),
        ([0, 0, 0], 2, False, [[0, 1], [2]]),
    ],
)
def test_examples(lengths: list[int], budget: int, padded: bool, batches: list[list[int]]) -> None:
    assert plan(lengths, budget, padded=padded) == batches
    assert plan(np.array(lengths, dtype=np.int32), budget, padded=padded) == batches


def test_the_budget_that_nobody_gives() -> None:
    assert plan([64] * 20) == [list(range(8)), list(range(8, 16)), list(range(16, 20))]


@given(LENGTHS, BUDGETS, st.booleans())
def test_every_text_is_in_one_batch(lengths: list[int], budget: int, padded: bool) -> None:
    batches = plan(lengths, budget, padded=padded)
    assert all(batches) and sorted(chain(*batches)) == list(range(len(lengths)))


@given(LENGTHS, BUDGETS, st.booleans())
def test_the_order_is_by_length_and_stable(lengths: list[int], budget: int, padded: bool) -> None:
    order = list(chain(*plan(lengths, budget, padded=padded)))
    tokens = [max(one, 1) for one in lengths]
    assert all((-tokens[one], one) < (-tokens[other], other) for one, other in pairwise(order))


def cost(tokens: list[int], padded: bool) -> int:
    """What a batch takes of the budget."""
    return len(tokens) * max(tokens) if padded else sum(tokens)


@given(LENGTHS, BUDGETS, st.booleans())
def test_the_budget_is_kept(lengths: list[int], budget: int, padded: bool) -> None:
    for batch in plan(lengths, budget, padded=padded):
        assert len(batch) == 1 or cost([max(lengths[one], 1) for one in batch], padded) <= budget


@given(LENGTHS, BUDGETS)
def test_there_is_little_padding(lengths: list[int], budget: int) -> None:
    tokens = [max(one, 1) for one in lengths]
    batches = [[tokens[one] for one in batch] for batch in plan(lengths, budget)]
    padding = sum(cost(batch, True) - sum(batch) for batch in batches)
    assert padding <= budget * math.log(max(tokens, default=1) / min(tokens, default=1)) + 1e-9


@given(st.lists(st.integers(0, 40), max_size=14), st.integers(1, 90), st.booleans())
def test_no_cut_of_the_sorted_texts_has_fewer_batches(lengths: list[int], budget: int, padded: bool) -> None:
    tokens = sorted((max(one, 1) for one in lengths), reverse=True)
    fewest = [0]  # for the first texts: of all ways to cut them, by trying where the last batch begins
    for end in range(1, len(tokens) + 1):
        fewest.append(min(
            fewest[start] + 1 for start in range(end)
            if end - start == 1 or cost(tokens[start:end], padded) <= budget
        ))  # fmt: skip
    assert len(plan(lengths, budget, padded=padded)) == fewest[-1]


def test_a_million_texts_take_no_time() -> None:
    lengths = np.random.default_rng(0).integers(1, 400, size=1_000_000)
    assert sum(map(len, plan(lengths))) == 1_000_000


@pytest.mark.parametrize(
    ("lengths", "budget", "said"),
    [
        ([1.5], 512, "lengths are not"), ([-1], 512, "lengths are not"), ([[1], [2]], 512, "lengths are not"),
        ("abc", 512, "lengths are not"), ([True], 512, "lengths are not"), ([1], 0, "and not 0"), ([1], 1.5, "and not 1.5"),
        ([1], True, "and not True"),
    ],
)  # fmt: skip
def test_what_is_refused(lengths: object, budget: object, said: str) -> None:
    with pytest.raises(RequestError, match=said) as raised:
        plan(lengths, budget)  # type: ignore[arg-type]
    assert raised.value.advice


def test_it_imports_neither_onnx_nor_a_runtime() -> None:
    code = "import sys\nfrom graphsurgery import plan\nassert plan([1, 2]) == [[1, 0]]\n"
    code += "assert not {'onnx', 'onnxruntime'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert "plan" in graphsurgery.__all__
