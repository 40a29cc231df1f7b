"""What `optimize` takes, in seconds and memory, by the size of the file: alone, with its proof, with proof and timing.

    optimize_cost.py            print it; minutes, and 6 GB of disk
    optimize_cost.py --quick    small files: does it run?
    optimize_cost.py --write    put it into docs/optimize.md, between its marks

BERT encoders with mean pooling, normalised; each command in a process of its own. Linux only.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cost import process
from cost.size import Size
from page import put

PAGE = Path(__file__).resolve().parents[1] / "docs" / "optimize.md"
TIMEOUT = 1800
COLUMNS = ("file", "asked for", "seconds", "most memory", "written")
HEADER = f"| {' | '.join(COLUMNS)} |\n| --- | --- | ---: | ---: | ---: |"
GRAPHSURGERY = (sys.executable, "-m", "graphsurgery")
ALONE = ("--no-verify", "--no-timing")
ASKED = {"no proof, no timing": ALONE, "proof": ("--no-timing",), "proof and timing (the default)": ()}
HALF = {"`--fp16`, proof": ("--fp16", "--no-timing")}


@dataclass(frozen=True)
class Case:
    """One file and what is asked of it."""

    title: str
    size: Size
    asked: dict[str, tuple[str, ...]]


CASES = (
    Case("90 MB", Size(384, 6, 12), ASKED | HALF),
    Case("1.3 GB", Size(1024, 24, 16), ASKED),
    Case("2.3 GB, external data", Size(1024, 44, 16, external=True), ASKED),
)
QUICK = (Case("small", Size(64, 2, 4), ASKED | HALF), Case("small, external data", Size(64, 2, 4, external=True), ASKED))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small files")
    parser.add_argument("--write", action="store_true", help="put it into docs/optimize.md")
    parser.add_argument("--work", type=Path, help="where to write the files")
    arguments = parser.parse_args()
    lines = [HEADER]
    for case in QUICK if arguments.quick else CASES:
        with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
            lines += rows(case, Path(folder))
    table = "\n".join(lines)
    print(table)
    if arguments.write:
        put(PAGE, "cost", table)


def rows(case: Case, folder: Path) -> Iterator[str]:
    encoder, pooled, output = folder / "model.onnx", folder / "pooled.onnx", folder / "optimized.onnx"
    ran(case.size.command(encoder), folder)
    ran([*GRAPHSURGERY, "add-pooling", str(encoder), "--mode", "mean", "--normalize", "--no-verify", "-o", str(pooled)], folder)
    for asked, options in case.asked.items():
        print(f"{case.title}: {asked}", file=sys.stderr)
        before = {path.name for path in folder.iterdir()}
        used = ran([*GRAPHSURGERY, "optimize", str(pooled), "-o", str(output), *options, "--quiet"], folder)
        made = [path for path in folder.iterdir() if path.name not in before]
        written = sum(path.stat().st_size for path in made)
        for path in made:
            path.unlink()
        memory = "-" if used.peak_bytes is None else f"{used.peak_bytes / 2**30:.1f} GiB"
        yield f"| {case.title} | {asked} | {used.seconds:.0f} | {memory} | {written / 1e6:.0f} MB |"


def ran(command: list[str], folder: Path) -> process.Usage:
    """What a command took. RuntimeError where it failed."""
    used = process.run(command, {**os.environ, "HF_HUB_OFFLINE": "1"}, folder / "log", TIMEOUT)
    if used.stopped:
        raise RuntimeError(f"{' '.join(command)}: {used.stopped}")
    return used


if __name__ == "__main__":
    main()
