"""Models in the cache of the Hugging Face hub: every layout is read, and nothing in it is written or changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from baked_folders import USUAL, external, tree, write_folder
from encoders import FLOAT, FLOAT16, tiny_encoder
from hub import LAYOUTS, REPOSITORY, lay_out

import graphsurgery
from graphsurgery.baking.bake import bake
from graphsurgery.cli.main import OK, WRONG, run
from graphsurgery.errors import MissingDataError, OutputExistsError, RequestError, SourceChangedError
from graphsurgery.exporting.export_folder import export
from graphsurgery.recipe_run import run_recipe
from graphsurgery.runtime.session import open_session

FEED = {"input_ids": np.array([[4, 5, 6], [7, 8, 0]]), "attention_mask": np.array([[1, 1, 1], [1, 1, 0]])}
RECIPE = '[[steps]]\nedit = "add-pooling"\nmode = "mean"\n'


def cached(folder: Path, layout: str = "since huggingface_hub 1.32", dtype: int = FLOAT, **more: Any) -> Path:
    """The path of an encoder with external data in the snapshot of a cache, below ``folder``."""
    plain = write_folder(folder / "plain", USUAL, tiny_encoder(), **more)
    external(plain, dtype)
    return lay_out(plain, folder / "hub", layout) / "onnx" / "model.onnx"


def embed(path: Path) -> np.ndarray:
    """What a user gets: ONNX Runtime by itself."""
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(["sentence_embedding"], FEED)[0]


def mean(path: Path) -> np.ndarray:
    """The mean of the tokens, by numpy from what the encoder gives."""
    hidden = open_session(graphsurgery.load(path)).run(FEED)["last_hidden_state"].astype(np.float64)
    mask = FEED["attention_mask"][:, :, None]
    return (hidden * mask).sum(axis=1) / mask.sum(axis=1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read(layout: str, tmp_path: Path) -> None:
    model, output = cached(tmp_path, layout), tmp_path / "out.onnx"
    before = tree(tmp_path / "hub")
    made = graphsurgery.run([graphsurgery.AddPooling("mean")], model, output=output)
    assert made.report and made.saved is not None and made.saved.data is not None
    np.testing.assert_allclose(embed(output), mean(model), atol=1e-6)
    assert not any(path.is_symlink() or path.stat().st_nlink > 1 for path in (output, made.saved.data))
    assert tree(tmp_path / "hub") == before


def test_every_verb_reads_it(tmp_path: Path, capsys) -> None:
    model, out = cached(tmp_path), tmp_path / "out"
    out.mkdir()
    (out / "recipe.toml").write_text(RECIPE)
    before = tree(tmp_path / "hub")
    calls = (
        ("inspect", model),
        ("add-pooling", model, "--mode", "mean", "-o", out / "pooled.onnx"),
        ("verify", out / "pooled.onnx", "--against", model),
        ("run", out / "recipe.toml", model, "-o", out / "run.onnx"),
        ("optimize", model, "--portable", "--fp16", "--no-timing", "-o", out / "half.onnx"),
        ("bake", model.parent.parent, "-o", out / "baked"),
        ("strip-head", out / "pooled.onnx", "-o", out / "stripped.onnx"),
    )
    for arguments in calls:
        assert run([*map(str, arguments), "--json"]) == OK, (arguments, capsys.readouterr())
    for name in ("pooled.onnx", "run.onnx"):
        np.testing.assert_allclose(embed(out / name), mean(model), atol=1e-6)
    unit = mean(model) / np.linalg.norm(mean(model), axis=1, keepdims=True)
    np.testing.assert_allclose(embed(out / "baked" / "onnx" / "model.onnx"), unit, atol=1e-6)
    assert tree(tmp_path / "hub") == before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_inside_the_model_are_read_behind_links(layout: str, tmp_path: Path) -> None:
    """ONNX Runtime gets a model in memory for them: it follows no link out of the folder then."""
    model = graphsurgery.load(cached(tmp_path, layout))
    found = open_session(model, extra_outputs=["token"]).run(FEED, ["token"])["token"]
    plain = open_session(graphsurgery.load(tiny_encoder()), extra_outputs=["token"]).run(FEED, ["token"])["token"]
    np.testing.assert_array_equal(found, plain)


def test_a_half_precision_encoder_is_proven(tmp_path: Path) -> None:
    """The proof casts its hidden state, in a model in memory as well."""
    made = graphsurgery.run([graphsurgery.AddPooling("mean")], cached(tmp_path, dtype=FLOAT16), output=tmp_path / "out.onnx")
    assert made.report is not None and {check.name for check in made.report.checks} >= {"whole proof"} and made.report


def test_a_link_that_was_changed_is_not_followed(tmp_path: Path) -> None:
    model = graphsurgery.load(path := cached(tmp_path))
    data = path.with_name("model.onnx_data")
    (tmp_path / "secret").write_bytes(b"s" * data.stat().st_size)
    data.unlink()
    data.symlink_to(tmp_path / "secret")
    with pytest.raises(SourceChangedError):
        open_session(model)


@pytest.mark.parametrize("resolved", [False, True])
def test_where_missing_data_have_to_be(resolved: bool, tmp_path: Path) -> None:
    """They are beside the link to a model. The file that the link leads to has none, and nothing is to be put beside it."""
    model = cached(tmp_path)
    given = model.resolve() if resolved else model
    if not resolved:
        model.with_name("model.onnx_data").unlink()
    with pytest.raises(MissingDataError) as caught:
        graphsurgery.run([graphsurgery.AddPooling("mean")], given, output=tmp_path / "out.onnx")
    assert "snapshot" in caught.value.advice and str(tmp_path) not in caught.value.advice


# --- nothing is written into it -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ("add-pooling", "--mode", "mean"),
        ("add-pooling", "--mode", "mean", "--force", "--no-verify"),
        ("add-pooling", "--mode", "mean", "--dry-run"),
        ("optimize", "--no-timing"),
        ("rename", "--name", "input_ids=ids"),
    ],
    ids=" ".join,
)
def test_an_output_is_needed(options: tuple[str, ...], tmp_path: Path, capsys) -> None:
    """As for bake: it is told before anything is done, and not as a failed proof."""
    model = cached(tmp_path, "until huggingface_hub 1.31")
    before = tree(tmp_path / "hub")
    verb, *rest = options
    assert run([verb, str(model), *rest]) == WRONG
    told = " ".join(capsys.readouterr().err.split())
    assert "cache of a model hub" in told and "with -o" in told and "Proof" not in told
    assert tree(tmp_path / "hub") == before


def test_weights_inside_the_file_need_an_output_too(tmp_path: Path, capsys) -> None:
    model = lay_out(write_folder(tmp_path / "plain"), tmp_path / "hub") / "onnx" / "model.onnx"
    assert run(["add-pooling", str(model)]) == WRONG and "with -o" in capsys.readouterr().err
    assert run(["add-pooling", str(model), "-o", str(tmp_path / "out.onnx"), "-q"]) == OK
    np.testing.assert_allclose(embed(tmp_path / "out.onnx"), mean(model), atol=1e-6)


def test_recipes_bakes_and_exports_need_one_too(tmp_path: Path) -> None:
    model = cached(tmp_path)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    before = tree(tmp_path / "hub")
    folder = model.parent.parent
    for made in (
        lambda: run_recipe(tmp_path / "recipe.toml", folder),
        lambda: bake(folder), lambda: bake(folder, folder.with_name("baked")),
        lambda: export(folder, force=True), lambda: export(folder, folder / "new.onnx"),
    ):  # fmt: skip
        with pytest.raises(RequestError, match="cache of a model hub"):
            made()
    assert tree(tmp_path / "hub") == before


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    "place", [f"{REPOSITORY}/snapshots/new.onnx", f"{REPOSITORY}/blobs/new.onnx", f"{REPOSITORY}/new.onnx", "blobs/ab/new.onnx"]
)
def test_no_output_may_lie_in_it(place: str, force: bool, tmp_path: Path) -> None:
    model = graphsurgery.load(cached(tmp_path))
    (tmp_path / "hub" / place).parent.mkdir(exist_ok=True)
    (tmp_path / "link").symlink_to((tmp_path / "hub" / place).parent)
    before = tree(tmp_path / "hub")
    for output in (tmp_path / "hub" / place, tmp_path / "link" / "new.onnx"):
        with pytest.raises(RequestError, match="cache of a model hub"):
            graphsurgery.save(model, output, force=force)
        with pytest.raises(RequestError, match="cache of a model hub"):
            graphsurgery.run([graphsurgery.AddPooling("mean")], model, output=output, force=force)
    assert tree(tmp_path / "hub") == before


def test_force_replaces_no_file_of_the_cache(tmp_path: Path) -> None:
    """Another model's link there, its blob, and the model itself."""
    model = cached(tmp_path)
    before = tree(tmp_path / "hub")
    source = graphsurgery.load(tiny_encoder())
    for output in (model, Path(os.path.realpath(model)), model.with_name("model.onnx_data")):
        with pytest.raises(RequestError, match="cache of a model hub"):
            graphsurgery.save(source, output, force=True)
        with pytest.raises(OutputExistsError if output != model.with_name("model.onnx_data") else RequestError):
            graphsurgery.save(graphsurgery.load(model), output, force=True)
    assert tree(tmp_path / "hub") == before


