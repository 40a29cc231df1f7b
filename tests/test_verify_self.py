"""verify --self: a file held against what it records of itself, years later on another runtime. Every fault is planted."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from baked_folders import HIDDEN, Entry, dense, drawn, external, normalize, pooling, transformer, write_folder, write_tokenizer
from encoders import FLOAT, FLOAT16, tiny_encoder
from planting import Plant

import graphsurgery
from graphsurgery.baking.bake import bake
from graphsurgery.cli.main import OK, VERDICT, WRONG, run
from graphsurgery.errors import GraphSurgeryError
from graphsurgery.model import saving
from graphsurgery.model.checksums import compute_checksum
from graphsurgery.model.provenance import CERTIFICATE, GOLDEN, PREFIX
from graphsurgery.proof import golden_making, golden_values
from graphsurgery.proof.golden import verify_itself
from graphsurgery.proof.golden_values import EXACT, HALF, GoldenOutput, Goldens
from graphsurgery.references.reference import Expected
from graphsurgery.report import Report, Verdict

ENTRIES = (transformer(), pooling(), dense(rows=12), normalize())
PASSED, FAILED, NOT_CHECKED = Verdict.PASSED, Verdict.FAILED, Verdict.NOT_CHECKED


# --- files that are as they were ------------------------------------------------------------------------------------------


def baked(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A baked file of each kind."""
    match kind:
        case "plain" | "in external data" | "in two places" | "outward" | "of both kinds":
            write_folder(folder / "model", ENTRIES)
            if kind in ("in external data", "of both kinds"):
                external(folder / "model")
            if kind in ("outward", "of both kinds"):
                outward(monkeypatch, 6000)
        case "half":
            write_folder(folder / "model", ENTRIES, tiny_encoder(dtype=FLOAT16))
        case "static":
            weights = {"embedding.weight": drawn(np.random.default_rng(0), (50, 6))}
            write_folder(folder / "model", (Entry("StaticEmbedding", "0_S", None, weights),), at="", tokenizer=False)
            write_tokenizer(folder / "model" / "0_S")
        case _:
            write_folder(folder / "model", ENTRIES)
    options = {
        "bits": {"precision": "ubinary"}, "signed bits": {"precision": "binary"}, "cut": {"truncate_dim": "8,4"},
        "kept": {"keep_output": "token_embeddings"},
    }.get(kind, {})  # fmt: skip
    bake(folder / "model", folder / "baked", **options)
    return folder / "baked" / "onnx" / "model.onnx"


def outward(monkeypatch: pytest.MonkeyPatch, largest: int) -> None:
    """As if protobuf ended after so many bytes."""
    original = saving.plan_output
    planned = lambda *given, **more: original(*given, **{**more, "largest": largest})  # noqa: E731
    monkeypatch.setattr("graphsurgery.runner.plan_output", planned)


