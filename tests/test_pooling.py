"""add-pooling end to end: every mode, opset, mask and type, against the package's proof, this file's numpy and the goldens.

The numpy here shares nothing with the package: whole arrays at once, float64.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import FIXTURES, fixture_names
from encoders import (
    BFLOAT16,
    FLOAT,
    FLOAT16,
    HIDDEN,
    IDS,
    INT64,
    MASK,
    POOLER,
    POSITION_IDS,
    TYPE_IDS,
    VOCABULARY,
    tiny_encoder,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import graphsurgery
from graphsurgery.errors import MaskError, NothingToPoolError, UnsupportedModelError
from graphsurgery.model.loading import load
from graphsurgery.proof.difference import find_difference
from graphsurgery.proof.head_proof import extract_head
from graphsurgery.runtime.session import Session

EMBEDDING = "sentence_embedding"
MODES = ("cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", "statistics")
SEVERAL = ("cls,mean", "lasttoken,max,mean_sqrt_len_tokens", "mean,mean", ",".join(MODES))
ALL = ",".join(MODES)
MASK_TYPES = ("INT64", "INT32", "BOOL", "FLOAT", "FLOAT16", "UINT8", "INT8", "DOUBLE", "UINT32")
PAD = 7
Array = np.ndarray
Arrays = dict[str, Array]


@functools.cache
def newest_opset() -> int:
    """The newest opset that the installed ONNX Runtime runs."""
    for opset in range(onnx.defs.onnx_opset_version(), 0, -1):
        try:
            Session(tiny_encoder(opset=opset).SerializeToString())
        except UnsupportedModelError:
            continue
        return opset
    raise AssertionError("ONNX Runtime runs nothing")


OPSETS = sorted({11, 13, 17, 18, 24, newest_opset()} & set(range(newest_opset() + 1)))


# What pooling means, once more.


def pooled(x: Array, m: Array, mode: str, absolute: bool = False) -> Array:
    """``x [batch, seq, dim]``, ``m [batch, seq]`` bool -> ``[batch, dim]``, one mode; ``absolute`` as ``weights_from``."""
    x = np.where(m[..., None], x.astype(np.float64), 0)
    some, rows, seq = m.any(axis=1)[:, None], np.arange(len(m)), m.shape[1]
    count = np.maximum(m.sum(axis=1, keepdims=True), 1)
    if mode == "cls":
        return np.where(some, x[rows, m.argmax(axis=1)], 0)
    if mode == "lasttoken":
        return np.where(some, x[rows, seq - 1 - m[:, ::-1].argmax(axis=1)], 0)
    if mode == "max":
        return np.where(some, np.where(m[..., None], x, -np.inf).max(axis=1), 0)
    if mode == "weightedmean":
        w = m * (np.arange(1, seq + 1) - (0 if absolute else m.argmax(axis=1)[:, None]))
        return np.einsum("bs,bsd->bd", w, x) / np.maximum(w.sum(axis=1, keepdims=True), 1)
    if mode == "statistics":
        mean = x.sum(axis=1) / count
        squares = np.where(m[..., None], np.square(x - mean[:, None]), 0).sum(axis=1)
        return np.concatenate([mean, np.sqrt(squares / np.maximum(count - 1, 1))], axis=1)
    return x.sum(axis=1) / (np.sqrt(count) if mode == "mean_sqrt_len_tokens" else count)


def embedding(x: Array, m: Array, modes: str, normalize: bool = False, absolute: bool = False) -> Array:
    y = np.concatenate([pooled(x, m, mode, absolute) for mode in modes.split(",")], axis=1)
    return y / np.maximum(np.linalg.norm(y, axis=1, keepdims=True), 1e-12) if normalize else y


def tolerance(x: Array, m: Array, modes: str, normalize: bool = False) -> Array:
    """1e-5 max(1, max|x|) over the tokens of a row, times sqrt(tokens) for mean_sqrt_len_tokens; 1e-6 for unit vectors."""
    if normalize:
        return np.array(1e-6)
    largest = np.where(m[..., None], np.abs(x.astype(np.float64)), 0).max(axis=(1, 2), initial=1)
    tokens = np.sqrt(np.maximum(m.sum(axis=1), 1))
    parts = [part for mode in modes.split(",") for part in [mode] * (1 + (mode == "statistics"))]
    scales = [tokens if part == "mean_sqrt_len_tokens" else np.ones(len(m)) for part in parts]
    return 1e-5 * np.repeat(np.stack([largest * scale for scale in scales], axis=1), x.shape[2], axis=1)


def assert_close(found: Array, wanted: Array, most: Array) -> None:
    assert found.shape == wanted.shape
    assert np.isfinite(wanted).all() and np.isfinite(found).all()
    excess = np.abs(found.astype(np.float64) - wanted) / most
    assert excess.max(initial=0) <= 1, f"{excess.max():.2f} times what is allowed"


# What is fed, and what the encoder makes of it.

MASKS = {
    "right": ("1111", "1100", "1000"),
    "left": ("1111", "0011", "0001"),
    "mixed": ("0110", "1000", "0011"),
    "holes": ("1011", "0101", "1001"),
    "empty rows": ("0000", "1100", "0000"),
    "one position": ("1", "0"),
    "one row": ("110",),
}


def masks() -> list[Array]:
    return [np.array([list(row) for row in rows]) == "1" for rows in MASKS.values()]


def feed_of(model: onnx.ModelProto, m: Array, seed: int = 0) -> Arrays:
    """Inputs for one mask; ids at padding are the pad id, and nowhere else."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(PAD + 1, VOCABULARY, size=m.shape)
    known = {
        IDS: np.where(m, ids, PAD), MASK: m, TYPE_IDS: rng.integers(0, 2, size=m.shape), POSITION_IDS: np.cumsum(m, axis=1),
    }  # fmt: skip
    inputs = [(info.name, info.type.tensor_type.elem_type) for info in model.graph.input if info.name in known]
    return {name: known[name].astype(helper.tensor_dtype_to_np_dtype(dtype)) for name, dtype in inputs}


