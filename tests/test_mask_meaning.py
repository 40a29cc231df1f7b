"""What an encoder takes its inputs for, established by its graph and by runs, whatever they are called."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import CORPUS, FIXTURES, NO_CORPUS
from encoders import MASK
from golden import Case

import graphsurgery
from graphsurgery.edits import token_mask
from graphsurgery.edits.add_pooling import AddPooling
from graphsurgery.encoder.attention import COUNTED
from graphsurgery.encoder.roles import find_roles
from graphsurgery.errors import LayoutError, MaskError
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import read_steps
from graphsurgery.proof.expected import ExpectedOutputs, OpenedSource
from graphsurgery.proof.source_feeds import make_feed_generator
from graphsurgery.proof.whole_proof import Whole, measure_dependence
from graphsurgery.references.chain import Chain
from graphsurgery.references.recorded_weights import RecordedWeights
from graphsurgery.remarks import select_warnings
from graphsurgery.runtime.establish import establish_mask
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.mask_forms import (
    ADDITIVE,
    LENGTHS,
    NONZERO,
    NOT,
    can_say,
    decode_mask,
    encode_mask,
    list_possible_forms,
)
from graphsurgery.runtime.mask_in_graph import find_meaning_in_graph
from graphsurgery.runtime.masks import Sizes, generate_masks
from graphsurgery.runtime.probing import GRAPH, RUN, MaskMeaning, find_layout_by_run, find_meaning_by_run
from graphsurgery.runtime.session import open_session

CASES = Path(__file__).parent / "cases"
MEANT = {
    "mask_not": ("padding", NOT), "mask_additive": ("bias", ADDITIVE), "mask_lengths": ("lengths", LENGTHS),
    "mask_nonzero_for_not": ("attention_mask", NONZERO),
}  # fmt: skip
ENCODERS = ("bert", "bert-fp16", "modernbert", "qwen3", "t5", "xlmr")


def case_model(name: str) -> Model:
    return Case.read(CASES / "add_pooling" / f"{name}.txt").source()


def generator_for(model: Model, mask: str) -> FeedGenerator:
    return FeedGenerator.for_model(model, find_roles(model.interface, mask=mask))


@pytest.mark.parametrize(("name", "meant"), MEANT.items())
def test_the_graph_and_a_run_show_what_a_mask_means(name: str, meant: tuple[str, str]) -> None:
    model, (mask, form) = case_model(name), meant
    generator = generator_for(model, mask)
    assert find_meaning_in_graph(model, generator) == MaskMeaning(form, GRAPH)
    assert find_meaning_by_run(open_session(model).run, generator) == MaskMeaning(form, RUN)


@pytest.mark.parametrize("name", ENCODERS)
def test_both_agree_on_real_encoders(name: str) -> None:
    model = graphsurgery.load(FIXTURES / name / "model.onnx")
    generator = generator_for(model, "attention_mask")
    assert find_meaning_in_graph(model, generator).form == NONZERO
    assert find_meaning_by_run(open_session(model).run, generator).form == NONZERO
    assert find_layout_by_run(open_session(model).run, generator) == "batch first"


@pytest.mark.parametrize("name", MEANT)
def test_every_other_reading_is_refused(name: str) -> None:
    model, (mask, form) = case_model(name), MEANT[name]
    value = model.interface.input(mask)
    assert value is not None and form in list_possible_forms(value)
    for other in (NONZERO, NOT, ADDITIVE, LENGTHS):
        text = mask if other == NONZERO else f"{other}:{mask}"
        if other == form:
            assert graphsurgery.verify(AddPooling("mean", mask=text).apply(model), against=model)
        else:
            with pytest.raises(MaskError) as refused:
                AddPooling("mean", mask=text).apply(model)
            assert (mask if form == NONZERO else f"{form}:{mask}") in refused.value.advice


@pytest.mark.parametrize("spec", ["pad:0", "ones"])
@pytest.mark.parametrize(("name", "meant"), MEANT.items())
def test_a_mask_that_no_edit_reads_is_fed_as_the_graph_takes_it(name: str, meant: tuple[str, str], spec: str) -> None:
    """The pooled tokens are those of the ids; the encoder's own mask still hides the padding, and not the tokens."""
    model = case_model(name)
    called = model if meant[0] == MASK else graphsurgery.rename(model, names={meant[0]: MASK})
    pooled = AddPooling("mean", mask=spec).apply(called)
    generator = make_feed_generator(called, Chain(read_steps(pooled.proto)))
    mask = np.array([[True, True, False], [True, False, False]])
    fed = generator.generate(mask, seed=0)[MASK]
    assert generator.form == meant[1] and np.array_equal(decode_mask(fed, meant[1], 3), mask)
    assert graphsurgery.verify(pooled, against=called)


