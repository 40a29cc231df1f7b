"""Records that lie: whatever a file says of how it was made, it is read or refused with an error of ours, never a traceback."""

from __future__ import annotations

import contextlib
import json
import typing
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any

import onnx
import pytest
from conftest import FIXTURES
from fusions import require_optimizer
from module_folders import dense
from recorded_files import HOSTILE, Recorded, recorded_files

import graphsurgery
from graphsurgery.cli import main
from graphsurgery.cli.main import OK, VERDICT, WRONG, run
from graphsurgery.edits.edit import EDITS
from graphsurgery.errors import GraphSurgeryError
from graphsurgery.model.checksums import compute_checksum
from graphsurgery.model.provenance import CERTIFICATE, GOLDEN, HOUSEKEEPING, PREFIX, Step, read_steps
from graphsurgery.model.step_parameters import RECORDED, is_of_type
from graphsurgery.recipe import read_recorded_recipe
from graphsurgery.references.chain import REFERENCES

OURS = [edit for verb, edit in EDITS.items() if verb != "strip-head"]
FILES = [*(edit.verb for edit in OURS), GOLDEN, CERTIFICATE]
RECIPE = '[[steps]]\nedit = "rename"\ndim = ["batch=B"]\n'
VERBS = {
    "inspect": "inspect {m}", "inspect --json": "inspect {m} --json", "verify --against": "verify {m} --against {s}",
    "verify --self": "verify {m} --self", "add-pooling": "add-pooling {m} --mode mean -o {o}",
    "add-normalize": "add-normalize {m} -o {o}", "add-dense": "add-dense {m} --weights {d} -o {o}",
    "truncate": "truncate {m} --dim 4 -o {o}", "rename": "rename {m} --dim batch=B -o {o}",
    "fix-dim": "fix-dim {m} --dim batch=2 -o {o}", "dynamic-dim": "dynamic-dim {m} --dim batch -o {o}",
    "strip-head": "strip-head {m} -o {o}", "optimize": "optimize {m} -o {o} --no-timing",
    "optimize --portable": "optimize {m} -o {o} --portable --no-timing", "recipe show": "recipe show {m}",
    "run": "run {r} {m} -o {o}",
}  # fmt: skip
EXCUSED = {
    ("weights",), ("layer",), ("ranges",), ("before_norm",),  # where an edit took something from: no file tells that
    ("add-pooling", "replace"), ("add-pooling", "lengths"),  # null stands for false, as in files of older versions
    ("add-normalize", "again"),  # it allows the edit and changes nothing in the file
    ("add-cnn", "keep_target"), ("add-weighted-layer-pooling", "keep_target"),  # the pooling behind them drops it either way
    ("add-dense", "width"), ("add-layer-norm", "width"),  # that of what another edit made: nothing is drawn for it
    ("extract-tower", "scale"), ("extract-tower", "bias"),  # of the joint model: tests/test_split_towers.py proves them
    ("add-image-input", "config"), ("add-image-input", "clamp"),  # where the settings came from; no pixel is changed by it
    ("dynamic-dim", "mask"),  # without one every position is compared
}  # fmt: skip
"""What a file can be right with, whatever is said of it."""


# --- the table ------------------------------------------------------------------------------------------------------------


ADDED_LATER = {("add-pooling", "replace"), ("add-pooling", "lengths"), ("add-normalize", "again")}
"""Parameters that files made by older versions do not record."""


@pytest.mark.parametrize("edit", OURS, ids=lambda edit: edit.verb)
def test_the_table_has_what_the_edits_declare(edit: type) -> None:
    """The same names; the types of the dataclass, of which a record may have lost those that only a request can have."""
    declared, recorded = typing.get_type_hints(edit), RECORDED[edit.verb]
    names = {one.name for one in edit.known()}
    assert recorded.keys() == names
    for name in names:
        later = {NoneType} if (edit.verb, name) in ADDED_LATER else set()
        kinds = later | {list[str] if typing.get_origin(one) is tuple else one for one in _union(declared[name])}
        assert set(_union(recorded[name])) <= kinds, name


