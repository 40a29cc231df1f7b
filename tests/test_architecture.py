"""The direction of the imports, the public surface, and what importing costs, enforced."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import onnx
import pytest
from conftest import ROOT
from sharing import Name, Source, parse

import graphsurgery
from graphsurgery import errors
from graphsurgery.cli.main import VERBS, cli
from graphsurgery.edit_list import EDIT_LIST
from graphsurgery.edits.edit import EDITS
from graphsurgery.edits.parameters import list_parameters
from graphsurgery.graph import operators

PACKAGE = ROOT / "graphsurgery"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
LAYERS = (
    ("deferred",),
    ("version", "errors", "edit_list", "progress", "suggestions", "shown"),
    ("interface", "remarks", "argument_types"),
    ("report",),
    ("model",),
    ("graph",),
    ("encoder",),
    ("consumers", "folders"),
    ("runtime",),
    ("compare",),
    ("edits", "references", "inspection", "exporting"),
    ("proof",),
    ("rewrites", "snippet"),
    ("api", "outcome", "recipe"),
    ("runner", "recipe_facts"),
    ("recipe_run", "optimizer", "benchmarking", "embedding"),
    ("baking", "serving", "fixing", "deploying"),
    ("cli",),
)
"""Each layer imports only from layers above it, and from itself; but edits and proof, side by side, know nothing of each
other."""

# What edits and proof may share. A fault in shared code is dangerous if it makes an output wrong and, at the same time, makes
# the proof expect that output. Each line says why that cannot happen. Code that decides what an edit does must not be listed.
SHARED_MODULES = {
    "errors": "the error tree decides nothing; a value that has to be there, or a bug",
    "edit_list": "names, and the types of recorded parameters; tests/test_hostile_records.py compares them with the edits",
    "shown": "finds by its name the module that shows results",
    "argument_types": "refuses arguments of a wrong type, before anything is done",
    "interface": "names, types and dims as a value, read off the fields of a file; golden cases compare files as text",
    "model.model": "a loaded file: its fields and the bytes of its weights",
    "model.records": "the bytes of a file, field by field",
    "model.provenance": "the steps that a file records: proof/intent.py compares them with the request",
    "model.step_parameters": "which names and types a record has; tests/test_hostile_records.py compares it with the edits",
    "model.sources": "the bytes of a file, read at a position",
    "model.wire": "protobuf's encoding of numbers and lengths",
    "model.parsing": "protobuf's own parser, with limits",
    "model.schema": "which messages can hold a tensor, from onnx's descriptors",
    "model.external": "where external data lie, and which places of them are safe to open",
    "model.hub_cache": "which links of the hub's cache lead to a data file of the model",
    "model.dtypes": "numbers and sizes of element types, from onnx's own table",
    "model.checksums": "sha256 of a weight: finds it in the file again",
    "runtime.session": "ONNX Runtime itself",
    "runtime.devices": "which of ONNX Runtime's providers computes",
    "runtime.texts": "real texts to feed",
    "runtime.masks": "decides what is fed; tests/test_feeds.py says what each kind has to be",
    "remarks": "sentences for the user, and which of them are warnings",
    "runtime.mask_forms": "the forms in which masks are fed; the references read them by code of their own",
    "runtime.probing": "what a run shows of inputs; edits read the graph first, and a test holds both against each other",
    "runtime.feeds": "decides what is fed, and not what is expected",
    "runtime.baked_sizes": "decides what is fed: the only sizes at which a run gives rows and tokens as they were fed",
    "runtime.second_masks": "decides what is fed, by runs alone: zeros or ones for an input whose use is not known",
    "model.once": "keeps an answer with its model",
    "graph.graph": "what is fed is all that the proof asks of it: `test_the_proof_reads_graphs_by_code_of_its_own`",
    "graph.attributes": "behind graph.graph",
    "graph.importing": "behind graph.graph",
    "graph.operators": "behind graph.graph, and the names that `find_tables` asks for",
    "encoder.roles": "decides what is fed; what an edit found by it is held against another reading (proof/intent.py)",
    "encoder.suspected_sizes": "decides whether a run tries sizes, and which; see runtime.baked_sizes",
    "encoder.modalities": "decides what is fed: which inputs are pictures and sound",
    "encoder.frames": "decides what is fed: how long clips are",
    "runtime.media": "decides what is fed: pictures and sound",
    "runtime.media_sizes": "decides what is fed: how large pictures are, as a run shows",
    "folders.picture_config": "decides what is fed: how large pictures are, and how pixels are normalised",
    "folders.files": "opens files, and reads JSON within limits",
    "graph.facts": "behind encoder.suspected_sizes, like the next five",
    "graph.schemas": "behind graph.facts",
    "graph.shape_rules": "behind graph.facts",
    "graph.symbolic": "behind graph.facts",
    "graph.value_rules": "behind graph.facts",
    "graph.vendor_shapes": "behind graph.facts",
    "encoder.limits": "decides what is fed; how many word weights there must be is read anew (proof/promised.py)",
}
SHARED_NAMES = {
    "report": ("FEW list_few", "cuts lists of names in sentences"),
    "encoder.head": ("read_head_steps", "the steps that a file records: what the proof is asked to prove"),
    "model.scan": (
        "_Scanner _check_not_repeated _join_literals LARGEST_SKELETON MOST_RECORDS SMALLEST_PAYLOAD",
        "splits the bytes of a file into fields; tests/test_lossless.py compares every byte",
    ),
    "model.names": (
        "Namer _collect_graph_names _collect_node_names list_subgraphs walk_captured_names walk_graphs",
        "walks through graphs (the proof has references/nested.py), and names for nodes that the proof adds to the source to "
        "run it: ONNX Runtime refuses a name that is taken",
    ),
}
GRAPH_DOORS = frozenset({
    ("graphsurgery.encoder.limits", "find_tables"),
    ("graphsurgery.encoder.limits", "find_largest_window"),
    ("graphsurgery.encoder.suspected_sizes", "list_suspected_sizes"),
    ("graphsurgery.encoder.modalities", "list_modalities"),
    ("graphsurgery.encoder.frames", "find_frame_steps"),
    ("graphsurgery.encoder.limits", "list_constant_tables"),
    ("graphsurgery.compare.reference_ops", "_make_readable"),
})  # fmt: skip
"""By these alone the proof gets at graph.graph. All but the last decide what is fed: how many ids there are, how long texts
are, which inputs are pictures, and at which sizes a run is tried. The last takes from a model what onnx's evaluator cannot run.
A fault there makes the second opinion differ."""
DOORS = frozenset({("graphsurgery.model.provenance", "record_edit"), ("graphsurgery.model.provenance", "undo_step")})
"""How golden vectors get into a file and out of it: not followed, no expectation of an edit goes through them."""


@cache
def shared(*planted: tuple[str, str]) -> set[Name]:
    """The names that both edits and proof reach, the package's name left out; ``planted``: with these modules added."""
    source = Source(PACKAGE, dict(planted))
    proof = source.reached("graphsurgery.proof", DOORS) | source.reached("graphsurgery.references", DOORS)
    both = source.reached("graphsurgery.edits", DOORS) & proof
    return {(module.removeprefix("graphsurgery."), name) for module, name in both}


