"""The reference pages: the verbs of the command line with their options, the library's public names, what --json prints."""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from functools import cached_property
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import click

import graphsurgery
from graphsurgery.cli.main import GROUPS, cli
from graphsurgery.edit_list import EDIT_LIST

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = ROOT / "docs" / "schema.json"
COLUMNS = 100
PRINTED = {
    "bake": "baked", "split-towers": "split_towers", "fix": "fixed", "export": "exported",
    "inspect": "inspection", "verify": "verification", "bench": "benchmark", "embed": "embedded_file", "serve": "served",
    "deploy": "deployment",
    "recipe show": "recorded_recipe", "recipe list": "listed_recipes", "run": "outcome",
    "optimize": "outcome", "quantize": "outcome",
    **{listed.verb: "outcome" for listed in EDIT_LIST.values()},
}  # fmt: skip
"""The definition in the schema for what each verb prints, with the word behind it that decides."""
JSON_HEAD = """\
# What `--json` prints

Every verb takes `--json` and then prints one JSON object. [schema.json](schema.json) is its JSON Schema (draft 2020-12), from
which this page is made. Every key below is always there unless it is marked as optional. Numbers that are not finite are the
texts `nan`, `inf` and `-inf`. Versions may add keys.
"""
CLI_HEAD = """\
# The command line

`graphsurgery VERB --help` shows the same in the terminal. Exit codes: 0 done, and every check that was asked for passed; 1 a
verdict failed, or nothing could be checked; 2 the request, the file or the surroundings are wrong; 3 a bug; 130 interrupted.
"""
API_HEAD = """\
# The library

`import graphsurgery` gives all names below. Every function of an edit has the edit's parameters, which
[the page of edits](edits.md) describes; the classes of the same edits are steps for `graphsurgery.run`.
"""


# --- the command line -------------------------------------------------------------------------------------------------------


def cli_page() -> str:
    """The page that lists every verb with its options."""
    root = click.Context(cli, info_name="graphsurgery")
    sections = [CLI_HEAD]
    for group, verbs in GROUPS.items():
        sections.append(f"## {group}\n")
        for verb in verbs:
            command = cli.get_command(root, verb)
            if command is not None:
                sections += _describe_command(command, click.Context(command, info_name=verb, parent=root), verbs[verb].summary)
    return "\n".join(sections)


def _describe_command(command: click.Command, context: click.Context, summary: str) -> Iterator[str]:
    """Yield the section of a verb, and those of its own verbs if it has any."""
    yield f"### {context.command_path.removeprefix('graphsurgery ')}\n"
    described = _list_paragraphs(command.help or "")
    is_name = summary.startswith(f"{command.name} ")
    yield from [f"{summary if is_name else _capitalize(summary)}.\n", *described] if summary else described
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"    {usage}\n"
    options = [record for one in command.params if (record := one.get_help_record(context)) and record[1]]
    if options:
        yield "\n".join(
            ["| option | what it does |", "| --- | --- |", *(_make_row(f"`{one}`", _shorten(text)) for one, text in options)]
        )
        yield ""
    if examples := getattr(command, "examples", ()):
        yield "Examples:\n\n" + "\n".join(f"    {line}" for line in examples) + "\n"
    if command.epilog:
        yield textwrap.indent(inspect.cleandoc(command.epilog).replace("\b\n", ""), "    ") + "\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None:
                yield from _describe_command(inner, click.Context(inner, info_name=name, parent=context), "")


def _list_paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of a help text as Markdown. One that click must not wrap begins with a backspace."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b"):
            yield textwrap.indent(paragraph.removeprefix("\b").strip("\n"), "    ") + "\n"
        elif paragraph.strip():
            yield _escape(" ".join(paragraph.split())) + "\n"


