"""Everything that is written from declarations and docstrings: `make generated`.

    graphsurgery/__init__.pyi    the library's names and signatures, for type checkers and editors
    docs/edits.md                every edit and its parameters
    docs/cli.md                  every verb of the command line and its options
    docs/api.md                  every public name of the library
    docs/json.md                 what --json prints, from docs/schema.json
    README.md                    the table of edits

The tests compare these files with what this script would write.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "scripts")]

from page import filled  # noqa: E402
from reference import api_page, cli_page, json_page  # noqa: E402

import graphsurgery  # noqa: E402
from graphsurgery.api import make_docstring, make_signature  # noqa: E402
from graphsurgery.edit_list import EDIT_LIST  # noqa: E402
from graphsurgery.edits.edit import EDITS, Edit  # noqa: E402
from graphsurgery.edits.parameters import Parameter, list_parameters  # noqa: E402

STUB, EDITS_PAGE, README = ROOT / "graphsurgery" / "__init__.pyi", ROOT / "docs" / "edits.md", ROOT / "README.md"
HEAD = """\
# `make generated` writes this file from the edits' declarations. Change those, not this.

import os
from collections.abc import Mapping, Sequence

"""
PAGE = """\
# Every edit and its parameters

Each edit is a verb of the command line, a function of the library, a class for `graphsurgery.run` and a step of a recipe; all
four take the parameters below. A recipe's keys are the options without `--` and with `_` for `-`, and so are the names of the
function's and the class's parameters; the tables say where the function's name differs. `graphsurgery VERB --help` also shows
the options that every verb takes.
"""


def main() -> int:
    for path, text in generated().items():
        path.write_text(text, encoding="utf-8")
    return 0


def generated() -> dict[Path, str]:
    """The files that this script writes, and their content."""
    pages = {ROOT / "docs" / "cli.md": cli_page(), ROOT / "docs" / "api.md": api_page(), ROOT / "docs" / "json.md": json_page()}
    return {STUB: stub(), EDITS_PAGE: edits_page(), README: filled(README, "edits", readme_table()), **pages}


def stub() -> str:
    """The stub of the package: every public name with its type."""
    homes = dict(graphsurgery.HOMES) | {"model.loading": (*graphsurgery.HOMES["model.loading"], "Loadable")}
    homes |= {"version": ("__version__",)}
    imports = [f"from graphsurgery.{module} import {', '.join(_sorted(names))}" for module, names in sorted(homes.items())]
    names = "".join(f'    "{name}",\n' for name in _sorted(graphsurgery.__all__))
    functions = [_function(EDITS[listed.verb]) for listed in sorted(EDIT_LIST.values(), key=lambda one: one.function)]
    return HEAD + "\n".join(imports) + f"\n\n__all__ = [\n{names}]\n\n" + "\n".join(functions)


def edits_page() -> str:
    """The page of the documentation that lists every parameter."""
    sections = [PAGE]
    for group, listed in groupby(EDIT_LIST.values(), lambda one: one.group):
        sections += [f"## {group}\n", *(_section(EDITS[one.verb]) for one in listed)]
    return "\n".join(sections)


def readme_table() -> str:
    rows = [f"| `graphsurgery {one.verb}` | {one.summary} |" for one in EDIT_LIST.values()]
    return "\n".join(["| edit | what it does |", "| --- | --- |", *rows])


def _sorted(names: Iterable[str]) -> list[str]:
    """The names in the order that ruff demands: classes, then functions."""
    return sorted(names, key=lambda name: (not name[0].isupper(), name))


def _function(edit: type[Edit]) -> str:
    signature = make_signature(edit)
    lines, starred = [], False
    for one in signature.parameters.values():
        if one.kind is one.KEYWORD_ONLY and not starred:
            lines, starred = [*lines, "    *,"], True
        kind = "Loadable" if one.name == "model" else spelled(one.annotation)
        lines.append(f"    {one.name}: {kind}" + (f" = {_literal(one.default)}," if one.default is not one.empty else ","))
    name = edit.verb.replace("-", "_")
    description = textwrap.indent(make_docstring(edit), "    ").lstrip()
    return f"def {name}(\n" + "\n".join(lines) + f'\n) -> Model:\n    """{description}\n    """\n'


def spelled(kind: Any) -> str:
    """A type as source text."""
    text = kind.__name__ if type(kind) is type else str(kind)
    return text.replace("collections.abc.", "").replace("typing.", "")


def _literal(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _section(edit: type[Edit]) -> str:
    summary = edit.summary[0].upper() + edit.summary[1:]
    calls = f"`graphsurgery.{edit.verb.replace('-', '_')}` and `graphsurgery.{edit.__name__}`"
    lines = [f"### {edit.verb}\n", f"{summary}. In the library: {calls}.\n"]
    rows = list(_rows(edit))
    lines += ["| option | default | what it is |", "| --- | --- | --- |", *rows, ""] if rows else ["It has no parameters.\n"]
    return "\n".join(lines)


def _rows(edit: type[Edit]) -> Iterator[str]:
    for one in list_parameters(edit):
        option = one.option if one.kind is bool else f"{one.option} {one.metavar}"
        text = one.help + (" May be repeated." if one.is_several else "")
        text += f" The function calls it `{one.called}`: `{spelled(one.takes)}`." if one.called != one.name else ""
        cells = (f"`{option}`", _default(one), text)
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |"


def _default(one: Parameter) -> str:
    if one.required:
        return "required"
    if one.otherwise:
        return one.otherwise
    return "off" if one.kind is bool else f"`{one.default}`" if one.default else "none"


if __name__ == "__main__":
    sys.exit(main())
