"""The direction of the imports, the public surface, and what importing costs, enforced."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from conftest import ROOT
from sharing import Name, Source

import graphsurgery
from graphsurgery.cli.main import VERBS
from graphsurgery.edits.registry import EDITS

PACKAGE = ROOT / "graphsurgery"
LAYERS = (
    ("version", "errors"),
    ("contracts", "interface"),
    ("report",),
    ("model",),
    ("graph",),
    ("encoder",),
    ("consumers", "folders", "runtime"),
    ("compare",),
    ("edits", "references", "inspection", "snippet", "exporting"),
    ("proof",),
    ("rewrites",),
    ("api", "api_interface", "outcome", "recipe"),
    ("api_tokens", "runner"),
    ("recipe_run", "optimizer"),
    ("baking",),
    ("cli",),
)
"""Each layer imports only from layers above it, and from itself; but edits and proof, side by side, know nothing of each
other."""

# What edits and proof may share. A fault in shared code is dangerous if it makes an output wrong and, at the same time, makes
# the proof expect that output. Each line says why that cannot happen. Code that decides what an edit does must not be listed.
SHARED_MODULES = {
    "errors": "the error tree decides nothing",
    "contracts": "a value that is there, or a bug",
    "interface": "names, types and dims as a value, read off the fields of a file; golden cases compare files as text",
    "model.model": "a loaded file: its fields and the bytes of its weights",
    "model.records": "the bytes of a file, field by field",
    "model.provenance": "the steps that a file records: proof/intent.py compares them with the request",
    "model.record_types": "which names and types a record has; tests/test_hostile_records.py compares it with the edits",
    "model.sources": "the bytes of a file",
    "model.wire": "protobuf's encoding of numbers and lengths",
    "model.parsing": "protobuf's own parser, with limits",
    "model.schema": "which messages can hold a tensor, from onnx's descriptors",
    "model.external": "where external data lie",
    "model.locations": "which places of external data are safe to open",
    "model.dtypes": "numbers and sizes of element types, from onnx's own table",
    "model.digest": "sha256 of a weight: finds it in the file again",
    "runtime.session": "ONNX Runtime itself",
    "runtime.texts": "real texts to feed",
    "runtime.masks": "decides what is fed; tests/test_feeds.py says what each kind has to be",
    "runtime.feeds": "decides what is fed, and not what is expected",
    "encoder.roles": "decides what is fed; what an edit settled by it is held against another reading (proof/intent.py)",
    "encoder.tables": "decides what is fed; how many word weights there must be is read anew (proof/promised.py)",
}
SHARED_NAMES = {
    "encoder.head": ("head_steps", "the steps that a file records: what the proof is asked to prove"),
    "graph.wiring": (
        "Wiring all_nodes within constant_value attribute_int PASS_THROUGH RESHAPING",
        "only `tables_of` uses it on the proof's side, for what is fed",
    ),
    "model.scan": (
        "_Scanner _check_told_once _joined LARGEST_SKELETON MOST_RECORDS SMALLEST_PAYLOAD",
        "splits the bytes of a file into fields; tests/test_lossless.py compares every byte",
    ),
    "model.nodes": (
        "subgraphs taken",
        "behind `all_nodes`, the namer and the order of nodes for onnx's evaluator; the proof has proof/nested.py",
    ),
    "model.namer": (
        "Namer _collect _collect_nodes",
        "names for nodes that the proof adds to the source to run it: ONNX Runtime refuses a name that is taken",
    ),
}
DOORS = frozenset({("graphsurgery.model.provenance", "recorded"), ("graphsurgery.model.provenance", "undone")})
"""How golden vectors get into a file and out of it: not followed, no expectation of an edit goes through them."""


def shared(planted: Mapping[str, str] = MappingProxyType({})) -> set[Name]:
    """The names that both edits and proof reach, the package's name left out; ``planted``: with these modules added."""
    source = Source(PACKAGE, planted)
    both = source.reached("graphsurgery.edits", DOORS) & source.reached("graphsurgery.proof", DOORS)
    return {(module.removeprefix("graphsurgery."), name) for module, name in both}


def imported(path: Path) -> set[str]:
    """The graphsurgery modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("graphsurgery."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found.update(alias.name.split(".")[1] for alias in node.names if alias.name.startswith("graphsurgery."))
    return found


def modules() -> list[Path]:
    top_level = ("__init__.py", "__main__.py")
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path.relative_to(PACKAGE).parts[0] not in top_level]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    layer_of = {name: index for index, names in enumerate(LAYERS) for name in names}
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for other in imported(path):
        assert other == own or layer_of[other] < layer_of[own], f"{own} must not import {other}"


def test_edits_and_proof_share_nothing_that_decides() -> None:
    """What both reach is on the list above, with its reason, and nothing on the list is out of date."""
    allowed = {(module, name) for module, (names, _) in SHARED_NAMES.items() for name in names.split()}
    found = {one for one in shared() if one[0] not in SHARED_MODULES}
    assert found - allowed == set(), "an edit and its proof would share a fault in this"
    assert allowed - found == set(), "no longer shared"
    assert SHARED_MODULES.keys() - {module for module, _ in shared()} == set(), "no longer shared"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("from graphsurgery.graph.wiring import downstream as used", ("graph.wiring", "downstream")),
        ("from graphsurgery.encoder import width\nused = width.last_dim", ("encoder.width", "last_dim")),
        ("from graphsurgery.between import used", ("encoder.hidden_state", "inferred")),
    ],
    ids=["by its name", "by its module's", "by another module's"],
)
def test_sharing_is_noticed(line: str, name: Name) -> None:
    """A name that the edits use is found on whatever way the proof gets at it."""
    between = "from graphsurgery.encoder.hidden_state import inferred\ndef used():\n    return inferred"
    assert name not in shared()
    planted = {"graphsurgery.proof.planted": f"{line}\ndef planted():\n    return used", "graphsurgery.between": between}
    assert name in shared(planted)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_is_too_long_to_read(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


def test_public_surface() -> None:
    """Everything public has a docstring, and every edit is a class, a function and a verb of the same name."""
    for name in graphsurgery.__all__:
        assert name == "__version__" or getattr(graphsurgery, name).__doc__, name
    for verb, edit in EDITS.items():
        assert callable(getattr(graphsurgery, verb.replace("-", "_")))
        assert getattr(graphsurgery, edit.__name__) is edit
        assert VERBS[verb].summary == edit.summary


def test_neither_torch_nor_transformers_is_imported() -> None:
    """The package and every module of it import without PyTorch, transformers and Optimum."""
    names = [".".join(("graphsurgery", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in modules()]
    code = "import sys, importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in names)
    code += "\nassert not {'torch', 'transformers', 'optimum', 'sentence_transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_help_imports_nothing_heavy() -> None:
    """The command line's --help must not wait for numpy, onnx or onnxruntime."""
    code = (
        "import sys\nfrom graphsurgery.cli.main import run\nrun(['--help'])\n"
        "assert not {'numpy', 'onnx', 'onnxruntime', 'onnx_graphsurgeon', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