def _make_row(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def _shorten(text: str) -> str:
    return _escape(" ".join(text.split()))


def _escape(text: str) -> str:
    """Return text for Markdown: no tag begins outside of code, and ``code`` has one backtick on either side."""
    parts = re.split(r"(`+[^`]*`+)", text)
    return "".join(part.replace("``", "`") if index % 2 else part.replace("<", "&lt;") for index, part in enumerate(parts))


def _capitalize(text: str) -> str:
    return text[:1].upper() + text[1:]


# --- the library ------------------------------------------------------------------------------------------------------------


def api_page() -> str:
    """The page that lists every public name with its signature and what it does."""
    edits = {listed.function for listed in EDIT_LIST.values()} | {listed.class_name for listed in EDIT_LIST.values()}
    names = [name for name in graphsurgery.__all__ if name != "__version__" and name not in edits]
    functions = [name for name in names if not inspect.isclass(getattr(graphsurgery, name))]
    sections = [API_HEAD, "## Functions\n", *map(_describe_function, functions), "## Edits\n"]
    for group, listed in groupby(EDIT_LIST.values(), lambda one: one.group):
        rows = [
            _make_row(f"`{one.function}`", f"`{one.class_name}`", f"[{one.verb}](edits.md#{one.verb})", one.summary)
            for one in listed
        ]
        sections += [
            f"{group}:\n",
            "\n".join(["| function | class | edit | what it does |", "| --- | --- | --- | --- |", *rows]),
            "",
        ]
    sections += ["## Classes\n", *(_describe_class(name) for name in names if name not in functions)]
    return "\n".join(sections)


def _describe_function(name: str) -> str:
    function = getattr(graphsurgery, name)
    return f"### {name}\n\n{_quote(f'{name}{_format_signature(function)}')}\n\n{_format_docstring(function)}\n"


def _describe_class(name: str) -> str:
    """Return the section of a class: its docstring, its fields, and its methods and properties."""
    kind = getattr(graphsurgery, name)
    lines = [f"### {name}\n"]
    if kind.__name__ != name:
        return f"{lines[0]}\nAnother name of `{kind.__name__}`.\n"
    if is_dataclass(kind) and not issubclass(kind, Exception):
        lines.append(f"{_quote(f'{kind.__name__}{_format_signature(kind)}')}\n")
    lines.append(f"{_format_docstring(kind)}\n")
    if "__init__" in vars(kind) and kind.__init__.__doc__ and not is_dataclass(kind) and not issubclass(kind, Exception):
        return "\n".join([*lines, *_describe_calls(kind)])
    rows = [*_list_parameters(kind), *_list_fields(kind), *_list_members(kind)]
    lines += ["\n".join(["| name | what it is |", "| --- | --- |", *rows]), ""] if rows else []
    return "\n".join(lines)


def _describe_calls(kind: type) -> Iterator[str]:
    """Yield the constructor and the methods of a class in full, and its properties."""
    yield f"{_quote(f'{kind.__name__}{_format_signature(kind)}')}\n\n{_format_docstring(kind.__init__)}\n"
    public = {name: member for name, member in vars(kind).items() if not name.startswith("_")}
    for name, member in public.items():
        if inspect.isfunction(member):
            bound = f"{name}{_format_signature(member)}".replace("(self, ", "(").replace("(\n    self,\n", "(\n")
            yield f"#### {kind.__name__}.{name}\n\n{_quote(bound)}\n\n{_format_docstring(member)}\n"
    rows = [_make_row(f"`{name}`", _escape(inspect.cleandoc(member.__doc__ or ""))) for name, member in public.items()
            if isinstance(member, property | cached_property)]  # fmt: skip
    yield "\n".join(["| property | what it is |", "| --- | --- |", *rows, ""])


def _list_parameters(kind: type) -> Iterator[str]:
    """Yield a row for each parameter of a rewrite, with the help and the default that its declaration gives."""
    for one in fields(kind) if is_dataclass(kind) else ():
        if one.metadata.get("help"):
            otherwise = f" Default: {one.metadata['otherwise']}." if one.metadata["otherwise"] else ""
            yield _make_row(f"`{one.name}`", _escape(one.metadata["help"] + otherwise))


def _list_fields(kind: type) -> Iterator[str]:
    """Yield a row for each field that has a docstring below it, of the class and of those that it inherits from."""
    for one in reversed(kind.__mro__):
        if not one.__module__.startswith("graphsurgery"):
            continue
        body = next(node for node in ast.walk(_parse(one)) if isinstance(node, ast.ClassDef)).body
        for field, text in pairwise(body):
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr)):
                continue
            if isinstance(text.value, ast.Constant) and not field.target.id.startswith("_"):
                yield _make_row(f"`{field.target.id}`", _escape(str(text.value.value)))


def _parse(kind: type) -> ast.Module:
    return ast.parse(textwrap.dedent(inspect.getsource(kind)))


def _list_members(kind: type) -> Iterator[str]:
    """Yield a row for each public property and method of the package's own classes."""
    seen = set()
    for one in kind.__mro__:
        members = vars(one).items() if one.__module__.startswith("graphsurgery") else ()
        for name, member in members:
            called = isinstance(member, classmethod | staticmethod) or inspect.isfunction(member)
            inner = (
                member.__func__ if isinstance(member, classmethod | staticmethod) else getattr(member, "fget", None) or member
            )
            text = inspect.cleandoc(getattr(inner, "__doc__", None) or "").partition("\n\n")[0]
            if name.startswith("_") or name in seen or not (called or isinstance(member, property)) or not text:
                continue
            seen.add(name)
            yield _make_row(f"`{name}{'()' if called else ''}`", _escape(text))


