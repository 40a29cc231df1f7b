"""Sizes that an export baked in although the file declares them free: found by a run, said, and proven at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from encoders import tiny_encoder
from onnx import helper, numpy_helper

import graphsurgery
from graphsurgery import AddPooling
from graphsurgery.encoder.roles import find_roles
from graphsurgery.encoder.suspected_sizes import list_suspected_sizes
from graphsurgery.errors import RequestError
from graphsurgery.report import Verdict
from graphsurgery.runtime.baked_sizes import make_feed_generator_for

SAYS = "although the file declares that any size will do"


def baked_encoder(*shape: int) -> onnx.ModelProto:
    """An encoder that declares [batch, sequence] and reshapes its hidden state to ``shape``, by 8 as two heads of 4."""
    model = tiny_encoder()
    ends = [
        helper.make_node("Reshape", ["before", "heads_shape"], ["of_heads"], "split", allowzero=1 if 0 in shape else 0),
        helper.make_node("Transpose", ["of_heads"], ["heads"], "turn", perm=[0, 2, 1, 3]),
        helper.make_node("Transpose", ["heads"], ["apart"], "back", perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["apart", "whole_shape"], ["last_hidden_state"], "join"),
    ]
    for node in model.graph.node:
        node.output[:] = ["before" if name == "last_hidden_state" else name for name in node.output]
    model.graph.node.extend(ends)
    numbers = {"heads_shape": [*shape, 2, 4], "whole_shape": [0, 0, 8]}
    model.graph.initializer.extend(numpy_helper.from_array(np.array(one), name) for name, one in numbers.items())
    return model


def table_encoder(rows: int, columns: int) -> onnx.ModelProto:
    """An encoder that declares [batch, sequence] and adds a table of ``rows`` x ``columns`` to its hidden state."""
    model = tiny_encoder()
    for node in model.graph.node:
        node.output[:] = ["before" if name == "last_hidden_state" else name for name in node.output]
    table = np.random.default_rng(0).standard_normal((rows, columns, 8)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(table, "table"))
    model.graph.node.append(helper.make_node("Add", ["before", "table"], ["last_hidden_state"], "shifted"))
    return model


BAKED = {
    "sequence": (lambda: baked_encoder(-1, 7), (None, 7), "on texts of 7 tokens"),
    "batch": (lambda: baked_encoder(2, -1), (2, None), "in batches of 2 texts"),
    "a batch of one": (lambda: baked_encoder(1, -1), (1, None), "in batches of 1 text"),
    "both": (lambda: baked_encoder(2, 7), (2, 7), "in batches of 2 texts of 7 tokens"),
    "the usual length": (lambda: baked_encoder(-1, 5), (None, 5), "on texts of 5 tokens"),
    "the usual batch": (lambda: baked_encoder(3, -1), (3, None), "in batches of 3 texts"),
    "a table of the length": (lambda: table_encoder(1, 6), (None, 6), "on texts of 6 tokens"),
    "a table of both": (lambda: table_encoder(2, 6), (2, 6), "in batches of 2 texts of 6 tokens"),
}


@pytest.mark.parametrize(("make", "sizes", "words"), BAKED.values(), ids=BAKED)
def test_a_file_is_proven_at_the_only_sizes_at_which_it_runs(make, sizes, words: str, tmp_path: Path) -> None:
    """`inspect` and the proof say so; no program that feeds any size is said to read the file; and it runs at those sizes."""
    source = graphsurgery.load(make())
    assert make_feed_generator_for(source, find_roles(source.interface)).baked == sizes
    warnings = [line for line in graphsurgery.inspect(source).warnings if SAYS in line]
    assert warnings == [f"the model runs only {words}, {SAYS}"]
    done = graphsurgery.run([AddPooling("mean", normalize=True)], source, output=tmp_path / "out.onnx")
    assert done.report is not None and done.report.verdict is Verdict.PASSED
    assert [check.verdict for check in done.report.checks] == [Verdict.PASSED] * 3
    assert warnings[0] in done.report.warnings
    assert not any(one.reads for one in done.consumers)
    rows, columns = (size or other for size, other in zip(sizes, (3, 4), strict=True))
    feed = {name: np.ones((rows, columns), dtype=np.int64) for name in ("input_ids", "attention_mask")}
    found = onnxruntime.InferenceSession(done.output).run(None, feed)[0]
    assert found.shape == (rows, 8) and np.allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize("name", ["sequence", "both"])
def test_the_printed_program_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It feeds the only size that there is."""
    monkeypatch.chdir(tmp_path)
    done = graphsurgery.run([AddPooling("mean")], BAKED[name][0](), output=tmp_path / "out.onnx")
    made: dict[str, np.ndarray] = {}
    exec(done.snippet, made)
    assert made["sentence_embedding"].shape[-1] == 8


def test_a_fault_at_the_only_size_is_found() -> None:
    source = graphsurgery.load(baked_encoder(-1, 7))
    proto = graphsurgery.add_pooling(source, mode="mean").to_proto()
    last = next(node for node in proto.graph.node if "sentence_embedding" in node.output)
    last.output[:] = ["right"]
    proto.graph.node.append(helper.make_node("Neg", ["right"], ["sentence_embedding"], "graphsurgery/planted"))
    report = graphsurgery.verify(proto, against=source)
    whole = next(check for check in report.checks if check.name == "whole proof")
    assert not report and whole.verdict is Verdict.FAILED and sum(one.cases for one in whole.comparisons) > 10


