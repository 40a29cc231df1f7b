"""Edits of the interface on real exports: alone, before and after pooling, in chains, and undone again to the last byte."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import FIXTURES, fixture_names
from encoders import tiny_encoder

import graphsurgery
from graphsurgery import AddNormalize, AddPooling, DropInput, DynamicDim, FixDim, InputType, OptionalInput, Rename, Truncate
from graphsurgery.edits.edit import Edit
from graphsurgery.errors import AlreadyAppliedError, GraphSurgeryError, RequestError, UnsupportedModelError
from graphsurgery.model.model import Model
from graphsurgery.recipe import read_recorded_recipe
from graphsurgery.report import Verdict
from graphsurgery.runtime.session import Arrays, Session

TYPES, MASK, POSITIONS = "token_type_ids", "attention_mask", "position_ids"
RENAMED = Rename(("input_ids=ids", f"{MASK}=valid", "last_hidden_state=states"), ("batch_size=N",))
CHAINS: dict[str, Sequence[Edit]] = {
    "mask dropped": [DropInput(MASK)],
    "pooled, mask dropped": [AddPooling("mean,cls,lasttoken"), DropInput(MASK)],
    "mask dropped, pooled": [DropInput(MASK), AddPooling("mean", mask="ones")],
    "int32": [InputType("int32")],
    "int32, pooled": [InputType("int32"), AddPooling("mean")],
    "pooled, int32": [AddPooling("max"), InputType("int32")],
    "renamed": [RENAMED],
    "renamed, pooled": [RENAMED, AddPooling("mean", mask="valid")],
    "pooled by ids, renamed": [AddPooling("mean", mask="pad:0"), Rename(("input_ids=ids", "sentence_embedding=vector"))],
    "fixed": [FixDim(("batch_size=2", "sequence_length=7"))],
    "fixed, pooled": [FixDim(("sequence_length=7",)), AddPooling("max")],
    "pooled without a prompt, fixed": [AddPooling("cls", skip_prompt="input"), FixDim(("batch_size=1",))],
    "renamed between": [AddPooling("mean"), AddNormalize(), Rename(("sentence_embedding=vector",)), Truncate("8")],
    "all": [
        InputType("int32"), Rename(("input_ids=ids", f"{MASK}=valid")),
        AddPooling("mean", mask="valid", skip_prompt="input", normalize=True), Rename(("ids=tokens", "prompt_length=n")),
        DropInput("valid", fill="ones", like="tokens"), FixDim(("batch_size=3",)),
    ],
}  # fmt: skip
OF_TYPES: dict[str, Sequence[Edit]] = {
    "types dropped": [DropInput(TYPES)],
    "types dropped, pooled": [DropInput(TYPES), AddPooling("mean")],
    "pooled, types dropped": [AddPooling("mean"), DropInput(TYPES)],
    "types optional": [OptionalInput(TYPES)],
    "types optional, pooled": [OptionalInput(TYPES), AddPooling("mean")],
    "pooled, types optional": [AddPooling("mean"), OptionalInput(TYPES)],
}


def fixture(name: str) -> Path:
    return FIXTURES / name / "model.onnx"


def edited(source: Path | onnx.ModelProto | Model, edits: Sequence[Edit]) -> Model:
    model = graphsurgery.load(source)
    for edit in edits:
        model = in_own_dims(edit, model).apply(model)
    return model


def in_own_dims(edit: Edit, model: Model) -> Edit:
    """An edit of dims, with the names that PyTorch gives them in dynamo exports: the batch has another one in each input."""
    inputs = [value for value in model.interface.inputs if value.rank == 2]
    own = {dim: {str(value.dims[axis]) for value in inputs} for axis, dim in enumerate(("batch_size", "sequence_length"))}
    if not isinstance(edit, FixDim | Rename) or not any(re.fullmatch(r"s\d+", name) for name in own["batch_size"]):
        return edit
    pairs = [text.partition("=") for text in edit.dim]
    return replace(edit, dim=tuple(f"{name}={new}" for old, _, new in pairs for name in sorted(own.get(old, {old}))))


def prove(source: Path | onnx.ModelProto | Model, edits: Sequence[Edit]) -> Model:
    """Every check passes, on BERT without a run of the whole, too; and strip-head gives the source."""
    model = edited(source, edits)
    for head_only in (False, True) if source == fixture("bert") else (False,):
        report = graphsurgery.verify(model, against=source, head_only=head_only)
        assert report and all(check.verdict is Verdict.PASSED for check in report.checks), report.to_json()
    assert graphsurgery.strip_head(model).fingerprint == graphsurgery.load(source).fingerprint
    return model


LONG = ("all", "mask dropped")
"""The chains that are proven on long texts. Exports in dynamo form and the second BERT, whose weights are in a file beside it,
get these alone; "all" has an edit of every kind."""
OTHER_FORMS = ("-dynamo", "-external")


def list_chains() -> Iterator[tuple[str, str]]:
    """Yield chains with fixtures: those in `LONG` with all, and each of the others with every second one, in turn."""
    some = [name for name in fixture_names() if not name.endswith(OTHER_FORMS)]
    for number, chain in enumerate(CHAINS):
        for name in fixture_names() if chain in LONG else some[number % 2 :: 2]:
            yield chain, name


@pytest.mark.parametrize(("chain", "name"), list_chains())
def test_chains(chain: str, name: str, request: pytest.FixtureRequest) -> None:
    if chain in LONG:
        request.getfixturevalue("medium_texts")
    prove(fixture(name), CHAINS[chain])


@pytest.mark.parametrize("name", [name for name in fixture_names() if name.startswith("bert")])
@pytest.mark.parametrize("chain", OF_TYPES)
def test_token_types(name: str, chain: str, request: pytest.FixtureRequest) -> None:
    if name == "bert":
        request.getfixturevalue("medium_texts")
    prove(fixture(name), OF_TYPES[chain])


def test_positions_and_what_they_are_given_as() -> None:
    model = prove(fixture("qwen3"), [DropInput(POSITIONS), AddPooling("lasttoken")])
    assert POSITIONS not in [value.name for value in model.interface.inputs]


@pytest.mark.parametrize("name", ["bert", "xlmr", "t5", "modernbert", "qwen3", "modernbert-dynamo", "qwen3-dynamo"])
def test_a_mask_may_be_left_out(name: str) -> None:
    """Where the graph reads its shape, as local attention and decoders do, or where pooling counts it, it is expanded."""
    expands = name not in ("bert", "xlmr", "t5")
    for edits, wanted in (([OptionalInput(MASK)], expands), ([AddPooling("mean"), OptionalInput(MASK)], True)):
        model = prove(fixture(name), edits)
        assert [value.name for value in model.interface.inputs if value.name == MASK] == []
        assert any(node.op_type == "Expand" and node.input[0] == MASK for node in model.proto.graph.node) == wanted


def test_what_a_file_gives_when_an_input_is_left_out(tmp_path: Path) -> None:
    """The file itself, in ONNX Runtime: without its token types, and with others."""
    done = graphsurgery.run([OptionalInput(TYPES)], fixture("bert"), output=tmp_path / "out.onnx")
    session, source = (onnxruntime.InferenceSession(path) for path in (done.output, fixture("bert")))
    ids, types = np.array([[2, 9, 8, 7], [2, 5, 3, 0]]), np.array([[0, 0, 1, 1], [0, 1, 1, 0]])
    feed = {"input_ids": ids, MASK: np.ones_like(ids)}
    for given, wanted in ((feed, feed | {TYPES: np.zeros_like(ids)}), (feed | {TYPES: types},) * 2):
        np.testing.assert_allclose(session.run(None, given)[0], source.run(None, wanted)[0], rtol=0, atol=1e-5)


def test_dims_that_lie_are_gone() -> None:
    """value_info of what may have the default's dims, or had baked ones, goes; other value_info stays."""
    source = tiny_encoder(inputs=[TYPES])
    for name, dims in (("types", ["batch", "sequence", 8]), ("words", ["batch", "sequence", 8])):
        source.graph.value_info.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims))
    model = prove(source, [OptionalInput(TYPES)])
    assert [info.name for info in model.proto.graph.value_info] == ["words"]
    assert [value.name for value in model.interface.inputs] == ["input_ids", MASK]