def _format_signature(function: Any) -> str:
    """Return a signature, one argument a line if it is long."""
    signature = inspect.signature(function)
    arguments = [
        re.sub(r"'([^']*)'", r"\1", str(one)) if "=" not in str(one) else _format_default(one)
        for one in signature.parameters.values()
    ]
    starred = [index for index, one in enumerate(signature.parameters.values()) if one.kind is one.KEYWORD_ONLY][:1]
    for index in starred:
        arguments.insert(index, "*")
    returned = signature.return_annotation
    shown = "" if returned in (signature.empty, None, "None") else f" -> {_format_type(returned)}"
    line = f"({', '.join(arguments)}){shown}"
    if len(line) <= COLUMNS:
        return line
    return "(\n" + "".join(f"    {one},\n" for one in arguments) + f"){shown}"


def _format_default(one: inspect.Parameter) -> str:
    kind = "" if one.annotation is one.empty else f": {_format_type(one.annotation)}"
    default = one.default.__name__ if callable(one.default) else repr(one.default)
    shown = "..." if default.startswith("<") else default
    return f"{one.name}{kind} = {shown}" if kind else f"{one.name}={shown}"


def _format_type(kind: Any) -> str:
    text = kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind)) if isinstance(kind, type) else str(kind)
    return text.replace("collections.abc.", "").replace("typing.", "")


def _format_docstring(of: Any) -> str:
    """Return a docstring as Markdown: paragraphs, and its sections (Args, Returns, Raises) as lists."""
    parts = inspect.cleandoc(inspect.getdoc(of) or "").split("\n\n")
    return "\n\n".join(_format_part(part) for part in parts)


def _format_part(part: str) -> str:
    title, _, rest = part.partition("\n")
    if title in ("Args:", "Returns:", "Raises:") and rest:
        is_list = title == "Args:" or re.match(r"\s*\w+(?:, \w+)*: ", rest)
        items = re.sub(r"\n\s{4,}(?=\s)", " ", textwrap.dedent(rest)) if is_list else " ".join(rest.split())
        listed = [re.sub(r"^(\w+(?:, \w+)*): ", r"`\1`: ", " ".join(one.split())) for one in _split_items(items)]
        return f"{title}\n\n" + "\n".join(f"- {_escape(one)}" for one in listed)
    return textwrap.indent(part, "") if part.startswith("    ") or "\n    " in part else _escape(" ".join(part.split()))


def _split_items(text: str) -> Iterable[str]:
    """Return the items of a section: each begins at the margin."""
    return re.split(r"\n(?=\S)", text)


def _quote(text: str) -> str:
    return textwrap.indent(text, "    ")


# --- what --json prints -----------------------------------------------------------------------------------------------------


def json_page() -> str:
    """The page that lists every key, made from the schema."""
    definitions = json.loads(SCHEMA.read_text(encoding="utf-8"))["$defs"]
    verbs = {kind: [verb for verb, printed in PRINTED.items() if printed == kind] for kind in dict.fromkeys(PRINTED.values())}
    rows = [_make_row(", ".join(f"`{verb}`" for verb in those), _link(kind)) for kind, those in verbs.items()]
    table = ["| verb | prints |", "| --- | --- |", *rows, _make_row("every verb that ends with an error", _link("failure"))]
    return "\n".join([JSON_HEAD, *table, "", *(_describe_definition(name, one) for name, one in definitions.items())])


def _describe_definition(name: str, definition: dict[str, Any]) -> str:
    lines = [f"## {name}\n", f"{_escape(definition['description'])}\n", "| key | type | what it is |", "| --- | --- | --- |"]
    for key, one in definition["properties"].items():
        optional = "" if key in definition["required"] else "Optional. "
        lines.append(_make_row(f"`{key}`", _name_type(one), optional + _escape(one.get("description", ""))))
    return "\n".join([*lines, ""])


def _name_type(one: dict[str, Any]) -> str:
    """Return the type of a value in words."""
    if "$ref" in one:
        return _link(one["$ref"].rpartition("/")[2])
    if "anyOf" in one:
        return " or ".join(_name_type(each) for each in one["anyOf"])
    if "enum" in one:
        return " or ".join(f"`{each}`" for each in one["enum"])
    kinds = one.get("type", "any")
    named = " or ".join(kinds) if isinstance(kinds, list) else kinds
    if named != "array":
        return named
    items = one["items"]
    keys = ", ".join(f"`{key}`" for key in items.get("properties", ()))
    return f"list of {f'objects with {keys}' if keys else _name_type(items)}"


def _link(name: str) -> str:
    return f"[{name}](#{name})"
