"""`graphsurgery embed` on files of many rows: the memory of one process by their number, and its speed beside Ray's workers.

    embed_rows.py MODEL                       memory at 10,000, 100,000 and 1,000,000 rows, and the speed on 20,000
    embed_rows.py MODEL --rows 10000          other numbers of rows
    embed_rows.py MODEL --workers ""          no Ray, whose engine needs the environment that `make test-services` makes

MODEL is a baked folder. Rows are short sentences of some ten tokens. Memory is the largest resident set of the process, with
its code and the model, as the system counts it (Linux). The engines take turns in each round, in runs of their own, their start
included; the figures are medians, and those of Ray are ratios within a round.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

SEED = 7
WORDS = (
    "a", "cold", "day", "old", "river", "stone", "light", "under", "the", "green", "window", "seven", "birds", "sing", "of",
    "rain", "in", "paper", "houses", "while", "trains", "run", "slow", "along", "wide", "fields", "before", "winter", "comes",
)  # fmt: skip
ROWS, SPEED_ROWS, ROUNDS = (10_000, 100_000, 1_000_000), 20_000, 3
MEBIBYTE = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="a baked folder")
    parser.add_argument("--rows", default=",".join(map(str, ROWS)), help="numbers of rows, with commas between them")
    parser.add_argument("--workers", default="1,2", help="numbers of Ray's workers")
    parser.add_argument("--output", default=".parquet", help="the format that is written")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("| rows | peak memory | seconds |\n| --- | --- | --- |")
        for rows in map(int, filter(None, arguments.rows.split(","))):
            memory, seconds = embed(write_rows(folder, rows), arguments.model, folder / f"out{arguments.output}")
            print(f"| {rows:,} | {memory / MEBIBYTE:.0f} MiB | {seconds:.1f} |", flush=True)
        workers = [int(one) for one in arguments.workers.split(",") if one]
        if workers:
            compare(write_rows(folder, SPEED_ROWS), arguments.model, folder / f"out{arguments.output}", workers)


def write_rows(folder: Path, rows: int) -> Path:
    """Write so many short sentences, one a line."""
    drawn, path = random.Random(SEED), folder / f"{rows}.txt"
    with path.open("w", encoding="utf-8") as file:
        file.writelines(" ".join(drawn.choices(WORDS, k=drawn.randint(4, 14))) + "\n" for _ in range(rows))
    return path


def embed(texts: Path, model: Path, output: Path, *options: str) -> tuple[int, float]:
    """Run the command. Return the largest resident set of its process in bytes, and its seconds."""
    command = [sys.executable, "-m", "graphsurgery", "embed", str(texts), "--model", str(model), "-o", str(output), *options]
    start = time.perf_counter()
    with subprocess.Popen([*command, "--force", "--quiet"]) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return usage.ru_maxrss * 1024, time.perf_counter() - start


def compare(texts: Path, model: Path, output: Path, workers: Sequence[int]) -> None:
    """Print the speed of one process and of Ray's workers, and check that all write the same bytes."""
    engines = {"one process": ()} | {
        f"Ray, {count} workers of one thread": ("--engine", "ray", "--workers", str(count)) for count in workers
    }
    taken: dict[str, list[float]] = {name: [] for name in engines}
    written = set()
    for turn in range(ROUNDS):
        for name in random.Random(turn).sample(list(engines), len(engines)):
            taken[name].append(embed(texts, model, output, *engines[name])[1])
            written.add(output.read_bytes())
    alone = taken["one process"]
    print(f"\n| {SPEED_ROWS:,} rows by | texts/s | beside one process |\n| --- | --- | --- |")
    for name, seconds in taken.items():
        ratio = median(mine / other for mine, other in zip(alone, seconds, strict=True))
        print(f"| {name} | {SPEED_ROWS / median(seconds):,.0f} | {ratio:.2f}x |")
    print(f"\n{len(written)} different outputs of {ROUNDS * len(engines)} runs")


if __name__ == "__main__":
    main()