def hidden_state(model: onnx.ModelProto) -> onnx.ModelProto:
    """The encoder giving its hidden state in float32 alone, as a head that casts it gets it.

    ONNX Runtime computes float16 in float32 where it has no kernel, and rounds what is an output or a cast's that is one.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.node.append(helper.make_node("Cast", [HIDDEN], ["float32"], to=FLOAT))
    copy.graph.node.append(helper.make_node("Abs", ["float32"], ["size"]))
    copy.graph.node.append(helper.make_node("Sign", ["float32"], ["sign"]))
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ("size", "sign"))
    return copy


def prove(model: onnx.ModelProto, output: Path, mode: str, m_of=lambda m: m, **parameters: object) -> graphsurgery.Outcome:
    """Pool, save and prove ``model`` by `graphsurgery.run`, check the file and compare it with this file's numpy."""
    done = graphsurgery.run([graphsurgery.AddPooling(mode, **parameters)], model, output=output)
    assert done.report.verdict is graphsurgery.Verdict.PASSED
    check_file(onnx.load(output), model, mode)
    encoder, head = Session(hidden_state(model).SerializeToString(), threads=1), Session(output, threads=1)
    normalize = bool(parameters.get("normalize"))
    for seed, m in enumerate(masks()):
        feed = feed_of(model, m, seed)
        x = np.multiply(*encoder.run(feed).values())
        found = head.run(feed)[EMBEDDING]
        assert found.dtype == np.float32
        assert_close(found, embedding(x, m_of(m), mode, normalize), tolerance(x, m_of(m), mode, normalize))
    return done