def test_a_link_outside_is_replaced_and_the_cache_is_not(tmp_path: Path) -> None:
    model, output = cached(tmp_path), tmp_path / "out.onnx"
    other = tmp_path / "hub" / "blobs" / "ab" / "other"
    other.parent.mkdir(exist_ok=True)
    other.write_bytes(b"other")
    output.symlink_to(other)
    before = tree(tmp_path / "hub")
    graphsurgery.run([graphsurgery.AddPooling("mean")], model, output=output, force=True)
    assert not output.is_symlink() and tree(tmp_path / "hub") == before
    np.testing.assert_allclose(embed(output), mean(model), atol=1e-6)


def test_a_folder_that_only_looks_alike_is_written_into(tmp_path: Path) -> None:
    """Neither ``snapshots`` nor ``models--`` alone makes a cache. Data behind links are copied there, for a file that loads."""
    plain = write_folder(tmp_path / "plain", USUAL, tiny_encoder())
    external(plain)
    model = lay_out(plain, tmp_path / "hub", repository="mine") / "onnx" / "model.onnx"
    assert run(["add-pooling", str(model), "-q"]) == OK
    output = model.with_name("model.pooled.onnx")
    np.testing.assert_allclose(embed(output), mean(model), atol=1e-6)
    data = output.with_name("model.pooled.onnx_data")
    assert data.is_file() and not data.is_symlink()
    other = write_folder(tmp_path / "models--someone--copied") / "onnx" / "model.onnx"
    assert run(["add-pooling", str(other), "-q"]) == OK and other.with_name("model.pooled.onnx").is_file()
