"""The table of docs/verification.md: exports in dynamo form, by both exporters, pooled in six modes and optimized.

    exports_table.py                  print it
    exports_table.py --write          put it into docs/verification.md, between its marks
    exports_table.py --keep FOLDER    keep the exports there, and use those that are there

Each embedding is held against float64 pooling, in numpy, of PyTorch's hidden state: padding on the right and on the left,
holes, one token, one text. Needs transformers 5 and onnxscript, and takes some ten minutes.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "fixtures")]

from design_table import MODES, pool  # noqa: E402
from page import put  # noqa: E402

import graphsurgery  # noqa: E402
from graphsurgery.errors import GraphSurgeryError  # noqa: E402
from graphsurgery.runtime import reach  # noqa: E402
from graphsurgery.runtime.establish import establish_mask  # noqa: E402
from graphsurgery.runtime.session import Session  # noqa: E402

PAGE = ROOT / "docs" / "verification.md"
KINDS = ("right", "left", "holes", "one", "solo")
WORST, PORTABLE, HALF = "six modes, at most", "`--portable`", "`--fp16`"
COLUMNS = ("family", "exporter", "opset", "nodes", "attentions", "mask shown by", WORST, PORTABLE, HALF)
ALLOWED = 2e-5
"""The largest difference from PyTorch and numpy, relative to max(1, max|x|). The encoders' own rounding is most of it."""
LONGEST_PROOF = 128
"""Proofs of rewrites go to so many tokens here, also where a model sets no limit."""


def main() -> int:
    from families import FAMILIES

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="only these")
    parser.add_argument("--write", action="store_true", help="put it into docs/verification.md")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the exports there")
    arguments = parser.parse_args()
    wanted = arguments.families or list(FAMILIES)
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(2) as pool_of_two:
        work = partial(make_row, Path(arguments.keep or name))
        rows = list(pool_of_two.map(work, *zip(*product(wanted, ("dynamo", "transformers")), strict=True)))
    table, is_right = render(rows)
    print(table)
    if arguments.write:
        put(PAGE, "exports", table)
    return 0 if is_right else 1


def render(rows: list[list[str]]) -> tuple[str, bool]:
    """The table, and whether every export is right in all modes and as the portable file."""
    lines = [f"| {' | '.join(row)} |" for row in (COLUMNS, ["---"] * len(COLUMNS), *rows)]
    made = [dict(zip(COLUMNS, row, strict=True)) for row in rows if row[2]]
    right = [row for row in made if float(row[WORST]) <= ALLOWED and int(row["attentions"]) and "FAILED" not in row[PORTABLE]]
    families, refused = len({row["family"] for row in made}), sum("FAILED" in row[HALF] for row in made)
    lines += [
        "",
        f"{len(right)} of {len(made)} exports of {families} families are right in all modes and with "
        f"`--portable`. With `--fp16`, {refused} did not pass their proof, so that nothing was written.",
    ]
    return "\n".join(lines), len(right) == len(made)


def make_row(folder: Path, family: str, exporter: str) -> list[str]:
    """The row of an export. Without an export most cells are empty."""
    logging.disable(logging.WARNING)
    reach.UNLIMITED = LONGEST_PROOF
    place = folder / f"{family}-{exporter}"
    try:
        export(place, family, exporter)
    except Exception as error:  # whatever torch raises
        return [family, exporter, "", "", "", "", f"cannot be exported ({type(error).__name__})", "", ""]
    path = place / "model.onnx"
    model, found = graphsurgery.load(path), graphsurgery.inspect(path)
    worst = max(measure(place, path, mode) for mode in MODES)
    shown_by = establish_mask(model, "attention_mask", "input_ids").shown_by or "nothing"
    rewritten = [describe_rewrite(path, place / f"{option}.onnx", option) for option in ("portable", "fp16")]
    return [family, exporter, str(model.opset), str(found.nodes), str(found.layers), shown_by, f"{worst:.1e}", *rewritten]


def export(place: Path, family: str, exporter: str) -> None:
    """Write the export and `hidden.npz`: the inputs and PyTorch's hidden states of each kind of feed, unless they are there."""
    if (place / "hidden.npz").is_file():
        return
    import torch
    from dynamo import export_dynamo
    from families import VOCABULARY, make_family
    from feeds import synthetic_feed

    torch.set_num_threads(1)
    place.mkdir(parents=True, exist_ok=True)
    encoder = make_family(family)
    pad, rng = getattr(encoder.config, "pad_token_id", None) or 0, np.random.default_rng(1)
    feeds = {kind: synthetic_feed(kind, range(5, VOCABULARY), pad, rng) for kind in KINDS}
    if "token_type_ids" in inspect.signature(encoder.forward).parameters and getattr(encoder.config, "type_vocab_size", 0) > 1:
        feeds = {kind: {**feed, "token_type_ids": np.zeros_like(feed["input_ids"])} for kind, feed in feeds.items()}
    tensors = {kind: {name: torch.from_numpy(array) for name, array in feed.items()} for kind, feed in feeds.items()}
    export_dynamo(encoder, tensors["right"], exporter, place / "model.onnx")
    arrays = {f"{kind}/{name}": array for kind, feed in feeds.items() for name, array in feed.items()}
    with torch.no_grad():
        for kind, feed in tensors.items():
            given = encoder(**feed, output_hidden_states=True)
            arrays[f"{kind}/hidden"] = given.last_hidden_state.numpy()
            arrays[f"{kind}/states"] = torch.stack(given.hidden_states).numpy()
    np.savez(place / "hidden.npz", allow_pickle=False, **arrays)


def measure(place: Path, path: Path, mode: str) -> float:
    """The largest difference of the pooled file from PyTorch and numpy, relative to max(1, max|x|)."""
    saved = graphsurgery.save(graphsurgery.add_pooling(path, mode=mode), place / "pooled.onnx", force=True)
    session, worst = Session(saved.path, threads=1), 0.0
    for feed in read_feeds(place):
        hidden, mask = feed["hidden"].astype(np.float64), feed["attention_mask"].astype(np.float64)
        (found,) = session.run({value.name: feed[value.name] for value in graphsurgery.load(path).interface.inputs}).values()
        apart = float(np.abs(found - pool(hidden, mask, mode)).max() / max(1.0, np.abs(hidden).max()))
        worst = apart if not apart <= worst else worst  # NaN stays
    return worst


def read_feeds(place: Path) -> Iterator[dict[str, np.ndarray]]:
    with np.load(place / "hidden.npz") as file:
        for kind in KINDS:
            yield {name.partition("/")[2]: file[name] for name in file.files if name.startswith(f"{kind}/")}


def describe_rewrite(path: Path, output: Path, option: str) -> str:
    """What `optimize` with an option came to, in a few words."""
    options = {"portable": {"portable": True}, "fp16": {"fp16": True}}[option]
    try:
        done = graphsurgery.optimize(path, output=output, force=True, time=False, **options)
    except GraphSurgeryError as error:
        return f"FAILED: {type(error).__name__}"
    verdict = "not proven" if done.report is None else done.report.verdict.value
    return f"{verdict}, {len(graphsurgery.load(output).proto.graph.node)} nodes"


if __name__ == "__main__":
    sys.exit(main())