def _union(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if isinstance(kind, UnionType) else (kind,)


def test_everything_that_is_recorded_is_in_the_table() -> None:
    assert {edit.verb for edit in OURS} == REFERENCES.keys() == RECORDED.keys() - set(HOUSEKEEPING)
    assert set(HOUSEKEEPING) <= RECORDED.keys()


@pytest.mark.parametrize("edit", FILES)
def test_real_records_are_read(edit: str) -> None:
    found = read_steps(recorded_files()[edit].output)
    assert edit in [step.edit for step in found] and not any(step.unreadable for step in found)
    assert next(step for step in found if step.edit == edit).parameters == recorded_files()[edit].content()["parameters"]


@pytest.mark.parametrize(
    ("value", "kind", "right"),
    [
        ("a", str, True), ("", str, True), ("ü", str, True), (5, str, False), (None, str, False), (None, str | None, True),
        ("\ud800", str, False), ("x" * 20_000, str, False), (True, bool, True), (1, bool, False), (True, int, False),
        (0, int, True), (-1, int, False), (1 << 63, int, False), (10**400, int, False), (1.0, int, False), (1, float, True),
        (0.5, float, True), (True, float, False), (float("nan"), float, False), (float("inf"), float, False),
        (["a"], list[str], True), ([], list[str], True), (["a", 5], list[str], False), (["\ud800"], list[str], False),
        ("ab", list[str], False), ({"a": 1}, dict[str, int], True), ({"a": True}, dict[str, int], False),
        ({"\ud800": 1}, dict[str, int], False), ([[1]], list[list[int] | str], True), ([["a"]], list[list[int] | str], False),
    ],
)  # fmt: skip
def test_types_are_checked_all_the_way_down(value: object, kind: Any, right: bool) -> None:
    assert is_of_type(value, kind) is right


# --- every parameter of every edit ----------------------------------------------------------------------------------------


def lies(recorded: Recorded) -> Iterator[tuple[tuple[str, ...], onnx.ModelProto, Step | None]]:
    """Every place with every hostile value: the file, and the step as it is read."""
    for place in recorded.places():
        for value in HOSTILE:
            model = recorded.damaged(place, value)
            yield place, model, next((step for step in read_steps(model) if step.edit == recorded.edit), None)


@pytest.mark.parametrize("edit", FILES)
def test_what_can_be_read_is_typed(edit: str) -> None:
    """Behind the border there is nothing but the types of the table, and nothing at all of a record that does not fit it."""
    for place, _, step in lies(recorded_files()[edit]):
        if step is None:  # no JSON that Python reads: a number of thousands of digits
            continue
        if step.unreadable is None:
            assert all(is_of_type(step.parameters[name], kind) for name, kind in RECORDED[edit].items()), place
            assert step.parameters.keys() == RECORDED[edit].keys(), place
        else:
            with pytest.raises(graphsurgery.errors.UnsupportedModelError, match="records"):
                _ = step.parameters
            assert not step.given and len(step.unreadable) < 300, place


@pytest.mark.parametrize("edit", FILES)
def test_lies_of_the_right_type(edit: str) -> None:
    """Texts that say nonsense: none is an untyped error, none is proven unless nothing could tell."""
    recorded = recorded_files()[edit]
    source, right = graphsurgery.load(recorded.source), list_parameters(recorded.output)
    read = [(place, model) for place, model, step in lies(recorded) if step is not None and step.unreadable is None]
    for number, (place, proto) in enumerate(read):
        model = graphsurgery.load(proto)
        with contextlib.suppress(GraphSurgeryError):
            read_recorded_recipe(model)
        assert graphsurgery.inspect(model).to_json()
        if number % 7 == 0 and edit not in HOUSEKEEPING:
            verdict = graphsurgery.verify(model, against=source).verdict
            could_not_tell = {place[:1], (edit, *place)} & EXCUSED or list_parameters(proto) == right
            assert verdict.value != "PASSED" or could_not_tell, place


def list_parameters(model: onnx.ModelProto) -> list[dict[str, Any]]:
    return [step.parameters for step in read_steps(model)]


# --- every verb -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where verbs run. An error that is none of ours fails the test."""

    def failed(error: Exception, as_json: bool, original=main._report) -> int:
        assert isinstance(error, GraphSurgeryError), repr(error)
        return original(error, as_json)

    monkeypatch.setattr(main, "_report", failed)
    return tmp_path


def code_of(verb: str, folder: Path, model: onnx.ModelProto, source: onnx.ModelProto) -> int:
    """The exit code of a verb; nothing may be left of what was refused."""
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    (folder / "s.onnx").write_bytes(source.SerializeToString())
    (folder / "r.toml").write_text(RECIPE, encoding="utf-8")
    before = set(folder.iterdir())
    places = {"m": "m.onnx", "s": "s.onnx", "o": "out.onnx", "r": "r.toml"}
    words = VERBS[verb].format(d=DENSE, **{key: str(folder / name) for key, name in places.items()}).split()
    code = run(words)
    left = set(folder.iterdir()) - before
    assert code in (OK, VERDICT, WRONG) and (code == OK or not left), (words, code, left)
    for path in left:
        path.unlink()
    return code


DENSE = dense(8, 8)


@pytest.mark.parametrize("edit", FILES)
@pytest.mark.parametrize("verb", VERBS)
def test_a_key_that_nobody_knows(verb: str, edit: str, folder: Path) -> None:
    """A record that cannot be read says the same to every verb, whatever is wrong with it."""
    recorded = recorded_files()[edit]
    code = code_of(verb, folder, recorded.with_another_key(), recorded.source)
    if verb == "verify --against" and edit not in HOUSEKEEPING:
        assert code == VERDICT
    if verb == "verify --self":
        assert code == VERDICT
    if verb.startswith("inspect"):
        assert code == OK


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_no_type_of_the_table_is_told(verb: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded = recorded_files()["add-pooling"]
    code_of(verb, folder, recorded.damaged(("mask",), 5), recorded.source)
    told = capsys.readouterr()
    if verb in ("inspect", "verify --against", "recipe show", "add-normalize", "optimize --portable"):
        assert "mask = 5, which is not a text" in " ".join((told.out + told.err).split()), verb


# --- the defects that were found ------------------------------------------------------------------------------------------

READERS = ("verify --against", "optimize", "optimize --portable", "add-normalize", "truncate", "rename")


@pytest.mark.parametrize("mask", [5, None, "pad:abc", "pad:", "pad:" + "9" * 5000], ids=lambda mask: str(mask)[:9])
@pytest.mark.parametrize("verb", READERS)
def test_a_mask_that_is_none(verb: str, mask: object, folder: Path) -> None:
    recorded = recorded_files()["add-pooling"]
    assert code_of(verb, folder, recorded.damaged(("mask",), mask), recorded.source) in (VERDICT, WRONG)


@pytest.mark.parametrize("name", [5, None, [5], "a=b", {"a": "b"}], ids=str)
@pytest.mark.parametrize("verb", READERS)
def test_names_that_are_none(verb: str, name: object, folder: Path) -> None:
    recorded = recorded_files()["rename"]
    assert code_of(verb, folder, recorded.damaged(("name",), name), recorded.source) in (VERDICT, WRONG)


def pooled_bert(folder: Path, goldens: dict[str, Any] | None = None, **parameters: Any) -> Path:
    """The fixture, whose attention fuses, with a head and hostile records."""
    model = graphsurgery.add_pooling(FIXTURES / "bert" / "model.onnx", "mean").to_proto()
    entry = model.metadata_props[-1]
    content = json.loads(entry.value)
    content["parameters"] |= parameters
    entry.value = json.dumps(content)
    if goldens is not None:
        source = graphsurgery.load(model).fingerprint
        goldens["seal"] = compute_checksum(goldens, "0", source)
        golden = {"edit": GOLDEN, "parameters": goldens, "version": "0", "source": source, "undo": {}}
        model.metadata_props.add(key=f"{PREFIX}9", value=json.dumps(golden))
    path = folder / "pooled.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("mask", [5, "pad:abc"])
def test_optimize_of_what_fuses(mask: object, folder: Path) -> None:
    require_optimizer()
    path = pooled_bert(folder, mask=mask)
    assert run(["optimize", str(path), "-o", str(folder / "out.onnx"), "--no-timing"]) in (VERDICT, WRONG)
    assert list(folder.iterdir()) == [path]


@pytest.mark.parametrize(
    "goldens", [{}, {"outputs": {}}, {"outputs": 5}, {"outputs": {"sentence_embedding": {"dtype": "(1+,)f4"}}}]
)
def test_sealed_goldens_that_say_nothing(goldens: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The seal is no secret. They are not taken over, and that is told."""
    require_optimizer()
    path = pooled_bert(folder, goldens)
    assert run(["verify", str(path), "--self"]) == VERDICT
    capsys.readouterr()
    assert run(["optimize", str(path), "-o", str(folder / "out.onnx"), "--no-timing", "--json"]) == OK
    assert any("golden vectors" in one for one in json.loads(capsys.readouterr().out)["warnings"])
    assert not any(step.edit == GOLDEN for step in read_steps(onnx.load(folder / "out.onnx")))
