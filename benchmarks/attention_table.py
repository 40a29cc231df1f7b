"""The second table of docs/optimize.md: attentions found and converted, and what fuses behind them, by architecture and form.

    attention_table.py FOLDER...            print it
    attention_table.py --write FOLDER...    put it into docs/optimize.md, between its marks

A FOLDER holds exports as FORM/ARCHITECTURE/model.onnx. They need two environments: `fixtures/make_fixtures.py --all` makes
those by Optimum, `benchmarks/exports_table.py --keep` those in dynamo form. Each is proven after each of the two rewrites.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from page import put  # noqa: E402

import graphsurgery  # noqa: E402
from graphsurgery import Fuse, FuseAttention  # noqa: E402
from graphsurgery.encoder.attention import find_attentions  # noqa: E402
from graphsurgery.encoder.flow import Flow  # noqa: E402
from graphsurgery.errors import GraphSurgeryError, VerificationFailed  # noqa: E402
from graphsurgery.rewrites.fuse.report import ATTENTION, KINDS  # noqa: E402

PAGE = ROOT / "docs" / "optimize.md"
OTHERS = tuple(kind for kind in KINDS if kind != ATTENTION)
COLUMNS = ("architecture", "form", "attentions", "by `fuse` alone", *OTHERS, "largest difference")
HEADER = f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="put it into docs/optimize.md")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    paths = {(path.parent.name, path.parts[-3]): path for one in arguments.folders for path in one.glob("*/*/model.onnx")}
    lines = [HEADER]
    for architecture, form in sorted(paths):
        lines.append(row(architecture, form, paths[architecture, form]))
        print(lines[-1], file=sys.stderr, flush=True)
    print("\n".join(lines))
    if arguments.write:
        put(PAGE, "attention", "\n".join(lines))


def row(architecture: str, form: str, path: Path) -> str:
    with tempfile.TemporaryDirectory() as folder:
        converted = graphsurgery.run([FuseAttention()], path, output=Path(folder) / "attention.onnx")
        left = sum(one.scores is not None for one in find_attentions(Flow.of(graphsurgery.load(converted.output))))
        found = len(find_attentions(Flow.of(graphsurgery.load(path))))
        try:
            both = graphsurgery.run([Fuse()], converted.output, output=Path(folder) / "both.onnx")
        except VerificationFailed:
            counts, worst = {}, ["`fuse` does not pass its proof"]
        else:
            counts = both.fusions.counts if both.fusions is not None else {}
            worst = [f"{max((*differences(converted), *differences(both))):.1e}"]
        alone = count_alone(path, Path(folder))
    fused = [f"{counts[kind][0]} of {counts[kind][1]}" if kind in counts else "" for kind in OTHERS]
    return f"| {' | '.join([architecture, form, f'{found - left} of {found}', alone, *fused, *worst])} |"


def count_alone(path: Path, folder: Path) -> str:
    """How many attentions `fuse` converts without the other rewrite."""
    try:
        outcome = graphsurgery.run([Fuse()], path, output=folder / "fused.onnx", verify=False)
    except GraphSurgeryError:
        return "fails"
    fused, wanted = (outcome.fusions.counts if outcome.fusions is not None else {}).get(ATTENTION, (0, 0))
    return f"{fused} of {wanted}"


def differences(outcome: graphsurgery.Outcome) -> Iterator[float]:
    for check in outcome.report.checks if outcome.report is not None else ():
        yield from (comparison.worst for comparison in check.comparisons)


if __name__ == "__main__":
    main()
