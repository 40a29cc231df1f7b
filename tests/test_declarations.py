"""Everything that follows from an edit's declaration: the library's functions, their types, and what a new edit takes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from conftest import FIXTURES, ROOT

import graphsurgery
from graphsurgery.edits.edit import EDITS
from graphsurgery.edits.parameters import list_parameters
from graphsurgery.errors import RequestError

BERT = FIXTURES / "bert" / "model.onnx"

# --- the library's functions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "name", "given", "taken"),
    [
        ("add-pooling", "mode", "mean", "mean"), ("add-pooling", "mode", ("cls", "mean"), "cls,mean"),
        ("add-pooling", "skip_prompt", 5, "5"), ("add-pooling", "skip_prompt", None, None),
        ("add-pooling", "keep_output", "a", ("a",)), ("add-pooling", "keep_output", ["a", "b"], ("a", "b")),
        ("add-pooling", "normalize", True, True), ("truncate", "dim", 8, "8"), ("truncate", "dim", [8, 4], "8,4"),
        ("add-weighted-layer-pooling", "layers", ["a", "b"], "a,b"), ("rename", "names", {"a": "b"}, ("a=b",)),
        ("rename", "names", None, ()), ("fix-dim", "dims", {"a": 3}, ("a=3",)), ("dynamic-dim", "dims", "batch", ("batch",)),
        ("dynamic-dim", "dims", {"batch": "N"}, ("batch=N",)), ("dynamic-dim", "dims", ["batch"], ("batch",)),
        ("add-dense", "weights", "2_Dense", str(Path.cwd() / "2_Dense")),
        ("add-dense", "weights", Path("/a/2_Dense"), str(Path("/a/2_Dense"))), ("output-precision", "ranges", None, None),
    ],
)  # fmt: skip
def test_what_a_function_makes_of_its_arguments(verb: str, name: str, given: object, taken: object) -> None:
    (parameter,) = (one for one in list_parameters(EDITS[verb]) if one.called == name)
    assert parameter.from_library(given) == taken


def test_a_function_refuses_arguments_that_it_does_not_have() -> None:
    for call in (
        lambda: graphsurgery.add_pooling(BERT, "mean", True),  # the others go by name
        lambda: graphsurgery.add_pooling(BERT, "mean", normalise=True),
        lambda: graphsurgery.truncate(BERT),
        lambda: graphsurgery.add_pooling(),
    ):
        with pytest.raises(TypeError, match=r"^(add_pooling|truncate)\(\) .*argument"):
            call()
    with pytest.raises(RequestError, match="weights"):
        graphsurgery.add_cnn(BERT, None)


CALLS = """
import graphsurgery
from pathlib import Path

