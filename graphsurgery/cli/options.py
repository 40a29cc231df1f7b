"""The options that several verbs share, and the options made from an edit's parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from graphsurgery.edits.edit import PATH, Edit
from graphsurgery.edits.parameters import Parameter, list_parameters, to_absolute

Decorated = Callable[..., Any]

MODEL = click.argument("model", type=click.Path())
SHOWN = (
    click.option("--json", "as_json", is_flag=True, help="Print a machine-readable report on stdout."),
    click.option("-q", "--quiet", is_flag=True, help="Print nothing but warnings and errors."),
)

SHORTLY = (
    click.option("-v", "--verbose", is_flag=True, help="Print the whole report: every check, a program that runs the file."),
    *SHOWN,
)
"""For verbs that write: they print a few lines unless they are asked for more."""
LIKE = click.option(
    "--like",
    type=click.Path(),
    metavar="FOLDER",
    help="The model's folder, if MODEL lies elsewhere: its pooling config, modules, prompts and tokenizer are MODEL's.",
)


Options = tuple[Callable[[Decorated], Decorated], ...]
STRICT = "Treat any warning as a failure: exit with code 1 and write nothing."


def make_proof_options(dry_run: str, full: str, strict: str = STRICT, keeps_failed: bool = True) -> Options:
    """Return the options of every verb that writes. The first arguments are the help texts of three of them.

    A verb that never keeps an output whose proof failed has no ``--keep-failed``.
    """
    kept = click.option("--keep-failed", is_flag=True, help="Keep an output that failed its proof, so that you can look at it.")
    return (
        click.option("--force", is_flag=True, help="Replace an existing output, never the input."),
        click.option("--dry-run", is_flag=True, help=dry_run),
        click.option("--no-verify", is_flag=True, help="Skip the proof."),
        click.option("--full", is_flag=True, help=full),
        *((kept,) if keeps_failed else ()),
        click.option("--strict", is_flag=True, help=strict),
    )


FULL = "Run the whole proof and compare every byte of the weights, whatever the size."
PROVING = make_proof_options("Do everything except writing. Only what needs no written file is proven.", FULL)
WHOLE = ("Do everything except writing, the whole proof included.", "No effect here: the proof is always the whole one.")
WHOLE_PROOF = make_proof_options(*WHOLE)
"""For verbs whose proof is always the whole one."""
WRITING: Options = (
    click.option(
        "-o", "--output", type=click.Path(), help="Where to write. [default: beside MODEL, with the edit in the name]"
    ),
    *PROVING,
    click.option("--hash-weights", is_flag=True, help="Also record the sha256 of the weights."),
)


def with_options(function: Decorated, *groups: Options) -> Decorated:
    """Add the options of every group to ``function``, in the order in which the help shows them."""
    for group in reversed(groups):
        for option in reversed(group):
            function = option(function)
    return function


def make_edit_options(edit: type[Edit]) -> Options:
    """Return one option per parameter of ``edit``: a flag for a bool, a repeatable option for a tuple, text otherwise."""
    return tuple(map(_make_option, list_parameters(edit)))


def _make_option(one: Parameter) -> Callable[[Decorated], Decorated]:
    text = _describe(one)
    if one.is_path:
        return click.option(
            one.option, one.name, default=one.default, type=click.Path(), callback=_make_absolute, metavar=PATH, help=text
        )
    if one.kind is bool:
        return click.option(one.option, one.name, is_flag=True, default=one.default, help=text)
    if one.is_several:
        return click.option(one.option, one.name, multiple=True, metavar=one.metavar, help=text)
    show = bool(one.default)
    return click.option(one.option, one.name, default=one.default, metavar=one.metavar or "TEXT", show_default=show, help=text)


def _describe(one: Parameter) -> str:
    """Return the text that ``--help`` shows for a parameter."""
    sentences = [one.help, "May be repeated." if one.is_several else "", f"[default: {one.otherwise}]" if one.otherwise else ""]
    return " ".join(filter(None, sentences))


def _make_absolute(_: click.Context, __: click.Parameter, path: str | None) -> str | None:
    return to_absolute(path) if path else path
