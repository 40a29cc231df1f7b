"""An edit that does not do what it promises is refused as a bug, however Python is run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from conftest import ROOT
from encoders import tiny_encoder
from golden import Case, case_files

import graphsurgery
from graphsurgery.cli.main import BUG, run
from graphsurgery.edits.add_normalize import AddNormalize
from graphsurgery.edits.edit import EDITS, Edit
from graphsurgery.errors import GraphSurgeryError, PostconditionError, require_value
from graphsurgery.interface import Interface, Value
from graphsurgery.model.draft import Draft

Fault = Callable[[Interface], Interface]
FAULTS: dict[str, Fault] = {
    "an input gone": lambda found: replace(found, inputs=found.inputs[1:]),
    "an input too many": lambda found: replace(found, inputs=(*found.inputs, Value("more", 1, (1,)))),
    "an input of another type": lambda found: replace(found, inputs=_retyped(found.inputs)),
    "outputs gone": lambda found: replace(found, outputs=()),
    "an output too many": lambda found: replace(found, outputs=(*found.outputs, Value("more", 1, (1,)))),
}
"""What an edit could do to an interface that none promises."""


def _retyped(values: tuple[Value, ...]) -> tuple[Value, ...]:
    return (*values[:-1], replace(values[-1], dtype=16))


def first_case(verb: str) -> Case:
    """A golden case of that edit alone that comes to a model."""
    cases = [Case.read(path) for path in case_files() if path.parent.name == verb.replace("-", "_")]
    return next(case for case in cases if case.after is not None and len(case.commands) == 1)


@pytest.mark.parametrize("verb", [verb for verb, edit in EDITS.items() if not edit.restores])
def test_every_edit_refuses_another_interface(verb: str) -> None:
    """What comes out of a golden case is as promised; with any fault planted in it, it is not, and both sides are told."""
    case = first_case(verb)
    source = case.source()
    edit = case.edits()[0].resolve(source).edit
    after = edit.apply(source).interface
    edit.ensure(source.interface, after)
    for fault in FAULTS.values():
        with pytest.raises(PostconditionError, match=f"^{verb} promised .*: .*; the edited model has: "):
            edit.ensure(source.interface, fault(after))


def test_what_is_not_resolved() -> None:
    assert require_value("", "target") == ""
    with pytest.raises(PostconditionError, match="target should be known"):
        require_value(None, "target")


def test_nothing_that_deals_with_known_errors_takes_it_for_one() -> None:
    assert issubclass(PostconditionError, AssertionError) and not issubclass(PostconditionError, GraphSurgeryError)


@dataclass(frozen=True)
class Dropping(AddNormalize):
    """add-normalize that takes an input away as well."""

    def change(self, draft: Draft, found: Value) -> None:
        super().change(draft, found)
        draft.changes.infos.append(lambda kind, info: kind != "input" or info.name != "attention_mask")


def broken(folder: Path) -> None:
    """Apply the broken edit to a model and save what comes out; PostconditionError where contracts hold."""
    pooled = graphsurgery.add_pooling(tiny_encoder(), "mean")
    graphsurgery.save(Dropping().apply(pooled), folder / "model.onnx")


@pytest.mark.parametrize("optimized", [False, True])
def test_a_broken_edit_is_refused(optimized: bool, tmp_path: Path) -> None:
    """Under ``python -O``, which drops assert statements, as well."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r})\nfrom pathlib import Path\nimport test_contracts\n"
        f"print(__debug__)\ntest_contracts.broken(Path({str(tmp_path)!r}))"
    )
    command = [sys.executable, *(["-O"] if optimized else []), "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(not optimized)
    assert done.returncode == 1 and "PostconditionError: add-normalize promised the inputs: input_ids: int64" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_line_calls_it_a_bug(as_json: bool, fixture_copy, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 3 with the traceback, and nothing is left behind."""

    def ensure(self: Edit, before: Interface, after: Interface) -> None:
        raise PostconditionError("add-pooling promised the inputs: a; the edited model has: b")

    monkeypatch.setattr("graphsurgery.edits.add_pooling.AddPooling.ensure", ensure)
    model = fixture_copy("bert")
    before = sorted(model.parent.iterdir())
    assert run(["add-pooling", str(model), "--mode", "mean", *(["--json"] if as_json else [])]) == BUG
    printed = capsys.readouterr()
    assert "Traceback" in printed.err and "add-pooling promised the inputs: a" in printed.err
    if as_json:
        assert json.loads(printed.out)["error"]["type"] == "PostconditionError"
    else:
        assert "this is a bug in graphsurgery" in printed.err
    assert sorted(model.parent.iterdir()) == before
