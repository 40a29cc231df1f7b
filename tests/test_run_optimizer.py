"""The optimizer in its own process: what it gives back, how it fails, and that nothing of it is left in ours."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import process_functions
import pytest
from conftest import FIXTURES, fixture_names
from fusion_plants import makers, norm_by_reduce_l2
from fusions import require_optimizer
from onnx import TensorProto, helper, numpy_helper

import graphsurgery
from graphsurgery.errors import MissingPackageError, RequestError, SurroundingsError, UnsupportedModelError
from graphsurgery.graph.operators import NOT_ON_CPU, NOT_ON_CUDA, VENDOR
from graphsurgery.rewrites.fuse import optimizer_process, runner
from graphsurgery.rewrites.fuse.optimizer_process import find_shape_failure, read, store
from graphsurgery.rewrites.fuse.runner import SWITCHES, Fusing, require_model_type, run_optimizer

require_optimizer()
pytestmark = pytest.mark.usefixtures("optimizer_each_time")

BERT = FIXTURES / "bert" / "model.onnx"
WORDS = "embeddings.word_embeddings.weight"


def never(*_: Any, **__: Any) -> None:
    pytest.fail("a process was started")


# --- how it fails ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (process_functions.crash, r"the transformer optimizer crashed \(signal 11\)"),
        (process_functions.be_killed, r"the transformer optimizer was killed \(signal 9\), perhaps because memory ran out"),
        (process_functions.leave, "the transformer optimizer ended with exit code 7: out of luck"),
        (process_functions.fail, r"the transformer optimizer failed \(KeyError: "),
        (process_functions.wait, "the transformer optimizer did not end within 1 s"),
    ],
    ids=lambda given: getattr(given, "__name__", ""),
)
def test_an_optimizer_that_gives_nothing(function: Callable[..., None], message: str, monkeypatch) -> None:
    """A known error with a reason, and a way out."""
    monkeypatch.setattr(runner, "optimize_file", function)
    monkeypatch.setattr(runner, "SECONDS", 1 if function is process_functions.wait else 60)
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        run_optimizer(onnx.load(BERT), Fusing())
    assert "--portable" in caught.value.advice


def test_a_graph_that_the_optimizer_stumbles_over() -> None:
    """A table that says how long it is, and is longer: the optimizer's own exception is told."""
    model = onnx.load(BERT)
    table = next(tensor for tensor in model.graph.initializer if tensor.name == WORDS)
    table.CopyFrom(TensorProto(name=WORDS, data_type=TensorProto.FLOAT, dims=table.dims, float_data=[1.0]))
    with pytest.raises(UnsupportedModelError, match=r"the transformer optimizer failed \(\w+Error: "):
        run_optimizer(model, Fusing())