def check_file(proto: onnx.ModelProto, source: onnx.ModelProto, mode: str) -> None:
    """Valid, of standard operators alone at the source's opset, and with the interface that is promised."""
    onnx.checker.check_model(proto, full_check=True)
    assert {node.domain for node in proto.graph.node} <= {"", "ai.onnx"}
    assert list(proto.opset_import) == list(source.opset_import)
    assert proto.ir_version == source.ir_version
    assert list(proto.graph.input) == list(source.graph.input)
    before = next(info for info in source.graph.output if info.name == HIDDEN).type.tensor_type.shape.dim
    output = proto.graph.output[0]
    batch, width = output.type.tensor_type.shape.dim
    assert (output.name, output.type.tensor_type.elem_type) == (EMBEDDING, FLOAT)
    assert batch == before[0]
    assert width.dim_value == before[2].dim_value * (len(mode.split(",")) + mode.count("statistics"))


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("mode", [*MODES, *SEVERAL])
def test_every_mode_at_every_opset(mode: str, opset: int, tmp_path: Path) -> None:
    prove(tiny_encoder(opset=opset), tmp_path / "out.onnx", mode, normalize=opset % 2 == 0)


@pytest.mark.parametrize("kind", MASK_TYPES)
@pytest.mark.parametrize(("opset", "dtype"), [(11, FLOAT16), (13, FLOAT), (newest_opset(), FLOAT)])
def test_every_type_of_mask(kind: str, opset: int, dtype: int, tmp_path: Path) -> None:
    prove(tiny_encoder(opset=opset, dtype=dtype, mask_dtype=getattr(TensorProto, kind)), tmp_path / "out.onnx", ALL)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("parameters", [{}, {"normalize": True}, {"keep_output": (HIDDEN,)}], ids=str)
def test_float16_encoders(parameters: dict[str, object], opset: int, tmp_path: Path) -> None:
    prove(tiny_encoder(opset=opset, dtype=FLOAT16), tmp_path / "out.onnx", ALL, **parameters)


@pytest.mark.parametrize(("dtype", "mask_dtype"), [(FLOAT, INT64), (FLOAT16, None)], ids=["float32, a mask", "float16, none"])
@pytest.mark.parametrize("opset", OPSETS)
def test_every_position(opset: int, dtype: int, mask_dtype: int | None, tmp_path: Path) -> None:
    model = tiny_encoder(opset=opset, dtype=dtype, mask_dtype=mask_dtype)
    prove(model, tmp_path / "out.onnx", ALL, np.ones_like, mask="ones")


@pytest.mark.parametrize(
    ("mask_dtype", "ids_dtype"), [(INT64, INT64), (None, TensorProto.INT32)], ids=["int64, a mask", "int32, none"]
)
@pytest.mark.parametrize("opset", OPSETS)
def test_the_mask_from_the_ids(opset: int, mask_dtype: int | None, ids_dtype: int, tmp_path: Path) -> None:
    model = tiny_encoder(opset=opset, mask_dtype=mask_dtype, ids_dtype=ids_dtype)
    prove(model, tmp_path / "out.onnx", ALL, mask=f"pad:{PAD}")


@pytest.mark.parametrize("ir_version", [3, 4, 8, 10])
def test_ir_versions(ir_version: int, tmp_path: Path) -> None:
    """Below 4, initializers are inputs too."""
    prove(tiny_encoder(opset=11, ir_version=ir_version), tmp_path / "out.onnx", ALL)


@pytest.mark.parametrize("dims", [("N", "T"), (3, "T"), ("N", 4), (3, 4)], ids=str)
def test_dims(dims: tuple[int | str, int | str], tmp_path: Path) -> None:
    """Literal dims: proven on what fits them."""
    model = tiny_encoder(dims=dims)
    done = graphsurgery.run([graphsurgery.AddPooling(ALL)], model, output=tmp_path / "out.onnx")
    assert done.report
    assert done.interface.output(EMBEDDING).dims == (dims[0], 8 * (len(MODES) + 1))  # statistics are two vectors
    check_file(onnx.load(done.output), model, ALL)


