"""Drawn chains of edits on drawn tiny encoders: every one is proven, and undone to the byte."""

from __future__ import annotations

from dataclasses import dataclass

import module_folders
import onnx
import pytest
from encoders import FLOAT, FLOAT16, HIDDEN, tiny_encoder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import graphsurgery
from graphsurgery.edits.activation_graph import ACTIVATIONS, OVER_LAST_DIM
from graphsurgery.edits.edit import Edit
from graphsurgery.errors import AlreadyAppliedError

pytestmark = pytest.mark.usefixtures("all_feeds")
WIDEST = 9
BENDING = sorted(set(ACTIVATIONS) - OVER_LAST_DIM)


@dataclass(frozen=True)
class Vectors:
    """What a chain has come to: an output of so many dims."""

    width: int
    unit: bool = False


def layers(width: int) -> st.SearchStrategy[tuple[Edit, Vectors]]:
    """A dense layer of any activation, with bias or residual or not."""

    def made(rows: int, activation: str, bias: bool, residual: bool, seed: int) -> tuple[Edit, Vectors]:
        activation = "tanh" if activation == "glu" and rows % 2 else activation
        halved = rows // 2 if activation == "glu" else rows
        residual = residual and (activation != "glu" or halved == width)
        folder = module_folders.dense(
            rows, width, bias=bias, residual=residual and activation != "glu", slope=activation == "prelu", seed=seed
        )
        return graphsurgery.AddDense(folder, activation, residual), Vectors(halved)

    activations = st.sampled_from([*BENDING, "glu", "prelu"])
    return st.builds(made, st.integers(1, WIDEST), activations, st.booleans(), st.booleans(), st.integers(0, 99))


def edits(at: Vectors) -> st.SearchStrategy[tuple[Edit, Vectors]]:
    """An edit of such vectors, and what it makes of them."""
    some = [
        layers(at.width),
        st.builds(lambda seed: (graphsurgery.AddLayerNorm(module_folders.layer_norm(at.width, seed)), at), st.integers(0, 99)),
        st.builds(lambda name: (graphsurgery.AddActivation(name), Vectors(at.width)), st.sampled_from(BENDING)),
    ]
    if not at.unit:
        some.append(st.just((graphsurgery.AddNormalize(), Vectors(at.width, unit=True))))
    if at.width > 1:
        dims, keeps = st.integers(1, at.width - 1), st.booleans()
        cut = st.builds(
            lambda dim, keep: (graphsurgery.Truncate(str(dim), keep_length=keep), Vectors(dim, not keep)), dims, keeps
        )
        some.append(cut)
    return st.one_of(some)


def last_edits(at: Vectors) -> st.SearchStrategy[list[Edit]]:
    """Bytes, or several cuts, or nothing."""
    ranges = module_folders.ranges(at.width, at.width)
    some = [st.just([])]
    some += [st.just([graphsurgery.OutputPrecision(to, ranges)]) for to in ("int8", "uint8")]
    some += [st.just([graphsurgery.OutputPrecision(to)]) for to in ("binary", "ubinary")]
    if at.width > 2:
        some.append(st.just([graphsurgery.Truncate(f"{at.width - 1},1")]))
    return st.one_of(some)


@st.composite
def chains(draw: st.DrawFn, width: int) -> list[Edit]:
    chain, at = [], Vectors(width)
    for _ in range(draw(st.integers(0, 4))):
        edit, at = draw(edits(at))
        chain.append(edit)
    return chain + draw(last_edits(at))


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    data=st.data(), opset=st.sampled_from([11, 13, 17, 18, 21]), dtype=st.sampled_from([FLOAT, FLOAT16]),
    hidden=st.integers(1, WIDEST), mode=st.sampled_from(["cls", "mean", "max", "lasttoken"]),
)  # fmt: skip
def test_every_chain_is_proven_and_undone(data, opset: int, dtype: int, hidden: int, mode: str) -> None:
    source = graphsurgery.load(tiny_encoder(opset=opset, dtype=dtype, hidden=hidden))
    model = graphsurgery.add_pooling(source, mode)
    for edit in data.draw(chains(hidden)):
        try:
            model = edit.apply(model)
        except AlreadyAppliedError:  # the very same edit twice in a row
            assert model.proto.metadata_props[-1].value.find(edit.verb) > 0
    onnx.checker.check_model(model.to_proto(), full_check=True)
    report = graphsurgery.verify(model, against=source)
    assert report, [(check.name, check.detail) for check in report.checks if check.verdict is not graphsurgery.Verdict.PASSED]
    assert graphsurgery.strip_head(model).to_proto().SerializeToString() == source.to_proto().SerializeToString()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data(), opset=st.sampled_from([11, 13, 18]), hidden=st.integers(1, WIDEST))
def test_every_chain_of_tokens_is_proven_and_undone(data, opset: int, hidden: int) -> None:
    """Of every token's own vector, as late interaction has them."""
    source = graphsurgery.load(tiny_encoder(opset=opset, hidden=hidden, names={HIDDEN: "token_embeddings"}))
    model, at = source, Vectors(hidden)
    for _ in range(data.draw(st.integers(1, 3))):
        edit, at = data.draw(edits(at))
        try:
            model = type(edit)(**{**vars(edit), "target": "token_embeddings"}).apply(model)
        except AlreadyAppliedError:
            continue
    report = graphsurgery.verify(model, against=source)
    assert report, [(check.name, check.detail) for check in report.checks if check.verdict is not graphsurgery.Verdict.PASSED]
    assert graphsurgery.strip_head(model).to_proto().SerializeToString() == source.to_proto().SerializeToString()
