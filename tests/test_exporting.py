"""What an export is compared on, without PyTorch. `tests/peers/test_export.py` has real exports."""

from __future__ import annotations

import numpy as np
import pytest

from graphsurgery.errors import UnsupportedModelError, VerificationFailed
from graphsurgery.exporting import ALLOWED, make_feed, measure_distance

MASK = np.array([[1, 1, 1], [0, 1, 1]])
ENCODED = {"input_ids": np.array([[5, 6, 7], [0, 5, 7]]), "attention_mask": MASK}


def test_inputs_come_from_the_tokenizer_or_are_made_up() -> None:
    feed = make_feed(["position_ids", "input_ids", "token_type_ids", "attention_mask"], ENCODED)
    assert list(feed) == ["position_ids", "input_ids", "token_type_ids", "attention_mask"]
    assert feed["position_ids"].tolist() == [[0, 1, 2], [0, 0, 1]] and feed["token_type_ids"].tolist() == [[0] * 3] * 2
    assert all(array.dtype == np.int64 for array in feed.values())


def test_token_types_of_the_tokenizer_win() -> None:
    types = np.ones((2, 3), dtype=np.int64)
    assert make_feed(["token_type_ids"], ENCODED | {"token_type_ids": types})["token_type_ids"].tolist() == types.tolist()


def test_an_input_that_nothing_is_known_for_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="'bbox', but the tokenizer gives only input_ids, attention_mask"):
        make_feed(["input_ids", "bbox"], ENCODED)


def test_only_tokens_are_compared() -> None:
    wanted = np.ones((2, 3, 4), dtype=np.float32)
    found = wanted.copy()
    found[1, 0] = 9  # padding
    assert measure_distance(found, wanted, MASK, "left") == 0
    found[1, 1, 2] += 2 * ALLOWED
    with pytest.raises(VerificationFailed, match="padded on the left"):
        measure_distance(found, wanted, MASK, "left")
    found[1, 1, 2] = np.nan
    with pytest.raises(VerificationFailed):
        measure_distance(found, wanted, MASK, "left")


def test_scores_are_compared_whole() -> None:
    wanted = np.ones((2, 5), dtype=np.float32)
    with pytest.raises(VerificationFailed, match="padded on the right"):
        measure_distance(wanted + 1, wanted, MASK, "right")
