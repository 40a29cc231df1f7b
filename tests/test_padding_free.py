"""The rewrite `padding-free`: exact on every kind of feed, on tokens alone, refused in words, its planted faults caught."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from fusions import require_optimizer
from packed import FORMS, MASKS, Step, encoder, feeds, made, refuse, small_encoder

import graphsurgery
from graphsurgery import AddNormalize, AddPooling, Fuse, Half, PaddingFree, PooledToken, Simplify
from graphsurgery.encoder.roles import find_roles
from graphsurgery.errors import (
    AlreadyAppliedError,
    MaskError,
    RequestError,
    UnsupportedModelError,
    VerificationFailed,
)
from graphsurgery.model.model import Model
from graphsurgery.recipe import parse_recipe, read_recorded_recipe, to_toml
from graphsurgery.rewrites.padding_free import building, packing
from graphsurgery.rewrites.padding_free.layout import Layout
from graphsurgery.runtime.baked_sizes import make_feed_generator_for
from graphsurgery.runtime.masks import make_mask
from graphsurgery.runtime.observed_dims import POSITIONS, ROWS, Size, observe_dims
from graphsurgery.runtime.session import open_session

ENCODERS = ("bert", "bert-dynamo", "xlmr", "modernbert", "modernbert-dynamo", "qwen3", "qwen3-dynamo", "t5", "bert-external")


def operators(model: Model) -> Counter[str]:
    """All operators of a graph and of the graphs in it, by their number."""

    def walk(graph: onnx.GraphProto) -> Iterator[str]:
        for node in graph.node:
            yield node.op_type
            for attribute in node.attribute:
                yield from walk(attribute.g) if attribute.HasField("g") else ()

    return Counter(walk(model.proto.graph))


# --- exact ------------------------------------------------------------------------------------------------------------------


def measure_difference(source: Model, after: Model) -> float:
    """The largest difference of the vectors of two models on every kind of feed."""
    before, now = open_session(source), open_session(after)
    kinds, worst = set(), 0.0
    for kind, feed in feeds(source):
        (wanted,), (found,) = before.run(feed).values(), now.run(feed).values()
        assert np.isfinite(found).all()
        kinds.add(kind)
        worst = max(worst, float(np.abs(wanted - found).max()))
    assert {"right padding", "left padding", "mixed padding", "holes", "empty row", "batch of one"} <= kinds
    return worst


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ENCODERS)
def test_vectors_stay_the_same(name: str, form: str) -> None:
    """On right, left and mixed padding, holes, single tokens, and rows and batches without any token."""
    source = made(encoder(name), AddPooling("mean", normalize=True))
    after = made(source, PaddingFree(form))
    assert after.interface == source.interface and measure_difference(source, after) <= 1e-6


@pytest.mark.parametrize("rewrite", [PaddingFree("gather"), PaddingFree("rows", keep_padded=True)], ids=str)
def test_it_is_proven_and_recorded(rewrite: PaddingFree, tmp_path: Path) -> None:
    """The recipe of the file makes the same bytes again, and the file stands a comparison with its source."""
    pooled = made(encoder("bert"), AddPooling("cls,max,lasttoken"))
    done = graphsurgery.run([rewrite], pooled, output=tmp_path / "made.onnx")
    assert done.report and done.saved
    assert any("computes on tokens alone" in note for note in done.notes)
    recipe = parse_recipe(tomllib.loads(to_toml(read_recorded_recipe(graphsurgery.load(done.output)))), "shown")
    assert recipe.steps[-1] == rewrite
    again = graphsurgery.run(recipe.steps, encoder("bert"), output=tmp_path / "again.onnx", verify=False)
    assert again.output.read_bytes() == done.output.read_bytes()


def test_padding_costs_nothing() -> None:
    """Every product with weights has one row for each token, however wide the batch is padded."""
    after = made(encoder("bert"), AddPooling("mean"), PaddingFree())
    matmuls = [node for node in after.proto.graph.node if node.op_type == "MatMul"]
    products = [node.output[0] for node in matmuls if node.input[1] in after.initializers]
    assert len(products) == 3 * 6
    session = open_session(after, extra_outputs=products)
    generator = make_feed_generator_for(after, find_roles(after.interface))
    for width in (7, 40):
        feed = generator.generate(make_mask([7, 2, 1], width), seed=0)
        found = session.run(feed)
        assert {found[name].shape[:2] for name in products} == {(1, 10)}


def test_rows_attend_without_a_mask() -> None:
    """Nothing of the mask is left but what the indexes are made of, and scores are never held for a whole batch."""
    after = made(encoder("bert"), AddPooling("mean"), PaddingFree())
    found = operators(after)
    assert found["Loop"] == found["MultiHeadAttention"] == 3 and not found["Softmax"]
    loops = [node for node in after.proto.graph.node if node.op_type == "Loop"]
    attentions = [inner for node in loops for inner in node.attribute[0].g.node if inner.op_type == "MultiHeadAttention"]
    assert all(len(node.input) == 3 for node in attentions)


def test_gather_has_standard_operators_alone() -> None:
    after = made(encoder("bert"), AddPooling("mean"), PaddingFree("gather"))
    assert {one.domain for one in after.proto.opset_import} == {""} and operators(after)["Softmax"] == 3


def test_no_weight_is_copied() -> None:
    """Also where they are external data, and some initializers are new."""
    source = graphsurgery.load(encoder("bert-external"))
    after = made(source, AddPooling("mean"), PaddingFree())
    large = [one for one in source.proto.graph.initializer if len(one.dims) == 2]
    kept = {one.name: one for one in after.proto.graph.initializer}
    assert large and all(kept[one.name] == one for one in large if one.name in kept)


# --- with other rewrites ----------------------------------------------------------------------------------------------------

CHAINS: dict[str, list[Step]] = {
    "simplify before": [Simplify(), PaddingFree()],
    "simplify behind": [PaddingFree("gather"), Simplify()],
    "half before": [Half(), PaddingFree()],
    "half behind": [PaddingFree(), Half()],
}


@pytest.mark.parametrize("name", ["bert", "bert-dynamo"])
@pytest.mark.parametrize("chain", CHAINS)
def test_it_is_combined_with_other_rewrites(chain: str, name: str) -> None:
    """With an edit behind, which takes the head off and puts it on again. Half precision loses what it always loses."""
    source = made(encoder(name), AddPooling("mean"), AddNormalize())
    after = made(encoder(name), AddPooling("mean"), *CHAINS[chain], AddNormalize())
    assert measure_difference(source, after) <= (3e-3 if "half" in chain else 1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["bert", "t5"])
def test_a_fused_encoder(name: str, form: str) -> None:
    """Norms of sums, of looked-up rows, and attentions that project are taken apart before."""
    require_optimizer()
    fused = made(encoder(name), AddPooling("mean", normalize=True), Fuse())
    after = made(fused, PaddingFree(form))
    left = operators(after)
    assert not any("Skip" in operator or "Embed" in operator for operator in left) and not left["Attention"]
    assert left["MultiHeadAttention"] == 3
    assert measure_difference(fused, after) <= 1e-6


@pytest.mark.parametrize(("form", "loops"), [("rows", 2), ("gather", 0)])
def test_an_attention_that_one_token_asks(form: str, loops: int) -> None:
    """With pooled-token before, the last layer has one token of each text; the other layers still run row by row."""
    source = made(encoder("bert"), AddPooling("cls", normalize=True), PooledToken())
    after = made(source, PaddingFree(form))
    assert operators(after)["Loop"] == loops and measure_difference(source, after) <= 1e-6


def test_fusing_comes_first() -> None:
    after = made(encoder("bert"), AddPooling("mean"), PaddingFree())
    with pytest.raises(UnsupportedModelError, match="padding-free") as refused:
        Fuse().check(after)
    assert "fuse first" in refused.value.advice


def test_the_encoder_alone_is_warned_of() -> None:
    after = made(encoder("bert"), AddPooling("mean"), PaddingFree())
    alone = graphsurgery.strip_head(after)
    assert any("at padded positions" in one for one in alone.warnings)
    assert not graphsurgery.strip_head(made(encoder("bert"), AddPooling("mean"))).warnings


# --- masks of every meaning ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("said", MASKS)
def test_masks_of_every_meaning(said: str, form: str, tmp_path: Path) -> None:
    pooling = AddPooling("mean", mask=MASKS[said][1])
    done = graphsurgery.run([pooling, PaddingFree(form)], small_encoder(said), output=tmp_path / "made.onnx")
    assert done.report and done.saved


@pytest.mark.parametrize("form", FORMS)
def test_attention_at_the_end(form: str, tmp_path: Path) -> None:
    """The head reads what the attention gives."""
    model = small_encoder(after="last_hidden_state = Identity (mixed)")
    done = graphsurgery.run([AddPooling("mean", mask="said"), PaddingFree(form)], model, output=tmp_path / "made.onnx")
    assert done.report and done.saved


ROTATIONS = {
    "counted from a start": "places = Constant <value = int64[1] {3}> ()",
    "by given places": """zero_1 = Constant <value = int64 {0}> ()
        axis_1 = Constant <value = int64 {1}> ()
        ones = Abs (said)
        counted = CumSum (ones, axis_1)
        places = Max (counted, zero_1)""",
}
"""How a fused rotation is told the positions."""


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("told", ROTATIONS)
def test_fused_rotations(told: str, form: str, tmp_path: Path) -> None:
    """A rotation of [batch, seq, width] works token by token, at the positions of the tokens."""
    model = small_encoder(
        after=f"""y = Add (x, mixed)
        {ROTATIONS[told]}
        last_hidden_state = com.microsoft.RotaryEmbedding <num_heads = 1> (y, places, cos, sin)"""
    )
    done = graphsurgery.run([AddPooling("mean", mask="said"), PaddingFree(form)], model, output=tmp_path / "made.onnx")
    assert done.report and done.saved
    rotation = next(node for node in done.model.proto.graph.node if node.op_type == "RotaryEmbedding")
    assert "/tokens" in rotation.input[0] or "padding_free" in rotation.input[0]


# --- refusals -----------------------------------------------------------------------------------------------------------------


def test_what_is_refused() -> None:
    bert = encoder("bert")
    assert "add-pooling" in refuse(UnsupportedModelError, "padded positions", bert, PaddingFree())
    refuse(
        UnsupportedModelError, "last_hidden_state", bert, AddPooling("mean", keep_output=("last_hidden_state",)), PaddingFree()
    )
    refuse(AlreadyAppliedError, "already", bert, AddPooling("mean"), PaddingFree(), PaddingFree("gather"))
    refuse(MaskError, "the mask ones", bert, AddPooling("mean", mask="ones"), PaddingFree())
    refuse(MaskError, "the mask pad:0", bert, AddPooling("mean", mask="pad:0"), PaddingFree())
    with pytest.raises(RequestError, match="no form 'columns'"):
        PaddingFree("columns")


MIXING = {
    "Conv": """turned = Transpose <perm = [0, 2, 1]> (y)
        summed = Conv (turned, wc)
        last_hidden_state = Transpose <perm = [0, 2, 1]> (summed)""",
    "ReduceMean": """mean = ReduceMean <axes = [1]> (y)
        last_hidden_state = Add (y, mean)""",
    "CumSum": """axis_1 = Constant <value = int64 {1}> ()
        last_hidden_state = CumSum (y, axis_1)""",
    "Softmax": "last_hidden_state = Softmax <axis = 1> (y)",
}
"""By operator: what mixes the tokens of y without an attention."""


@pytest.mark.parametrize("attended", [False, True])
@pytest.mark.parametrize("operator", MIXING)
def test_other_ways_to_mix_tokens_are_refused(operator: str, attended: bool) -> None:
    """Whether they stand by themselves or read what an attention gives. ONNX Runtime would run the result."""
    start = "y = Identity (mixed)" if attended else "y = Add (x, mixed)"
    model = small_encoder(after=f"{start}\n{MIXING[operator]}")
    advice = refuse(UnsupportedModelError, f"operator {operator} ", model, AddPooling("mean", mask="said"), PaddingFree())
    assert "run the encoder as it is" in advice


@pytest.mark.parametrize("form", FORMS)
def test_a_product_of_tokens_before_an_attention_is_refused(form: str) -> None:
    """A rotation of queries before an attention of one operator belongs to it; a product with other tokens does not."""
    model = small_encoder(
        after="""turned = Transpose <perm = [0, 2, 1]> (x)
        gram = MatMul (x, turned)
        blurred = MatMul (gram, x)
        keep = Constant <value = int64[3] {0, 0, 4}> ()
        asking = Reshape (blurred, keep)
        shown = Cast <to = 6> (said)
        second = com.microsoft.MultiHeadAttention <num_heads = 1> (asking, x, x, , shown)
        last_hidden_state = Add (mixed, second)"""
    )
    refuse(UnsupportedModelError, "operator MatMul .*gram", model, AddPooling("mean", mask="said"), PaddingFree(form))


def test_an_attention_that_cannot_run_row_by_row(tmp_path: Path) -> None:
    model = small_encoder(
        values="""raw = MatMul (x, wv)
        once = Constant <value = int64[3] {1, 1, 1}> ()
        v = Tile (raw, once)"""
    )
    advice = refuse(UnsupportedModelError, "operator Tile .* places", model, AddPooling("mean", mask="said"), PaddingFree())
    assert 'form = "gather"' in advice
    steps = [AddPooling("mean", mask="said"), PaddingFree("gather")]
    assert graphsurgery.run(steps, model, output=tmp_path / "made.onnx").report


def test_attention_without_a_mask_is_refused() -> None:
    proto = onnx.ModelProto()
    proto.CopyFrom(small_encoder().proto)
    for node in proto.graph.node:
        if node.output[0] == "weights":
            node.input[0] = "scores"
    refuse(UnsupportedModelError, "does not mask padding", proto, AddPooling("mean", mask="said"), PaddingFree())


# --- planted faults ---------------------------------------------------------------------------------------------------------


def shifted(name: str) -> Callable[[Any], ir.Value]:
    """A property of `Packing` that is one too small, but not below 0."""
    right = vars(packing.Packing)[name].func

    def wrong(self: packing.Packing) -> ir.Value:
        build = self.builder
        moved = build.node("Add", [right(self), build.integers([-1])], "moved")
        return build.node("Max", [moved, build.integers([0])], "within")

    return wrong


@pytest.mark.parametrize(("name", "form"), [("pack", "rows"), ("rest", "gather"), ("rest", "rows"), ("positions", "gather")])
def test_an_index_that_is_off_by_one_is_found(name: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing.Packing, name, property(shifted(name)))
    source = encoder("bert")  # its positions are looked up by place
    with pytest.raises(VerificationFailed):
        graphsurgery.run([AddPooling("mean"), PaddingFree(form)], source, output=tmp_path / "made.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["starts", "ends"])
def test_a_bound_of_a_row_that_is_off_by_one_is_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows then begin with a token of the text before, or end too soon."""
    monkeypatch.setattr(packing.Packing, name, property(shifted(name)))
    with pytest.raises((VerificationFailed, UnsupportedModelError)):
        graphsurgery.run([AddPooling("mean"), PaddingFree()], encoder("bert"), output=tmp_path / "made.onnx")
    assert not list(tmp_path.iterdir())


