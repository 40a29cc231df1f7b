"""One engine in a process of its own, so that its memory is its own. It answers JSON lines on its standard input.

{"texts": FILE, "calls": [[start, end], ...], "vectors": FILE or null}  ->  {"seconds": ..., "peak": ..., "resident": ...}
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from contest.engines import ENGINES, SEARCHED, Encode, Files


def main() -> None:
    name, files = sys.argv[1], {key: Path(value) for key, value in json.loads(sys.argv[2]).items()}
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an engine prints is no answer
    encode = {**ENGINES, **SEARCHED}[name](Files(**files))
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(encode, json.loads(line))), file=answers, flush=True)


def answer(encode: Encode, asked: dict[str, object]) -> dict[str, float]:
    """Encode each call's texts, one call after the other."""
    texts = json.loads(Path(str(asked["texts"])).read_text(encoding="utf-8"))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    resident = read_status("VmRSS")
    start = time.perf_counter()
    made = [encode(texts[first:last]) for first, last in asked["calls"]]  # type: ignore[attr-defined]
    seconds = time.perf_counter() - start
    peak = read_status("VmHWM")
    if asked.get("vectors"):
        np.save(str(asked["vectors"]), np.concatenate(made))
    return {"seconds": seconds, "peak": peak, "resident": resident}


def read_status(field: str) -> int:
    """Return a number of bytes from this process's own account."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
