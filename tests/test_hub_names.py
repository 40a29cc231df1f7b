"""`bake OWNER/NAME`: a model of the hub, from its cache or downloaded into it by huggingface_hub, which is a stand-in here."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from baked_folders import USUAL, tree, write_folder
from hub import LAYOUTS, SNAPSHOT, lay_out
from test_bake import certificate, command, static

from graphsurgery.cli.main import OK, WRONG
from graphsurgery.folders import hub as hub_names
from graphsurgery.folders.hub import find_model_folder, find_snapshot

NAME, REPOSITORY = "someone/small-model", "models--someone--small-model"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a current folder."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "hub"


def stand_in(monkeypatch: pytest.MonkeyPatch, download) -> list[list[str]]:
    """Put ``download`` in the place of huggingface_hub's, on line. Return the patterns of each call."""
    asked: list[list[str]] = []

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        assert name == NAME
        asked.append(allow_patterns)
        return str(download())

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    return asked


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_model_in_the_cache(layout: str, cache: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    """Of any layout; nothing is asked of the network, and nothing is written into the cache."""
    lay_out(write_folder(tmp_path / "plain"), cache, layout)
    before, asked = tree(cache), stand_in(monkeypatch, lambda: pytest.fail("nothing is to be downloaded"))
    code, told = command("bake", NAME, capsys=capsys)
    assert code == OK and told["report"]["verdict"] == "PASSED" and not asked, told
    assert Path(told["folder"]) == tmp_path / "here" / "small-model-baked" and tree(cache) == before
    assert certificate(Path(told["folder"]))["model"] == NAME


def test_the_newest_revision(cache: Path, tmp_path: Path) -> None:
    snapshot = lay_out(write_folder(tmp_path / "plain"), cache)
    other = snapshot.with_name("ffff")
    other.mkdir()
    (cache / REPOSITORY / "refs").mkdir()
    for revision, found in (("ffff", other), (Path(SNAPSHOT).name, snapshot), ("../../..", None)):
        (cache / REPOSITORY / "refs" / "main").write_text(revision)
        assert find_snapshot(NAME) in ((found,) if found else (snapshot, other)), "a revision is a name, never a path"


def test_a_folder_of_that_name_comes_first(cache: Path, tmp_path: Path, capsys) -> None:
    lay_out(write_folder(tmp_path / "plain"), cache)
    (tmp_path / "here" / "someone").mkdir()
    write_folder(tmp_path / "here" / NAME)
    code, told = command("bake", NAME, capsys=capsys)
    assert code == OK and Path(told["folder"]) == tmp_path / "here" / "someone" / "small-model-baked"


def test_it_is_downloaded(cache: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    """The configs first, then the ONNX file, and no weights, which only an export needs."""
    plain = write_folder(tmp_path / "plain")
    snapshot = cache / REPOSITORY / SNAPSHOT
    asked = stand_in(monkeypatch, lambda: snapshot if snapshot.exists() else lay_out(plain, cache))
    code, told = command("bake", NAME, "-o", "out", capsys=capsys)
    assert code == OK and told["report"]["verdict"] == "PASSED", told
    assert len(asked) == 2 and "onnx/model.onnx_data" in asked[1] and "*.json" in asked[0]
    assert not any("safetensors" in one for one in asked[1])


def test_an_export_needs_weights(cache: Path, tmp_path: Path, monkeypatch) -> None:
    plain = write_folder(tmp_path / "plain", USUAL, at="")
    snapshot = cache / REPOSITORY / SNAPSHOT
    asked = stand_in(monkeypatch, lambda: snapshot if snapshot.exists() else lay_out(plain, cache))
    assert find_model_folder(NAME, weights=True, onnx=False) == snapshot
    assert "*.safetensors" in asked[1] and "onnx/model.onnx" not in asked[1]


def test_a_table_needs_weights(cache: Path, tmp_path: Path, monkeypatch) -> None:
    snapshot = lay_out(static(tmp_path / "plain"), cache)
    asked = stand_in(monkeypatch, lambda: pytest.fail("all is there"))
    assert find_model_folder(NAME) == snapshot and not asked


WHY = {
    "forbidden": ("downloads are forbidden", f"run: HF_HUB_OFFLINE=0 hf download {NAME}"),
    "not installed": ("huggingface_hub is not installed", f"run: pip install huggingface_hub && hf download {NAME}"),
    "no network": ("cannot be downloaded: no route to host", f"then run: hf download {NAME}"),
}


@pytest.mark.parametrize("why", WHY)
def test_what_cannot_be_downloaded(why: str, cache: Path, capsys, monkeypatch) -> None:
    """A typed error that says the exact command, and nothing is left behind."""

    def fail() -> Path:
        raise ConnectionError("no route to host\nRequest ID: 1")

    if why == "no network":
        stand_in(monkeypatch, fail)
    if why == "not installed":
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    code, told = command("bake", NAME, capsys=capsys)
    said, advice = WHY[why]
    assert code == WRONG and said in told["error"]["message"] and advice in told["error"]["advice"], told
    assert not any(Path().iterdir()) and not cache.exists()


def test_a_cache_without_an_onnx_file(cache: Path, tmp_path: Path, capsys) -> None:
    """The advice is no dead end: nothing may be exported into the cache."""
    lay_out(write_folder(tmp_path / "plain", at=""), cache)
    code, told = command("bake", NAME, capsys=capsys)
    assert code == WRONG and told["error"]["advice"].endswith("bake with --export"), told


@pytest.mark.parametrize("name", ["model", "a/b/c", "../x", "./x/y", "a/..", "/a/b", "-o/x"])
def test_what_is_no_name_on_the_hub(name: str, cache: Path) -> None:
    assert find_model_folder(name) is None


def test_where_the_cache_is(tmp_path: Path, monkeypatch) -> None:
    """As huggingface_hub finds it."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    found = [hub_names.find_cache()]
    for variable in ("XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(variable, f"/{variable}")
        found.append(hub_names.find_cache())
    assert list(map(str, found)) == [
        "/home/me/.cache/huggingface/hub", "/XDG_CACHE_HOME/huggingface/hub", "/HF_HOME/hub", "/HF_HUB_CACHE",
    ]  # fmt: skip