def test_names(tmp_path: Path) -> None:
    """Other names, told by name or found by themselves."""
    names = {IDS: "pieces", MASK: "valid", HIDDEN: "states"}
    model = tiny_encoder(names=names)
    done = graphsurgery.run(
        [graphsurgery.AddPooling("mean", ids="pieces", mask="valid", output_name="vector")], model, output=tmp_path / "out.onnx"
    )
    assert {check.name: check.verdict.value for check in done.report.checks}["whole proof"] == "PASSED"
    assert [value.name for value in done.interface.outputs] == ["vector"]
    with pytest.raises(MaskError, match="no attention mask"):
        graphsurgery.add_pooling(model, "mean")
    model.graph.output[0].type.tensor_type.elem_type = INT64
    with pytest.raises(NothingToPoolError):
        graphsurgery.add_pooling(model, "mean", mask="valid", ids="pieces")


@pytest.mark.parametrize("opset", [opset for opset in OPSETS if opset > 11])
@pytest.mark.parametrize("mode", MODES)
def test_bfloat16_encoders(mode: str, opset: int, tmp_path: Path) -> None:
    """ONNX Runtime cannot run them on the CPU: the head alone is proven, and here run."""
    model = tiny_encoder(opset=opset, dtype=BFLOAT16)
    done = graphsurgery.run([graphsurgery.AddPooling(mode, normalize=True)], model, output=tmp_path / "out.onnx")
    assert {check.name: check.verdict.value for check in done.report.checks} == {
        "encoder untouched": "PASSED", "head proof": "PASSED", "whole proof": "NOT CHECKED",
    }  # fmt: skip
    assert any("whole proof" in line for line in done.report.not_checked)
    check_file(onnx.load(done.output), model, mode)
    head = head_of(model, onnx.load(done.output))
    for seed, m in enumerate(masks()):
        x = np.random.default_rng(seed).standard_normal((*m.shape, 8)).astype(ml_dtypes.bfloat16)
        found = head.run({HIDDEN: x, MASK: m.astype(np.int64)})[EMBEDDING]
        assert_close(found, embedding(x, m, mode, True), np.array(1e-6))


def test_other_inputs_pass_through(tmp_path: Path) -> None:
    """Token types and positions still reach the encoder, and nothing else does."""
    model = tiny_encoder(inputs=[TYPE_IDS, POSITION_IDS], outputs=[POOLER])
    done = prove(model, tmp_path / "out.onnx", ALL)
    assert [value.name for value in done.interface.inputs] == [IDS, MASK, TYPE_IDS, POSITION_IDS]
    session = Session(done.output)
    feed = feed_of(model, masks()[0])
    before = session.run(feed)[EMBEDDING]
    for name in (TYPE_IDS, POSITION_IDS):
        assert np.abs(session.run(feed | {name: 1 - feed[name] % 2})[EMBEDDING] - before).max() > 1e-3


@pytest.mark.parametrize("keep", [(), (HIDDEN,), (POOLER,), (POOLER, HIDDEN)], ids=str)
def test_kept_outputs(keep: tuple[str, ...], tmp_path: Path) -> None:
    """Behind the embedding, in the model's order, with the values that they had."""
    model = tiny_encoder(outputs=[POOLER])
    done = prove(model, tmp_path / "out.onnx", "mean", keep_output=keep)
    assert [value.name for value in done.interface.outputs] == [EMBEDDING, *sorted(keep)]
    feed = feed_of(model, masks()[0])
    before, after = Session(model.SerializeToString()).run(feed), Session(done.output).run(feed)
    for name in keep:
        np.testing.assert_array_equal(after[name], before[name])


@pytest.mark.parametrize("opset", [11, 17, 18, 24])
@pytest.mark.parametrize("normalize", [False, True], ids=["plain", "normalized"])
def test_a_second_runtime(opset: int, normalize: bool) -> None:
    """onnx's own reference evaluator, which shares nothing with ONNX Runtime."""
    model = tiny_encoder(opset=opset)
    output = graphsurgery.add_pooling(model, ALL, normalize=normalize, keep_output=[HIDDEN]).to_proto()
    runtime = ReferenceEvaluator(output)
    for seed, m in enumerate(masks()):
        found, x = runtime.run([EMBEDDING, HIDDEN], feed_of(model, m, seed))
        assert_close(found, embedding(x, m, ALL, normalize), tolerance(x, m, ALL, normalize))


