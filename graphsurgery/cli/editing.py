"""The verbs that write a file: one command per edit, its options from the edit's declaration."""

from __future__ import annotations

from typing import Any

import click

from graphsurgery.cli.console import err, out, print_json, progress
from graphsurgery.cli.options import MODEL, SHOWN, WRITING, edit_options, with_options
from graphsurgery.edits.registry import EDITS
from graphsurgery.errors import VerificationFailed
from graphsurgery.outcome import Outcome
from graphsurgery.runner import run


def edit_command(verb: str) -> click.Command:
    """The command of an edit: its parameters, and what every writing verb takes."""
    edit = EDITS[verb]

    def callback(
        model: str, as_json: bool, quiet: bool, output: str | None, force: bool, dry_run: bool, no_verify: bool,
        full: bool, keep_failed: bool, hash_weights: bool, **parameters: Any,
    ) -> int:  # fmt: skip
        with progress(quiet or as_json) as tell:
            try:
                outcome = run(
                    [edit(**parameters)], model, output=output, verify=not no_verify, full=full, force=force,
                    dry_run=dry_run, keep_failed=keep_failed, hash_weights=hash_weights, progress=tell,
                )  # fmt: skip
            except VerificationFailed as error:
                show_failed(error, as_json, quiet)
                raise
        show(outcome, as_json, quiet)
        return 0

    decorated = with_options(callback, (MODEL,), edit_options(edit), WRITING, SHOWN)
    return click.command(verb, help=edit.__doc__, short_help=edit.summary)(decorated)


def show(outcome: Outcome, as_json: bool, quiet: bool) -> None:
    if as_json:
        print_json(outcome.to_json())
    elif not quiet:
        from graphsurgery.cli.render_outcome import print_outcome  # rich's tables are not needed for --json

        print_outcome(out, outcome)


def show_failed(error: VerificationFailed, as_json: bool, quiet: bool) -> None:
    """Print the details of an output that is wrong. `main` prints the error itself."""
    if isinstance(error.outcome, Outcome) and not as_json and not quiet:
        from graphsurgery.cli.render_outcome import print_failed  # as above

        print_failed(err, error.outcome)
