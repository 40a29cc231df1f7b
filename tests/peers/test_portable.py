"""Simplified files elsewhere: OpenVINO and onnx's own reference evaluator give what ONNX Runtime gives.

OpenVINO's CPU plugin computes in bfloat16 or float16 by default where the processor does so faster; it is asked for float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from exports import COMMITTED, FIXTURES, ON_REQUEST, OPSETS
from fusions import NORMS, fused, require_optimizer
from onnx.reference import ReferenceEvaluator

import graphsurgery
from graphsurgery.graph.schemas import count_vendor_operators
from graphsurgery.model.loading import load
from graphsurgery.proof.source_feeds import make_feed_generator
from graphsurgery.rewrites.simplify.simplify import simplify
from graphsurgery.runtime.session import Session

require_optimizer()

HALF = 2.0**-8
"""Of float16 encoders' values: ONNX Runtime and OpenVINO keep in float32 what the reference rounds, each something else."""
NOT_IN_REFERENCE = {"deberta-v2"}
"""GatherElements of onnx 1.23's reference evaluator takes no negative axis."""
MOST_PLACES = 63
"""As many places does it choose from: heads that take one token (cls, lasttoken) run there on sequences no longer than this."""
Runner = Callable[[dict[str, np.ndarray]], np.ndarray]


def in_openvino(model: onnx.ModelProto) -> Runner:
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda feed: compiled(feed)[0]


def in_reference(model: onnx.ModelProto) -> Runner:
    evaluator = ReferenceEvaluator(model)

    def run(feed: dict[str, np.ndarray]) -> np.ndarray:
        with warnings.catch_warnings(), np.errstate(all="ignore"):  # what masks make of -inf, as PyTorch does
            warnings.simplefilter("ignore", RuntimeWarning)
            return evaluator.run(None, feed)[0]

    return run


RUNNERS = {"OpenVINO": in_openvino, "reference evaluator": in_reference}


def feeds_of(path: Path) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Feeds of every kind: ragged, left-padded and holed batches, single tokens, one row, long rows, an empty one."""
    generator = make_feed_generator(load(path))
    return [
        (kind, generator.generate(mask, seed))
        for seed, (kind, masks) in enumerate(generator.generate_masks())
        for mask in masks
    ]


def whole(model: graphsurgery.Model, folder: Path) -> onnx.ModelProto:
    """A model with its weights inside."""
    proto = onnx.load_from_string(model.to_proto().SerializeToString())
    onnx.load_external_data_for_model(proto, str(folder))
    return proto


def compare(worst, path: Path, runner: str, mode: str, normalize: bool) -> None:
    """A pooled encoder, simplified, against ONNX Runtime on the file as it was."""
    before = whole(graphsurgery.add_pooling(path, mode=mode, normalize=normalize), path.parent)
    after = simplify(before).model
    assert count_vendor_operators(after) == {}
    session, run = Session(before.SerializeToString()), RUNNERS[runner](after)
    compared = 0
    for kind, feed in feeds_of(path):
        if runner == "reference evaluator" and mode != "mean" and next(iter(feed.values())).shape[1] > MOST_PLACES:
            continue
        expected = session.run(feed)["sentence_embedding"].astype(np.float64)
        if not np.isfinite(expected).all():  # some encoders give NaN for a row without tokens
            continue
        scale = 1.0 if normalize else max(1.0, float(np.abs(expected).max()))
        allowed = HALF * scale if path.parent.name.endswith("fp16") else 2e-6 if normalize else 1e-5 * scale
        what = f"{runner}, {'unit vectors' if normalize else mode}{', float16' * path.parent.name.endswith('fp16')}"
        worst.within(what, run(feed), expected, allowed, f"{path.parent.name}, {kind}")
        compared += 1
    assert compared >= 8


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("name", COMMITTED)
def test_fixtures(worst, name: str, runner: str) -> None:
    path = FIXTURES / name / "model.onnx"
    compare(worst, path, runner, "mean", normalize=True)
    compare(worst, path, runner, "cls,mean,lasttoken", normalize=False)


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("name", ON_REQUEST)
def test_other_architectures(worst, on_request, name: str, runner: str) -> None:
    if name in NOT_IN_REFERENCE and runner == "reference evaluator":
        with pytest.raises(ValueError, match="all dimensions of index and self should be the same size"):
            compare(worst, on_request / name / "model.onnx", runner, "mean", normalize=True)
        return
    compare(worst, on_request / name / "model.onnx", runner, "mean", normalize=True)


def test_deberta_is_read_by_openvino_only_once_simplified(on_request) -> None:
    """Its If nodes give values of unknown rank; each has a condition that sizes decide."""
    proto = onnx.load(on_request / "deberta-v2" / "model.onnx")
    with pytest.raises(RuntimeError, match="dynamic rank"):
        in_openvino(proto)
    assert in_openvino(simplify(proto).model)


@pytest.mark.parametrize("name", ON_REQUEST)
def test_same_bit_for_bit_and_fused_as_before(on_request, tmp_path, name: str) -> None:
    path = on_request / name / "model.onnx"
    assert_same(path, tmp_path, share=0.55)


@pytest.mark.parametrize("opset", OPSETS)
def test_older_opsets(bert_exports, tmp_path, opset: int) -> None:
    assert_same(bert_exports[opset][0], tmp_path, share=0.6)


def test_the_real_one(worst, minilm_export, tmp_path) -> None:
    """all-MiniLM-L6-v2: bit for bit, fused as before, and the same unit vectors in OpenVINO."""
    assert_same(minilm_export, tmp_path, share=0.55)
    compare(worst, minilm_export, "OpenVINO", "mean", normalize=True)


def assert_same(path: Path, folder: Path, share: float) -> None:
    """Simplified, a file gives the same bit for bit, every node by its own kernel, from ``share`` of its nodes at most; and all
    that ONNX Runtime's transformer optimizer fused it fuses still."""
    model = onnx.load(path)
    done = simplify(model)
    assert done.after < share * done.before and not any(simplify(done.model).counts.values())
    onnx.save(done.model, folder / "simplified.onnx")
    sessions = [Session(file, threads=1, plain=True) for file in (path, folder / "simplified.onnx")]
    for kind, feed in feeds_of(path):
        expected, found = (session.run(feed) for session in sessions)
        assert expected and all(found[name].tobytes() == array.tobytes() for name, array in expected.items()), kind
    before, after = fused(path), fused(folder / "simplified.onnx")
    assert before and all(after[one] >= before[one] for one in before if one not in NORMS), (before, after)
