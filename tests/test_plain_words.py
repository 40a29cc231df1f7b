"""What a newcomer reads: short reprs, inputs that may be left out, precision, one reason said once, and files named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import FIXTURES
from encoders import HIDDEN, tiny_encoder
from onnx import helper, numpy_helper

import graphsurgery
from graphsurgery import OptionalInput
from graphsurgery.cli.main import run
from graphsurgery.errors import MalformedModelError, RequestError
from graphsurgery.outcome import explain_failure, group_attempts, list_attempts
from graphsurgery.report import Check, Report, Verdict

BERT = FIXTURES / "bert" / "model.onnx"


def make_quantised(path: Path) -> Path:
    """The tiny encoder with its product quantised as ONNX Runtime's dynamic quantisation does it."""
    model = tiny_encoder(hidden=16)
    place = next(index for index, node in enumerate(model.graph.node) if node.name == "mixed")
    node = model.graph.node[place]
    del model.graph.node[place]
    made = [
        helper.make_node("DynamicQuantizeLinear", [node.input[0]], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w8", "z"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "s"], ["scaled"]),
        helper.make_node("Mul", ["scaled", "ws"], [node.output[0]]),
    ]
    for offset, one in enumerate(made):
        model.graph.node.insert(place + offset, one)
    weight = numpy_helper.to_array(next(one for one in model.graph.initializer if one.name == "weight"))
    scale = np.float32(np.abs(weight).max() / 127)
    model.graph.initializer.append(numpy_helper.from_array(np.round(weight / scale).astype(np.int8), "w8"))
    model.graph.initializer.append(numpy_helper.from_array(scale, "ws"))
    onnx.save(model, path)
    return path


def test_values_in_a_session_of_python_are_one_short_line(tmp_path: Path) -> None:
    model = graphsurgery.load(BERT)
    done = graphsurgery.run([graphsurgery.AddPooling("mean")], BERT, output=tmp_path / "o.onnx", verify=False)
    for value in (model, graphsurgery.add_pooling(model, mode="cls"), graphsurgery.inspect(BERT), done):
        assert len(repr(value)) < 600 and "\n" not in repr(value) and "input_ids: int64" in repr(value)
    assert "not proven" in repr(done) and "edited" in repr(done.model) and "edited" not in repr(model)
    report = Report((Check("a", "b", stated=Verdict.FAILED),))
    assert str(report) == "FAILED, 0 cases compared; FAILED a"


def test_a_baked_folder_is_one_short_line(tmp_path: Path) -> None:
    done = graphsurgery.bake(FIXTURES / "bert", tmp_path / "baked", verify=False)
    assert len(repr(done)) < 800 and str(tmp_path / "baked") in repr(done)


def test_an_input_that_may_be_left_out_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "o.onnx"
    assert run(["optional-input", str(BERT), "--input", "token_type_ids", "-o", str(output), "--no-verify", "-v"]) == 0
    assert "in, optional" in capsys.readouterr().out
    done = graphsurgery.run([OptionalInput("token_type_ids")], BERT, output=tmp_path / "p.onnx", verify=False)
    assert done.to_json()["interface"]["after"]["optional_inputs"][0]["name"] == "token_type_ids"
    assert "token_type_ids: int64[?, ?] (optional)" in repr(done)
    assert '# "token_type_ids" is optional, and left out here' in done.snippet
    assert all("token_type_ids is optional" in one.detail for one in done.consumers if one.reads)
    assert any(one.reads for one in done.consumers)
    assert run(["inspect", str(output)]) == 0
    (line,) = (one for one in capsys.readouterr().out.splitlines() if "in, optional" in one)
    assert "token_type_ids" in line
    assert graphsurgery.inspect(output).to_json()["optional_inputs"] == ["token_type_ids: int64[?, ?]"]
    assert graphsurgery.inspect(BERT).interface.optional == ()


def test_weights_that_old_files_list_as_inputs_are_none_to_leave_out() -> None:
    assert graphsurgery.inspect(tiny_encoder(ir_version=3, opset=11)).interface.optional == ()


def test_inspect_says_the_precision(tmp_path: Path) -> None:
    assert graphsurgery.inspect(BERT).weights_are is None
    half = graphsurgery.inspect(FIXTURES / "bert-fp16" / "model.onnx").weights_are
    assert half == "half precision: most weights are float16"
    quantised = graphsurgery.inspect(make_quantised(tmp_path / "q.onnx")).weights_are
    assert quantised is not None and quantised.startswith("quantised") and quantised.endswith("int8")


@pytest.mark.parametrize("options", [{}, {"fp16": True}, {"portable": True}])
def test_optimizing_a_quantised_file_is_told_of(options: dict[str, bool], tmp_path: Path) -> None:
    """Whether it succeeds or not."""
    source = make_quantised(tmp_path / "q.onnx")
    try:
        done = graphsurgery.optimize(source, output=tmp_path / "o.onnx", time=False, **options)
    except graphsurgery.GraphSurgeryError as error:
        said = error.advice
    else:
        said = done.warnings[0]
    assert "MatMulInteger 1" in said and "optimize the float32 file, and quantise the result" in said


def test_files_of_other_widths_are_said_to_be_so(tmp_path: Path) -> None:
    onnx.save(tiny_encoder(hidden=8), tmp_path / "a.onnx")
    report = graphsurgery.verify(tmp_path / "a.onnx", against=tiny_encoder(hidden=16))
    (check,) = report.checks
    assert report.verdict is Verdict.FAILED and check.detail == f"{HIDDEN} is 8 wide, and the source's is 16 wide"


def test_a_reason_is_said_once_for_all_attempts() -> None:
    attempts = [f"bert without {name}: it failed (IndexError: list)" for name in "abcdef"] + ["bert: 3e-2 apart in 'holes'"]
    some = "bert without a; bert without b; bert without c; bert without d; and 2 more"
    assert group_attempts(attempts) == [f"{some}: it failed (IndexError: list)", "bert: 3e-2 apart in 'holes'"]
    assert list_attempts(attempts).count("IndexError") == 1


def test_the_reason_of_what_is_not_checked_is_that_of_the_check_and_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    from graphsurgery.cli.console import out
    from graphsurgery.cli.render import render_details

    report = Report(
        (Check("same outputs", "the source cannot be run", stated=Verdict.NOT_CHECKED),),
        not_checked=("real text: no tokenizer", "same outputs: the source cannot be run"),
    )
    assert explain_failure(report) == "same outputs: the source cannot be run"
    out.print(render_details(report))
    shown = capsys.readouterr().out
    assert shown.count("the source cannot be run") == 1 and "not checked: real text: no tokenizer" in shown


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x0f\x00broken", "is broken"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"../../../blobs/490a6c4919749497a48684ae192e7e68\n", "is a text (../../../blobs/490a6c4919749497a48684ae192e7e68"),
        (b"", "is empty"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(MalformedModelError) as refused:
        graphsurgery.load(path)
    assert said in str(refused.value) and str(refused.value).startswith(f"{path}: ")


def test_input_type_says_what_is_there_already() -> None:
    with pytest.raises(RequestError) as refused:
        graphsurgery.input_type(BERT, to="int64")
    assert "no input [batch, seq] is int32" in str(refused.value) and "nothing is left to do" in refused.value.advice


def test_the_printed_program_runs_the_embedding(tmp_path: Path) -> None:
    model = tiny_encoder()
    model.graph.node.append(helper.make_node("ReduceMean", [HIDDEN], ["sentence_embedding"], axes=[1], keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("sentence_embedding", onnx.TensorProto.FLOAT, ["batch", 8]))
    onnx.save(model, tmp_path / "m.onnx")
    done = graphsurgery.run([graphsurgery.AddNormalize()], tmp_path / "m.onnx", output=tmp_path / "o.onnx", verify=False)
    assert '.run(["sentence_embedding"],' in done.snippet and done.interface.outputs[0].name == HIDDEN
