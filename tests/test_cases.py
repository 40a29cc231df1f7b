"""Every golden case, and what the harness proves of each for free: text, checker, interface, numbers, second run, input
untouched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from golden import Case, case_files, text_of

import graphsurgery
from graphsurgery.edits.edit import EDITS
from graphsurgery.errors import GraphSurgeryError, NoHeadError
from graphsurgery.model.model import Model

FILES = case_files()
IDS = [f"{path.parent.name}/{path.stem}" for path in FILES]


def applied(case: Case, model: Model) -> Model:
    for edit in case.edits():
        model = edit.apply(model)
    return model


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_case(path: Path, request: pytest.FixtureRequest) -> None:
    """The case gives the text, or the error, that its file says."""
    case = Case.read(path)
    try:
        after, error = text_of(applied(case, case.source()).to_proto()), None
    except GraphSurgeryError as raised:
        after, error = None, case.words(raised)
    if request.config.getoption("--update-cases"):
        case.write(after, error)
        case = Case.read(path)
    assert after == case.after
    assert error == case.error


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_case_is_proven(path: Path) -> None:
    """What a case gives is a valid file, agrees with the reference on every kind of feed, and refuses to be edited so
    again; what takes a head off gives the same again. An edit that drops weights stays."""
    case = Case.read(path)
    if case.after is None:
        assert case.error is not None and case.error[1], "an error without words"
        return
    source = case.source()
    untouched = source.proto.SerializeToString()
    result = applied(case, source)
    assert source.proto.SerializeToString() == untouched
    onnx.checker.check_model(result.to_proto(), full_check=True)
    if case.edits()[-1].restores:
        assert result.fingerprint == applied(case, result).fingerprint == source.fingerprint
        return
    report = graphsurgery.verify(result, against=source)
    assert report, report.to_json()
    kept = 1 + max((place for place, edit in enumerate(case.edits()) if edit.drops), default=-1)
    if kept == len(case.edits()):
        with pytest.raises(NoHeadError, match="does not hold them any more"):
            graphsurgery.strip_head(result)
    else:
        before = applied(replace(case, commands=case.commands[:kept]), source)
        assert graphsurgery.strip_head(result).fingerprint == before.fingerprint
    with pytest.raises(GraphSurgeryError):
        case.edits()[-1].apply(result)


def test_every_edit_has_cases() -> None:
    """One edit, one folder of golden cases of the same name, at least one of them a refusal."""
    folders = {path.parent.name for path in FILES}
    assert folders == {verb.replace("-", "_") for verb in EDITS}
    for folder in folders:
        cases = [Case.read(path) for path in FILES if path.parent.name == folder]
        assert any(case.after is not None for case in cases) and any(case.error is not None for case in cases), folder
