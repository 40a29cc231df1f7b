"""The real all-MiniLM-L6-v2 in integers of standard operators, in OpenVINO: each product is right, and the vectors are as near
to the float32 file's as those of ONNX Runtime.

The vectors of two runtimes are not equal. Float32 rounds differently in each, by 1e-7, so that an activation near the middle
between two integers becomes the other one, and all that follows differs by as much as quantising changes it. The vectors of
ONNX Runtime with and without its graph optimisations differ so, too.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest

import graphsurgery
from graphsurgery import AddPooling, Model, Quantize
from graphsurgery.compare.vectors import compute_cosines
from graphsurgery.graph.schemas import count_vendor_operators
from graphsurgery.model.loading import load
from graphsurgery.proof import integer_products
from graphsurgery.proof.relation import QUANTIZED
from graphsurgery.proof.source_feeds import encode_texts, make_feed_generator
from graphsurgery.report import Verdict
from graphsurgery.rewrites.head_parts import split_head
from graphsurgery.rewrites.quantize_encoder import list_groups
from graphsurgery.runtime.feeds import generate_text_feeds
from graphsurgery.runtime.session import open_session
from graphsurgery.runtime.texts import CALIBRATE, JUDGE, bundled_texts

SHORT = 200
"""The characters of a text, at most."""
COUNT = 24
EVERY, BEHIND_NORMS = 36, 24
"""Six in each of six layers: queries, keys, values, behind attention, two in the feed-forward part. Four read a norm."""
EMBEDDING = ["sentence_embedding"]


class OpenVINOSession:
    """Runs a model in OpenVINO as `Session` does in ONNX Runtime."""

    def __init__(self, model: Model, extra_outputs: Sequence[str] = ()) -> None:
        proto = model.to_proto()
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in extra_outputs)
        core = openvino.Core()
        read = core.read_model(proto.SerializeToString())
        self._compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(self, feed: dict[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
        found = self._compiled(feed)
        return {name: found[name] for name in names}


@pytest.fixture(scope="module")
def pooled(minilm_export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantize")
    shutil.copy(minilm_export.with_name("tokenizer.json"), folder)
    graphsurgery.run([AddPooling("mean", normalize=True)], minilm_export, output=folder / "pooled.onnx", verify=False)
    return folder / "pooled.onnx"


def list_short(use: str) -> list[str]:
    texts = [one for one in bundled_texts(use) if len(one) <= SHORT and "\n" not in one]
    return texts[:: len(texts) // COUNT][:COUNT]


@pytest.mark.parametrize("has_ranges", [False, True], ids=["by row", "static and by row"])
def test_portable_integers_in_openvino(pooled: Path, has_ranges: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calibration = pooled.with_name("calibration.txt")
    calibration.write_text("\n".join(list_short(CALIBRATE)), encoding="utf-8")
    source = load(pooled)
    names = [one.name for one in list_groups(split_head(source).encoder)]
    static = tuple(names[::4]) if has_ranges else ()
    floats = tuple(name for name in names if name not in names[::2]) if has_ranges else ()  # so that less is rounded
    rewrite = Quantize(
        target="portable", calibrate=str(calibration) if has_ranges else "none", static=static, float32=floats, tables=True
    )
    written = graphsurgery.run([rewrite], pooled, output=pooled.with_name(f"{len(static)}.onnx"), verify=False).model
    assert count_vendor_operators(written.proto) == {}
    generator = make_feed_generator(source)
    encoded = encode_texts(source, source, generator, list_short(JUDGE), generator.limit_length(256))
    feeds = generate_text_feeds(generator, encoded)
    exact, own, theirs = (
        np.concatenate([session.run(feed, EMBEDDING)[EMBEDDING[0]] for feed in feeds])
        for session in (open_session(source), open_session(written), OpenVINOSession(written))
    )
    assert compute_cosines(exact, theirs).min() > compute_cosines(exact, own).min() - 0.005 > 0.96
    counted = written.rewrites[-1].parameters[QUANTIZED]["products"]
    assert counted == (BEHIND_NORMS if has_ranges else EVERY)
    for runtime in (open_session, OpenVINOSession):
        monkeypatch.setattr(integer_products, "open_session", runtime)
        check = integer_products.check_integer_products(source, written, counted, feeds, generator.find_mask)
        assert check.verdict is Verdict.PASSED, check.detail