def test_interface_of_renamed_and_fixed(tmp_path: Path) -> None:
    done = graphsurgery.run([RENAMED, FixDim(("N=2",))], fixture("bert"), output=tmp_path / "out.onnx")
    names = [(value.name, value.dims) for value in (*done.interface.inputs, *done.interface.outputs)]
    sequence = (2, "sequence_length")
    assert names == [("ids", sequence), ("valid", sequence), (TYPES, sequence), ("states", (*sequence, 32))]


def test_a_vector_of_length_one_is_known_under_its_new_name() -> None:
    model = edited(fixture("bert"), [AddPooling("mean", normalize=True), Rename(("sentence_embedding=vector",))])
    with pytest.raises(AlreadyAppliedError, match="add-pooling"):
        graphsurgery.add_normalize(model)


def test_a_dry_run_is_proven_as_far_as_it_goes() -> None:
    """Names and dims by the fields alone, casts and zeros by running them, freed sizes by running the whole."""
    for edits in ([RENAMED], [FixDim(("batch_size=1",))], [InputType("int32")], [DropInput(TYPES)], [OptionalInput(TYPES)]):
        assert graphsurgery.run(edits, fixture("bert"), output="never.onnx", dry_run=True).report
    assert graphsurgery.run([DynamicDim(("batch",))], tiny_encoder(dims=(2, "seq")), output="never.onnx", dry_run=True).report


# Sizes that were baked in.


