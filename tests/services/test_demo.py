"""`make serve-demo`, in the environment of these tests."""

from __future__ import annotations

import os
import subprocess
import sys

from conftest import ROOT


def test_serve_demo_runs() -> None:
    done = subprocess.run(
        [sys.executable, "demo/serve_demo.py"], cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    shown = [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("the same bits")]
    assert shown == ["True", "True"], done.stdout