def imported(path: Path) -> set[str]:
    """The graphsurgery modules that a file imports."""
    found = set()
    for node in ast.walk(parse(path.read_text(encoding="utf-8"))):
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


def test_the_proof_reads_graphs_by_code_of_its_own() -> None:
    """Whatever the proof expects of an edit, it has not asked `Graph`, by which the edits find their way."""
    source = Source(PACKAGE)
    reached = {one for room in ("proof", "references") for one in source.reached(f"graphsurgery.{room}", DOORS | GRAPH_DOORS)}
    assert {name for module, name in reached if module == "graphsurgery.graph.graph"} == set()
    for door in GRAPH_DOORS:
        others = DOORS | GRAPH_DOORS - {door}
        found = source.reached("graphsurgery.proof", others)
        assert ("graphsurgery.graph.graph", "Graph") in found, f"no longer needed: {door}"


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
        ("from graphsurgery.encoder.flow import infer_last_dim as used", ("encoder.flow", "infer_last_dim")),
        ("from graphsurgery.encoder import flow\nused = flow.infer_last_dim", ("encoder.flow", "infer_last_dim")),
        ("from graphsurgery.between import used", ("encoder.hidden_state", "infer_values")),
    ],
    ids=["by its name", "by its module's", "by another module's"],
)
def test_sharing_is_noticed(line: str, name: Name) -> None:
    """A name that the edits use is found on whatever way the proof gets at it."""
    between = "from graphsurgery.encoder.hidden_state import infer_values\ndef used():\n    return infer_values"
    assert name not in shared()
    planted = ("graphsurgery.proof.planted", f"{line}\ndef planted():\n    return used")
    assert name in shared(planted, ("graphsurgery.between", between))


NAMES_OPERATORS = ("encoder", "rewrites", "optimizer")
"""Packages that take their sets of operators from graph/operators.py."""


@cache
def known_operators() -> set[str]:
    """The names of all standard operators, and of those that graph/operators.py names, without their domains."""
    sets = [one for name, one in vars(operators).items() if name.isupper() and isinstance(one, frozenset | tuple | dict)]
    named = {name.split(".")[-1] for one in sets for name in one if isinstance(name, str)}
    return {schema.name for schema in onnx.defs.get_all_schemas_with_history()} | named - {"", "onnx"}


