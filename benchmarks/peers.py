"""Embedding engines on the real all-MiniLM-L6-v2, side by side: latency, throughput, memory, and whether all vectors agree.

    peers.py                 print it; minutes. It needs the environment that `make bench-peers` makes
    peers.py --quick         fewer texts and rounds: does it run?
    peers.py --write         put it into docs/performance.md, between its marks
    peers.py --json FILE     every time that was measured

All engines run in one go, each in a process of its own: one after the other in every round, in another order each time, on the
same texts with two threads. The figures are ratios within a round. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from contest.engines import ENGINES, Files
from contest.texts import read_passages, read_sentences
from page import put

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
MILLION = 1 << 20
SEED = 7
AGREES = 1e-5
"""Vectors have length one; another engine's float32 vectors are within this of PyTorch's."""
PACKAGES = ("onnxruntime", "sentence-transformers", "transformers", "torch", "optimum-onnx", "fastembed", "openvino", "txtai")


@dataclass(frozen=True)
class Workload:
    """Texts, and how they arrive: so many at a time."""

    name: str
    texts: list[str]
    at_once: int

    @property
    def calls(self) -> list[tuple[int, int]]:
        return [(start, min(start + self.at_once, len(self.texts))) for start in range(0, len(self.texts), self.at_once)]


@dataclass(frozen=True)
class Row:
    """What one engine took for one workload: seconds by round, and bytes over the loaded engine."""

    engine: str
    seconds: list[float]
    peak: int
    worst: float
    """The largest difference of an element from the first engine's vectors."""


class Worker:
    """An engine in a process of its own."""

    def __init__(self, engine: str, files: Files, log: Path) -> None:
        described = json.dumps({key: str(value) for key, value in asdict(files).items()})
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "benchmarks"), str(ROOT)))}
        environment |= {"OMP_NUM_THREADS": "2", "RAYON_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"}  # rayon: tokenizers
        self.process = subprocess.Popen(
            [sys.executable, "-m", "contest.worker", engine, described],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log.open("w"), text=True, env=environment,
        )  # fmt: skip
        if not self._read().get("ready"):
            raise RuntimeError(f"{engine}: it did not start")

    def run(self, texts: Path, calls: Sequence[tuple[int, int]], vectors: Path | None = None) -> dict[str, Any]:
        assert self.process.stdin is not None
        asked = {"texts": str(texts), "calls": list(calls), "vectors": str(vectors) if vectors else None}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer texts and rounds")
    parser.add_argument("--write", action="store_true", help="put it into docs/performance.md")
    parser.add_argument("--json", type=Path, help="write every time that was measured")
    parser.add_argument("--work", type=Path, help="where to write the files")
    parser.add_argument("--only", nargs="*", help="engines whose names contain one of these; the first engine always runs")
    arguments = parser.parse_args()
    rounds = 2 if arguments.quick else 5
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        files = make_files(Path(folder))
        measured = {
            workload.name: measure(workload, files, rounds, Path(folder), choose_engines(arguments.only))
            for workload in make_workloads(arguments.quick)
        }
    text = render(measured)
    print(text)
    if arguments.json:
        found = {name: [asdict(row) for row in rows] for name, rows in measured.items()}
        arguments.json.write_text(json.dumps({"machine": describe_machine(), "rounds": rounds, "workloads": found}, indent=1))
    if arguments.write:
        put(PAGE, "peers", text)
    wrong = [f"{row.engine}, {name}: {row.worst:.1e}" for name, rows in measured.items() for row in rows if row.worst > AGREES]
    if wrong:
        sys.exit(f"these vectors are more than {AGREES:g} from PyTorch's: {'; '.join(wrong)}")


