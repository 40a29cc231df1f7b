"""How long it takes, and how much memory, to refuse hostile and broken files: the dearest of those of the tests.

    hostile_files.py    print them; a minute. It needs the environment of `make test`; Linux or macOS

Each file is read in a process of its own, forked from one that has imported the loader already. Promised: a second and 256 MiB.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "tests")]

import hostile  # noqa: E402

SHOWN = 10


def refuse_in_a_process(path: Path) -> tuple[float, float]:
    """The processor's seconds, and the MiB that the process held at most."""
    child = os.fork()
    if child == 0:
        started = time.process_time()
        hostile.refuse(str(path))
        os._exit(min(255, round((time.process_time() - started) * 100)))
    _, status, usage = os.wait4(child, 0)
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return os.waitstatus_to_exitcode(status) / 100, usage.ru_maxrss / unit


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        costs = {name: refuse_in_a_process(path) for name, path in hostile.build_all(Path(folder)).items()}
    print(f"{len(costs)} files; the {SHOWN} that take longest:\n\n| file | seconds | MiB |\n| --- | ---: | ---: |")
    for name, (seconds, mib) in sorted(costs.items(), key=lambda one: -one[1][0])[:SHOWN]:
        print(f"| {name.replace('_', ' ')} | {seconds:.2f} | {mib:.0f} |")


if __name__ == "__main__":
    main()
