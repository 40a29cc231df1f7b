"""Rewrites as steps: applied, proven and recorded in any order with edits, named in recipes, shown by `recipe show`."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from baked_folders import tree
from conftest import FIXTURES
from fusions import require_optimizer, with_head
from onnx import numpy_helper
from test_rehead import pooled

import graphsurgery
from graphsurgery import (
    AddNormalize,
    AddPooling,
    Fuse,
    FuseAttention,
    FuseRotary,
    Half,
    OptionalInput,
    PaddingFree,
    PooledToken,
    Quantize,
    ReattachHead,
    Rename,
    Simplify,
    StripHead,
    Truncate,
)
from graphsurgery.cli.main import OK, VERDICT, WRONG, run
from graphsurgery.compare.tolerance import FLOAT32, LOSSY
from graphsurgery.edits.edit import Edit
from graphsurgery.encoder.head import read_head_steps
from graphsurgery.errors import (
    NoHeadError,
    NothingToOptimizeError,
    RecipeError,
    RequestError,
    UnsupportedModelError,
    VerificationFailed,
)
from graphsurgery.graph.schemas import count_vendor_operators
from graphsurgery.graph.write_back import to_document
from graphsurgery.model.certificate import read_certificate
from graphsurgery.model.model import Model, fill_weights
from graphsurgery.model.provenance import record_rewrite
from graphsurgery.recipe import Recipe, parse_recipe, read_recorded_recipe, to_toml
from graphsurgery.rewrites.registry import REWRITES
from graphsurgery.rewrites.rewrite import Context, Rewrite, Rewritten
from graphsurgery.runner import choose_output

require_optimizer()

Step = Edit | Rewrite
POOLING = {"edit": "add-pooling", "mode": "mean"}
ORDERS: dict[str, list[Step]] = {
    "simplify alone": [Simplify()],
    "simplify, pool": [Simplify(), AddPooling("mean")],
    "pool, fuse": [AddPooling("mean"), Fuse()],
    "fuse, pool, normalize": [Fuse(), AddPooling("cls"), AddNormalize()],
    "pool, simplify, normalize, fuse": [AddPooling("mean"), Simplify(), AddNormalize(), Fuse()],
    "rename, pool, fuse": [Rename(("last_hidden_state=hidden",)), AddPooling("mean"), Fuse()],
    "pool, rename, fuse, half": [
        AddPooling("mean"), Rename(("input_ids=ids", "attention_mask=mask", "sentence_embedding=vector")), Fuse(), Half(),
    ],
    "attention, pool, fuse": [FuseAttention(), AddPooling("mean"), Fuse()],
    "some fusions": [Fuse(off=("attention", "gelu")), AddPooling("mean")],
    "an optional input, and the head lost": [AddPooling("mean"), Simplify(), OptionalInput("token_type_ids"), Fuse()],
}  # fmt: skip


def bert() -> Path:
    return FIXTURES / "bert" / "model.onnx"


def shown(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The recipe that a file was made with, as the command line prints it."""
    capsys.readouterr()
    assert run(["recipe", "show", str(path)]) == OK
    return capsys.readouterr().out


def checks(outcome: graphsurgery.Outcome) -> set[str]:
    assert outcome.report is not None
    return {check.name for check in outcome.report.checks}


# --- any order ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ORDERS)
def test_steps_in_any_order_and_their_recipe(name: str, tmp_path: Path, capsys) -> None:
    """Each part is proven by its own proof, and the shown recipe gives the same bytes again."""
    steps = ORDERS[name]
    made = graphsurgery.run(steps, bert(), output=tmp_path / "made.onnx")
    assert made.report and made.saved
    label = "" if len(steps) == 1 else "{}: "
    for step in steps:
        if isinstance(step, Rewrite):
            assert label.format(step.name) + "same outputs" in checks(made)
    assert ("head proof" in checks(made)) == any(isinstance(step, Edit) for step in steps)
    (tmp_path / "shown.toml").write_text(shown(made.output, capsys), encoding="utf-8")
    again = graphsurgery.run_recipe(tmp_path / "shown.toml", bert(), output=tmp_path / "again.onnx")
    assert again.output.read_bytes() == made.output.read_bytes()


