"""Recipe files: read, refused, run; and the recipe that a file was made with, run again."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import FIXTURES, ROOT
from encoders import tiny_encoder
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import graphsurgery
from graphsurgery.cli.main import run
from graphsurgery.errors import FolderError, NoHeadError, RecipeError, RequestError
from graphsurgery.model.certificate import read_certificate
from graphsurgery.recipe import (
    BUNDLED,
    Recipe,
    find_recipe,
    list_recipes,
    parse_recipe,
    read_recipe,
    read_recorded_recipe,
    to_toml,
)
from graphsurgery.recipe_facts import check_facts

RECIPES = list(list_recipes().values())
POOLING = {"edit": "add-pooling", "mode": "mean"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_recipes(path: Path) -> None:
    """Each reads, says what it is for, and says it again the same way."""
    found = read_recipe(path)
    assert found.name and found.about and found.models and found.architecture and found.padding_side
    assert found.unchecked or path.stem == "minilm", "only all-MiniLM's facts could be checked"
    assert parsed_again(found) == found


def parsed_again(recipe: Recipe) -> Recipe:
    import tomllib

    return parse_recipe(tomllib.loads(to_toml(recipe)), "again")


@given(st.dictionaries(st.text(min_size=1), st.text(), max_size=3), st.text(), st.lists(st.text(), max_size=3))
def test_any_text_survives(prompts: dict[str, str], name: str, models: list[str]) -> None:
    try:
        name.encode(), [text.encode() for text in (*prompts, *prompts.values(), *models)]
    except UnicodeEncodeError:
        return  # lone surrogates are no text, in TOML or anywhere
    recipe = Recipe((graphsurgery.AddPooling("mean"),), name=name, models=tuple(models), prompts=prompts)
    assert parsed_again(recipe) == recipe


WRONG = {
    "an unknown key": ({"steps": [POOLING], "prompt": {}}, "recipe.toml: there is no key 'prompt'", "prompts"),
    "an unknown edit": ({"steps": [POOLING, {"edit": "po"}]}, "recipe.toml: steps[1]: there is no edit 'po'", "add-pooling"),
    "an unknown parameter": ({"steps": [POOLING | {"modes": "x"}]}, "recipe.toml: steps[0]: there is no key 'modes'", "mode"),
    "an unknown check": ({"steps": [POOLING], "checks": {"rtol": 1}}, "recipe.toml: checks: there is no key 'rtol'", "atol"),
    "no steps": ({"name": "nothing"}, "recipe.toml has no steps", "[[steps]]"),
    "steps that are none": ({"steps": ["add-pooling"]}, "recipe.toml: steps[0] is not a table", "edit"),
    "a step without edit": ({"steps": [{"mode": "mean"}]}, "recipe.toml: steps[0] names no edit and no rewrite", "add-pooling"),
    "a number for a flag": ({"steps": [POOLING | {"normalize": 1}]}, "recipe.toml: steps[0]: normalize is 1", "bool"),
    "a flag for a text": ({"steps": [{"edit": "add-pooling", "mode": True}]}, "recipe.toml: steps[0]: mode is True", "str"),
    "a text for a list": ({"steps": [POOLING | {"keep_output": "x"}]}, "recipe.toml: steps[0]: keep_output is 'x'", "list"),
    "a text for a number": ({"steps": [POOLING], "checks": {"atol": "1"}}, "recipe.toml: checks: atol is '1'", "float"),
    "another side": ({"steps": [POOLING], "padding_side": "up"}, "recipe.toml: padding_side is 'up'", "left"),
    "a prompt that is none": ({"steps": [POOLING], "prompts": {"query": 1}}, "recipe.toml: prompts: query is 1", "str"),
    "a source elsewhere": (
        {"steps": [POOLING], "goldens": True, "sources": ["../x"]}, "recipe.toml: sources: the path '../x' climbs", "folder",
    ),
    "a source spelt twice": ({"steps": [POOLING], "goldens": True, "sources": ["./x"]}, "'./x' can be", "folder"),
    "sources for no certificate": ({"steps": [POOLING], "sources": ["x"]}, "sources belong to the certificate", "goldens"),
    "models that are none": ({"steps": [POOLING], "models": [1]}, "recipe.toml: models is [1]", "list of texts"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message", "advice"), WRONG.values(), ids=WRONG)
def test_what_is_no_recipe(content: dict, message: str, advice: str) -> None:
    """The message has the path to the bad key, the advice the valid ones."""
    with pytest.raises(RecipeError) as caught:
        parse_recipe(content, "recipe.toml")
    assert message in str(caught.value) and advice in caught.value.advice, (str(caught.value), caught.value.advice)


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    for content in (b"steps = [", b"\xff\xfe", b"a" * (2 << 20)):
        path.write_bytes(content)
        with pytest.raises(RecipeError):
            read_recipe(path)
    with pytest.raises(FolderError):
        read_recipe(tmp_path / "none.toml")


def test_a_recipe_runs_on_a_file_and_on_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(FIXTURES / "bert", tmp_path / "bert")
    assert run(["run", "minilm", str(folder), "-o", str(tmp_path / "one.onnx")]) == 0
    assert run(["run", str(BUNDLED / "minilm.toml"), str(folder / "model.onnx"), "-o", str(tmp_path / "two.onnx")]) == 0
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()
    assert graphsurgery.verify(tmp_path / "one.onnx", against=folder / "model.onnx")


def test_a_recipe_for_another_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(FIXTURES / "bert", tmp_path / "bert")
    command = ["run", "qwen3-embedding", str(folder / "model.onnx"), "--json", "--dry-run"]
    assert run(command) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["type"] == "RecipeError" and "--force-recipe" in error["advice"]
    says = (f"states the architecture qwen3, and {folder / 'config.json'} says bert",
            f"needs padding on the left, and {folder / 'tokenizer_config.json'} pads on the right")  # fmt: skip
    assert all(one in error["message"] for one in says), error
    assert run([*command, "--force-recipe"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert all(one in warning for one, warning in zip(says, told["warnings"][:2], strict=True))
    assert "Instruct: Given a web search query" in str(told["notes"]) and "not checked by the recipe's authors" in str(
        told["notes"]
    )


@pytest.mark.parametrize(
    ("fixture", "architecture", "fits"),
    [
        ("bert", "bert", True), ("bert-dynamo", "BERT", True), ("xlmr", "xlm-roberta", True), ("qwen3", "qwen3", True),
        ("bert", "t5", False), ("bert", "modernbert", False), ("xlmr", "bert", False), ("qwen3", "bert", False),
        ("bert", "an unknown one", True),
    ],
)  # fmt: skip
def test_the_graph_tells_the_architecture_where_no_config_does(fixture: str, architecture: str, fits: bool) -> None:
    model = graphsurgery.load(onnx.load(FIXTURES / fixture / "model.onnx"))
    recipe = Recipe((graphsurgery.AddPooling("mean"),), architecture=architecture)
    assert bool(check_facts(recipe, model, force=True)) != fits
    if not fits:
        with pytest.raises(RecipeError, match="the graph has the structure of"):
            check_facts(recipe, model, force=False)


def test_prompts_are_held_against_the_folders(tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / "bert", tmp_path / "bert")
    config = folder / "config_sentence_transformers.json"
    recipe = Recipe((graphsurgery.AddPooling("mean"),), prompts={"query": "query: ", "passage": "passage: "})
    for prompts, wrong in (({"query": "query: "}, 0), ({"query": "", "document": ""}, 0), ({"query": "Q", "passage": "P"}, 2)):
        config.write_text(json.dumps({"prompts": prompts}), encoding="utf-8")
        assert len(check_facts(recipe, graphsurgery.load(folder / "model.onnx"), force=True)) == wrong


@pytest.mark.parametrize("width", [7, 8])
def test_a_width_that_the_model_does_not_have(width: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`recipe show` writes the width; a model of another width is told, not pooled all the same."""
    model = tmp_path / "model.onnx"
    model.write_bytes(tiny_encoder().SerializeToString())
    (tmp_path / "r.toml").write_text(f'[[steps]]\nedit = "add-pooling"\nmode = "mean"\nwidth = {width}\n', encoding="utf-8")
    code = run(["run", str(tmp_path / "r.toml"), str(model), "--no-verify", "-q"])
    assert (code == 0) == (width == 8) == (tmp_path / "model.pooled.onnx").exists()
    told = capsys.readouterr().err
    assert width == 8 or ("width = 7, but this model has 8" in told and "leave width out of the recipe" in told)


