"""Sessions are quiet by their own options. The host program's logger of ONNX Runtime is left alone."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from conftest import FIXTURES
from encoders import BFLOAT16, tiny_encoder
from onnx import helper, numpy_helper

import graphsurgery
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.runtime.session import Session, open_session

BERT = FIXTURES / "bert" / "model.onnx"
PROGRAM = """
import sys
import onnxruntime
from graphsurgery.runtime.session import Session
VERBOSE, FATAL = 0, 4
onnxruntime.set_default_logger_severity(VERBOSE)
Session(sys.argv[1])
print("the host's own session", file=sys.stderr, flush=True)
options = onnxruntime.SessionOptions()
options.log_severity_level = FATAL
onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
"""


def test_the_default_logger_is_as_it_was() -> None:
    """What the host asked to be logged is logged as before, after a session of ours as well."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(BERT)], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    _, _, after = done.stderr.partition("the host's own session")
    assert "onnxruntime:Default" in after


def test_sessions_are_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    """A weight that nothing reads, an output of other dims than declared, a run that fails, a model that does not load."""
    model = onnx.load(BERT)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "unused"))
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 7
    session = Session(model.SerializeToString())
    ids = np.ones((2, 5), np.int64)
    feed = {"input_ids": ids, "attention_mask": ids, "token_type_ids": ids * 0}
    assert session.run(feed)["last_hidden_state"].shape == (2, 5, 32)
    with pytest.raises(UnsupportedModelError, match="out of data bounds"):
        session.run(feed | {"input_ids": ids + 10**6})
    model.graph.node.append(helper.make_node("NoSuchOperator", ["input_ids"], ["strange"]))
    with pytest.raises(UnsupportedModelError, match="NoSuchOperator"):
        Session(model.SerializeToString())
    assert capfd.readouterr() == ("", "")


def test_what_the_options_silence(capfd: pytest.CaptureFixture[str]) -> None:
    """Without them ONNX Runtime warns of the same model."""
    import onnxruntime

    model = onnx.load(BERT)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "unused"))
    onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert "unused" in capfd.readouterr().err


def test_a_bfloat16_encoder_says_that_the_cpu_has_no_kernels() -> None:
    """ONNX Runtime names the first node that it has no kernel for, which is not the reason."""
    model = graphsurgery.load(tiny_encoder(dtype=BFLOAT16))
    with pytest.raises(UnsupportedModelError, match="has no kernels for bfloat16, so the model cannot be run here"):
        open_session(model)
