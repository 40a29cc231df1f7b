"""deploy --for triton: Triton's own protobufs read the config, and its client makes requests that fit it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import FIXTURES
from google.protobuf import text_format
from tritonclient.grpc import InferInput, model_config_pb2

import graphsurgery
from graphsurgery.deploying.deploy import deploy

STRANGE = 'a "quoted" \\ name, é'


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triton") / "my-model"
    shutil.copytree(FIXTURES / "bert", folder)
    return graphsurgery.bake(folder, verify=False).folder


def parse(folder: Path, name: str) -> model_config_pb2.ModelConfig:
    text = (folder / name / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_the_config_says_what_the_file_says(baked: Path, tmp_path: Path) -> None:
    deploy(baked, "triton", output=tmp_path / "out", max_batch=16)
    found = parse(tmp_path / "out", "my-model-baked")
    interface = graphsurgery.load(baked / "onnx" / "model.onnx").interface
    assert (found.name, found.backend, found.max_batch_size) == ("my-model-baked", "onnxruntime", 16)
    assert [one.name for one in found.input] == [one.name for one in interface.inputs]
    assert all((one.data_type, list(one.dims)) == (model_config_pb2.TYPE_INT64, [-1]) for one in found.input)
    (out,) = found.output
    assert (out.name, out.data_type, list(out.dims)) == ("sentence_embedding", model_config_pb2.TYPE_FP32, [32])
    policy = found.dynamic_batching.default_queue_policy
    assert found.dynamic_batching.max_queue_delay_microseconds == 0 and policy.max_queue_size == 512
    assert policy.timeout_action == model_config_pb2.ModelQueuePolicy.REJECT


def test_the_inputs_of_a_client_fit(baked: Path, tmp_path: Path) -> None:
    """The ids of the Embedder in the types and dims that the config states."""
    deploy(baked, "triton", output=tmp_path / "out")
    config = parse(tmp_path / "out", "my-model-baked")
    ids = np.array(graphsurgery.Embedder(baked).tokenize(["the cat sat"]), dtype=np.int64)
    for one in config.input:
        given = InferInput(one.name, list(ids.shape), "INT64")
        given.set_data_from_numpy(ids)
        assert model_config_pb2.DataType.Name(one.data_type) == f"TYPE_{given.datatype()}"
        assert len(given.shape()) == len(one.dims) + 1  # the batch


def test_strange_names_are_read_as_they_are(baked: Path, tmp_path: Path) -> None:
    folder = tmp_path / "strange"
    shutil.copytree(baked, folder)
    graphsurgery.save(graphsurgery.rename(folder / "onnx" / "model.onnx", {"input_ids": STRANGE}), folder / "renamed.onnx")
    deploy(folder, "triton", output=tmp_path / "out", file="renamed.onnx", name="m")
    assert parse(tmp_path / "out", "m").input[0].name == STRANGE