@pytest.mark.parametrize("name", ["xlmr", "bert-external", "modernbert"])
def test_a_recipe_with_rewrites(name: str, tmp_path: Path, capsys) -> None:
    source = FIXTURES / name / "model.onnx"
    text = '[[steps]]\nrewrite = "simplify"\n[[steps]]\nedit = "add-pooling"\nmode = "mean"\n[[steps]]\nrewrite = "fuse"\n'
    (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
    assert run(["run", str(tmp_path / "recipe.toml"), str(source), "-o", str(tmp_path / "made.onnx"), "--json"]) == OK
    told = json.loads(capsys.readouterr().out)
    assert told["report"]["verdict"] == "PASSED" and told["fusions"]["counts"]["skip norm"]["fused"] > 0
    assert [step["edit"] for step in told["steps"]] == ["add-pooling"] and len(told["rewrites"]) == 2
    for part in (told["report"]["not_checked"], told["report"]["observations"]):
        assert len(set(part)) == len(part), "three proofs say the same once"
    assert told["report"]["observations"]
    written = graphsurgery.load(tmp_path / "made.onnx")
    assert count_vendor_operators(written.proto)
    assert graphsurgery.verify(written, against=graphsurgery.add_pooling(source, mode="mean"))
    (tmp_path / "shown.toml").write_text(shown(tmp_path / "made.onnx", capsys), encoding="utf-8")
    (tmp_path / "again").mkdir()  # of its own, so that external data get the same name
    again = graphsurgery.run_recipe(tmp_path / "shown.toml", source, output=tmp_path / "again" / "made.onnx")
    assert again.output.read_bytes() == (tmp_path / "made.onnx").read_bytes()


def test_the_intermediate_model_is_no_file(tmp_path: Path) -> None:
    done = graphsurgery.run([AddPooling("mean"), Fuse()], bert(), output=tmp_path / "made.onnx")
    assert list(tree(tmp_path)) == ["made.onnx"]
    before = tree(tmp_path)
    dry = graphsurgery.run([AddPooling("mean"), Fuse(), AddNormalize()], bert(), output=tmp_path / "dry.onnx", dry_run=True)
    assert dry.report and dry.saved is None and tree(tmp_path) == before
    assert checks(dry) >= {"fuse: same outputs", "head proof"}
    unproven = graphsurgery.run([Simplify(), Fuse()], bert(), output=tmp_path / "unproven.onnx", verify=False)
    assert unproven.report is None and unproven.saved
    assert done.fusions is not None and unproven.fusions is not None and done.fusions.counts == unproven.fusions.counts


def test_the_default_name(fixture_copy: Callable[[str], Path]) -> None:
    source = fixture_copy("bert")
    assert graphsurgery.run([AddPooling("mean"), Simplify()], source).output == source.with_name("model.optimized.onnx")
    outcome = graphsurgery.run([AddNormalize()], source.with_name("model.optimized.onnx"))
    assert outcome.output == source.with_name("model.normalized.onnx")


@pytest.mark.parametrize("name", ["model.onnx", "model.optimized.onnx"])
def test_half_precision_has_a_name_of_its_own(name: str, tmp_path: Path) -> None:
    """It stands beside the optimized file, and transformers.js finds it by ``dtype: "fp16"``."""
    model = replace(graphsurgery.load(bert()), path=tmp_path / name)
    assert [choose_output(model, Half(precision), None).name for precision in ("fp16", "bf16")] == [
        "model_fp16.onnx", "model_bf16.onnx",
    ]  # fmt: skip
    assert choose_output(model, Fuse(), None).name == "model.optimized.onnx"
    assert choose_output(replace(model, path=tmp_path / "model_fp16.onnx"), AddPooling(), None).name == "model_fp16.pooled.onnx"


def test_goldens_of_a_rewritten_file(tmp_path: Path, capsys) -> None:
    """They are the reference's for the edits alone; the certificate tells of every proof."""
    folder = shutil.copytree(FIXTURES / "bert", tmp_path / "bert")
    steps = '[[steps]]\nedit = "add-pooling"\nmode = "mean"\n[[steps]]\nrewrite = "fuse"\n[[steps]]\nedit = "add-normalize"\n'
    (tmp_path / "recipe.toml").write_text(f'goldens = true\nsources = ["config.json"]\n{steps}', encoding="utf-8")
    made = graphsurgery.run_recipe(tmp_path / "recipe.toml", folder, output=tmp_path / "made.onnx")
    assert {"golden vectors", "fuse: same outputs", "head proof"} <= checks(made)
    assert run(["verify", str(made.output), "--self"]) == OK
    certificate = read_certificate(graphsurgery.load(made.output))
    assert (
        certificate is not None and set(certificate.sources) == {"config.json"} and "fuse: same outputs" in certificate.checks
    )
    (tmp_path / "shown.toml").write_text(shown(made.output, capsys), encoding="utf-8")
    again = graphsurgery.run_recipe(tmp_path / "shown.toml", folder, output=tmp_path / "again.onnx")
    assert again.output.read_bytes() == made.output.read_bytes()


def test_goldens_that_the_cpu_cannot_check(tmp_path: Path) -> None:
    made = graphsurgery.run([AddPooling("mean"), Half("bf16")], bert(), output=tmp_path / "made.onnx", goldens=True)
    assert made.report and any("no golden vectors are recorded" in one for one in made.warnings)
    assert not any(step.edit == "record-golden" for step in graphsurgery.model.provenance.read_steps(made.model.proto))


# --- what is wrong is found -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spoil(Rewrite):
    """Multiplies the hidden state by ``factor``, and claims to change nothing."""

    name: ClassVar[str] = "spoil"
    summary: ClassVar[str] = "wrong"
    exactness: ClassVar[str] = FLOAT32
    doing: ClassVar[str] = "spoiling"
    factor: float = 1.5
    recorded: str = ""

    def apply(self, encoder: Model, context: Context) -> Rewritten:
        given = fill_weights(encoder.proto, encoder)
        made = onnx.ModelProto()
        made.CopyFrom(given)
        node = next(node for node in made.graph.node if "last_hidden_state" in node.output)
        node.output[:] = ["right" if name == "last_hidden_state" else name for name in node.output]
        made.graph.initializer.append(numpy_helper.from_array(np.array(self.factor, np.float32), "factor"))
        made.graph.node.append(onnx.helper.make_node("Mul", ["right", "factor"], ["last_hidden_state"]))
        recorded = {"precision": self.recorded, "float32_nodes": 0} if self.recorded else {"portable": True}
        return Rewritten(replace(encoder, document=to_document(encoder, given, made)), recorded)

    @classmethod
    def from_record(cls, parameters: Mapping[str, Any]) -> None:
        return None


class SpoilLossy(Spoil):
    exactness: ClassVar[str] = LOSSY


PLANTED: dict[str, Sequence[Step]] = {
    "first": [Spoil(), AddPooling("mean"), Fuse()],
    "between": [AddPooling("mean"), Spoil(), AddNormalize()],
    "last": [AddPooling("mean"), Spoil()],
    "alone": [Spoil()],
    "a little": [AddPooling("mean"), Spoil(1.0001), AddNormalize()],
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_wrong_rewrite_is_found_wherever_it_stands(name: str, tmp_path: Path) -> None:
    """Also where what follows it would hide it: a normalised vector has lost the factor. Nothing is left behind."""
    before = tree(tmp_path)
    with pytest.raises(VerificationFailed) as caught:
        graphsurgery.run(PLANTED[name], bert(), output=tmp_path / "made.onnx")
    assert tree(tmp_path) == before
    assert caught.value.message.startswith("made.onnx did not pass its proof (FAILED: ")
    assert " apart in " in caught.value.message and caught.value.message.endswith("nothing was written")
    outcome = caught.value.outcome
    assert isinstance(outcome, graphsurgery.Outcome) and outcome.saved is None and not outcome.report


def test_a_rewrite_is_held_to_what_it_claims(tmp_path: Path) -> None:
    """A file that records half precision is judged by angles only if its rewrite says that it is lossy. And one that records
    nothing of the kind is held to float32 whatever the rewrite says."""
    for wrong in (Spoil(1.0001, recorded="float16"), SpoilLossy(1.0001)):
        with pytest.raises(VerificationFailed):
            graphsurgery.run([wrong], bert(), output=tmp_path / "made.onnx")
    assert not tree(tmp_path)


def test_a_wrong_model_is_kept_for_a_look(tmp_path: Path) -> None:
    for steps in ([Spoil(), AddPooling("mean")], [AddPooling("mean"), Spoil()]):
        with pytest.raises(VerificationFailed, match="it was kept as") as caught:
            graphsurgery.run(steps, bert(), output=tmp_path / "made.onnx", keep_failed=True, force=True)
        outcome = caught.value.outcome
        assert isinstance(outcome, graphsurgery.Outcome) and outcome.saved and (tmp_path / "made.onnx").exists()
        assert graphsurgery.load(tmp_path / "made.onnx").interface == outcome.interface


def test_limits_are_for_what_is_lossy(tmp_path: Path) -> None:
    """``min_cosine`` of a recipe with half precision; and edits keep to their own limits beside it."""
    steps = [AddPooling("mean"), Half()]
    with pytest.raises(VerificationFailed) as caught:
        graphsurgery.run(steps, bert(), output=tmp_path / "made.onnx", min_cosine=0.99999999)
    assert "half precision loses too much here" in caught.value.advice
    done = graphsurgery.run(steps, bert(), output=tmp_path / "made.onnx", atol=0.1)
    assert done.report is not None
    head = next(check for check in done.report.checks if check.name == "head proof")
    assert max(one.worst for one in head.comparisons) > 0.1, "of very large values, so that 0.1 would not do"


def test_what_is_refused(tmp_path: Path) -> None:
    def refused(steps: Sequence[Step], error: type[Exception], words: str, source: object = None) -> None:
        with pytest.raises(error, match=words):
            graphsurgery.run(steps, source or bert(), output=tmp_path / "never.onnx")
        assert not (tmp_path / "never.onnx").exists()

    refused([Simplify(), Simplify()], NothingToOptimizeError, "changes nothing")
    refused([Fuse(), AddPooling("mean"), Fuse()], NothingToOptimizeError, "fuses nothing")
    refused([Fuse(), Simplify()], UnsupportedModelError, "one vendor")
    refused([AddPooling("mean"), Fuse(), StripHead()], RequestError, "cannot follow a rewrite")
    refused([AddPooling("mean"), Half(io=True)], RequestError, "the head takes float32")
    refused([Fuse(model_type="elephant")], RequestError, "no model type 'elephant'")
    refused([ReattachHead()], RequestError, "a head can be replaced if")
    refused([], RequestError, "no step")
    source = graphsurgery.add_pooling(bert(), mode="mean")
    done = graphsurgery.run([StripHead(), Simplify()], source, output=tmp_path / "made.onnx")
    assert done.report and "simplify: same outputs" in checks(done)


# --- recipes --------------------------------------------------------------------------------------------------------------


WRONG_STEPS = {
    "an unknown rewrite": ({"rewrite": "simplyfy"}, "recipe.toml: steps[0]: there is no rewrite 'simplyfy'", "attention, fuse"),
    "both": ({"rewrite": "fuse", "edit": "add-pooling"}, "steps[0] has both an edit and a rewrite", "a step for each"),
    "an unknown key": ({"rewrite": "fuse", "mode": "mean"}, "recipe.toml: steps[0]: there is no key 'mode'", "model_type"),
    "a key for a rewrite without": ({"rewrite": "simplify", "off": []}, "steps[0]: there is no key 'off'", "has no keys"),
    "no field of the declaration": ({"rewrite": "fuse", "architecture": "x"}, "there is no key 'architecture'", "target"),
    "a text for a number": ({"rewrite": "fuse", "heads": "4"}, "recipe.toml: steps[0]: heads is '4'", "int"),
    "a flag for a number": ({"rewrite": "fuse", "heads": True}, "recipe.toml: steps[0]: heads is True", "int"),
    "a text for a list": ({"rewrite": "fuse", "off": "gelu"}, "recipe.toml: steps[0]: off is 'gelu'", "list"),
    "heads alone": ({"rewrite": "fuse", "heads": 4}, "recipe.toml: steps[0]: the optimizer takes heads", "both"),
    "another target": ({"rewrite": "fuse", "target": "tpu"}, "recipe.toml: steps[0]: there is no target 'tpu'", "cuda"),
    "another fusion": ({"rewrite": "fuse", "off": ["x"]}, "recipe.toml: steps[0]: there is no fusion 'x'", "attention"),
    "another precision": ({"rewrite": "half", "precision": "fp8"}, "steps[0]: there is no precision 'fp8'", "fp16"),
    "a number for a flag": ({"rewrite": "half", "io": 1}, "recipe.toml: steps[0]: io is 1", "bool"),
    "a name that is none": ({"rewrite": 1}, "recipe.toml: steps[0]: rewrite is 1", "str"),
}  # fmt: skip


@pytest.mark.parametrize(("step", "message", "advice"), WRONG_STEPS.values(), ids=WRONG_STEPS)
def test_wrong_rewrites_in_a_recipe(step: dict, message: str, advice: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe({"steps": [step]}, "recipe.toml")
    assert message in caught.value.message and advice in caught.value.advice, (caught.value.message, caught.value.advice)


def test_a_recipe_of_every_rewrite_is_written_and_read() -> None:
    fuse, half = Fuse("cuda", "t5", 4, 32, ("attention", "bias gelu")), Half("bf16", io=True)
    quantize = Quantize("int8", "avx2", "texts.txt", ("a", "b"), ("c",), tables=True, min_cosine=0.99)
    rewrites = (
        ReattachHead(),
        Simplify(),
        FuseRotary("standard"),
        FuseAttention(),
        fuse,
        PaddingFree("gather"),
        half,
        PooledToken(),
        quantize,
    )
    recipe = Recipe((*rewrites, AddPooling("mean")))
    text = to_toml(recipe)
    assert parse_recipe(tomllib.loads(text), "again") == recipe
    assert {type(step).name for step in recipe.steps if isinstance(step, Rewrite)} == set(REWRITES)


# --- what files record ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("optimizer_each_time")
@pytest.mark.parametrize("options", [{}, {"portable": True}, {"fp16": True}], ids=str)
def test_the_recipe_of_an_optimized_file(options: dict[str, Any], tmp_path: Path, capsys) -> None:
    """What `optimize` made of a file with a head comes out of the shown recipe, run on the encoder: the same bytes."""
    source = with_head(bert(), tmp_path, "mean", normalize=True)
    made = graphsurgery.optimize(source, output=tmp_path / "made.onnx", time=False, **options)
    text = shown(made.output, capsys)
    assert 'edit = "add-pooling"' in text and f'rewrite = "{"simplify" if options.get("portable") else "fuse"}"' in text
    assert ('rewrite = "half"' in text) == ("fp16" in options) and ("ONNX Runtime" in text) == ("portable" not in options)
    (tmp_path / "shown.toml").write_text(text, encoding="utf-8")
    again = graphsurgery.run_recipe(tmp_path / "shown.toml", bert(), output=tmp_path / "again.onnx")
    assert again.output.read_bytes() == made.output.read_bytes()
    capsys.readouterr()
    assert run(["recipe", "show", str(made.output), "--json"]) == OK
    recipe = json.loads(capsys.readouterr().out)["recipe"]
    assert recipe["steps"][0]["edit"] == "add-pooling" and "rewrite" in recipe["steps"][-1] and recipe["goldens"] is False


def test_the_recipe_of_an_optimized_baked_file(tmp_path: Path) -> None:
    """Its source is the folder's transformer; the vectors are the same, and so is the graph."""
    folder = shutil.copytree(FIXTURES / "bert", tmp_path / "bert")
    graphsurgery.bake(folder, tmp_path / "baked")
    made = graphsurgery.optimize(tmp_path / "baked" / "onnx" / "model.onnx", output=tmp_path / "made.onnx", time=False)
    recipe = read_recorded_recipe(graphsurgery.load(made.output))
    assert recipe.goldens and "modules.json" in recipe.sources and recipe.steps[-1].parameters()["model_type"] == "bert"
    (tmp_path / "shown.toml").write_text(to_toml(recipe), encoding="utf-8")
    again = graphsurgery.run_recipe(tmp_path / "shown.toml", folder, output=tmp_path / "again.onnx")
    assert again.report and graphsurgery.verify_itself(again.output)
    one, other = (graphsurgery.load(path).to_proto().graph for path in (made.output, again.output))
    assert one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)


def test_a_head_that_was_put_in_place_of_another(tmp_path: Path, capsys) -> None:
    onnx.save(pooled(("mean",), True), tmp_path / "source.onnx")
    done = graphsurgery.optimize(tmp_path / "source.onnx", output=tmp_path / "made.onnx", rehead=True, time=False)
    assert done.report and [step["edit"] for step in done.steps] == ["add-pooling"]
    recipe = read_recorded_recipe(graphsurgery.load(done.output))
    assert [type(step) for step in recipe.steps] == [ReattachHead, Fuse]
    (tmp_path / "shown.toml").write_text(to_toml(recipe), encoding="utf-8")
    again = graphsurgery.run_recipe(tmp_path / "shown.toml", tmp_path / "source.onnx", output=tmp_path / "again.onnx")
    assert again.output.read_bytes() == done.output.read_bytes()
    more = graphsurgery.run([Truncate("8")], done.output, output=tmp_path / "more.onnx")
    assert more.report and [type(step) for step in read_recorded_recipe(more.model).steps] == [ReattachHead, Fuse, Truncate]


def test_files_of_older_versions_are_read() -> None:
    """One entry of all rewrites, without how many edits there were: the rewrites come first, with what is known of them."""
    source = graphsurgery.load(bert())
    old = {
        "model_type": "bert", "heads": 12, "hidden": 0, "off": ["attention"], "for": "cpu", "onnxruntime": "1.20.0",
        "precision": "float16", "float32_nodes": 3,
    }  # fmt: skip
    model = AddPooling("cls").apply(replace(source, document=record_rewrite(source.document, old, source.fingerprint)))
    recipe = read_recorded_recipe(model)
    assert recipe.steps[:2] == (Fuse("cpu", "bert", off=("attention",)), Half()), "heads without a width tell nothing"
    assert [step.verb for step in recipe.steps[2:] if isinstance(step, Edit)] == ["add-pooling"]
    assert "ONNX Runtime 1.20.0" in recipe.about and "does not record" in recipe.about
    plain = replace(source, document=record_rewrite(source.document, {"portable": True}, source.fingerprint))
    assert read_recorded_recipe(plain).steps == (Simplify(),) and not read_recorded_recipe(plain).about
    with pytest.raises(NoHeadError):
        read_recorded_recipe(source)


def test_every_rewrite_has_an_entry(tmp_path: Path, capsys) -> None:
    """`inspect` shows them as one; the head is recorded after them."""
    made = graphsurgery.run([Simplify(), AddPooling("mean"), Fuse(), Half()], bert(), output=tmp_path / "made.onnx")
    entries = graphsurgery.load(made.output).rewrites
    assert [bool(step.given["portable"]) for step in entries] == [True, False, False]
    assert [step.given["edits"] for step in entries] == [None, 1, 1]
    assert [step.edit for step in read_head_steps(graphsurgery.load(made.output))] == ["add-pooling"]
    capsys.readouterr()
    assert run(["inspect", str(made.output), "--json"]) == OK
    told = json.loads(capsys.readouterr().out)["optimized"]
    assert told["portable"] and told["model_type"] == "bert" and told["precision"] == "float16"
    assert graphsurgery.verify(made.output, against=graphsurgery.add_pooling(bert(), mode="mean")), "held to an angle"


def test_a_hostile_record_is_no_recipe() -> None:
    """Whatever stands in an entry, `recipe show` gives a recipe or a typed error."""
    source = graphsurgery.load(bert())
    fields: list[dict[str, Any]] = [
        {"before": [{"edit": "no-edit"}]}, {"before": [{}]}, {"before": [{"edit": "add-pooling", "mode": 3}]},
        {"edits": 1 << 40},
        {"model_type": "bert", "off": ["nothing"]}, {"model_type": "bert", "heads": 3, "hidden": 32},
        {"model_type": "bert", "for": "tpu"}, {"edits": -1}, {"before": "x"}, {"head": "mean", "portable": True},
    ]  # fmt: skip
    for recorded in fields:
        model = AddPooling("cls").apply(replace(source, document=record_rewrite(source.document, recorded, source.fingerprint)))
        try:
            read_recorded_recipe(model)
        except RequestError:
            continue
    assert run(["recipe", "show", str(FIXTURES / "bert" / "config.json")]) == WRONG


def test_the_command_line_says_what_failed(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(REWRITES, "spoil", Spoil)
    (tmp_path / "wrong.toml").write_text('[[steps]]\nrewrite = "spoil"\n', encoding="utf-8")
    before = tree(tmp_path)
    assert run(["run", str(tmp_path / "wrong.toml"), str(bert()), "-o", str(tmp_path / "made.onnx")]) == VERDICT
    said = " ".join(capsys.readouterr().err.split())
    assert tree(tmp_path) == before and "made.onnx did not pass its proof (FAILED:" in said and "--keep-failed" in said


def test_a_head_that_the_source_does_not_have_is_not_proven_by_the_encoder(tmp_path: Path) -> None:
    """An optimized pooled file against the encoder: equal hidden states say nothing of the head, right or wrong."""
    source = FIXTURES / "bert" / "model.onnx"
    pooled = graphsurgery.save(graphsurgery.add_pooling(source, mode="mean"), tmp_path / "pooled.onnx").path
    done = graphsurgery.run([Fuse()], pooled, output=tmp_path / "fused.onnx")
    wrong = onnx.load(done.output)
    next(node for node in wrong.graph.node if node.output[0] == "sentence_embedding").op_type = "Mul"
    onnx.save(wrong, tmp_path / "wrong.onnx")
    for path in (done.output, tmp_path / "wrong.onnx"):
        report = graphsurgery.verify(path, against=source)
        assert report.verdict is graphsurgery.Verdict.NOT_CHECKED
        assert "sentence_embedding" in report.checks[0].detail
    assert graphsurgery.verify(done.output, against=pooled)
    assert graphsurgery.verify(tmp_path / "wrong.onnx", against=pooled).verdict is graphsurgery.Verdict.FAILED
