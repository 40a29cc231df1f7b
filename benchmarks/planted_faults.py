"""The table of docs/verification.md: planted faults by kind of fault and kind of interface, and how many a proof caught.

    planted_faults.py            print it
    planted_faults.py --write    put it into docs/verification.md, between its marks

Each fault is planted in an encoder that is held against the one before, in the same by a cosine alone, and in an appended head
(`tests/interface_plants.py`). The large file has more than 2 GiB of weights in a sparse data file: 4 GB of memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import onnx

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "tests")]

from encoders import HIDDEN  # noqa: E402
from interface_plants import EMBEDDING, FAULTS, INTERFACES, Kind, planted, source_of  # noqa: E402
from page import put  # noqa: E402

import graphsurgery  # noqa: E402
from graphsurgery.report import Verdict  # noqa: E402

PAGE = ROOT / "docs" / "verification.md"
LARGE = "over 2 GiB"
ROWS = (2 << 30) // (8 * 4) + 1
"""Of an embedding table of 8 dims in float32, beyond 2 GiB."""
COLUMNS = ("the fault shows on", *INTERFACES, LARGE)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="put it into docs/verification.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        columns = {name: column(Path(folder) / str(place), name) for place, name in enumerate((*INTERFACES, LARGE))}
    caught, planted_in_all = (sum(cell[place] for cells in columns.values() for cell in cells.values()) for place in (0, 1))
    lines = [f"| {' | '.join(COLUMNS)} |", f"| --- |{' ---: |' * (len(COLUMNS) - 1)}"]
    for fault in FAULTS:
        cells = (shown(cells.get(fault)) for cells in columns.values())
        lines.append(f"| {fault} | {' | '.join(cells)} |")
    table = "\n".join([*lines, "", f"Caught: {caught} of {planted_in_all}."])
    print(table)
    if arguments.write:
        put(PAGE, "planted faults", table)
    return 0 if caught == planted_in_all else 1


def shown(cell: tuple[int, int] | None) -> str:
    return "-" if cell is None else f"{cell[0]} of {cell[1]}"


def column(folder: Path, interface: str) -> dict[str, tuple[int, int]]:
    """How many faults of each kind were caught, of how many, with files in ``folder``."""
    folder.mkdir()
    dims = INTERFACES.get(interface, INTERFACES["dynamic"])
    source, model = folder / "model.onnx", source_of(dims)
    if interface == LARGE:
        make_large(model, folder)
    source.write_bytes(model.SerializeToString())
    graphsurgery.save(graphsurgery.add_pooling(source, mode="cls,mean"), folder / "head.onnx")
    counted = {}
    for fault, kind in FAULTS.items():
        if kind.possible(*dims):
            found = [is_caught(folder, kind, place) for place in kind.places]
            counted[fault] = (sum(found), len(found))
    return counted


def is_caught(folder: Path, kind: Kind, place: str) -> bool:
    """Whether the default proof of a file with the fault comes to FAILED, and by its numbers."""
    name, output = ("head.onnx", EMBEDDING) if place == "head" else ("model.onnx", HIDDEN)
    right = onnx.load(folder / name, load_external_data=False)
    wrong = folder / "wrong.onnx"
    wrong.write_bytes(planted(right, kind, output).SerializeToString())
    cosine = 0.999 if place == "by cosine" else None
    report = graphsurgery.verify(wrong, against=folder / "model.onnx", min_cosine=cosine)
    failed = any(one.verdict is Verdict.FAILED for check in report.checks for one in check.comparisons)
    return report.verdict is Verdict.FAILED and failed


def make_large(model: onnx.ModelProto, folder: Path) -> None:
    """Give ``model`` a table of words beyond 2 GiB, in a sparse data file in ``folder``."""
    table = next(tensor for tensor in model.graph.initializer if tensor.name == "word")
    with (folder / "model.onnx.data").open("wb") as data:
        data.write(table.raw_data)
        data.truncate(ROWS * 8 * 4)
    table.ClearField("raw_data")
    table.dims[:] = [ROWS, 8]
    table.data_location = onnx.TensorProto.EXTERNAL
    table.external_data.add(key="location", value="model.onnx.data")


if __name__ == "__main__":
    sys.exit(main())