def test_checks_are_kept_to(tmp_path: Path) -> None:
    path = tmp_path / "strict.toml"
    path.write_text('[checks]\natol = 0.0\n[[steps]]\nedit = "add-pooling"\nmode = "mean"\n', encoding="utf-8")
    with pytest.raises(graphsurgery.GraphSurgeryError, match="FAILED"):
        graphsurgery.run_recipe(path, FIXTURES / "bert" / "model.onnx", output=tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def dense_folder(folder: Path) -> Path:
    """A model folder with a dense layer, its ONNX file in onnx/."""
    shutil.copytree(FIXTURES / "bert", folder)
    (folder / "onnx").mkdir()
    (folder / "model.onnx").rename(folder / "onnx" / "model.onnx")
    (folder / "2_Dense").mkdir()
    rng = np.random.default_rng(0)
    tensors = {"linear.weight": rng.standard_normal((24, 32)), "linear.bias": rng.standard_normal(24)}
    save_file({name: value.astype(np.float32) for name, value in tensors.items()}, folder / "2_Dense" / "model.safetensors")
    return folder


STEPS = {
    "pooling": [POOLING],
    "everything": [
        POOLING | {"mode": "cls,mean", "normalize": True, "keep_output": ["last_hidden_state"]},
        {"edit": "truncate", "dim": 32},
        {"edit": "add-dense", "weights": "2_Dense", "activation": "gelu", "target": "sentence_embedding"},
        {"edit": "add-normalize"},
        {"edit": "truncate", "dim": "16,8"},
        {"edit": "output-precision", "to": "ubinary"},
    ],
}  # fmt: skip


@pytest.mark.parametrize("goldens", [False, True])
@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_the_recipe_of_a_file_gives_the_same_bytes(steps: list, goldens: bool, tmp_path: Path, capsys) -> None:
    """`recipe show`, run on the original source."""
    source = dense_folder(tmp_path / "model") / "onnx" / "model.onnx"
    recipe = parse_recipe({"steps": steps, "goldens": goldens}, "steps", source)
    graphsurgery.run(recipe.steps, source, output=tmp_path / "made.onnx", goldens=goldens)
    capsys.readouterr()
    assert run(["recipe", "show", str(tmp_path / "made.onnx")]) == 0
    (tmp_path / "shown.toml").write_text(capsys.readouterr().out, encoding="utf-8")
    assert str(tmp_path) not in (tmp_path / "shown.toml").read_text(encoding="utf-8"), "a machine's paths are nobody's business"
    assert run(["run", str(tmp_path / "shown.toml"), str(source), "-o", str(tmp_path / "again.onnx")]) == 0
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "made.onnx").read_bytes()


