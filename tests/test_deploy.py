"""deploy: configurations that say what the file says, and that are read as they are meant."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml
from conftest import FIXTURES, ROOT

import graphsurgery
from graphsurgery.cli.main import OK, run
from graphsurgery.deploying.deploy import MAX_BATCH, TARGETS, deploy
from graphsurgery.deploying.facts import Facts, make_name
from graphsurgery.deploying.triton import make_config
from graphsurgery.errors import OutputExistsError, RequestError, UnsupportedModelError
from graphsurgery.interface import Interface, Value

EXAMPLES = ROOT / "recipes" / "deploy"
INT64, FLOAT = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deploy") / "my-model"
    shutil.copytree(FIXTURES / "bert", folder)
    return graphsurgery.bake(folder, verify=False).folder


def read(baked: Path, target: str, tmp_path: Path, **given: Any) -> dict[str, str]:
    """The files that are written for a target, by their names."""
    done = deploy(baked, target, output=tmp_path / target, place="/srv/models/my-model-baked", **given)
    return {name: (done.folder / name).read_text(encoding="utf-8") for name in done.files}


def make_facts(inputs: tuple[Value, ...], outputs: tuple[Value, ...], longest: int | None = 64) -> Facts:
    return Facts("m", "model.onnx", Interface(inputs, outputs), longest, 1)


# --- Triton: the text of config.pbtxt. tests/services reads it with Triton's own protobufs --------------------------------


def test_a_config_has_the_interface_of_the_file(baked: Path, tmp_path: Path) -> None:
    text = read(baked, "triton", tmp_path)["my-model-baked/config.pbtxt"]
    assert 'name: "my-model-baked"\nbackend: "onnxruntime"\nmax_batch_size: 32\n' in text
    found = re.findall(r'name: "(\w+)"\n    data_type: (\w+)\n    dims: \[ (.*) \]', text)
    ids = [(name, "TYPE_INT64", "-1") for name in ("input_ids", "attention_mask", "token_type_ids")]
    assert found == [*ids, ("sentence_embedding", "TYPE_FP32", "32")]
    assert "dynamic_batching" in text and "max_queue_size: 512" in text


@pytest.mark.parametrize(
    ("first", "batched"),
    [(("batch", "batch"), True), ((None, "batch"), True), (("batch", "rows"), False), ((4, 4), False), (("batch", 1), False)],
)
def test_rows_are_joined_only_if_all_first_dims_count_them(first: tuple[Any, Any], batched: bool) -> None:
    facts = make_facts((Value("ids", INT64, (first[0], "s")),), (Value("out", FLOAT, (first[1], 8)),))
    text = make_config(facts, "model.onnx", 16, 9)
    assert ("max_batch_size: 16" in text, "dynamic_batching {" in text) == (batched, batched)
    assert ("dims: [ 8 ]" in text) == batched
    assert "default_model_filename" not in text


def test_a_number_for_each_row_is_reshaped() -> None:
    """Triton has no dims of length zero: a score [batch] is [1] there."""
    text = make_config(make_facts((Value("ids", INT64, ("b", "s")),), (Value("score", FLOAT, ("b",)),)), "a.onnx", 4, 9)
    assert 'name: "score"\n    data_type: TYPE_FP32\n    dims: [ 1 ]\n    reshape: { shape: [ ] }\n' in text
    assert 'default_model_filename: "a.onnx"' in text


def test_types_that_triton_lacks_are_refused() -> None:
    facts = make_facts((Value("ids", onnx.TensorProto.COMPLEX64, ("b", "s")),), (Value("out", FLOAT, ("b", 8)),))
    with pytest.raises(UnsupportedModelError, match="ids has the type complex64, which Triton does not have"):
        make_config(facts, "model.onnx", 4, 9)


def test_the_model_is_copied_to_where_triton_looks(tmp_path: Path) -> None:
    folder = tmp_path / "external"
    shutil.copytree(FIXTURES / "bert-external", folder)
    done = deploy(folder, "triton", output=tmp_path / "out", with_model=True)
    copies = [one for one in done.files if one.startswith("external/1/")]
    assert len(copies) > 1 and done.steps == ("tritonserver --model-repository=.",)
    onnx.load(tmp_path / "out" / "external" / "1" / "model.onnx")  # with its data


# --- the others -----------------------------------------------------------------------------------------------------------


def test_kserve(baked: Path, tmp_path: Path) -> None:
    files = read(baked, "kserve", tmp_path, image="registry/embed:1", storage="s3://models/repo", replicas=3, processors=4)
    whole, triton = (yaml.safe_load(files[name]) for name in ("inference-service.yaml", "inference-service-triton.yaml"))
    for one, name in ((whole, "my-model-baked"), (triton, "my-model-baked-triton")):
        assert (one["apiVersion"], one["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
        assert one["metadata"]["name"] == name and one["spec"]["predictor"]["minReplicas"] == 3
    (container,) = whole["spec"]["predictor"]["containers"]
    assert (container["name"], container["image"]) == ("kserve-container", "registry/embed:1")
    assert container["args"][:2] == ["serve", "/model"] and container["resources"]["requests"]["cpu"] == "4"
    assert container["readinessProbe"]["httpGet"] == {"path": "/ready", "port": 8080}
    model = triton["spec"]["predictor"]["model"]
    assert (model["protocolVersion"], model["storageUri"]) == ("v2", "s3://models/repo")
    assert files["my-model-baked/config.pbtxt"] == read(baked, "triton", tmp_path)["my-model-baked/config.pbtxt"]


def test_tensorrt(baked: Path, tmp_path: Path) -> None:
    """The command as a shell reads it: all sizes within what the file takes."""
    script = read(baked, "tensorrt", tmp_path)["build-engine.sh"]
    command = shlex.split(script[script.index("exec ") :].replace("\\\n", " "))
    assert command[:2] == ["exec", "trtexec"]
    given = dict(one.removeprefix("--").split("=", 1) for one in command[2:])
    assert given["onnx"] == "/srv/models/my-model-baked/onnx/model.onnx"
    names = ("input_ids", "attention_mask", "token_type_ids")
    for option, size in (("minShapes", "1x1"), ("optShapes", "8x32"), ("maxShapes", "32x32")):
        assert given[option] == ",".join(f"{name}:{size}" for name in names)
    assert "input_ids:32x16" in read(baked, "tensorrt", tmp_path / "16", longest=16)["build-engine.sh"]
    subprocess.run(["sh", "-n", tmp_path / "tensorrt" / "build-engine.sh"], check=True)


def test_tensorrt_refuses_sizes_that_are_not_known(baked: Path, tmp_path: Path) -> None:
    from graphsurgery.deploying.tensorrt import make_script

    pixels = make_facts((Value("pixels", FLOAT, ("b", 3, "h", "w")),), (Value("out", FLOAT, ("b", 8)),), None)
    with pytest.raises(UnsupportedModelError, match="the largest size of dim 2 of pixels"):
        make_script(pixels, "/m", 4)
    fixed = make_facts((Value("pixels", FLOAT, (1, 3, 8, 8)),), (Value("out", FLOAT, (1, 8)),), None)
    assert "Shapes=" not in make_script(fixed, "/m", 4)
    unlimited = make_facts((Value("ids", INT64, ("b", "s")),), (Value("out", FLOAT, ("b", 8)),), None)
    with pytest.raises(RequestError, match="does not say how long a text may be") as caught:
        make_script(unlimited, "/m", 4)
    assert "--longest" in caught.value.advice
    colon = make_facts((Value("ids:0", INT64, ("b", "s")),), (Value("out", FLOAT, ("b", 8)),))
    with pytest.raises(RequestError, match="'ids:0'"):
        make_script(colon, "/m", 4)


def test_systemd(baked: Path, tmp_path: Path) -> None:
    """A path with a space, a quote and a percent sign stays one word."""
    done = deploy(baked, "systemd", output=tmp_path / "out", place='/srv/my "best" 100%')
    lines = (done.folder / "my-model-baked.service").read_text(encoding="utf-8").splitlines()
    (start,) = [one for one in lines if one.startswith("ExecStart=")]
    assert start.split(" serve ", 1)[1].startswith('"/srv/my \\"best\\" 100%%" --host 127.0.0.1 --port 8080')
    assert {"Restart=on-failure", "TimeoutStopSec=35", "DynamicUser=yes", "[Install]"} <= set(lines)


def test_docker(baked: Path, tmp_path: Path) -> None:
    lines = read(baked, "docker", tmp_path)["Dockerfile"].splitlines()
    command = json.loads(next(one for one in lines if one.startswith("CMD ")).removeprefix("CMD "))
    assert command[:4] == ["serve", "/model", "--host", "0.0.0.0"]
    assert lines.index("USER server") < lines.index('ENTRYPOINT ["graphsurgery"]')
    assert f'RUN pip install --no-cache-dir "graphsurgery[serve]=={graphsurgery.__version__}"' in lines


def test_ray(baked: Path, tmp_path: Path) -> None:
    files = read(baked, "ray", tmp_path, replicas=2)
    compile(files["my_model_baked_service.py"], "program", "exec")
    (one,) = yaml.safe_load(files["serve.yaml"])["applications"]
    assert one["import_path"] == "my_model_baked_service:app"
    assert one["deployments"] == [{"name": "my-model-baked", "num_replicas": 2}]
    assert "replicas=2" in files["my_model_baked_service.py"]


@pytest.mark.parametrize("target", TARGETS)
def test_the_committed_examples_are_true(target: str, baked: Path, tmp_path: Path) -> None:
    """`recipes/deploy` is what `deploy` writes today. scripts/deploy_examples.py writes it anew."""
    for name, text in read(baked, target, tmp_path).items():
        assert (EXAMPLES / target / name).read_text(encoding="utf-8") == text, (
            f"{target}/{name}: run scripts/deploy_examples.py"
        )


# --- what is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"target": "tritn"}, "target is 'tritn'"),
        ({"replicas": 0}, "replicas is 0"),
        ({"target": "docker", "with_model": True}, "with_model is for triton and kserve"),
        ({"name": "../out"}, "'../out' is no name"),
        ({"place": "models"}, "place is 'models', which is not absolute"),
        ({"place": "/a\nUser=root", "target": "systemd"}, "holds a line break"),
    ],
)
def test_what_is_refused(given: dict[str, Any], said: str, baked: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=re.escape(said)) as caught:
        deploy(baked, **{"target": "triton", "output": tmp_path / "out"} | given)
    assert caught.value.advice and not (tmp_path / "out").exists()


def test_files_that_exist_are_kept(baked: Path, tmp_path: Path) -> None:
    deploy(baked, "docker", output=tmp_path)
    (tmp_path / "Dockerfile").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputExistsError, match="Dockerfile exists already"):
        deploy(baked, "docker", output=tmp_path)
    assert (tmp_path / "Dockerfile").read_text(encoding="utf-8") == "mine"
    deploy(baked, "docker", output=tmp_path, force=True)
    assert "FROM python" in (tmp_path / "Dockerfile").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("given", "made"), [("My_Model v2", "my-model-v2"), ("2024", "model-2024"), ("__", "model"), ("a" * 99, "a" * 63)]
)
def test_names(given: str, made: str) -> None:
    assert make_name(given) == made


def test_what_is_printed(baked: Path, tmp_path: Path, capsys) -> None:
    assert run(["deploy", str(baked), "--for", "triton", "-o", str(tmp_path / "out"), "--max-batch", "8"]) == OK
    shown = capsys.readouterr().out
    assert "config.pbtxt" in shown and "install -D" in shown and "tritonserver" in shown
    assert MAX_BATCH != 8 and "max_batch_size: 8" in (tmp_path / "out/my-model-baked/config.pbtxt").read_text(encoding="utf-8")
    assert stat.S_IMODE((tmp_path / "out/my-model-baked/config.pbtxt").stat().st_mode) & 0o400