TWO_MASKS = """
<ir_version: 8, opset_import: ["" : 17]>
encoder (int64[b, s] input_ids, int64[b, s] attention_mask, int64[b, s] other) => (float[b, s, 4] last_hidden_state)
{
   x = Gather (table, input_ids)
   keys = Transpose <perm = [0, 2, 1]> (x)
   scores = MatMul (x, keys)
   is_token = Cast <to = 9> (attention_mask)
   said = Cast <to = 9> (other)
   is_seen = OTHERWISE (said)
   both = And (is_token, is_seen)
   axis = Constant <value_ints = [1]> ()
   shown = Unsqueeze (both, axis)
   low = Constant <value_float = -10000.0> ()
   masked = Where (shown, scores, low)
   weights = Softmax <axis = -1> (masked)
   last_hidden_state = MatMul (weights, x)
}
"""


@pytest.mark.parametrize(("otherwise", "numbers"), [("Identity", "ones"), ("Not", "zeros")])
def test_a_second_mask_does_not_hide_what_the_first_means(otherwise: str, numbers: str) -> None:
    """While it hides every token, no run and no graph shows anything of the other mask, and any reading would pass."""
    proto = onnx.parser.parse_model(TWO_MASKS.replace("OTHERWISE", otherwise))
    table = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(table, "table"))
    model = graphsurgery.load(proto)
    assert establish_mask(model, MASK).form == NONZERO
    with pytest.raises(MaskError, match="the graph shows that it is not 0 at tokens"):
        AddPooling("mean", mask=f"not:{MASK}").apply(model)
    report = graphsurgery.verify(AddPooling("mean").apply(model), against=model)
    assert report and f"input other: its use is not known, so only {numbers} were fed" in report.not_checked
    assert not any("no run of the source shows" in line for line in report.not_checked)


