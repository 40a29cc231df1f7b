"""Exports in dynamo form, by both exporters: pooled in six modes and optimized, against PyTorch and float64 numpy.

`make exports-table` does the same with all thirty families of `fixtures/families.py`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from installed import HAS_OPTIMUM

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "exports_table.py"
FAMILIES = ("bert", "deberta-v2", "modernbert")

pytestmark = pytest.mark.skipif(HAS_OPTIMUM, reason="the exporters need transformers 5 and onnxscript, which exclude Optimum")


def test_exports_of_some_families_are_right_in_every_mode_and_rewritten() -> None:
    """In a process of its own: the fixtures' modules have names that those of the tests have, too."""
    done = subprocess.run([sys.executable, SCRIPT, *FAMILIES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{2 * len(FAMILIES)} of {2 * len(FAMILIES)} exports of {len(FAMILIES)} families are right" in done.stdout
    assert done.stdout.count("PASSED") == 4 * len(FAMILIES) and "FAILED" not in done.stdout