def test_a_recipe_of_files_made_one_by_one_gives_the_same_bytes(tmp_path: Path) -> None:
    """The second edit starts from a file here, and from a model in memory when the recipe runs."""
    source, first, second, again = (tmp_path / f"{name}.onnx" for name in ("source", "first", "second", "again"))
    source.write_bytes(tiny_encoder().SerializeToString())
    graphsurgery.run([graphsurgery.AddPooling("mean")], source, output=first)
    graphsurgery.run([graphsurgery.AddNormalize()], first, output=second)
    graphsurgery.run(read_recorded_recipe(graphsurgery.load(second)).steps, source, output=again)
    assert again.read_bytes() == second.read_bytes()


def test_the_recipe_of_a_baked_file(tmp_path: Path, capsys) -> None:
    folder = shutil.copytree(FIXTURES / "bert", tmp_path / "bert")
    graphsurgery.bake(folder, tmp_path / "baked")
    baked = tmp_path / "baked" / "onnx" / "model.onnx"
    (tmp_path / "shown.toml").write_text(to_toml(read_recorded_recipe(graphsurgery.load(baked))), encoding="utf-8")
    outcome = graphsurgery.run_recipe(tmp_path / "shown.toml", folder, output=tmp_path / "again.onnx")
    assert outcome.saved and (tmp_path / "again.onnx").read_bytes() == baked.read_bytes()
    (folder / "1_Pooling" / "config.json").unlink()
    outcome = graphsurgery.run_recipe(tmp_path / "shown.toml", folder, output=tmp_path / "without.onnx")
    assert any("1_Pooling/config.json does not exist" in one for one in outcome.warnings)
    certified = read_certificate(graphsurgery.load(tmp_path / "without.onnx"))
    assert certified is not None and "modules.json" in certified.sources and "1_Pooling/config.json" not in certified.sources


