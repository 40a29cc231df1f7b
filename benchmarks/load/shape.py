"""The tutorial's load, by the real locust."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

from load.client import Load

USERS = 100
LOCUSTFILE = Path(__file__).with_name("locustfile.py")


def run_locust(port: int, seconds: float, folder: Path) -> Load:
    """Let 100 users ask a service. locust keeps counts of latencies, and not each one, so these are rounded as it does."""
    prefix = folder / "locust"
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "-u", str(USERS), "-r", str(USERS)]
    command += ["-t", f"{seconds:.0f}s", "-H", f"http://127.0.0.1:{port}", "--csv", str(prefix), "--loglevel", "WARNING"]
    done = subprocess.run([*command, "--only-summary"], capture_output=True, text=True, check=False)
    with prefix.with_name("locust_stats.csv").open(encoding="utf-8", newline="") as file:
        total = next(row for row in csv.DictReader(file) if row["Name"] == "Aggregated")
    count, failed = int(total["Request Count"]), int(total["Failure Count"])
    if done.returncode not in {0, 1} or count == failed:
        raise RuntimeError(f"locust failed:\n{done.stderr}")
    return Load(
        seconds=count / float(total["Requests/s"]), latencies=_spread(total, count), texts=count, sent=count,
        answered=count - failed, lost=failed,
    )  # fmt: skip


def _spread(total: dict[str, str], count: int) -> list[float]:
    """Return as many latencies as there were requests, with the percentiles that locust gives."""
    marks = [(float(name.rstrip("%")) / 100, float(value) / 1000) for name, value in total.items()
             if name.endswith("%") and value not in {"", "N/A"}]  # fmt: skip
    return [
        next((latency for share, latency in sorted(marks) if place < share * count), marks[-1][1]) for place in range(count)
    ]