def test_files_for_any_size_are_not_run_to_be_inspected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what the graph makes likely is tried."""
    monkeypatch.setattr("graphsurgery.runtime.baked_sizes.open_session", lambda _: pytest.fail("the model was opened"))
    assert list_suspected_sizes(graphsurgery.load(tiny_encoder())) == []
    assert not any(SAYS in line for line in graphsurgery.inspect(tiny_encoder()).warnings)
    assert not any(SAYS in line for line in graphsurgery.inspect(tiny_encoder(dims=(2, 6))).warnings)


def test_a_suspicion_alone_says_nothing() -> None:
    """A shape that begins with a number makes one size likely, and a run shows that any will do."""
    model = tiny_encoder()
    for node in model.graph.node:
        node.output[:] = ["before" if name == "last_hidden_state" else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, -1, 8]), "row_shape"))
    model.graph.node.extend([
        helper.make_node("Shape", ["before"], ["own_shape"], "own_shape"),
        helper.make_node("Reshape", ["before", "row_shape"], ["row"], "row"),
        helper.make_node("Reshape", ["row", "own_shape"], ["last_hidden_state"], "whole"),
    ])  # fmt: skip
    source = graphsurgery.load(model)
    assert list_suspected_sizes(source) == [1, 8]
    assert make_feed_generator_for(source, find_roles(source.interface)).baked == (None, None)
    assert not any(SAYS in line for line in graphsurgery.inspect(source).warnings)


ROTATED = """
<ir_version: 11, opset_import: ["" : 23]>
rotated (int64[batch, seq] input_ids, int64[batch, seq] attention_mask) => (float[batch, seq, 4] last_hidden_state) {
    words = Gather (table, input_ids)
    sizes = Shape (input_ids)
    second = Constant <value = int64[1] {1}> ()
    length = Gather (sizes, second)
    zero = Constant <value = int64[1] {0}> ()
    some = Slice (angles, zero, length, second)
    last_hidden_state = RotaryEmbedding <num_heads = 2> (words, some, some)
}
"""


def test_rotary_tables_of_one_text(tmp_path: Path) -> None:
    """ai.onnx RotaryEmbedding does not broadcast its tables ``[1, seq, dim]``: transformers' exporter makes such files."""
    model = onnx.parser.parse_model(ROTATED)
    rng = np.random.default_rng(0)
    for name, shape in (("table", (20, 4)), ("angles", (1, 300, 1))):
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    says = f"the model runs only in batches of 1 text, {SAYS}"
    assert says in graphsurgery.inspect(model).warnings
    done = graphsurgery.run([AddPooling("mean")], model, output=tmp_path / "out.onnx")
    assert done.report is not None and [check.verdict for check in done.report.checks] == [Verdict.PASSED] * 3
    assert says in done.report.warnings


PICTURES = """
<ir_version: 8, opset_import: ["" : 17]>
pictures (float[batch, channels, height, width] pixel_values) => (float[batch, patches, 8] last_hidden_state) {
    cut = Conv <kernel_shape = [4, 4], strides = [4, 4]> (pixel_values, kernel)
    shape = Constant <value = int64[3] {0, 8, -1}> ()
    flat = Reshape (cut, shape)
    turned = Transpose <perm = [0, 2, 1]> (flat)
    last_hidden_state = Add (turned, positions)
}
"""


def picture_encoder(rows: int) -> onnx.ModelProto:
    """An encoder of pictures in patches of 4 x 4 pixels, with a table of ``rows`` positions."""
    model = onnx.parser.parse_model(PICTURES)
    rng = np.random.default_rng(0)
    for name, shape in (("kernel", (8, 3, 4, 4)), ("positions", (1, rows, 8))):
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    return model


def test_pictures_of_one_size(tmp_path: Path) -> None:
    """As many patches as the table has rows: 3 x 3 patches of 4 x 4 pixels."""
    says = f"the model runs only on pictures of 3 x 12 x 12, {SAYS}"
    assert says in graphsurgery.inspect(picture_encoder(9)).warnings
    done = graphsurgery.run([AddPooling("mean", mask="ones")], picture_encoder(9), output=tmp_path / "out.onnx")
    assert done.report is not None and [check.verdict for check in done.report.checks] == [Verdict.PASSED] * 3
    assert says in done.report.warnings
    assert "standard_normal([1, 3, 12, 12])" in done.snippet


def test_pictures_of_any_size(tmp_path: Path) -> None:
    """One row for all patches: it runs on pictures of more than one size, which says nothing against the file."""
    source = graphsurgery.load(picture_encoder(1))
    generator = make_feed_generator_for(source, find_roles(source.interface))
    assert [(one.sizes, one.only) for one in generator.media] == [((3, 224, 224), False)]
    assert not any(SAYS in line for line in graphsurgery.inspect(source).warnings)
    done = graphsurgery.run([AddPooling("mean", mask="ones")], source, output=tmp_path / "out.onnx")
    assert done.report and not any(SAYS in line for line in done.report.warnings)
    assert [line for line in done.report.observations if "batch" in line] == [
        "a picture's vector changes by at most 0.0e+00 with other pictures in the batch"
    ]


def test_dynamic_dim_says_what_to_do_first() -> None:
    """A size that is baked in although it is declared free: fix-dim declares it, and dynamic-dim then frees it."""
    source = graphsurgery.load(baked_encoder(2, 7))
    with pytest.raises(RequestError, match="runs only in batches of 2 texts of 7 tokens") as raised:
        graphsurgery.dynamic_dim(source, dims=["sequence=tokens"])
    assert raised.value.advice == "declare that first (fix-dim --dim batch=2 --dim sequence=7), and then free it"
    fixed = graphsurgery.fix_dim(source, {"batch": 2, "sequence": 7})
    freed = graphsurgery.dynamic_dim(fixed, dims=["batch=rows", "sequence=tokens"])
    assert freed.interface.outputs[0].dims == ("rows", "tokens", 8)
    assert graphsurgery.verify(freed, against=source)