model: graphsurgery.Model = graphsurgery.add_pooling("model.onnx", mode="mean", normalize=True)
model = graphsurgery.add_pooling(model, ("cls", "mean"), skip_prompt=5, keep_output=["last_hidden_state"])
model = graphsurgery.add_dense(model, Path("2_Dense"), activation="tanh")
model = graphsurgery.truncate(model, [64, 32])
model = graphsurgery.rename(model, {"a": "b"}, dims={"c": "d"})
edit: graphsurgery.AddPooling = graphsurgery.AddPooling("mean")
"""
WRONG = """
graphsurgery.add_pooling("model.onnx", mode=5)
graphsurgery.add_pooling("model.onnx", normalise=True)
graphsurgery.add_pooling("model.onnx", "mean", True)
graphsurgery.truncate("model.onnx")
graphsurgery.add_dense("model.onnx", weights=3)
graphsurgery.fix_dim("model.onnx", {"batch": "1"})
graphsurgery.no_such_edit("model.onnx")
text: str = graphsurgery.strip_head("model.onnx")
"""


def test_type_checkers_know_the_functions(tmp_path: Path) -> None:
    """mypy accepts right calls and refuses every wrong one, at its line. Its settings are those of `make types`, whose
    cache it reads."""
    program = tmp_path / "program.py"
    program.write_text(CALLS + WRONG, encoding="utf-8")
    options = ["--config-file", str(ROOT / "pyproject.toml"), "--no-error-summary"]
    environment = {"MYPYPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(program)], cwd=ROOT, env=os.environ | environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    errors = [line.split(":") for line in done.stdout.splitlines() if ": error:" in line]
    lines = sorted({int(line) for path, line, *_ in errors if path.endswith(program.name)})
    first = CALLS.count("\n") + 2
    assert lines == list(range(first, first + WRONG.count("\n") - 1)), done.stdout


# --- a new edit -----------------------------------------------------------------------------------------------------------

LINE = """
        EditEntry("add-offset", HEADS, "offset", "append a constant to every dim", {**TARGET, "offset": str}),
        EditEntry("strip-head","""
EDIT = '''
    """add-offset: y = x + offset."""

    from __future__ import annotations

    from dataclasses import dataclass, replace
    from typing import Self

    import numpy as np

    from graphsurgery.edits.draft_operators import Operators
    from graphsurgery.edits.edit import GraphEdit, Resolved, parameter
    from graphsurgery.edits.outputs import ensure_others_unchanged, find_target, build_output
    from graphsurgery.interface import Interface, Value
    from graphsurgery.model.draft import Draft
    from graphsurgery.model.model import Model


    @dataclass(frozen=True)
    class AddOffset(GraphEdit[Value]):
        """Append a constant: ``y = x + offset``."""

        offset: str = parameter("The number to add to every dim.", "", "X", takes=int | str, required=True)
        target: str | None = parameter("The output to work on.", None, "NAME")

        def resolve(self, model: Model) -> Resolved[Self, Value]:
            """Raises RequestError."""
            target = find_target(model, self.target, "moved")
            return Resolved(replace(self, target=target.name), target)

        def change(self, draft: Draft, found: Value) -> None:
            ops = Operators(draft, "graphsurgery/offset")

            def build(x):
                return ops.node("Add", x, ops.constant(float(self.offset), np.float32, "offset"), name="moved")

            build_output(draft, found, found.name, ops, build, last=found.dims[-1])

        def ensure(self, before: Interface, after: Interface) -> None:
            super().ensure(before, after)
            ensure_others_unchanged(self.verb, before, after, self.target, [self.target])
'''
REFERENCE = '''
    """add-offset: y = x + offset."""

    from graphsurgery.references.reference import Expected, Reference, declare_float_target, compute_tolerance


    def _value(parameters, known):
        y = known[parameters["target"]] + float(parameters["offset"])
        return [Expected(y, compute_tolerance(y))]


    REFERENCE = Reference(lambda p: [p["target"]], lambda p: [p["target"]], _value, declare_float_target)
'''
PROGRAM = """
    import inspect, json, sys
    import graphsurgery
    from graphsurgery.edit_list import EDIT_LIST

    pooled = graphsurgery.add_pooling("model.onnx", "mean")
    moved = graphsurgery.add_offset(pooled, 3)
    found = {
        "all": sorted(set(graphsurgery.__all__) & {"AddOffset", "add_offset"}),
        "signature": [*inspect.signature(graphsurgery.add_offset).parameters],
        "described": "offset: The number to add" in graphsurgery.add_offset.__doc__,
        "verdict": graphsurgery.verify(moved, against="model.onnx").verdict.value,
        "back": graphsurgery.strip_head(moved).fingerprint == graphsurgery.load("model.onnx").fingerprint,
    }
    sys.path.insert(0, "scripts")
    import generate
    texts = [text for text in generate.generated().values()]
    found["generated"] = ["add-offset" in text or "def add_offset(" in text for text in texts]
    print(json.dumps(found))
"""


def test_a_new_edit_needs_its_file_its_reference_and_one_line(tmp_path: Path) -> None:
    """In a copy of the package: verb, help, options, function, class, recipe key, record, proof and docs all follow."""
    for name in ("graphsurgery", "scripts", "benchmarks", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (ROOT / "README.md", BERT):
        shutil.copy(path, tmp_path)
    package = tmp_path / "graphsurgery"
    (package / "edits" / "add_offset.py").write_text(dedent(EDIT), encoding="utf-8")
    (package / "references" / "offset.py").write_text(dedent(REFERENCE), encoding="utf-8")
    listed = (package / "edit_list.py").read_text(encoding="utf-8")
    assert listed.count('\n        EditEntry("strip-head",') == 1
    (package / "edit_list.py").write_text(listed.replace('\n        EditEntry("strip-head",', LINE), encoding="utf-8")

    found = json.loads(python(tmp_path, "-c", dedent(PROGRAM)))
    assert found == {
        "all": ["AddOffset", "add_offset"], "signature": ["model", "offset", "target"], "described": True,
        "verdict": "PASSED", "back": True, "generated": [True] * 6,
    }  # fmt: skip
    assert "append a constant to every dim" in python(tmp_path, "-m", "graphsurgery", "--help-all")
    assert "The number to add to every dim." in python(tmp_path, "-m", "graphsurgery", "add-offset", "--help")
    recipe = '[[steps]]\nedit = "add-pooling"\nmode = "mean"\n[[steps]]\nedit = "add-offset"\noffset = 3\n'
    (tmp_path / "recipe.toml").write_text(recipe, encoding="utf-8")
    python(tmp_path, "-m", "graphsurgery", "run", "recipe.toml", "model.onnx")
    assert 'edit = "add-offset"\noffset = "3"' in python(tmp_path, "-m", "graphsurgery", "recipe", "show", "model.offset.onnx")


def python(folder: Path, *arguments: str) -> str:
    """What Python prints when it runs in ``folder``, where the package lies."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