def test_sources_are_the_model_folders(tmp_path: Path) -> None:
    """Not what lies beside the ONNX file under the same name, and nothing behind a link that leads out."""
    folder = shutil.copytree(FIXTURES / "bert", tmp_path / "bert")
    (folder / "onnx").mkdir()
    (folder / "model.onnx").rename(folder / "onnx" / "model.onnx")
    (folder / "onnx" / "config.json").write_text('{"other": 1}', encoding="utf-8")
    graphsurgery.bake(folder, tmp_path / "baked")
    baked = tmp_path / "baked" / "onnx" / "model.onnx"
    (tmp_path / "shown.toml").write_text(to_toml(read_recorded_recipe(graphsurgery.load(baked))), encoding="utf-8")
    for model in (folder, folder / "onnx" / "model.onnx"):
        graphsurgery.run_recipe(tmp_path / "shown.toml", model, output=tmp_path / "again.onnx", force=True)
        assert (tmp_path / "again.onnx").read_bytes() == baked.read_bytes()
    (tmp_path / "secret").write_text("x", encoding="utf-8")
    (folder / "link").symlink_to(tmp_path / "secret")
    text = 'goldens = true\nsources = ["link"]\n[[steps]]\nedit = "add-pooling"\nmode = "mean"\n'
    (tmp_path / "hostile.toml").write_text(text, encoding="utf-8")
    with pytest.raises(FolderError, match="leads out of the folder"):
        graphsurgery.run_recipe(tmp_path / "hostile.toml", folder, output=tmp_path / "hostile.onnx")
    assert not (tmp_path / "hostile.onnx").exists()


def test_a_recipe_that_takes_the_head_off_records_nothing(tmp_path: Path) -> None:
    (tmp_path / "off.toml").write_text('goldens = true\n[[steps]]\nedit = "strip-head"\n', encoding="utf-8")
    graphsurgery.run([graphsurgery.AddPooling("mean")], FIXTURES / "bert" / "model.onnx", output=tmp_path / "model.onnx")
    with pytest.raises(RequestError, match="restores the source byte for byte"):
        graphsurgery.run_recipe(tmp_path / "off.toml", tmp_path / "model.onnx")


def test_other_weights_are_refused(tmp_path: Path) -> None:
    """A shown recipe names the sha256 of the weights it was run with."""
    folder = dense_folder(tmp_path / "model")
    source = folder / "onnx" / "model.onnx"
    recipe = parse_recipe({"steps": [POOLING, {"edit": "add-dense", "weights": "2_Dense"}]}, "steps", source)
    made = graphsurgery.run(recipe.steps, source, output=tmp_path / "made.onnx").model
    (tmp_path / "shown.toml").write_text(to_toml(read_recorded_recipe(made)), encoding="utf-8")
    save_file(
        {"linear.weight": np.zeros((24, 32), np.float32), "linear.bias": np.zeros(24, np.float32)},
        folder / "2_Dense" / "model.safetensors",
    )
    with pytest.raises(graphsurgery.GraphSurgeryError, match="differs from what the file records"):
        graphsurgery.run_recipe(tmp_path / "shown.toml", source, output=tmp_path / "again.onnx")


def test_a_file_without_edits_has_no_recipe() -> None:
    with pytest.raises(NoHeadError):
        read_recorded_recipe(graphsurgery.load(tiny_encoder()))
    with pytest.raises(RequestError):
        graphsurgery.run([], tiny_encoder())


def test_recipes_are_listed_and_shown_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["recipe", "list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in list_recipes()) and "intfloat/e5-small-v2" in shown
    assert run(["recipe", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["recipes"]
    assert [one["name"] for one in listed] == list(list_recipes())
    assert next(one for one in listed if one["name"] == "e5")["prompts"] == {"query": "query: ", "passage": "passage: "}
    assert run(["recipe", "show", "e5"]) == 0
    (tmp_path / "mine.toml").write_text(capsys.readouterr().out, encoding="utf-8")
    assert read_recipe(tmp_path / "mine.toml") == read_recipe(list_recipes()["e5"])
    assert run(["recipe", "show", "mine.toml", "-q"]) == 0
    assert run(["recipe", "show"]) == 2


def test_a_recipe_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    """The names are listed for what looks like a name; a file of a recipe's name comes first."""
    monkeypatch.chdir(tmp_path)
    assert run(["run", "e6", "model.onnx"]) == 2
    told = capsys.readouterr().err
    assert "no recipe of that name" in told and "e5, embeddinggemma" in " ".join(told.split())
    (tmp_path / "e5").write_text('[[steps]]\nedit = "add-normalize"\n', encoding="utf-8")
    assert find_recipe("e5") == Path("e5")


def test_recipes_are_data_of_the_package() -> None:
    """setuptools puts every recipe into a wheel."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    package = Path(graphsurgery.__file__).parent
    packed = {path for pattern in settings["package-data"]["graphsurgery"] for path in package.glob(pattern)}
    assert set(list_recipes().values()) <= packed and len(list_recipes()) > 15
