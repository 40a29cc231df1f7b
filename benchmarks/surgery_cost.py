"""What add-pooling costs beside what else could be done: time, memory, bytes written.

    python benchmarks/surgery_cost.py --quick               # small models, seconds: does it run?
    python benchmarks/surgery_cost.py --json cost.json      # 1.3 GB in one file, 16 GiB of sparse external data: minutes

Each contender runs in a fresh process, all of them in turn, round after round, on the same processors. Times are without
fsync, which stands apart; the model is in the page cache. Beside graphsurgery's packages it needs onnx-ir, Linux, and room
for two copies of the single file. Exit code 1 with --strict where a target is missed or was not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from cost import render, targets
from cost.measure import Row, Settings, measure, measure_starts
from cost.scenarios import Scenario, scenarios

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("onnx", "onnxruntime", "onnx-graphsurgeon", "onnx-ir", "numpy", "protobuf")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the work folder is cleaned up then, too
    chosen = [one for one in scenarios(quick=options.quick) if not options.only or one.name in options.only]
    _use_processors(options.threads)
    surroundings = _surroundings(options)
    code = _code()
    with tempfile.TemporaryDirectory(prefix="surgery-cost-", dir=options.work) as work:
        surroundings["file system"] = _file_system(Path(work))
        _require_room(Path(work), chosen)
        results = _measured(chosen, Path(work), options)
    surroundings["load at the end"] = os.getloadavg()[0]
    surroundings["code changed"] = _code() != code
    _report(chosen, results, surroundings, options)
    missed = [target for target in targets.judged(results) if not target.met]
    return 1 if options.strict and (missed or surroundings["code changed"]) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small models, one round")
    parser.add_argument("--rounds", type=int, help="rounds of contenders [5, with --quick 1]")
    parser.add_argument("--start-rounds", type=int, help="rounds of starts [15, with --quick 1]")
    parser.add_argument("--only", action="append", choices=["single", "external", "smaller", "starts"], help="may be repeated")
    parser.add_argument("--work", type=Path, help="where to put a folder of models, which is removed [the temporary folder]")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="processors for each contender [all]")
    parser.add_argument("--memory-limit", type=float, default=8, metavar="GIB", help="what a contender may allocate [8]")
    parser.add_argument("--timeout", type=float, default=300, metavar="SECONDS", help="how long a contender may take [300]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every single run")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the tables, between the marks of FILE")
    parser.add_argument("--strict", action="store_true", help="exit code 1 where a target is missed")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.start_rounds = options.start_rounds or (1 if options.quick else 15)
    return options


def _measured(chosen: Sequence[Scenario], work: Path, options: argparse.Namespace) -> dict[str, dict[str, Row]]:
    environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(options.threads))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    limit = int(options.memory_limit * 2**30)
    settings = Settings(
        options.rounds, options.start_rounds, not options.quick, limit, options.timeout, environment
    )  # fmt: skip
    results = {scenario.name: measure(scenario, work / scenario.name, settings, _tell) for scenario in chosen}
    if not options.only or "starts" in options.only:
        results["starts"] = measure_starts(work, settings, _tell)
    return results


def _report(
    chosen: Sequence[Scenario], results: dict[str, dict[str, Row]], surroundings: dict[str, Any], options: argparse.Namespace
) -> None:
    tables = [render.scenario_table(scenario, results[scenario.name]) for scenario in chosen]
    if "starts" in results:
        tables.append(render.starts_table(results["starts"]))
    judged = targets.judged(results)
    tables.append(render.targets_table(judged))
    notes = _notes(surroundings, options)
    render.print_tables(tables, notes)
    if options.markdown:
        render.write_markdown(tables, notes, options.markdown)
    if options.json:
        options.json.write_text(json.dumps(render.as_json(results, judged, surroundings), indent=2) + "\n")


def _notes(surroundings: dict[str, Any], options: argparse.Namespace) -> list[str]:
    """What a reader of the tables has to know."""
    machine = [surroundings["processor"], f"{options.threads} processors", f"{surroundings['memory GiB']} GiB"]
    machine += [surroundings["file system"], f"load {surroundings['load']:.1f} to {surroundings['load at the end']:.1f}"]
    rounds = f"{options.rounds} round{'s' * (options.rounds != 1)}"
    warm = "" if options.quick else ", each twice in a row and the second counts"
    return [
        *(["--quick: the models are small, and nothing here is about the targets' sizes"] if options.quick else []),
        *(["graphsurgery was CHANGED while it was measured: measure again"] if surroundings["code changed"] else []),
        f"{', '.join(machine)}: times are noisy, read the ratios",
        f"Python {surroundings['python']}, {', '.join(map(' '.join, surroundings['versions'].items()))}",
        f"{rounds} of fresh processes in turn{warm}; times are medians, ratios medians of the rounds' ratios "
        "(least..most), memory and bytes the most of any round; MB are 10^6 bytes",
        "process, imports and work are without fsync; x compares whole processes; files were in the page cache (warm)",
        f"a contender may allocate {options.memory_limit:g} GiB (RLIMIT_DATA) and take {options.timeout:g} s",
        "peak: resident; '-' where it is less than the measuring process has. "
        "written: handed to the kernel (wchar of /proc/PID/io, copy_file_range included); on disk: blocks of the output files",
    ]


def _surroundings(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "processor": _processor(),
        "processors": options.threads,
        "memory GiB": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "rounds": options.rounds,
        "quick": options.quick,
        "memory limit GiB": options.memory_limit,
        "load": os.getloadavg()[0],
    }


def _code() -> dict[str, int]:
    """What changes when a module of graphsurgery does."""
    return {str(path): path.stat().st_mtime_ns for path in (ROOT / "graphsurgery").rglob("*.py")}


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _file_system(folder: Path) -> str:
    """The type of the file system that ``folder`` lies on."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    real = str(folder.resolve())
    holding = [(len(point), kind) for point, kind in mounts if f"{real}/".startswith(point.rstrip("/") + "/")]
    return max(holding)[1]


def _require_room(work: Path, chosen: Sequence[Scenario]) -> None:
    """The model and one output, or the output that a sparse model becomes where every weight is written."""
    needed = max((scenario.size.weight_bytes * 2 for scenario in chosen if scenario.name != "external"), default=0) + (1 << 28)
    free = shutil.disk_usage(work).free
    if free < needed:
        raise SystemExit(
            f"{work} has {free / 1e9:.1f} GB free and {needed / 1e9:.1f} GB are needed: choose another with --work"
        )


def _use_processors(count: int) -> None:
    """Bind this process, and so every contender, to ``count`` processors."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def _tell(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
