"""The verbs of the edits: one command per edit, its options from the edit's declaration."""

from __future__ import annotations

from typing import Any

import click

from graphsurgery.cli.console import run_verb
from graphsurgery.cli.help import VerbCommand
from graphsurgery.cli.options import LIKE, MODEL, SHORTLY, WRITING, make_edit_options, with_options
from graphsurgery.edits.edit import EDITS
from graphsurgery.encoder.head import POOLING
from graphsurgery.outcome import Outcome
from graphsurgery.runner import run


def make_edit_command(verb: str) -> click.Command:
    """Return the command of an edit: its parameters, and the options of every verb that writes."""
    edit = EDITS[verb]
    like = (LIKE,) if verb == POOLING else ()

    def callback(
        model: str, as_json: bool, quiet: bool, verbose: bool, output: str | None, force: bool, dry_run: bool, no_verify: bool,
        full: bool, keep_failed: bool, strict: bool, hash_weights: bool, **parameters: Any,
    ) -> int:  # fmt: skip
        folder = parameters.pop("like") if like else None
        return run_verb(
            lambda progress: run(
                [edit(**parameters)], model, output=output, verify=not no_verify, full=full, force=force,
                dry_run=dry_run, keep_failed=keep_failed, strict=strict, hash_weights=hash_weights, like=folder,
                progress=progress,
            ),
            show_outcome, as_json=as_json, quiet=quiet, brief=not verbose,
        )  # fmt: skip

    decorated = with_options(callback, (MODEL,), make_edit_options(edit), like, WRITING, SHORTLY)
    about = (edit.__doc__ or "").replace("``", "`")
    return click.command(verb, cls=VerbCommand, help=about, short_help=edit.summary)(decorated)


def show_outcome(outcome: Outcome) -> None:
    from graphsurgery.cli.render_outcome import print_outcome  # rich's tables are not needed for --json

    print_outcome(outcome)
