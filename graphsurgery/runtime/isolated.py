"""A first run of a rewritten file in a process of its own: a kernel that brings its process down must not bring down ours."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from graphsurgery.runtime.session import without_places

SECONDS = 600
Feed = Mapping[str, np.ndarray]
PROGRAM = """
import sys
import numpy
import onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
try:
    session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    for path in sys.argv[2:]:
        feed = numpy.load(path)
        names = [str(name) for name in feed["names"]]
        arrays = {name: feed[f"array{place}"] for place, name in enumerate(names)}
        for value in session.get_inputs():
            if value.type == "tensor(float16)":
                arrays[value.name] = arrays[value.name].astype(numpy.float16)
        session.run(None, arrays)
except Exception as error:
    sys.exit(str(error).splitlines()[0])
"""


def crash(model: Path, feeds: Sequence[Feed]) -> str | None:
    """What went wrong when ONNX Runtime ran ``model`` on ``feeds`` in a process of its own; None where nothing did."""
    with tempfile.TemporaryDirectory(prefix="graphsurgery-") as folder:
        paths = []
        for number, feed in enumerate(feeds):
            paths.append(Path(folder) / f"{number}.npz")
            arrays = {f"array{place}": array for place, array in enumerate(feed.values())}
            np.savez(paths[-1], allow_pickle=False, names=np.array(list(feed)), **arrays)
        try:
            done = subprocess.run(
                [sys.executable, "-c", PROGRAM, str(model), *map(str, paths)],
                capture_output=True, text=True, timeout=SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"ONNX Runtime did not come to an end within {SECONDS} s"
    if done.returncode < 0:
        return f"ONNX Runtime crashed on it (signal {-done.returncode})"
    said = without_places(done.stderr.strip().rpartition("\n")[2].replace(str(model), "the file"))
    return (said or f"exit code {done.returncode}") if done.returncode else None