@pytest.mark.parametrize(("name", "asked"), [("mask_not", "padding"), ("mask_nonzero_for_not", "not:attention_mask")])
def test_a_file_that_reads_its_mask_wrongly_fails(name: str, asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made without the check of the graph, as another version may have made it: the run of the source shows the mistake."""
    monkeypatch.setattr(token_mask, "establish_mask", lambda *_: MaskMeaning(None))
    model = case_model(name)
    report = graphsurgery.verify(AddPooling("mean", mask=asked).apply(model), against=model)
    whole = next(check for check in report.checks if check.name == "whole proof")
    assert report.verdict is whole.verdict is graphsurgery.Verdict.FAILED
    assert "reads the mask" in whole.detail


def test_a_file_that_pools_over_the_batch_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_mask, "require_batch_first", lambda *_: None)
    model = case_model("sequence_first")
    report = graphsurgery.verify(AddPooling("mean", mask="ones").apply(model), against=model)
    assert report.verdict is graphsurgery.Verdict.FAILED
    assert any("the sequence comes before the batch" in check.detail for check in report.checks)


def renamed_dims(model: Model, *names: str) -> Model:
    proto = model.to_proto()
    for info in (*proto.graph.input, *proto.graph.output):
        for dim, name in zip(info.type.tensor_type.shape.dim, names, strict=False):
            dim.dim_param = name
    return graphsurgery.load(proto)


@pytest.mark.parametrize("names", [("batch", "seq"), ("seq", "batch"), ("d0", "d1")])
def test_names_of_dims_decide_nothing_that_can_be_seen(names: tuple[str, str]) -> None:
    """A sequence-first encoder is refused whatever its dims are called, and another one is not refused for their names."""
    with pytest.raises(LayoutError):
        AddPooling("mean", mask="ones").apply(renamed_dims(case_model("sequence_first"), *names))
    assert AddPooling("mean").apply(renamed_dims(graphsurgery.load(FIXTURES / "bert" / "model.onnx"), *names))


def test_names_of_dims_decide_where_nothing_can_be_seen() -> None:
    """Tokens that do not look at each other show no layout."""
    table = case_model("no_mask")
    with pytest.raises(LayoutError, match="the sequence before the batch"):
        AddPooling("mean", mask="ones").apply(renamed_dims(table, "seq", "batch"))
    assert AddPooling("mean", mask="ones").apply(renamed_dims(table, "batch", "seq"))


def test_an_output_the_other_way_round_is_refused() -> None:
    proto = graphsurgery.load(FIXTURES / "bert" / "model.onnx").to_proto()
    proto.graph.node.append(onnx.helper.make_node("Transpose", ["last_hidden_state"], ["turned"], perm=[1, 0, 2]))
    proto.graph.output[0].name = "turned"
    dims = proto.graph.output[0].type.tensor_type.shape.dim
    dims[0].dim_param, dims[1].dim_param = dims[1].dim_param, dims[0].dim_param
    with pytest.raises(LayoutError, match="the other way round"):
        AddPooling("mean", hidden_state="turned").apply(graphsurgery.load(proto))


def test_an_encoder_that_counts_its_tokens_is_warned_of() -> None:
    """Attention with a one-dimensional mask_index, as other optimizers write it: padding in front is not hidden."""
    model = graphsurgery.load(counting_encoder())
    assert establish_mask(model, "attention_mask") == MaskMeaning(NONZERO, GRAPH, behind_alone=True)
    notes = AddPooling("mean").resolve(model).notes
    assert COUNTED in select_warnings(notes)
    assert COUNTED in graphsurgery.inspect(model).warnings
    assert COUNTED not in graphsurgery.inspect(FIXTURES / "bert" / "model.onnx").warnings


def counting_encoder() -> onnx.ModelProto:
    """One com.microsoft.Attention, its mask the number of ones in each row."""
    rng = np.random.default_rng(0)
    weights = {"table": (6, 4), "qkv": (4, 12), "bias": (12,)}
    graph = onnx.parser.parse_graph(
        """encoder (int64[batch, seq] input_ids, int64[batch, seq] attention_mask) => (float[batch, seq, 4] last_hidden_state) {
            x = Gather (table, input_ids)
            axis = Constant <value = int64[1] {1}> ()
            count = ReduceSum <keepdims = 0> (attention_mask, axis)
            index = Cast <to = 6> (count)
            last_hidden_state = com.microsoft.Attention <num_heads = 2> (x, qkv, bias, index)
        }"""
    )
    graph.initializer.extend(
        onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name) for name, shape in weights.items()
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_texts_that_mix_are_warned_of() -> None:
    """An encoder that takes the mean of the batch away from every text: neither layout, and a warning."""
    proto = case_model("mask_nonzero_for_not").to_proto()
    proto.graph.node.append(onnx.helper.make_node("ReduceMean", ["last_hidden_state"], ["mean"], axes=[0]))
    proto.graph.node.append(onnx.helper.make_node("Sub", ["last_hidden_state", "mean"], ["mixed"]))
    proto.graph.output[0].name = "mixed"
    model = graphsurgery.load(proto)
    report = graphsurgery.verify(AddPooling("mean", hidden_state="mixed").apply(model), against=model)
    (said,) = (line for line in report.warnings if "vector changes" in line and "other texts in the batch" in line)
    assert report and said.startswith("a text's vector")


def edited_text(name: str, *changes: tuple[str, str]) -> Model:
    """The model of a case, its text changed."""
    text = (CASES / "add_pooling" / f"{name}.txt").read_text(encoding="utf-8")
    text = text[text.index("--- before\n") + len("--- before\n") : text.index("--- error") if "--- error" in text else None]
    text = text.partition("--- after")[0]
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return graphsurgery.load(onnx.parser.parse_model(text))


@pytest.mark.parametrize("penalty", ["-10", "-30", "-100"])
def test_a_mask_that_hides_weakly_is_not_taken_for_another(penalty: str) -> None:
    """(1 - m) times a small number. Zeros lower the scores of all positions, and an additive mask leaves those of tokens."""
    floats = ("int64[batch, seq] attention_mask", "float[batch, seq] attention_mask")
    model = edited_text("mask_nonzero_for_not", ("-10000", penalty), floats)
    assert establish_mask(model, "attention_mask") == MaskMeaning(NONZERO, GRAPH)


def test_a_mask_of_positions_by_positions_is_no_padding_mask() -> None:
    """The two masks of torch.nn.TransformerEncoder: `mask [seq, seq]` has a well-known name, and is refused."""
    inputs = ("bool[batch, seq] padding)", "bool[batch, seq] padding, float[seq, seq] mask)")
    model = edited_text("mask_not_for_nonzero", inputs, ("keys = ", "scale = Identity (mask)\n   keys = "))
    with pytest.raises(MaskError, match=r"needs numbers or booleans of \[batch, seq\]") as refused:
        AddPooling("mean").apply(model)
    assert "--mask not:padding" in refused.value.advice
    assert AddPooling("mean", mask="not:padding").apply(model)


def test_a_float_mask_that_is_only_compared_with_zero() -> None:
    floats, cast = ("bool[batch, seq] padding", "float[batch, seq] padding"), ("Where (mask_3d", "Where (mask_bool")
    unsqueeze = (
        "mask_3d = Unsqueeze (padding, axes)",
        "mask_3d = Unsqueeze (padding, axes)\n   mask_bool = Cast <to = 9> (mask_3d)",
    )
    model = edited_text("mask_not_for_nonzero", floats, cast, unsqueeze)
    assert establish_mask(model, "padding") == MaskMeaning(NOT, GRAPH)
    with pytest.raises(MaskError, match="0 at tokens"):
        AddPooling("mean", mask="padding").apply(model)


@pytest.mark.parametrize("sizes", [("8", "batch"), ("seq", "2"), ("5", "n"), ("6", "2")])
def test_a_fixed_size_does_not_hide_the_layout(sizes: tuple[str, str]) -> None:
    model = edited_text("sequence_first", ("d0", sizes[0]), ("d1", sizes[1]))
    with pytest.raises(LayoutError):
        AddPooling("mean", mask="ones").apply(model)


def test_the_value_that_is_pooled_decides() -> None:
    """Another output, or a value inside, may have its dims the other way round."""
    proto = case_model("mask_nonzero_for_not").to_proto()
    proto.graph.node.append(onnx.helper.make_node("Transpose", ["last_hidden_state"], ["turned"], perm=[1, 0, 2]))
    inside = graphsurgery.load(proto)
    proto.graph.output.append(onnx.helper.make_tensor_value_info("turned", 1, ["seq", "batch", 4]))
    beside = graphsurgery.load(proto)
    for model in (inside, beside):
        assert graphsurgery.verify(AddPooling("mean").apply(model), against=model)
        with pytest.raises(LayoutError):
            AddPooling("mean", hidden_state="turned").apply(model)


def test_every_mask_of_a_chain_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one is right, and the second is not."""
    monkeypatch.setattr(token_mask, "establish_mask", lambda *_: MaskMeaning(None))
    model = case_model("mask_nonzero_for_not")
    middle = graphsurgery.MaskTokens(target="last_hidden_state").apply(model)
    report = graphsurgery.verify(AddPooling("mean", mask="not:attention_mask").apply(middle), against=model)
    assert report.verdict is graphsurgery.Verdict.FAILED
    assert any("add-pooling reads the mask" in check.detail for check in report.checks)


@pytest.mark.parametrize(("name", "meant"), MEANT.items())
def test_one_output_that_uses_the_mask_is_enough(name: str, meant: tuple[str, str]) -> None:
    """Another output mixes all tokens, hidden or not."""
    proto = case_model(name).to_proto()
    proto.graph.node.append(onnx.helper.make_node("ReduceMean", ["last_hidden_state"], ["centre"], axes=[1]))
    proto.graph.node.append(onnx.helper.make_node("Add", ["last_hidden_state", "centre"], ["mixed"]))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("mixed", 1, ["batch", "seq", 4]))
    model, (mask, form) = graphsurgery.load(proto), meant
    assert find_meaning_by_run(open_session(model).run, generator_for(model, mask)) == MaskMeaning(form, RUN)