def test_add_normalize_is_normalize(tmp_path: Path) -> None:
    """Pooling and then normalising is normalised pooling; so it is for an output of the encoder, in float16 too."""
    model = tiny_encoder()
    one = graphsurgery.add_normalize(graphsurgery.add_pooling(model, ALL))
    other = graphsurgery.add_pooling(model, ALL, normalize=True)
    feed = feed_of(model, masks()[4])
    found = [Session(each.to_proto().SerializeToString()).run(feed)[EMBEDDING] for each in (one, other)]
    np.testing.assert_array_equal(*found)
    for dtype in (FLOAT, FLOAT16):
        source = tiny_encoder(dtype=dtype, outputs=[POOLER])
        done = graphsurgery.run([graphsurgery.AddNormalize(POOLER)], source, output=tmp_path / f"{dtype}.onnx")
        assert done.report and done.interface.output(POOLER).dtype == FLOAT


# Goldens, recorded from sentence-transformers.


@functools.cache
def golden(name: str) -> Mapping[str, Array]:
    with np.load(FIXTURES / name / "goldens.npz") as file:
        return dict(file)


def head_of(source: graphsurgery.Model | onnx.ModelProto, output: graphsurgery.Model | onnx.ModelProto) -> Session:
    one, other = load(source), load(output)
    return Session(extract_head(one, other, find_difference(one, other)).proto.SerializeToString(), threads=1)


def is_absolute(name: str) -> bool:
    """Whether the goldens are sentence-transformers 5's: the weights of positions count from the first position."""
    return "weights_from" not in golden(name)


def as_recorded(source: graphsurgery.Model, mode: str, normalize: bool, absolute: bool) -> graphsurgery.Model:
    """Pooled as the sentence-transformers that gave the goldens."""
    return graphsurgery.add_pooling(
        source, mode, normalize=normalize, weights_from="absolute" if absolute and "weightedmean" in mode.split(",") else None
    )


def recorded(name: str) -> Iterator[tuple[str, bool]]:
    """(mode, normalized) of every golden of BERT. Of the others, every second mode is normalized, and the rest are not."""
    for number, mode in enumerate(map(str, golden(name)["modes"])):
        yield from [(mode, False), (mode, True)] if name == "bert" else [(mode, number % 2 == 1)]


@pytest.mark.parametrize("name", fixture_names())
def test_heads_give_the_goldens(name: str) -> None:
    """The head alone on the recorded hidden state gives what sentence-transformers gave for it."""
    source, values = graphsurgery.load(FIXTURES / name / "model.onnx"), golden(name)
    half = source.interface.output(HIDDEN).dtype == FLOAT16
    for mode, normalize in recorded(name):
        head = head_of(source, as_recorded(source, mode, normalize, is_absolute(name)))
        for kind in values["kinds"]:
            x = values[f"{kind}/onnx_hidden_state"].astype(np.float16) if half else values[f"{kind}/last_hidden_state"]
            mask = values[f"{kind}/{MASK}"]
            found = head.run({HIDDEN: x, MASK: mask})[EMBEDDING]
            wanted = values[f"{kind}/{mode}/normalized" if normalize else f"{kind}/{mode}"]
            assert_close(found, wanted, tolerance(x, mask != 0, mode, normalize))


