"""A folder's modules.json is heard by every verb that pools or edits in it: modules that the file lacks are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from baked_folders import dense, normalize, pooling, put_json, transformer, write_folder

import graphsurgery
from graphsurgery import AddDense, AddNormalize, AddPooling, Rename, Simplify, Truncate
from graphsurgery.cli.main import OK, VERDICT, run

SAYS = "which this file lacks"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Transformer, Pooling, Dense, Normalize."""
    return write_folder(tmp_path / "model", (transformer(), pooling(), dense(), normalize()))


def find_encoder(folder: Path) -> Path:
    return next(path for path in (folder / "onnx" / "model.onnx", folder / "model.onnx") if path.exists())


def warned(model: Any) -> str:
    return " ".join(one for one in model.warnings if SAYS in one)


def call(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = run([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_each_edit_renews_the_warning(folder: Path) -> None:
    model = graphsurgery.load(find_encoder(folder))
    assert not warned(model) and not warned(graphsurgery.rename(model, {"last_hidden_state": "tokens"}))
    model = graphsurgery.add_pooling(model, mode="auto")
    assert f"{folder / 'modules.json'} goes on with Dense and Normalize, {SAYS}" in warned(model)
    assert f"`graphsurgery bake {folder}`" in warned(model)
    wrong = graphsurgery.add_normalize(model)
    assert f"goes on with Dense, {SAYS}" in warned(wrong)
    model = graphsurgery.add_dense(model, str(folder / "2_Dense"))
    assert f"goes on with Normalize, {SAYS}" in warned(model) and "Dense and" not in warned(model)
    assert not warned(graphsurgery.add_normalize(model))
    assert not warned(graphsurgery.strip_head(model))
    assert f"goes on with Normalize, {SAYS}" in warned(graphsurgery.add_dense(wrong, str(folder / "2_Dense"))), (
        "the order counts"
    )


def test_runs_recipes_and_rewrites_say_what_is_left_at_the_end(folder: Path, tmp_path: Path) -> None:
    source = find_encoder(folder)
    whole = [AddPooling("mean"), AddDense(str(folder / "2_Dense")), AddNormalize()]
    assert not graphsurgery.run(whole, source, dry_run=True, verify=False).warnings
    assert "Dense and Normalize" in warned(graphsurgery.run([AddPooling("mean"), Rename(("sentence_embedding=e",))], source,
                                                            output=source.with_name("pooled.onnx"), verify=False))  # fmt: skip
    pooled = source.with_name("pooled.onnx")
    assert "Dense and Normalize" in warned(graphsurgery.run([Simplify()], pooled, dry_run=True, verify=False))
    assert "Dense and Normalize" in warned(graphsurgery.optimize(pooled, portable=True, dry_run=True, verify=False, time=False))
    assert "Dense and Normalize" in warned(graphsurgery.inspect(pooled))
    assert not warned(graphsurgery.inspect(source))


def test_what_else_normalises_counts(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", (transformer(), pooling(), normalize("2_Normalize")))
    source = find_encoder(folder)
    assert warned(AddPooling("mean").apply(graphsurgery.load(source)))
    assert not warned(AddPooling("mean", normalize=True).apply(graphsurgery.load(source)))
    assert not warned(Truncate("4").apply(AddPooling("mean").apply(graphsurgery.load(source))))


def test_the_verb_and_strict(folder: Path, capsys) -> None:
    source = find_encoder(folder)
    code, told = call("add-pooling", source, "--no-verify", "--dry-run", capsys=capsys)
    assert code == OK and SAYS in told["warnings"][0] and not any(SAYS in note for note in told["notes"])
    assert call("add-pooling", source, "--no-verify", "--strict", capsys=capsys)[0] == VERDICT


def test_bake_covers_them_all(folder: Path, tmp_path: Path) -> None:
    assert graphsurgery.bake(folder, tmp_path / "out", verify=False, strict=True).warnings == ()


def test_inspect_shows_every_module(folder: Path, capsys) -> None:
    listed = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    put_json(folder / "modules.json", [*listed, {"idx": 4, "name": "4", "path": "4_Own", "type": "own.Whitening"}])
    code, told = call("inspect", find_encoder(folder), capsys=capsys)
    kinds = [one["kind"] for one in told["modules"]]
    assert code == OK and kinds == ["Transformer", "Pooling", "Dense", "Normalize", "own.Whitening"]
    assert run(["inspect", str(find_encoder(folder))]) == OK
    assert "Transformer, Pooling, Dense, Normalize, own.Whitening" in capsys.readouterr().out
    assert "own.Whitening" in warned(graphsurgery.add_pooling(find_encoder(folder)))


@pytest.mark.parametrize("content", ["{", "[]", '[{"path": ""}]'])
def test_a_broken_list_is_said_to_be_so(content: str, folder: Path) -> None:
    (folder / "modules.json").write_text(content, encoding="utf-8")
    for warnings in (
        graphsurgery.add_pooling(find_encoder(folder)).warnings,
        graphsurgery.inspect(find_encoder(folder)).warnings,
    ):
        assert len([one for one in warnings if "modules.json" in one]) == 1


def test_a_file_elsewhere_takes_the_folder_given_with_like(folder: Path, tmp_path: Path) -> None:
    apart = find_encoder(folder).rename(tmp_path / "apart.onnx")
    done = graphsurgery.run([AddPooling("auto")], apart, like=folder, dry_run=True, verify=False)
    assert f"{folder / 'modules.json'} goes on with Dense and Normalize" in warned(done)