@pytest.mark.parametrize("package", ["onnxruntime.transformers", "sympy"])
def test_a_package_that_is_not_there(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told before any process is started."""
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(runner, "call_in_own_process", never)
    with pytest.raises(MissingPackageError, match=f"{package} is not installed"):
        run_optimizer(onnx.load(BERT), Fusing())
    with pytest.raises(MissingPackageError, match=f"{package} is not installed"):
        require_model_type("bert")


def test_a_package_that_the_optimizer_does_not_find(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "optimize_file", process_functions.lack_a_package)
    with pytest.raises(MissingPackageError, match="No module named 'no_such_package'"):
        run_optimizer(onnx.load(BERT), Fusing())


def test_a_disk_that_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(runner, "store", full)
        with pytest.raises(SurroundingsError, match="cannot exchange files with the optimizer: No space left on device"):
            run_optimizer(onnx.load(BERT), Fusing())
    monkeypatch.setattr(runner, "optimize_file", process_functions.fill_the_disk)
    with pytest.raises(SurroundingsError, match=r"the transformer optimizer failed .*No space left on device"):
        run_optimizer(onnx.load(BERT), Fusing())


def test_a_model_type_that_the_optimizer_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user asks for is checked by asking the optimizer; what we choose ourselves is known."""
    with monkeypatch.context() as patch:
        patch.setattr(runner, "call_in_own_process", never)
        require_model_type("bert")
        require_model_type("t5")
    assert {"bert", "t5"} <= set(optimizer_process.list_model_types())
    require_model_type("vit")
    with pytest.raises(RequestError, match="no model type 'elephant'") as caught:
        require_model_type("elephant")
    assert "bert, " in caught.value.advice


# --- what it gives back ----------------------------------------------------------------------------------------------------


def test_weights_of_any_size_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large weights go and come in a file of their own. What the optimizer leaves alone is the same to the byte."""
    model, usual = onnx.load(BERT), run_optimizer(onnx.load(BERT), Fusing()).model
    table = next(tensor for tensor in model.graph.initializer if tensor.name == WORDS)
    rows = np.random.default_rng(0).standard_normal((optimizer_process.LARGE // 100, table.dims[1])).astype(np.float32)
    table.CopyFrom(numpy_helper.from_array(rows, WORDS))
    empty = numpy_helper.from_array(np.zeros((0, 3), np.float32), "empty")
    typed = TensorProto(name="typed", data_type=TensorProto.FLOAT, dims=[2], float_data=[1.5, 2.5], data_location=0)
    model.graph.initializer.extend([empty, typed])
    model.graph.node.append(helper.make_node("Concat", ["empty", "empty"], ["read"], axis=0))
    model.graph.node.append(helper.make_node("Abs", ["typed"], ["read too"]))
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ("read", "read too"))
    before = model.SerializeToString(deterministic=True)
    monkeypatch.setattr(optimizer_process, "LARGE", 1000)  # on the way there
    fused = run_optimizer(model, Fusing()).model
    assert model.SerializeToString(deterministic=True) == before, "what is given stays as it is"
    assert [node.op_type for node in fused.graph.node if node.domain == VENDOR] == [
        node.op_type for node in usual.graph.node if node.domain == VENDOR
    ]
    given = {tensor.name: tensor for tensor in (*usual.graph.initializer, table, empty, typed)}
    made = {tensor.name: tensor.SerializeToString() for tensor in fused.graph.initializer}
    assert made == {name: tensor.SerializeToString() for name, tensor in given.items()} and len(made[WORDS]) > 1 << 20


def test_a_stored_model_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer_process, "LARGE", 100)
    for name in fixture_names():
        model = onnx.load(FIXTURES / name / "model.onnx", load_external_data=False)
        wanted = model.SerializeToString(deterministic=True)
        store(model, tmp_path / "model.onnx")
        assert read(tmp_path / "model.onnx").SerializeToString(deterministic=True) == wanted


def test_an_optimization_starts_the_optimizer_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def counted(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        started.append(function.__name__)
        return called(function, *arguments, **options)

    called = runner.call_in_own_process
    monkeypatch.setattr(runner, "call_in_own_process", counted)
    for name in ("bert", "modernbert"):  # all of it fuses; some of it is missed, for reasons
        assert graphsurgery.optimize(FIXTURES / name / "model.onnx", output=tmp_path / f"{name}.onnx", time=False).report
    assert started == ["optimize_file", "optimize_file"]


def test_nothing_of_the_optimizer_is_left_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    """Neither what it prints nor what it logs, adds to the search path or leaves in the current folder where it fails."""
    monkeypatch.chdir(tmp_path)
    model = onnx.load(BERT)
    norm_by_reduce_l2(model)
    root = logging.getLogger()
    before = (Path.cwd(), sys.stdout, sys.stderr, sys.path[:], root.handlers[:], root.level)
    fused = run_optimizer(model, Fusing())
    assert fused.warnings == ("symbolic shape inference disabled or failed.",)
    assert (Path.cwd(), sys.stdout, sys.stderr, sys.path, root.handlers, root.level) == before
    assert not list(tmp_path.iterdir()) and capfd.readouterr() == ("", "")


# --- where shape inference fails -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", fixture_names())
def test_shape_inference_that_does_not_fail(name: str) -> None:
    assert find_shape_failure(onnx.load(FIXTURES / name / "model.onnx")) is None
    assert find_shape_failure(onnx.ModelProto()) is None


@pytest.mark.parametrize("layer", [0, 1])
def test_the_node_at_which_shape_inference_fails(layer: int) -> None:
    """An operator that nobody knows, in the middle of the graph."""
    model = onnx.load(BERT)
    value = f"/encoder/layer.{layer}/output/LayerNorm/LayerNormalization_output_0"
    node = makers(model)[value]
    node.output[0] = "normalised"
    strange = helper.make_node("Strange", ["normalised"], [value], "strange", domain="own")
    model.graph.node.insert(list(model.graph.node).index(node) + 1, strange)
    model.opset_import.append(helper.make_opsetid("own", 1))
    assert find_shape_failure(model) == "strange: Strange"


def test_the_operator_that_has_no_shape_is_told_and_not_its_reader() -> None:
    model = onnx.load(BERT)
    norm_by_reduce_l2(model)
    assert find_shape_failure(model) == "head/norm: ReduceL2"
    model.graph.node[-2].name = ""
    assert find_shape_failure(model) == "reduced: ReduceL2"


# --- kernels ---------------------------------------------------------------------------------------------------------------


def test_the_list_of_operators_without_a_cpu_kernel() -> None:
    """It is held against the kernels of the build at hand, of which only a private function tells."""
    build = pytest.importorskip("onnxruntime.capi._pybind_state")
    there = {
        f"{VENDOR}.{kernel.op_name}" for kernel in build.get_all_opkernel_def()
        if kernel.domain == VENDOR and kernel.provider == "CPUExecutionProvider"
    }  # fmt: skip
    vendors = {f"{VENDOR}.{schema.name}" for schema in build.get_all_operator_schema() if schema.domain == VENDOR}
    switched = {name for switch in SWITCHES.values() for name in switch.operators}
    assert there and switched <= there, "all that the switches name can run"
    assert not NOT_ON_CPU & there and there >= NOT_ON_CUDA
    made = {f"{VENDOR}.{word}" for word in find_quoted_words()}
    assert made & vendors - there <= NOT_ON_CPU, "all that the optimizer names and the CPU lacks is listed"


def find_quoted_words() -> set[str]:
    """Every word in quotes in the optimizer's source: the operators that it makes are among them."""

    import onnxruntime.transformers

    folder = Path(onnxruntime.transformers.__file__).parent
    return {word for path in folder.glob("*.py") for word in re.findall(r'"([A-Z]\w+)"', path.read_text(encoding="utf-8"))}
