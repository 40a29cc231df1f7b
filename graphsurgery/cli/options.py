"""The options that several verbs share, and the options made from an edit's parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from graphsurgery.edits.edit import PATH, Edit
from graphsurgery.edits.parameters import Parameter, absolute, parameters_of

Decorated = Callable[..., Any]

MODEL = click.argument("model", type=click.Path())
SHOWN = (
    click.option("--json", "as_json", is_flag=True, help="A machine-readable report on stdout."),
    click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors."),
)


def proving(dry_run: str, full: str) -> tuple[Callable[[Decorated], Decorated], ...]:
    """The options of every verb that writes. ``dry_run`` and ``full`` are the help texts of these two options."""
    return (
        click.option("--force", is_flag=True, help="Replace an existing output; never the input."),
        click.option("--dry-run", is_flag=True, help=dry_run),
        click.option("--no-verify", is_flag=True, help="Skip the proof."),
        click.option("--full", is_flag=True, help=full),
        click.option("--keep-failed", is_flag=True, help="Keep an output whose proof failed, so that you can look at it."),
    )


PROVING = proving(
    "Do everything but write; only the head is proven.", "The whole proof, every byte of the weights compared, at any size."
)
WRITING: tuple[Callable[[Decorated], Decorated], ...] = (
    click.option(
        "-o", "--output", type=click.Path(), help="Where to write. [default: beside MODEL, with the edit in its name]"
    ),
    *PROVING,
    click.option("--hash-weights", is_flag=True, help="Record a sha256 of the weights as well."),
)


def with_options(function: Decorated, *groups: tuple[Callable[[Decorated], Decorated], ...]) -> Decorated:
    """Add the options of every group to ``function``, in the order in which the help shows them."""
    for group in reversed(groups):
        for option in reversed(group):
            function = option(function)
    return function


def edit_options(edit: type[Edit]) -> tuple[Callable[[Decorated], Decorated], ...]:
    """One option per parameter of ``edit``: a flag for a bool, a repeatable option for a tuple, text otherwise."""
    return tuple(map(_option, parameters_of(edit)))


def _option(one: Parameter) -> Callable[[Decorated], Decorated]:
    text = option_help(one)
    if one.is_path:
        return click.option(one.option, default=one.default, type=click.Path(), callback=_from_here, metavar=PATH, help=text)
    if one.kind is bool:
        return click.option(one.option, is_flag=True, default=one.default, help=text)
    if one.is_several:
        return click.option(one.option, multiple=True, metavar=one.metavar, help=text)
    show = bool(one.default)
    return click.option(one.option, default=one.default, metavar=one.metavar or "TEXT", show_default=show, help=text)


def option_help(one: Parameter) -> str:
    """What ``--help`` says of a parameter."""
    sentences = [one.help, "May be repeated." if one.is_several else "", f"[default: {one.otherwise}]" if one.otherwise else ""]
    return " ".join(filter(None, sentences))


def _from_here(_: click.Context, __: click.Parameter, path: str | None) -> str | None:
    return absolute(path) if path else path