@pytest.fixture(scope="session")
def baked(tmp_path_factory: pytest.TempPathFactory):
    """Fixtures at one size, their shapes folded by ONNX Runtime: constants all through. Gives the path of one."""
    folder = tmp_path_factory.mktemp("baked")

    def make(name: str, batch: int, sequence: int) -> Path:
        path = folder / f"{name}-{batch}-{sequence}.onnx"
        if not path.exists():
            proto = graphsurgery.fix_dim(fixture(name), {"batch_size": batch, "sequence_length": sequence}).to_proto()
            del proto.metadata_props[:]
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
            options.optimized_model_filepath = str(path)
            onnxruntime.InferenceSession(proto.SerializeToString(), options)
        return path

    return make


@pytest.mark.parametrize(
    ("batch", "sequence", "which"),
    [(1, 12, ("batch",)), (2, 10, ("sequence",)), (1, 12, ("batch", "sequence")), (2, 10, ("batch", "sequence"))],
)
@pytest.mark.parametrize("name", ["bert", "modernbert", "t5"])
def test_sizes_are_free_again(
    name: str, batch: int, sequence: int, which: tuple[str, ...], baked, request: pytest.FixtureRequest
) -> None:
    """Alone, and pooled before and after; what is declared then is free in inputs and outputs alike."""
    if which == ("batch", "sequence"):
        request.getfixturevalue("medium_texts")
    source = baked(name, batch, sequence)
    model = prove(source, [DynamicDim(which)])
    free = tuple(size if axis not in which else axis for axis, size in (("batch", batch), ("sequence", sequence)))
    assert {value.dims for value in model.interface.inputs} == {free}
    assert model.interface.outputs[0].dims[:2] == free
    prove(source, [DynamicDim(which), AddPooling("mean,max")])
    prove(source, [AddPooling("cls,lasttoken", normalize=True), DynamicDim(which)])


@pytest.mark.parametrize("which", ["batch", "sequence"])
def test_sizes_that_stay_are_refused(which: str, baked) -> None:
    """A decoder whose mask is looked up by numbers that were folded: it says so, and where the size stands."""
    with pytest.raises(UnsupportedModelError, match=r"cannot be freed.*the size is a constant in"):
        edited(baked("qwen3", 2, 10), [DynamicDim((which,))])


def test_a_plan_is_made_for_each_encoder_anew(baked) -> None:
    """What was resolved or recorded for one encoder frees another one as if it had been asked for there, or is refused."""
    first, other, third = (
        graphsurgery.load(baked(*which)) for which in (("bert", 2, 10), ("modernbert", 2, 10), ("t5", 1, 12))
    )
    asked = DynamicDim(("batch", "sequence"))
    resolved = asked.resolve(first).edit
    assert resolved.rewired and resolved.apply(other).fingerprint == asked.apply(other).fingerprint
    recorded = read_recorded_recipe(resolved.apply(first)).steps[0]
    assert recorded == resolved and recorded.apply(third).fingerprint == asked.apply(third).fingerprint
    for free in (fixture("bert"), baked("qwen3", 2, 10)):
        with pytest.raises(RequestError):
            recorded.apply(graphsurgery.load(free))


def test_sizes_that_only_seem_to_be_free(tmp_path: Path) -> None:
    """A declaration that says more than the graph takes is refused however it is asked for, and leaves no file."""
    source = tiny_encoder(dims=(2, 6))
    source.graph.node.append(onnx.helper.make_node("Reshape", ["last_hidden_state", "shape_of_two"], ["flat"]))
    source.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 48]), "shape_of_two"))
    source.graph.output.append(onnx.helper.make_tensor_value_info("flat", onnx.TensorProto.FLOAT, [2, 48]))
    with pytest.raises(GraphSurgeryError):
        graphsurgery.run([DynamicDim(("sequence",))], source, output=tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == []
    assert prove(source, [DynamicDim(("batch",))]).interface.output("flat").dims == ("batch", 48)


@pytest.mark.parametrize(
    ("noise", "noise_when_plain", "passes"), [(3e-5, 0.0, True), (3e-5, 3e-5, False), (1e-1, 0.0, False)], ids=str
)
def test_rounding_that_depends_on_declared_sizes(
    noise: float, noise_when_plain: float, passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A difference that graph optimisations alone make is said, and is no fault; one beyond rounding is, whoever makes it."""

    class Noisy(Session):
        def run(self, feeds: Arrays, outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
            return {name: array + np.float32(self.noise) for name, array in super().run(feeds, outputs).items()}

    def open_noisy(model: Model, plain: bool) -> Session:
        session = Noisy(model.to_proto().SerializeToString(), plain=plain)
        session.noise = noise_when_plain if plain else noise
        return session

    monkeypatch.setattr("graphsurgery.proof.verify.open_session", open_noisy)
    source = graphsurgery.load(tiny_encoder())
    report = graphsurgery.verify(graphsurgery.fix_dim(source, dims={"sequence": 5}), against=source)
    assert bool(report) is passes
    assert any(f"with these optimisations, the files are {noise:.1e} apart" in one for one in report.observations) is passes
