"""Options that verbs share, and the options that an edit's declaration gives."""

from __future__ import annotations

import os
import typing
from collections.abc import Callable
from typing import Any

import click

from graphsurgery.edits.edit import Edit

Decorated = Callable[..., Any]

MODEL = click.argument("model", type=click.Path())
SHOWN = (
    click.option("--json", "as_json", is_flag=True, help="A machine-readable report on stdout."),
    click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors."),
)


def proving(dry_run: str, full: str) -> tuple[Callable[[Decorated], Decorated], ...]:
    """The options of every verb that writes; ``dry_run`` and ``full`` say what these do there."""
    return (
        click.option("--force", is_flag=True, help="Replace an existing output; never the input."),
        click.option("--dry-run", is_flag=True, help=dry_run),
        click.option("--no-verify", is_flag=True, help="Leave the proof out."),
        click.option("--full", is_flag=True, help=full),
        click.option("--keep-failed", is_flag=True, help="Keep an output whose proof failed, for a look."),
    )


PROVING = proving(
    "Do everything but write; only the head is proven.", "The whole proof, every byte of the weights compared, at any size."
)
WRITING: tuple[Callable[[Decorated], Decorated], ...] = (
    click.option("-o", "--output", type=click.Path(), help="Where to. [default: beside MODEL, the step in its name]"),
    *PROVING,
    click.option("--hash-weights", is_flag=True, help="Record a sha256 of the weights as well."),
)


def with_options(function: Decorated, *groups: tuple[Callable[[Decorated], Decorated], ...]) -> Decorated:
    """``function`` with the options of every group, in the order in which help shows them."""
    for group in reversed(groups):
        for option in reversed(group):
            function = option(function)
    return function


def edit_options(edit: type[Edit]) -> tuple[Callable[[Decorated], Decorated], ...]:
    """One option per declared parameter: a flag for bool, repeatable for tuples, text otherwise."""
    kinds = typing.get_type_hints(edit)
    return tuple(_option(field.name, kinds[field.name], field.default, field.metadata) for field in edit.declared())


def _from_here(_: click.Context, __: click.Parameter, path: str | None) -> str | None:
    """A path as typed starts at the current folder, wherever the model lies."""
    return os.path.abspath(path) if path else path  # noqa: PTH100 -- not resolved: symlinks are the reader's business


def _option(name: str, kind: Any, default: Any, metadata: Any) -> Callable[[Decorated], Decorated]:
    flag = f"--{name.replace('_', '-')}"
    text = metadata["help"]
    if metadata["metavar"] == "PATH":
        return click.option(flag, default=default, type=click.Path(), callback=_from_here, metavar="PATH", help=text)
    if kind is bool:
        return click.option(flag, is_flag=True, default=default, help=text)
    if typing.get_origin(kind) is tuple:
        return click.option(flag, multiple=True, metavar=metadata["metavar"], help=text)
    return click.option(flag, default=default, metavar=metadata["metavar"] or "TEXT", show_default=bool(default), help=text)
