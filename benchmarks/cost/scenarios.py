"""What is measured: which contenders, on which models."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cost.size import Size

CONTENDERS_SCRIPT = str(Path(__file__).with_name("contenders.py"))


class Contender(NamedTuple):
    """``does`` says what its figures stand for, so that rows that do different things are not taken for equals."""

    label: str
    does: str


CONTENDERS = {
    "cp": Contender("cp", "the bytes alone, not made durable"),
    "cp_sync": Contender("cp, then sync", "the bytes alone, durable"),
    "graphsurgery": Contender("graphsurgery, library", "head appended; no proof"),
    "graphsurgery_command": Contender("graphsurgery, command", "the same by `graphsurgery add-pooling --no-verify`"),
    "graphsurgery_head": Contender("graphsurgery + head proof", "head appended, and the head alone proven"),
    "graphsurgery_default": Contender(
        "graphsurgery + default proof", "head appended, and every proof that this size gets unasked"
    ),
    "onnx_all": Contender("onnx.load + onnx.save", "no edit; every weight read and written"),
    "onnx_graph": Contender("onnx, graph only", "no edit; load_external_data=False"),
    "onnx_graphsurgeon": Contender("onnx-graphsurgeon", "an equal head appended"),
    "onnx_ir": Contender("onnx-ir", "no edit; load, save"),
}
LIBRARY, COMMAND, COPY = "graphsurgery", "graphsurgery_command", "cp"


@dataclass(frozen=True)
class Scenario:
    """One model and who works on it."""

    name: str
    title: str
    size: Size
    contenders: tuple[str, ...]

    @property
    def baselines(self) -> tuple[str, ...]:
        """What the others' times are divided by."""
        return tuple(name for name in (COPY, LIBRARY) if name in self.contenders)


OURS = ("graphsurgery", "graphsurgery_command", "graphsurgery_head", "graphsurgery_default")
SINGLE = ("cp", "cp_sync", *OURS, "onnx_all", "onnx_graphsurgeon", "onnx_ir")
EXTERNAL = (*OURS, "onnx_graph", "onnx_graphsurgeon", "onnx_ir", "onnx_all")
SMALLER = ("graphsurgery", "onnx_all")


def scenarios(*, quick: bool) -> tuple[Scenario, ...]:
    """The measured models; ``quick`` ones take seconds and say nothing about the targets' sizes."""
    if quick:
        single, external, smaller = Size(256, 2, 4), Size(4096, 3, 64, sparse=True), Size(256, 2, 4, sparse=True)
    else:
        single, external, smaller = Size(1024, 24, 16), Size(3840, 24, 60, sparse=True), Size(1024, 24, 16, sparse=True)
    on_large = tuple(name for name in EXTERNAL if not (quick and name == "onnx_all"))  # seconds and a gigabyte of disk
    return (
        Scenario("single", f"one file of {_amount(single)}", single, SINGLE),
        Scenario("external", f"external data of {_amount(external)} in the same folder, sparse", external, on_large),
        Scenario(
            "smaller", f"external data of {_amount(smaller)}, sparse, for what cannot take the larger model", smaller, SMALLER
        ),
    )


def command(name: str, source: Path, output: Path, report: Path, limit: int) -> list[str]:
    """The command line of one contender."""
    if name == "cp":
        return ["cp", str(source), str(output)]
    if name == "cp_sync":
        return ["sh", "-c", 'cp "$1" "$2" && sync "$2"', "sh", str(source), str(output)]
    return [sys.executable, CONTENDERS_SCRIPT, name, str(source), str(output), str(report), str(limit)]


STARTS = {
    "nothing": ("python -c pass", [sys.executable, "-c", "pass"]),
    "help": ("graphsurgery --help", [sys.executable, "-m", "graphsurgery", "--help"]),
    "import_own": ("import graphsurgery", [sys.executable, "-c", "import graphsurgery"]),
    "import": ("from graphsurgery import *", [sys.executable, "-c", "from graphsurgery import *"]),
    "import_onnx": ("import onnx", [sys.executable, "-c", "import onnx"]),
    "import_gs": ("import onnx_graphsurgeon", [sys.executable, "-c", "import onnx_graphsurgeon"]),
    "import_ir": ("import onnx_ir", [sys.executable, "-c", "import onnx_ir"]),
}
"""What starts are timed: what they are called, and the command."""


def _amount(size: Size) -> str:
    if size.weight_bytes < 1 << 30:
        return f"{size.weight_bytes / 1e6:.0f} MB"
    return f"{size.weight_bytes / 1e9:.2f} GB ({size.weight_bytes / 2**30:.1f} GiB)"