def sets_of_operators(source: str) -> list[str]:
    """Literals that name two operators, and comparisons of an operator's name without its domain, as text.

    Two kinds of literals are none of these: a `Path`, operators one behind the other, and a dict that gives a function for each
    operator.
    """
    tree, known, found = parse(source), known_operators(), []
    paths = [one for one in ast.walk(tree) if isinstance(one, ast.AnnAssign) and "Path" in ast.unparse(one.annotation)]
    allowed = {id(inner) for one in paths for inner in ast.walk(one)}
    for one in ast.walk(tree):
        if isinstance(one, ast.Set | ast.Tuple | ast.List | ast.Dict) and id(one) not in allowed:
            held = one.keys if isinstance(one, ast.Dict) else one.elts
            named = [each for each in held if isinstance(each, ast.Constant) and each.value in known]
            is_of_functions = isinstance(one, ast.Dict) and all(isinstance(each, ast.Name | ast.Call) for each in one.values)
            found += [ast.unparse(one)] if len(named) > 1 and not is_of_functions else []
        if isinstance(one, ast.Compare | ast.Call):
            asked = [*one.comparators, one.left] if isinstance(one, ast.Compare) else [one.func]
            names = {each.attr for side in asked for each in ast.walk(side) if isinstance(each, ast.Attribute)}
            found += [ast.unparse(one)] if "op_type" in names else []
    return found


@pytest.mark.parametrize(
    "path", [path for name in NAMES_OPERATORS for path in sorted((PACKAGE / name).rglob("*.py"))],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)  # fmt: skip
def test_sets_of_operators_stand_in_one_place(path: Path) -> None:
    """No module of these packages names two operators in one literal: graph/operators.py has a word for every set of them. Nor
    does any ask for an operator's name without its domain, except to show it."""
    assert sets_of_operators(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "is_sum = operator(node) in ('Add', 'SkipLayerNormalization')", "KINDS = frozenset({'Cos', 'Sin'})",
        "PLACES = {'Gemm': 2, 'MatMul': 1}", "is_cast = node.op_type == 'Cast'", "done = node.op_type.startswith('Q')",
    ],
)  # fmt: skip
def test_a_set_of_operators_is_noticed(line: str) -> None:
    assert sets_of_operators(line)
    assert not sets_of_operators("STEPS: Path = ('Add', 'Mul')\nRULES = {'Add': match_sum, 'Mul': make_rule(1)}")


READS_BY_ITSELF = {
    "graph": "the one place where a graph is read",
    "model": "files before they are graphs, and onnx-graphsurgeon's graph",
    "proof": "the proof reads files by code of its own",
    "references": "the proof reads files by code of its own",
}
"""Packages and files that may find out by themselves who makes a value, in what order nodes run, what attributes they have."""