KINDS = (
    "plain", "in external data", "outward", "of both kinds", "half", "static", "bits", "signed bits", "cut", "kept",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_baked_files_pass(kind: str, tmp_path: Path, monkeypatch, capsys) -> None:
    """Where they were made, and moved somewhere else."""
    model = baked(tmp_path, kind, monkeypatch)
    data = model.with_name("model.onnx_data")
    assert data.exists() == (kind in ("in external data", "outward", "of both kinds"))
    shutil.move(model.parent, tmp_path / "moved")
    shutil.rmtree(tmp_path / "baked")
    shutil.rmtree(tmp_path / "model")
    assert run(["verify", str(tmp_path / "moved" / "model.onnx"), "--self", "--json"]) == OK
    report = json.loads(capsys.readouterr().out)["report"]
    assert report["verdict"] == "PASSED" and report["cases"] >= 4 and not report["not_checked"]
    assert {check["name"]: check["verdict"] for check in report["checks"]} == {
        "file unchanged": "PASSED", "golden vectors": "PASSED"
    }  # fmt: skip


def test_a_file_saved_once_more_passes(tmp_path: Path, monkeypatch) -> None:
    """graphsurgery itself moves its weights into another folder."""
    model = baked(tmp_path, "of both kinds", monkeypatch)
    (tmp_path / "again").mkdir()
    graphsurgery.save(graphsurgery.load(model), tmp_path / "again" / "other.onnx")
    assert verify_itself(tmp_path / "again" / "other.onnx").verdict is PASSED


def test_a_fixed_batch_and_wide_outputs(tmp_path: Path, monkeypatch) -> None:
    """Fewer rows are recorded where they are wide, but not of a model whose batch is fixed."""
    width = 40
    monkeypatch.setattr(golden_making, "LARGEST", 4 * width * 3)
    for dims, rows in ((("batch", "sequence"), 3), ((4, 5), 4)):
        folder = tmp_path / str(rows)
        write_folder(folder, (transformer(), pooling(dimension=width)), tiny_encoder(hidden=width, dims=dims))
        bake(folder, tmp_path / f"baked{rows}", verify=False)
        model = tmp_path / f"baked{rows}" / "onnx" / "model.onnx"
        report = verify_itself(model)
        assert report.verdict is PASSED and report.cases == rows


# --- planted faults -------------------------------------------------------------------------------------------------------


class Spoilt:
    """A baked file to be spoilt: its protobuf, and the content of its golden entry."""

    def __init__(self, model: Path) -> None:
        self.model = model
        self.proto = onnx.load(model, load_external_data=False)
        self.plant = Plant(self.proto)

    @property
    def entry(self) -> onnx.StringStringEntryProto:
        return next(one for one in self.proto.metadata_props if f'"{GOLDEN}"' in one.value)

    @property
    def content(self) -> dict[str, Any]:
        return json.loads(self.entry.value)

    def write(self) -> None:
        self.model.write_bytes(self.proto.SerializeToString())

    def put(self, content: dict[str, Any], *, sealed: bool = False) -> None:
        """Another golden entry; ``sealed``: by somebody who knows how."""
        if sealed:
            content["parameters"]["seal"] = compute_checksum(content["parameters"], content["version"], content["source"])
        self.entry.value = json.dumps(content, separators=(",", ":"))

    def goldens(self, side: str, name: str, change: Callable[[np.ndarray], None], *, sealed: bool = False) -> None:
        """Change a golden array in place."""
        content = self.content
        entry = content["parameters"][side][name]
        array = np.frombuffer(base64.b64decode(entry["data"]), entry["dtype"]).reshape(entry["shape"]).copy()
        change(array)
        entry["data"] = base64.b64encode(array.tobytes()).decode()
        self.put(content, sealed=sealed)

    def certificate(self, change: Callable[[dict[str, Any]], object], **fields: str) -> None:
        """Another certificate; of another ``source``, sealed again."""
        entry = next(one for one in self.proto.metadata_props if f'"{CERTIFICATE}"' in one.value)
        content = json.loads(entry.value) | fields
        change(content["parameters"])
        if fields:
            content["parameters"]["seal"] = compute_checksum(content["parameters"], content["version"], content["source"])
        entry.value = json.dumps(content, separators=(",", ":"))

    def parameters(self, *, sealed: bool = False, **change: Any) -> None:
        content = self.content
        content["parameters"] |= change
        self.put(content, sealed=sealed)


def flip(path: Path, place: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(bytes(data))


def at(array: np.ndarray, place: tuple[int, ...], value: float) -> None:
    array[place] += value


def first_weight(spoilt: Spoilt) -> onnx.TensorProto:
    return next(one for one in spoilt.proto.graph.initializer if one.name == "word")


def a_weight_bit(spoilt: Spoilt) -> None:
    """The lowest bit of one weight, which no golden vector notices."""
    tensor = first_weight(spoilt)
    data = bytearray(tensor.raw_data)
    data[-4] ^= 1
    tensor.raw_data = bytes(data)


def a_large_weight(spoilt: Spoilt) -> None:
    tensor = next(one for one in spoilt.proto.graph.initializer if one.name == "bias")
    tensor.raw_data = (np.frombuffer(tensor.raw_data, np.float32) + np.arange(HIDDEN, dtype=np.float32)).tobytes()


def another_files_goldens(spoilt: Spoilt) -> None:
    folder = spoilt.model.parent.parent.parent
    write_folder(folder / "other", ENTRIES, tiny_encoder(seed=5))
    bake(folder / "other", folder / "other-baked", verify=False)
    spoilt.entry.value = Spoilt(folder / "other-baked" / "onnx" / "model.onnx").entry.value


def without_steps(spoilt: Spoilt, *numbers: int) -> None:
    kept = [one for one in spoilt.proto.metadata_props if one.key not in {f"{PREFIX}{number}" for number in numbers}]
    del spoilt.proto.metadata_props[:]
    spoilt.proto.metadata_props.extend(kept)


def double_output(spoilt: Spoilt) -> None:
    spoilt.plant.after(spoilt.proto.graph.node[-1].name, "Neg")


def set_attribute(spoilt: Spoilt) -> None:
    """The axis of the encoder's Softmax."""
    spoilt.plant.attribute("bent", axis=1)


def another_activation(spoilt: Spoilt) -> None:
    node = next(node for node in spoilt.proto.graph.node if node.op_type == "Tanh")
    node.op_type = "Sigmoid"


def renamed_output(spoilt: Spoilt) -> None:
    spoilt.proto.graph.output[0].name = "embedding"
    for node in spoilt.proto.graph.node:
        node.output[:] = ["embedding" if name == "sentence_embedding" else name for name in node.output]


FAULTS: dict[str, Callable[[Spoilt], object]] = {
    "the lowest bit of a weight": a_weight_bit,
    "weights of the encoder": a_large_weight,
    "an attribute of a node": set_attribute,
    "an operator": another_activation,
    "a node more": double_output,
    "the name of the output": renamed_output,
    "a node's name": lambda spoilt: setattr(spoilt.proto.graph.node[0], "name", "other"),
    "the producer": lambda spoilt: setattr(spoilt.proto, "producer_name", "another program"),
    "the opset": lambda spoilt: setattr(spoilt.proto.opset_import[0], "version", 16),
    "a note more in the metadata": lambda spoilt: spoilt.proto.metadata_props.add(key="note", value="x"),
    "the last digit of a golden vector": lambda spoilt: spoilt.goldens(
        "outputs", "sentence_embedding", lambda array: at(array, (0, 0), 1e-7)
    ),
    "a golden vector": lambda spoilt: spoilt.goldens("outputs", "sentence_embedding", lambda array: at(array, (1, 2), 0.5)),
    "a golden vector, sealed again": lambda spoilt: spoilt.goldens(
        "outputs", "sentence_embedding", lambda array: at(array, (1, 2), 2 * EXACT[0]), sealed=True
    ),
    "a golden id": lambda spoilt: spoilt.goldens("inputs", "input_ids", lambda array: at(array, (0, 1), 1)),
    "a golden id, sealed again": lambda spoilt: spoilt.goldens(
        "inputs", "input_ids", lambda array: at(array, (0, 1), 1), sealed=True
    ),
    "a golden id at padding": lambda spoilt: spoilt.goldens("inputs", "input_ids", lambda array: at(array, (-1, -1), 1)),
    "the golden mask": lambda spoilt: spoilt.goldens("inputs", "attention_mask", lambda array: array.fill(1), sealed=True),
    "what is allowed": lambda spoilt: spoilt.parameters(allowed=0.9),
    "the cosine that is asked for": lambda spoilt: spoilt.parameters(min_cosine=0.1),
    "the runtime that is named": lambda spoilt: spoilt.parameters(onnxruntime="1.0"),
    "no seal": lambda spoilt: spoilt.parameters(seal=None),
    "no fingerprint of the weights": lambda spoilt: spoilt.parameters(weights=None, sealed=True),
    "another file's goldens": another_files_goldens,
    "a verdict": lambda spoilt: spoilt.certificate(lambda said: said.update(verdict="FAILED")),
    "the sha256 of a source": lambda spoilt: spoilt.certificate(lambda said: said["sources"].update({"x.json": "0" * 64})),
    "a version": lambda spoilt: spoilt.certificate(lambda said: said["versions"].update(onnx="1.0")),
    "a certificate of another file": lambda spoilt: spoilt.certificate(lambda _: None, source="0" * 64),
    "metadata without the first step": lambda spoilt: without_steps(spoilt, 1),
    "metadata without a step between": lambda spoilt: without_steps(spoilt, 2),
    "metadata without all steps but the goldens": lambda spoilt: without_steps(spoilt, 1, 2, 3),
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    write_folder(folder / "model", ENTRIES)
    bake(folder / "model", folder / "baked")
    return folder


@pytest.fixture
def spoilt(original: Path, tmp_path: Path) -> Spoilt:
    """A copy of a baked file."""
    shutil.copytree(original / "baked", tmp_path / "baked")
    return Spoilt(tmp_path / "baked" / "onnx" / "model.onnx")


def test_rewriting_the_same_is_no_fault(spoilt: Spoilt) -> None:
    spoilt.goldens("outputs", "sentence_embedding", lambda _: None, sealed=True)
    spoilt.write()
    assert verify_itself(spoilt.model).verdict is PASSED


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults(fault: str, spoilt: Spoilt, capsys) -> None:
    before = spoilt.model.read_bytes()
    FAULTS[fault](spoilt)
    spoilt.write()
    assert spoilt.model.read_bytes() != before
    assert run(["verify", str(spoilt.model), "--self", "--json"]) == VERDICT
    assert json.loads(capsys.readouterr().out)["report"]["verdict"] == "FAILED"


@pytest.mark.parametrize(
    "fault", ["an operator", "weights of the encoder", "an attribute of a node", "a node more", "a golden id, sealed again"]
)
def test_goldens_notice_by_themselves(fault: str, spoilt: Spoilt) -> None:
    """Without any fingerprint: the numbers alone."""
    FAULTS[fault](spoilt)
    spoilt.write()
    checks = {check.name: check for check in verify_itself(spoilt.model).checks}
    assert checks["golden vectors"].verdict is FAILED and checks["golden vectors"].comparisons


@pytest.mark.parametrize("kind", ["in external data", "outward", "of both kinds"])
@pytest.mark.parametrize("how", ["a bit", "cut short", "gone", "swapped for another's"])
def test_faults_in_external_data(kind: str, how: str, tmp_path: Path, monkeypatch, capsys) -> None:
    model = baked(tmp_path, kind, monkeypatch)
    data = model.with_name("model.onnx_data")
    match how:
        case "a bit":
            flip(data, 17)
        case "cut short":
            data.write_bytes(data.read_bytes()[:-1])
        case "gone":
            data.unlink()
        case _:
            data.write_bytes(data.read_bytes()[::-1])
    code = run(["verify", str(model), "--self", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert code == (WRONG if how == "cut short" else VERDICT)
    assert told["error"]["type"] == "ExternalDataError" if code == WRONG else told["report"]["verdict"] == "FAILED"


@pytest.mark.parametrize("kind", ["plain", "outward"])
def test_no_bit_can_be_flipped_unnoticed(kind: str, tmp_path: Path, monkeypatch) -> None:
    """Anywhere in the file or its data: refused, FAILED or NOT CHECKED, and PASSED nowhere."""
    model = baked(tmp_path, kind, monkeypatch)
    rng = np.random.default_rng(1)
    for path in (path for path in model.parent.iterdir()):
        whole = path.read_bytes()
        moves = path == model and kind == "outward"  # who recorded the move, and the way back, are no facts about the file
        start = whole.index(b'"undo"', whole.index(b'"record-golden"')) if moves else 0
        way_back = range(start, whole.index(b'"record-certificate"') if moves else 0)
        filling = {place for place, byte in enumerate(whole) if not byte} if path != model else set()  # between tensors
        for place in sorted(set(rng.integers(0, len(whole), 250).tolist()) - set(way_back) - filling):
            flip(path, place, int(rng.integers(0, 8)))
            try:
                verdict = verify_itself(model).verdict
            except GraphSurgeryError:
                verdict = FAILED
            assert verdict is not PASSED, (path.name, place, whole[max(place - 40, 0) : place + 40])
            path.write_bytes(whole)
    assert verify_itself(model).verdict is PASSED


# --- nothing to go by -----------------------------------------------------------------------------------------------------


def unreadable(spoilt: Spoilt, **change: object) -> None:
    """Values of the golden output's entry that say nothing."""
    content = spoilt.content
    content["parameters"]["outputs"]["sentence_embedding"] |= change
    spoilt.put(content, sealed=True)


NOTHING: dict[str, Callable[[Spoilt], object]] = {
    "no goldens": lambda spoilt: without_steps(spoilt, 4),
    "no metadata": lambda spoilt: without_steps(spoilt, 1, 2, 3, 4),
    "an entry that is not JSON": lambda spoilt: setattr(spoilt.entry, "value", "{"),
    "parameters that are a list": lambda spoilt: spoilt.put(spoilt.content | {"parameters": []}),
    "no outputs": lambda spoilt: spoilt.parameters(outputs={}, sealed=True),
    "no inputs": lambda spoilt: spoilt.parameters(inputs={}, sealed=True),
    "outputs that are a list": lambda spoilt: spoilt.parameters(outputs=[1], sealed=True),
    "data that are not base64": lambda spoilt: unreadable(spoilt, data="!!!"),
    "data that are no text": lambda spoilt: unreadable(spoilt, data=5),
    "a shape that does not fit": lambda spoilt: unreadable(spoilt, shape=[4, 13]),
    "a shape beyond all bounds": lambda spoilt: unreadable(spoilt, shape=[10**30]),
    "no shape": lambda spoilt: unreadable(spoilt, shape=None),
    "Python objects": lambda spoilt: unreadable(spoilt, dtype="object"),
    "texts": lambda spoilt: unreadable(spoilt, dtype="S4"),
    "dates": lambda spoilt: unreadable(spoilt, dtype="datetime64[s]"),
    "integers": lambda spoilt: unreadable(spoilt, dtype="int32"),
    "bytes without what is open": lambda spoilt: unreadable(spoilt, dtype="uint8", shape=[4, 48]),
    "everything allowed": lambda spoilt: spoilt.parameters(allowed=1e9, sealed=True),
    "not a number allowed": lambda spoilt: spoilt.parameters(allowed=float("nan"), sealed=True),
    "any cosine": lambda spoilt: spoilt.parameters(min_cosine=-1, sealed=True),
    "a word for a number": lambda spoilt: spoilt.parameters(allowed="much", sealed=True),
    "no version of the runtime": lambda spoilt: spoilt.put(
        spoilt.content
        | {"parameters": {key: value for key, value in spoilt.content["parameters"].items() if key != "onnxruntime"}}
    ),
}


@pytest.mark.parametrize("what", NOTHING)
def test_nothing_to_go_by_is_no_success(what: str, spoilt: Spoilt, capsys) -> None:
    NOTHING[what](spoilt)
    spoilt.write()
    assert run(["verify", str(spoilt.model), "--self", "--json"]) == VERDICT
    report = json.loads(capsys.readouterr().out)["report"]
    assert report["verdict"] == "NOT CHECKED" and report["not_checked"] and report["cases"] == 0


def test_a_file_that_was_edited_since(spoilt: Spoilt, capsys) -> None:
    """Its goldens are those of another file; the one it was made from is there to verify it against."""
    edited = spoilt.model.with_name("edited.onnx")
    assert run(["truncate", str(spoilt.model), "--dim", "4", "-o", str(edited), "-q"]) == OK
    assert run(["verify", str(edited), "--self"]) == VERDICT
    assert "was edited (truncate) since" in " ".join(capsys.readouterr().out.split())
    assert run(["verify", str(edited), "--against", str(spoilt.model), "-q"]) == OK


def test_exit_codes(spoilt: Spoilt, capsys) -> None:
    model = str(spoilt.model)
    for arguments in ([], ["--self", "--against", model]):
        assert run(["verify", model, *arguments]) == WRONG
        assert "--self" in capsys.readouterr().err
    assert run(["verify", model, "--self"]) == OK and "PASSED" in capsys.readouterr().out
    assert run(["verify", model, "--self", "-q"]) == OK and not capsys.readouterr().out
    assert run(["verify", "no-such.onnx", "--self"]) == WRONG


# --- bytes and bits -------------------------------------------------------------------------------------------------------


def compared(output: GoldenOutput, found: object) -> Verdict:
    return output.compare("x", np.asarray(found), EXACT[0], EXACT[1]).verdict


def test_which_bits_may_differ() -> None:
    """Exactly those that are open, whatever that makes of the byte."""
    values, left = np.array([[0b10110000], [0b00000001]], np.uint8), np.array([[0b00000100], [0b10000000]], np.uint8)
    bits = GoldenOutput(values, left, packed=True)
    assert compared(bits, values) is PASSED
    assert compared(bits, values ^ left) is PASSED
    for place in range(8):
        flipped = values ^ np.array([[1 << place], [0]], np.uint8)
        assert compared(bits, flipped) is (PASSED if place == 2 else FAILED)
    assert compared(bits, values ^ np.array([[0b011], [0]], np.uint8)) is FAILED, "three apart, as is less than the open bit"
    assert compared(bits, values.astype(np.int8)) is FAILED and compared(bits, values.astype(np.float32)) is FAILED
    assert compared(bits, np.empty((0, 1), np.uint8)) is FAILED
    signed = GoldenOutput((values.astype(int) - 128).astype(np.int8), left, packed=True)
    assert compared(signed, ((values ^ left).astype(int) - 128).astype(np.int8)) is PASSED
    assert compared(signed, ((values ^ 1).astype(int) - 128).astype(np.int8)) is FAILED


def test_by_how_many_buckets() -> None:
    values, left = np.array([[5, -7, 0]], np.int8), np.array([[0, 1, 3]], np.uint8)
    steps = GoldenOutput(values, left)
    for apart in ([0, 0, 0], [0, 1, -3]):
        assert compared(steps, values + np.array(apart, np.int8)) is PASSED
    for apart in ([1, 0, 0], [0, 2, 0], [0, 0, 4]):
        assert compared(steps, values + np.array(apart, np.int8)) is FAILED
    assert steps.share_open == pytest.approx(1 / 3)


def test_floats_are_held_to_an_angle_as_well() -> None:
    """A vector of small values within the absolute difference, and in another direction."""
    rng = np.random.default_rng(0)
    wanted = rng.standard_normal((2, 400)).astype(np.float32)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    noise = rng.uniform(-1, 1, wanted.shape).astype(np.float32)
    close = GoldenOutput(wanted)
    assert close.compare("x", wanted + 0.9 * EXACT[0] * noise, *EXACT).verdict is PASSED
    assert close.compare("x", wanted + 2 * EXACT[0] * noise, *EXACT).verdict is FAILED
    assert close.compare("x", wanted + 0.9 * HALF[0] * noise, HALF[0], 0.9).verdict is PASSED
    assert close.compare("x", wanted + 0.9 * HALF[0] * noise, *HALF).verdict is FAILED
    score = GoldenOutput(np.array([[1e-5], [2.0]], np.float32))  # one dim has no angle to speak of
    assert score.compare("x", np.array([[-1e-5], [2.0]], np.float32), *EXACT).verdict is PASSED


@pytest.mark.parametrize("precision", ["binary", "ubinary", "int8", "uint8"])
def test_another_runtime_may_flip_what_is_open_and_nothing_else(precision: str, tmp_path: Path) -> None:
    """Floats as far off as another runtime may make them give only bytes that are allowed; farther ones do not."""
    write_folder(tmp_path / "model", ENTRIES[:-1])
    options: dict[str, Any] = {"precision": precision}
    if precision.endswith("int8"):
        np.save(tmp_path / "ranges.npy", np.array([[-3.0] * 12, [3.0] * 12], np.float32))
        options["ranges"] = tmp_path / "ranges.npy"
    bake(tmp_path / "model", tmp_path / "bytes", **options)
    content = Spoilt(tmp_path / "bytes" / "onnx" / "model.onnx").content["parameters"]
    recorded = golden_values.Goldens.from_json(content)
    output = recorded.outputs["sentence_embedding"]
    bake(tmp_path / "model", tmp_path / "floats", verify=False)
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "floats" / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    floats = session.run(None, dict(recorded.inputs))[0].astype(np.float64)
    reach = recorded.allowed * np.abs(floats).max(axis=1, keepdims=True)
    rng = np.random.default_rng(0)
    for _ in range(50):
        moved = floats + reach * rng.uniform(-0.99, 0.99, floats.shape)
        assert output.compare("x", as_bytes(moved, precision), recorded.allowed, recorded.least_cosine).verdict is PASSED
    far = as_bytes(floats + 40 * reach * rng.choice([-1, 1], floats.shape) + 0.3, precision)
    assert output.compare("x", far, recorded.allowed, recorded.least_cosine).verdict is FAILED
    assert output.share_open < 0.05


def as_bytes(x: np.ndarray, precision: str) -> np.ndarray:
    """sentence-transformers' quantize_embeddings, for ranges from -3 to 3."""
    if precision.endswith("binary"):
        found = np.packbits(x > 0, axis=-1).astype(int)
    else:
        found = np.clip(np.floor((x + 3) / (6 / 255)), 0, 255).astype(int)
    return found.astype(np.uint8) if precision[0] == "u" else (found - 128).astype(np.int8)


def test_what_is_open_is_said(tmp_path: Path) -> None:
    """An encoder in half precision leaves more open, and the report says how much."""
    shares = {}
    for name, dtype in (("float", FLOAT), ("half", FLOAT16)):
        entries = (transformer(), pooling(dimension=256))
        write_folder(tmp_path / name, entries, tiny_encoder(hidden=256, dtype=dtype))
        done = bake(tmp_path / name, tmp_path / f"{name}-bits", precision="ubinary")
        assert isinstance(done.outcome.report, Report)
        said = [line for line in done.outcome.report.observations if "may differ on another runtime" in line]
        shares[name] = float(said[0].partition(": ")[2].partition("%")[0]) if said else 0.0
    assert shares["float"] < 0.2 and 0 < shares["half"] < 10


# --- what goldens may allow -----------------------------------------------------------------------------------------------


def turned(vector: np.ndarray, cosine: float) -> np.ndarray:
    """``[1, dim]`` of the same length, at that angle."""
    other = np.roll(vector, 1)
    other = other - (other @ vector.T) / (vector @ vector.T) * vector
    other *= np.linalg.norm(vector) / np.linalg.norm(other)
    return np.float32(cosine * vector + np.sqrt(1 - cosine**2) * other)


@pytest.mark.parametrize("share", [0.3, 0.5, 2.0])
def test_rows_that_float32_leaves_open_are_not_checked(share: float) -> None:
    """They were compared with up to half of the largest value once, and passed at a cosine of 0.55."""
    vector = np.random.default_rng(0).standard_normal((1, 16)).astype(np.float32)
    open_row, sharp_row = (GoldenOutput(vector, rounding=np.full((1, 1), open_, np.float32)) for open_ in (share, 1e-3))
    for found in (vector, turned(vector, 0.9), turned(vector, 0.55)):
        assert open_row.compare("y", found, *EXACT).verdict is not PASSED
    assert open_row.compare("y", vector, *EXACT).too_loose == 1
    assert sharp_row.compare("y", vector + np.float32(5e-4), *EXACT).verdict is PASSED
    assert sharp_row.compare("y", turned(vector, 0.9), *EXACT).verdict is FAILED


def test_each_row_has_its_own_limit() -> None:
    """A large row leaves no room to a small one."""
    values = np.float32([[1000, 0, 0], [1, 0, 0]])
    assert GoldenOutput(values).compare("y", values + np.float32([[0.05, 0, 0], [0, 0, 0]]), *EXACT).verdict is PASSED
    assert GoldenOutput(values).compare("y", values + np.float32([[0, 0, 0], [0.05, 0, 0]]), *EXACT).verdict is FAILED


def test_bytes_that_may_be_anything_are_no_cases() -> None:
    values = np.array([[3, 200]], np.uint8)
    assert GoldenOutput(values, np.array([[255, 255]], np.uint8)).compare("y", values, *EXACT).verdict is NOT_CHECKED
    half_open = GoldenOutput(values, np.array([[255, 1]], np.uint8))
    assert half_open.compare("y", np.array([[90, 201]], np.uint8), *EXACT).verdict is PASSED
    assert half_open.compare("y", np.array([[90, 203]], np.uint8), *EXACT).verdict is FAILED
    bits = GoldenOutput(values, np.array([[255, 255]], np.uint8), packed=True)
    assert bits.compare("y", values, *EXACT).verdict is NOT_CHECKED


def test_what_float32_leaves_open_is_recorded() -> None:
    """By row, where it is more than what is allowed anyway; and read back."""
    given = Expected(np.ones((2, 3)), np.array(1e-6), np.array([[1e-2], [0.0]]))
    made = golden_making._record_floats(given, EXACT[0])
    assert made.rounding is not None and made.rounding.ravel() == pytest.approx([2e-2, 0])
    assert golden_making._record_floats(Expected(np.ones((2, 3)), np.array(1e-6)), EXACT[0]).rounding is None
    goldens = Goldens({"x": np.zeros(1)}, {"y": made}, *EXACT, "1.0")
    read = Goldens.from_json(json.loads(json.dumps(goldens.to_json())))
    assert np.array_equal(read.outputs["y"].rounding, made.rounding)
    for allowed in ((0.5, 0.99), (1e-4, 1e-9)):
        with pytest.raises(ValueError, match="too much"):
            Goldens.from_json(replace(goldens, allowed=allowed[0], least_cosine=allowed[1]).to_json())
