"""A table of docs/optimize.md: what three engines fuse, by architecture and form of export.

    engines_table.py FOLDER...            print it
    engines_table.py --write FOLDER...    put it into docs/optimize.md, between its marks

A FOLDER holds exports as FORM/ARCHITECTURE/model.onnx, as for attention_table.py. The engines are the rewrites `rotary`,
`attention` and `fuse` of graphsurgery; ONNX Runtime's transformer optimizer by itself, told the model type; and onnxscript's
fusions for ONNX Runtime. onnxscript has to be installed. Operators are counted, whoever made them, and nothing is proven here.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import onnx_ir

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from page import put  # noqa: E402

import graphsurgery  # noqa: E402
from graphsurgery import Fuse, FuseAttention, FuseRotary  # noqa: E402
from graphsurgery.errors import NothingToOptimizeError  # noqa: E402
from graphsurgery.rewrites.fuse.report import ACTIVATION, ATTENTION, EMBEDDINGS, KINDS, NORM, ROTARY, SKIP_NORM  # noqa: E402

PAGE = ROOT / "docs" / "optimize.md"
OPERATORS = {
    ATTENTION: {"Attention", "MultiHeadAttention", "GroupQueryAttention"},
    SKIP_NORM: {"SkipLayerNormalization", "SkipSimplifiedLayerNormalization"},
    ACTIVATION: {"BiasGelu", "FastGelu", "Gelu", "QuickGelu"},
    EMBEDDINGS: {"EmbedLayerNormalization"},
    ROTARY: {"RotaryEmbedding"},
    NORM: {"RMSNormalization", "SimplifiedLayerNormalization"},
}
"""The operators of each kind of parts. A GroupQueryAttention may apply the rotary positions of queries and keys itself."""
FAILED = "fails"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="put it into docs/optimize.md")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    paths = {(path.parent.name, path.parts[-3]): path for one in arguments.folders for path in one.glob("*/*/model.onnx")}
    lines = [f"| {' | '.join(('architecture', 'form', *KINDS))} |", "|" + " --- |" * (2 + len(KINDS))]
    behind: list[str] = []
    for (architecture, form), path in sorted(paths.items()):
        counts = [count(engine, path) for engine in (ours, by_onnxruntime, by_onnxscript)]
        cells = [show(counts, kind) for kind in KINDS]
        lines.append(f"| {' | '.join((architecture, form, *cells))} |")
        behind += [f"{kind} of {architecture} ({form})" for kind in KINDS if is_behind(counts, kind)]
        print(lines[-1], file=sys.stderr, flush=True)
    lines += ["", f"Another engine makes more of a kind than graphsurgery: {', '.join(behind) or 'nowhere'}."]
    print("\n".join(lines))
    if arguments.write:
        put(PAGE, "engines", "\n".join(lines))


def ours(path: Path) -> onnx.ModelProto:
    made = path
    with tempfile.TemporaryDirectory() as folder:
        for place, step in enumerate((FuseRotary(), FuseAttention(), Fuse())):
            output = Path(folder) / f"{place}.onnx"
            try:
                graphsurgery.run([step], made, output=output, verify=False)
            except NothingToOptimizeError:
                continue
            made = output
        return onnx.load(made, load_external_data=False)


def by_onnxruntime(path: Path) -> onnx.ModelProto:
    from onnxruntime.transformers import optimizer

    kind = "t5" if path.parent.name == "t5" else "bert"
    model: onnx.ModelProto = optimizer.optimize_model(str(path), kind, num_heads=0, hidden_size=0, opt_level=0).model
    return model


def by_onnxscript(path: Path) -> onnx.ModelProto:
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    model, _ = optimize_for_ort(onnx_ir.load(path))
    return onnx_ir.to_proto(model)


def count(engine: Callable[[Path], onnx.ModelProto], path: Path) -> Counter[str] | None:
    """The number of operators of each kind, or None if the engine fails."""
    try:
        nodes = list(engine(path).graph.node)
    except Exception as error:  # whatever they raise
        print(f"{engine.__name__} fails on {path}: {type(error).__name__} {error}"[:300], file=sys.stderr)
        return None
    return Counter(kind for node in nodes for kind in list_kinds(node))


def list_kinds(node: onnx.NodeProto) -> Iterator[str]:
    yield from (kind for kind, names in OPERATORS.items() if node.op_type in names)
    if any(one.name == "do_rotary" and one.i for one in node.attribute):
        yield from (ROTARY, ROTARY)


def show(counts: list[Counter[str] | None], kind: str) -> str:
    """The three numbers, or nothing if no engine makes such an operator."""
    if not any(one is not None and one[kind] for one in counts):
        return ""
    return " · ".join(FAILED if one is None else str(one[kind]) for one in counts)


def is_behind(counts: list[Counter[str] | None], kind: str) -> bool:
    """Whether another engine makes more of a kind. One operator may do more in one engine than in another: a norm with its sum,
    or with the lookups before it."""
    kinds = {SKIP_NORM: (SKIP_NORM, EMBEDDINGS), NORM: (NORM, SKIP_NORM, EMBEDDINGS)}.get(kind, (kind,))
    first, *others = (0 if one is None else sum(one[each] for each in kinds) for one in counts)
    return first < max(others)


if __name__ == "__main__":
    main()
