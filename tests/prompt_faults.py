"""Pooling that leaves out a prompt, gone wrong: one line each."""

from __future__ import annotations

import numpy as np
from encoders import IDS, MASK
from faults import pooling, table
from onnx import TensorProto
from planting import Plant

PROMPT_LENGTH = "prompt_length"
TWO, GIVEN = (pooling("mean", skip_prompt=length) for length in ("2", "input"))
GIVEN_CLS = pooling("cls", skip_prompt="input")
EVERY = pooling("mean", mask="ones", skip_prompt="input")


def from_position_0(p: Plant) -> None:
    """p < N, left padding counted in."""
    p.become("prompt/from_first", "Identity", p.out("prompt/positions"))


def tokens_counted(p: Plant) -> None:
    """The first N tokens instead of N positions: holes tell."""
    running = p.append("CumSum", p.out("prompt/mask_int"), p.ints(1), behind="prompt/mask_int", exclusive=1)
    wide = p.append("Cast", running, behind="prompt/length", to=TensorProto.INT64)
    p.become("prompt/from_first", "Identity", wide)


def seen_from_behind(p: Plant) -> None:
    """The last N positions instead of the first."""
    p.attribute("prompt/positions", reverse=1)


def first_row_only(p: Plant) -> None:
    p.after("prompt/first", "Slice", p.ints(0), p.ints(1), p.ints(0))


def at_most_4(p: Plant) -> None:
    p.before("prompt/in_prompt", 1, "Min", p.constant([4], np.int64))


def product(p: Plant) -> None:
    """Where(mask, x, 0) as Where(tokens, x, 0) * not in the prompt: NaN * 0 is NaN."""
    factor = p.append("Cast", p.out("prompt/mask"), behind="prompt/mask", to=TensorProto.FLOAT)
    p.wire("masked", 0, p.append("Unsqueeze", p.out("pooling/mask"), p.ints(2)))
    p.after("masked", "Mul", p.append("Unsqueeze", factor, p.ints(2)))


PROMPT_FAULTS = [
    *table("skip_prompt 2", TWO,
        ("3", lambda p: p.set("prompt/length", [3])),
        ("1", lambda p: p.set("prompt/length", [1])),
        ("0", lambda p: p.set("prompt/length", [0])),
        ("N + 1 by <=", lambda p: p.become("prompt/in_prompt", "LessOrEqual")),
        ("from position 0, not from the first token", from_position_0),
        ("tokens counted, not positions", tokens_counted),
        ("the last positions", seen_from_behind),
        ("positions from 1", lambda p: p.attribute("prompt/positions", exclusive=0)),
        ("positions along the batch", lambda p: p.set("prompt/axis", 0)),
        ("the last token's place for the first's", lambda p: p.attribute("prompt/first", select_last_index=1)),
        ("the first row's for every row", first_row_only),
        ("the prompt alone", lambda p: p.without("prompt/behind_prompt")),
        ("padding behind the prompt pooled, too", lambda p: p.become("prompt/mask", "Identity", p.out("prompt/behind_prompt"))),
        ("the prompt pooled, too", lambda p: p.become("prompt/mask", "Identity", p.out("pooling/mask"))),
        ("left out of the sum alone", lambda p: p.wire("mask_float", 0, p.out("pooling/mask"))),
        ("left out of the count alone", lambda p: p.wire("mask_3d", 0, p.out("pooling/mask"))),
        ("left out by a product: NaN in the prompt", product),
    ),
    *table("skip_prompt input", GIVEN,
        ("a constant", lambda p: p.wire("prompt/in_prompt", 1, p.ints(1))),
        ("never more than 4", at_most_4),
        ("doubled", lambda p: p.before("prompt/in_prompt", 1, "Add", PROMPT_LENGTH)),
        ("never none", lambda p: p.before("prompt/in_prompt", 1, "Max", p.constant([1], np.int64))),
        ("from the ids", lambda p: p.wire("prompt/in_prompt", 1, IDS)),
        ("from the mask's values", lambda p: p.wire("prompt/in_prompt", 1, MASK)),
        ("by way of uint8 and back",
         lambda p: (p.before("prompt/in_prompt", 1, "Cast", to=TensorProto.INT64),
                    p.before("prompt/in_prompt", 1, "BitShift", p.constant([60], np.uint64), direction="RIGHT"),
                    p.before("prompt/in_prompt", 1, "Cast", to=TensorProto.UINT64))),
    ),
    *table("skip_prompt input, cls", GIVEN_CLS,
        ("the first token of all", lambda p: p.wire("pooling/mask_int", 0, p.out("pooling/mask"))),
        ("x[0] where the prompt covers the row", lambda p: p.become("cls/or_zero", "Identity", p.out("cls/token"))),
    ),
    *table("skip_prompt input, mask ones", EVERY,
        ("the prompt pooled, too", lambda p: p.become("prompt/mask", "Identity", p.out("pooling/ones"))),
    ),
]  # fmt: skip