def scale_again(build: building.Builder, inputs: list[ir.Value | None], attributes: dict[str, Any]) -> None:
    """Queries and keys have the scale already."""
    attributes["scale"] = 8**-0.5


def take_bias_of_another_head(build: building.Builder, inputs: list[ir.Value | None], attributes: dict[str, Any]) -> None:
    bias = inputs[5]
    assert bias is not None
    inputs[5] = build.gather(bias, build.integers(list(range(attributes["num_heads"]))[::-1]), 1, "fault")


@pytest.mark.parametrize(("fault", "name"), [(scale_again, "bert"), (take_bias_of_another_head, "t5")])
def test_a_wrong_attention_of_a_row_is_found(
    fault: Callable[..., None], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = building.Builder.node

    def wrong(
        self: building.Builder, op_type: str, inputs: Any, name: str, attributes: Any = None, domain: str = ""
    ) -> ir.Value:
        given, own = list(inputs), dict(attributes or {})
        if op_type == "MultiHeadAttention":
            fault(self, given, own)
        return right(self, op_type, given, name, own, domain)

    monkeypatch.setattr(building.Builder, "node", wrong)
    with pytest.raises(VerificationFailed):
        graphsurgery.run([AddPooling("mean"), PaddingFree()], encoder(name), output=tmp_path / "made.onnx")
    assert not list(tmp_path.iterdir())


def test_an_operator_that_is_wrongly_taken_for_token_wise_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum of all tokens before: of those of other texts, too."""
    right = Layout.is_token_wise
    monkeypatch.setattr(Layout, "is_token_wise", lambda self, node: node.op_type == "CumSum" or right(self, node))
    model = small_encoder(
        after="""still = Add (x, mixed)
        axis_1 = Constant <value = int64 {1}> ()
        last_hidden_state = CumSum (still, axis_1)"""
    )
    with pytest.raises(VerificationFailed):
        graphsurgery.run([AddPooling("mean", mask="said"), PaddingFree()], model, output=tmp_path / "made.onnx")


# --- what it goes by --------------------------------------------------------------------------------------------------------


def test_dims_are_observed() -> None:
    model = graphsurgery.load(encoder("bert-dynamo"))
    seen = observe_dims(model, "input_ids", "attention_mask", "nonzero")
    assert seen["last_hidden_state"].dims == (ROWS, POSITIONS, Size(32))
    assert seen["input_ids"].dims == (ROWS, POSITIONS) and seen["input_ids"].dtype == np.int64
    scores = [one.dims for one in seen.values() if one.dims[-2:] == (POSITIONS, POSITIONS) and len(one.dims) == 4]
    assert (ROWS, Size(4), POSITIONS, POSITIONS) in scores