def second_readings(source: str) -> list[str]:
    """Producer maps, topological sorts and searches through attributes, as text."""
    found = []
    for one in ast.walk(parse(source)):
        if isinstance(one, ast.DictComp) and isinstance(one.value, ast.Name):
            outputs = [ast.unparse(each.iter) for each in one.generators]
            found += [ast.unparse(one)] if {f"{one.value.id}.output", f"{one.value.id}.outputs"} & set(outputs) else []
        elif isinstance(one, ast.Import | ast.ImportFrom):
            named = {getattr(one, "module", None), *(each.name for each in one.names)}
            found += [ast.unparse(one)] if named & {"graphlib", "heapq"} else []
        elif isinstance(one, ast.comprehension | ast.For) and ast.unparse(one.iter).endswith(".attribute"):
            found.append(ast.unparse(one.iter))
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_graphs_are_read_in_one_place(path: Path) -> None:
    place = path.relative_to(PACKAGE)
    if not READS_BY_ITSELF.keys() & {place.parts[0], place.as_posix()}:
        assert second_readings(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "made = {name: node for node in graph.node for name in node.output if name}", "from graphlib import TopologicalSorter",
        "import heapq", "found = next((one.i for one in node.attribute if one.name == 'axis'), 0)",
    ],
)  # fmt: skip
def test_a_second_reading_is_noticed(line: str) -> None:
    assert second_readings(line)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_is_too_long_to_read(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


def test_public_surface() -> None:
    """Everything public has a docstring."""
    for name in graphsurgery.__all__:
        assert name == "__version__" or getattr(graphsurgery, name).__doc__, name


@pytest.mark.parametrize("verb", EDITS)
def test_every_edit_is_a_class_a_function_and_a_verb(verb: str) -> None:
    """All have one name. The function takes every parameter of the class, and its docstring describes each one."""
    edit = EDITS[verb]
    function = getattr(graphsurgery, verb.replace("-", "_"))
    assert getattr(graphsurgery, edit.__name__) is edit
    assert (edit.verb, VERBS[verb].summary) == (verb, edit.summary)
    signature = inspect.signature(function)
    called = [one.called for one in list_parameters(edit)]
    assert sorted(signature.parameters) == sorted(["model", *called])
    assert function.__annotations__.keys() == {*signature.parameters, "return"}
    about = described(function.__doc__)
    assert list(about) == ["model", *called] and all(len(text) > 10 for text in about.values())
    raised = re.search(r"^Raises:\n(.*)\.$", function.__doc__, flags=re.MULTILINE | re.DOTALL)
    assert all(issubclass(getattr(errors, name.strip()), Exception) for name in raised[1].split(","))
    options = {one.name: one for one in cli.get_command(None, verb).params}
    for one in list_parameters(edit):
        assert options[one.name].opts == [one.option] and one.help in options[one.name].help


def described(docstring: str) -> dict[str, str]:
    """The arguments that the section ``Args:`` of a docstring describes."""
    section = re.search(r"^Args:\n((?:    .*\n)*)", docstring, flags=re.MULTILINE)
    return dict(re.findall(r"^    (\w+): (.*)$", section[1], flags=re.MULTILINE))


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


HEAVY = (
    "onnxruntime", "onnx_ir", "sympy", "onnx_graphsurgeon", "onnx.reference", "tokenizers", "matplotlib", "torch",
    "transformers", "huggingface_hub",
)  # fmt: skip
"""Packages that take long to import, or much memory."""
FILE = ROOT / "fixtures" / "bert" / "model.onnx"
MADE = "made.onnx"
EDITING = {"onnx_ir", "sympy", "onnx_graphsurgeon", "tokenizers"}  # the program that is printed pads as the tokenizer does


@pytest.mark.parametrize(
    ("code", "needed"),
    [
        ("from graphsurgery import *", set()),
        ("import graphsurgery; [getattr(graphsurgery, name) for name in graphsurgery.__all__]", set()),
        (f"import graphsurgery; graphsurgery.save(graphsurgery.load({str(FILE)!r}), {MADE!r})", set()),
        (["inspect", str(FILE)], {"onnx_ir", "sympy"}),
        (["inspect", str(FILE), "--json"], {"onnx_ir", "sympy"}),
        (["rename", str(FILE), "--name", "last_hidden_state=x", "-o", MADE, "--no-verify"], EDITING),
    ],
    ids=lambda one: one[0] if isinstance(one, list) else None,
)
def test_what_is_imported(code: str | list[str], needed: set[str], tmp_path: Path) -> None:
    """Heavy packages wait until they are needed: sympy comes with onnx_ir, which reads graphs; nothing else does."""
    run = code if isinstance(code, str) else f"from graphsurgery.cli.main import run\nassert run({code!r}) == 0"
    listed = f"{run}\nimport sys\nprint('loaded:', *(one for one in {HEAVY!r} if one in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", listed], check=True, cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT
    )
    assert set(done.stdout.splitlines()[-1].split()[1:]) <= needed


def test_no_module_uses_a_deferred_package_in_its_body() -> None:
    """It would be imported with the module. Inside functions they may be used freely."""
    names = [".".join(("graphsurgery", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in modules()]
    code = "import sys, importlib\n" + "\n".join(
        f"importlib.import_module({name!r})" for name in names if "reference_" not in name
    )
    code += f"\nassert not set({HEAVY!r}) & set(sys.modules), set({HEAVY!r}) & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_an_edit_imports_no_other_edit() -> None:
    """What adding pooling costs does not grow with the number of edits."""
    code = (
        "import sys, graphsurgery\nfrom graphsurgery.edit_list import EDIT_LIST\nassert graphsurgery.add_pooling\n"
        "names = {one.function for one in EDIT_LIST.values() if f'graphsurgery.edits.{one.function}' in sys.modules}\n"
        "assert names == {'add_pooling'}, names"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_verbs_and_summaries_stand_in_the_list_alone() -> None:
    """A class takes them from `edit_list`; its own file says neither again."""
    for listed in EDIT_LIST.values():
        tree = ast.parse((PACKAGE / "edits" / f"{listed.function}.py").read_text(encoding="utf-8"))
        fields = {one.target.id for node in tree.body if isinstance(node, ast.ClassDef) for one in node.body
                  if isinstance(one, ast.AnnAssign)}  # fmt: skip
        assert not fields & {"verb", "step", "summary"}, listed.verb