def test_what_no_run_shows_is_listed() -> None:
    """A causal encoder that ignores its mask: its last token is seen by nobody, in whatever form it is hidden."""
    scores = ("scores = MatMul (x, keys)", "all = MatMul (x, keys)\n   scores = Trilu <upper = 0> (all)")
    causal = edited_text("mask_nonzero_for_not", scores, ("masked = Add (scores, mask_3d)", "masked = Identity (scores)"))
    proto = causal.to_proto()
    del proto.graph.node[:]
    nodes = onnx.parser.parse_graph(
        """e (int64[b, s] input_ids) => (float[b, s, 4] last_hidden_state) {
            x = Gather (table, input_ids)
            axis = Constant <value = int64 {1}> ()
            last_hidden_state = CumSum (x, axis)
        }"""
    )
    proto.graph.node.extend(nodes.node)
    model = graphsurgery.load(proto)
    report = graphsurgery.verify(AddPooling("mean", mask="not:attention_mask").apply(model), against=model)
    assert any("no run of the source shows" in line for line in report.not_checked)


def test_texts_of_one_token_have_no_padding_to_depend_on() -> None:
    """Where no text may be longer than one token, nothing is measured and nothing is said."""
    model = case_model("mask_nonzero_for_not")
    generator = replace(generator_for(model, "attention_mask"), max_length=1)
    session = open_session(model)
    whole = Whole(ExpectedOutputs(OpenedSource(session, (), {}, ()), Chain(), RecordedWeights([])), session, ())
    assert measure_dependence(whole, generator) == []


