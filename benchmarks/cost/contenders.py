"""One contender doing its work once, in this process: ``python contenders.py NAME SOURCE OUTPUT REPORT [BYTES]``.

Writes ``{"import_s", "work_s", "fsync_s", "fsync_calls"}`` to REPORT, fsync not counted in the others; BYTES limits the
memory that the process may allocate. Each contender is a function that imports what it needs and returns the work to be timed.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

Work = Callable[[str, str], object]
"""Reads the model at the first path and writes one at the second."""
POOLED = "last_hidden_state"


class TimedFsync:
    """Stands in for os.fsync, does it, and adds up what it took."""

    def __init__(self) -> None:
        self.real = os.fsync
        self.seconds = 0.0
        self.calls = 0

    def __call__(self, descriptor: int) -> None:
        start = time.perf_counter()
        self.real(descriptor)
        self.seconds += time.perf_counter() - start
        self.calls += 1


def graphsurgery() -> Work:
    from graphsurgery import AddPooling, run

    return lambda source, output: run([AddPooling(mode="mean")], source, output=output, verify=False)


def graphsurgery_head() -> Work:
    """The edit, and the head proof alone on what was written."""
    from graphsurgery import AddPooling, run, verify

    def work(source: str, output: str) -> None:
        run([AddPooling(mode="mean")], source, output=output, verify=False)
        if not verify(output, against=source, head_only=True):
            raise SystemExit("the head proof failed")

    return work


def graphsurgery_default() -> Work:
    """What a user gets who asks for nothing else: every proof that runs at this size."""
    from graphsurgery import AddPooling, run

    return lambda source, output: run([AddPooling(mode="mean")], source, output=output)


def graphsurgery_command() -> Work:
    """``python -m graphsurgery add-pooling``: it imports as it goes: read only the whole process."""
    import runpy

    def work(source: str, output: str) -> None:
        arguments = ["add-pooling", source, "--mode", "mean", "--no-verify", "--quiet", "-o", output]
        sys.argv = ["graphsurgery", *arguments]
        try:
            runpy.run_module("graphsurgery", run_name="__main__", alter_sys=True)
        except SystemExit as end:
            if end.code:
                raise

    return work


def onnx_all() -> Work:
    """onnx.load and onnx.save, every weight; where they lay in external data they are written there again."""
    import onnx

    def work(source: str, output: str) -> None:
        model = onnx.load(source)
        if Path(source + "_data").exists():
            onnx.save(model, output, save_as_external_data=True, location=Path(output).name + ".data")
        else:
            onnx.save(model, output)

    return work


def onnx_graph() -> Work:
    """onnx.load and onnx.save of the graph alone, external data left where they are."""
    import onnx

    return lambda source, output: onnx.save(onnx.load(source, load_external_data=False), output)


def onnx_graphsurgeon() -> Work:
    """Import, append mean pooling, export, save; external data left where they are."""
    import onnx
    import onnx_graphsurgeon as gs

    def work(source: str, output: str) -> None:
        graph = gs.import_onnx(onnx.load(source, load_external_data=False))
        _append_mean_pooling(gs, graph)
        onnx.save(gs.export_onnx(graph), output)

    return work


def onnx_ir() -> Work:
    import onnx_ir

    return lambda source, output: onnx_ir.save(onnx_ir.load(source), output)


CONTENDERS = {
    made.__name__: made
    for made in (
        graphsurgery, graphsurgery_command, graphsurgery_head, graphsurgery_default,
        onnx_all, onnx_graph, onnx_graphsurgeon, onnx_ir,
    )
}  # fmt: skip


def _append_mean_pooling(gs, graph) -> None:
    """sum(x m) / max(sum m, 1e-9) with padded positions excluded by Where, as graphsurgery does."""
    import numpy as np

    def add(op: str, inputs: list, **attributes):
        value = gs.Variable(f"pooled:{len(graph.nodes)}")
        graph.nodes.append(gs.Node(op, f"pooling/{op}", attributes, inputs, [value]))
        return value

    def constant(values, dtype=np.int64):
        return gs.Constant(f"pooling:{len(graph.nodes)}:{values}", np.array(values, dtype))

    hidden = next(tensor for tensor in graph.outputs if tensor.name == POOLED)
    mask = next(tensor for tensor in graph.inputs if tensor.name == "attention_mask")
    tokens = add("Unsqueeze", [add("Cast", [mask], to=9), constant([-1])])
    total = add("ReduceSum", [add("Where", [tokens, hidden, constant(0.0, np.float32)]), constant([1])], keepdims=0)
    count = add("ReduceSum", [add("Cast", [tokens], to=1), constant([1])], keepdims=0)
    pooled = add("Div", [total, add("Max", [count, constant(1e-9, np.float32)])])
    pooled.name, pooled.dtype, pooled.shape = "sentence_embedding", np.float32, ["batch_size", hidden.shape[-1]]
    graph.outputs = [pooled]


def main(name: str, source: str, output: str, report: str, limit: str = "0") -> None:
    if int(limit):
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit), int(limit)))  # mapped files do not count, allocated memory does
    os.fsync = fsync = TimedFsync()
    start = time.perf_counter()
    work = CONTENDERS[name]()
    imported = time.perf_counter()
    work(source, output)
    done = time.perf_counter()
    figures = {
        "import_s": imported - start, "work_s": done - imported - fsync.seconds,
        "fsync_s": fsync.seconds, "fsync_calls": fsync.calls,
    }  # fmt: skip
    Path(report).write_text(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