@pytest.mark.parametrize("name", fixture_names())
def test_files_give_the_goldens(name: str, fixture_copy) -> None:
    """The whole file, saved and loaded. What ONNX Runtime's hidden state is off PyTorch's is allowed on top, and is small."""
    path, values = fixture_copy(name), golden(name)
    source = graphsurgery.load(path)
    own = Session(path, threads=1)
    half = source.interface.output(HIDDEN).dtype == FLOAT16
    for mode, normalize in recorded(name):
        pooled = as_recorded(source, mode, normalize, is_absolute(name))
        file = graphsurgery.save(pooled, path.with_name("out.onnx"), force=True)
        session = Session(file.path, threads=1)
        for kind in values["kinds"]:
            feed = {value.name: values[f"{kind}/{value.name}"] for value in source.interface.inputs}
            m, x = feed[MASK] != 0, own.run(feed)[HIDDEN]
            found = session.run(feed)[EMBEDDING]
            assert_close(found, embedding(x, m, mode, normalize, is_absolute(name)), tolerance(x, m, mode, normalize))
            torch = values[f"{kind}/onnx_hidden_state" if half else f"{kind}/last_hidden_state"]
            wanted = values[f"{kind}/{mode}/normalized" if normalize else f"{kind}/{mode}"]
            off = np.abs(np.where(m[..., None], x.astype(np.float64) - torch, 0)).max()
            assert off <= (1e-2 if half else 1e-5 * max(1, np.abs(x[m]).max()))
            assert_close(found, wanted, tolerance(x, m, mode, normalize) + off * np.sqrt(m.sum(axis=1).max()))


# Anything at all.

ODD_DTYPES = [np.dtype(np.int64), np.dtype(np.int32), np.dtype(np.bool_), np.dtype(np.float32)]


@functools.cache
def any_head(opset: int, modes: str, normalize: bool, dim: int, kind: np.dtype) -> Session:
    model = tiny_encoder(opset=opset, hidden=dim, mask_dtype=helper.np_dtype_to_tensor_dtype(kind))
    return head_of(model, graphsurgery.add_pooling(model, modes, normalize=normalize))


@st.composite
def masks_of_any_kind(draw: st.DrawFn) -> Array:
    batch, seq = draw(st.integers(1, 5)), draw(st.integers(1, 12))
    return np.array(draw(st.lists(st.lists(st.booleans(), min_size=seq, max_size=seq), min_size=batch, max_size=batch)))


@settings(max_examples=150, deadline=None)
@given(
    m=masks_of_any_kind(),
    modes=st.lists(st.sampled_from(MODES), min_size=1, max_size=3).map(",".join),
    opset=st.sampled_from(OPSETS),
    normalize=st.booleans(),
    dim=st.sampled_from([1, 2, 5]),
    kind=st.sampled_from(ODD_DTYPES),
    filler=st.sampled_from([0.0, np.nan, np.inf, -np.inf]),
    seed=st.integers(0, 2**32 - 1),
)
@example(np.zeros((2, 3), dtype=bool), ALL, 17, True, 5, np.dtype(np.int64), np.nan, 0)
@example(np.ones((1, 1), dtype=bool), ALL, 11, False, 1, np.dtype(np.bool_), np.inf, 1)
@example(np.eye(4, dtype=bool)[:, ::-1].copy(), ALL, 18, False, 2, np.dtype(np.float32), -np.inf, 2)
def test_any_mask_and_any_modes(
    m: Array, modes: str, opset: int, normalize: bool, dim: int, kind: np.dtype, filler: float, seed: int
) -> None:
    """The head is what this file's numpy says, and what stands at padding never gets in."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((*m.shape, dim)) * 10.0 ** rng.integers(-3, 4)).astype(np.float32)
    x[~m] = filler
    found = any_head(opset, modes, normalize, dim, kind).run({HIDDEN: x, MASK: m.astype(kind)})[EMBEDDING]
    clean = np.where(m[..., None], x, 0)
    assert_close(found, embedding(clean, m, modes, normalize), tolerance(clean, m, modes, normalize))


def test_onnxruntime_runs_what_is_tested() -> None:
    """The list of opsets above is not empty by accident."""
    assert set(OPSETS) >= {11, 13, 17, 18}, onnxruntime.__version__