@pytest.mark.parametrize("form", [NONZERO, NOT, ADDITIVE, LENGTHS])
def test_masks_are_read_as_they_are_written(form: str) -> None:
    value = graphsurgery.interface.Value("m", onnx.TensorProto.FLOAT if form == ADDITIVE else onnx.TensorProto.INT64, None)
    masks = [mask for _, masks in generate_masks(Sizes()) for mask in masks]
    said = [mask for mask in masks if can_say(mask, form)]
    assert len(said) == len(masks) or form == LENGTHS
    assert len(said) > 5
    for mask in said:
        assert np.array_equal(decode_mask(encode_mask(mask, form, value), form, mask.shape[1]), mask)


def test_feeds_say_their_masks_in_the_form_of_the_input() -> None:
    generator = replace(generator_for(case_model("mask_lengths"), "lengths"), form=LENGTHS)
    kinds = dict(generator.generate_masks())
    assert "left padding" not in kinds and "holes" not in kinds
    for mask in kinds["right padding"]:
        feed = generator.generate(mask, seed=0)
        assert feed["lengths"].tolist() == mask.sum(axis=1).tolist()
        assert np.array_equal(generator.find_mask(feed), mask)


@pytest.mark.skipif(not CORPUS.is_dir(), reason=NO_CORPUS)
@pytest.mark.parametrize(
    "name", ["vespa-dummy-transformer/dummy_transformer.onnx", "vespa-sample-transformer-ranker/transformer.onnx"]
)
def test_third_party_files_that_attend_along_the_batch_are_refused(name: str) -> None:
    """torch.nn.TransformerEncoder without batch_first: the dims are called batch and tokens, and are not."""
    with pytest.raises(LayoutError, match="the sequence stands before the batch"):
        AddPooling("cls", mask="ones", ids="input").apply(graphsurgery.load(CORPUS / name))