def make_workloads(quick: bool) -> list[Workload]:
    few = 4 if quick else 1
    sentences, passages = read_sentences(1000 // few), read_passages(128 // few)
    return [
        Workload("short texts, one at a time", sentences[: 40 // few], 1),
        Workload("short texts, 32 at a time", sentences[: 96 // few], 32),
        Workload("short texts, all at once", sentences, len(sentences)),
        Workload("passages, one at a time", passages[: 16 // few], 1),
        Workload("passages, 32 at a time", passages[: 64 // few], 32),
        Workload("passages, all at once", passages, len(passages)),
    ]


def make_files(folder: Path) -> Files:
    """Export the real model and make every file that an engine reads."""
    sys.path.insert(0, str(ROOT / "demo"))
    from minilm import model_folder

    model = folder / "model"
    shutil.copytree(model_folder(), model)
    export_model(model, "transformers", folder / "transformer")
    export_model(model, "sentence_transformers", folder / "pooled")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model / name, folder / name)  # beside the files that are made here
    (model / "onnx").mkdir()
    shutil.copy(folder / "transformer" / "model.onnx", model / "onnx" / "model.onnx")
    baked, speed = folder / "baked.onnx", folder / "speed.onnx"
    packed, portable = folder / "padding-free.onnx", folder / "portable.onnx"
    run_graphsurgery("add-pooling", model / "onnx" / "model.onnx", "--mode", "mean", "--normalize", "-o", baked)
    run_graphsurgery("optimize", "--speed", baked, "-o", speed)
    for form, place in (("rows", packed), ("gather", portable)):
        recipe = folder / f"{form}.toml"
        recipe.write_text(f'[[steps]]\nrewrite = "padding-free"\nform = "{form}"\n', encoding="utf-8")
        run_graphsurgery("run", recipe, baked, "-o", place)
    fastest = speed if speed.exists() else baked
    int8, packed_int8 = folder / "int8.onnx", folder / "padding-free-int8.onnx"
    return Files(model, folder / "pooled" / "model.onnx", baked, fastest, packed, portable, int8, packed_int8)


def export_model(model: Path, library: str, folder: Path) -> None:
    command = [sys.executable, "-m", "optimum.commands.optimum_cli", "export", "onnx", "--model", str(model)]
    subprocess.run(
        [*command, "--library", library, "--task", "feature-extraction", str(folder)], check=True, capture_output=True
    )


def run_graphsurgery(*arguments: object) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "graphsurgery", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print(done.stdout, done.stderr, file=sys.stderr)
        sys.exit(f"graphsurgery {arguments[0]} failed")


@contextmanager
def start(engines: Sequence[str], files: Files, folder: Path) -> Iterator[dict[str, Worker]]:
    with ExitStack() as stack:
        workers = {}
        for engine in engines:
            workers[engine] = Worker(engine, files, folder / "log.txt")
            stack.callback(workers[engine].close)
        yield workers


def choose_engines(only: Sequence[str] | None) -> list[str]:
    """Return the first engine, and those whose names contain one of ``only``; all if none is given."""
    first, *others = ENGINES
    return [first, *(one for one in others if not only or any(part in one for part in only))]


def measure(workload: Workload, files: Files, rounds: int, folder: Path, engines: Sequence[str]) -> list[Row]:
    """Run every engine in every round. The first run of an engine gives its vectors and its memory, and does not count."""
    first = engines[0]
    texts = folder / "texts.json"
    texts.write_text(json.dumps(workload.texts), encoding="utf-8")
    shuffled = random.Random(SEED)
    with start(engines, files, folder) as workers:
        peaks, vectors, seconds = {}, {}, {engine: list[float]() for engine in engines}
        for engine, worker in workers.items():
            place = folder / "vectors.npy"
            found = worker.run(texts, workload.calls, place)
            peaks[engine], vectors[engine] = found["peak"] - found["resident"], np.load(place)
        for number in range(rounds):
            tell(f"{workload.name}: round {number + 1} of {rounds}")
            for engine in shuffled.sample(engines, len(engines)):
                seconds[engine].append(workers[engine].run(texts, workload.calls)["seconds"])
    worst = {engine: float(np.abs(made - vectors[first]).max()) for engine, made in vectors.items()}
    return [Row(engine, seconds[engine], peaks[engine], worst[engine]) for engine in engines]


def render(measured: Mapping[str, Sequence[Row]]) -> str:
    """Return one table: how many times faster than the first engine, by workload, and the largest peak of memory."""
    names = list(measured)
    lines = [f"{describe_machine()}.", "", f"| engine | {' | '.join(names)} | most memory | furthest |"]
    lines.append(f"| --- | {'---: | ' * len(names)}---: | ---: |")
    bases = {name: rows[0].seconds for name, rows in measured.items()}
    for place, row in enumerate(next(iter(measured.values()))):
        rows = {name: those[place] for name, those in measured.items()}
        cells = [describe_ratios(bases[name], rows[name].seconds) for name in names]
        peak, worst = max(one.peak for one in rows.values()), max(one.worst for one in rows.values())
        lines.append(f"| {row.engine} | {' | '.join(cells)} | {peak / MILLION:.0f} MiB | {worst:.1e} |")
    return "\n".join(lines)


def describe_ratios(base: Sequence[float], seconds: Sequence[float]) -> str:
    ratios = [one / other for one, other in zip(base, seconds, strict=True)]
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def describe_machine(packages: Sequence[str] = PACKAGES) -> str:
    cpu = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.machine())  # fmt: skip
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{os.cpu_count()} cores of {cpu}, two threads; {versions}"


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
