"""The ``graphsurgery`` command: runs the verb's command and turns errors into messages and exit codes.

Exit codes: 0 done, and what was asked to be checked passed; 1 a verdict failed or nothing could be checked; 2 the request,
the file or the surroundings are wrong; 3 a bug; 130 interrupted.
"""

from __future__ import annotations

import errno
import importlib
import json
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click

from graphsurgery.cli.printing import CannotPrintError, printing
from graphsurgery.cli.verbs import GROUPS, VERBS
from graphsurgery.version import __version__

OK, VERDICT, WRONG, BUG, INTERRUPTED = 0, 1, 2, 3, 130


REFUSALS = frozenset({
    errno.EACCES, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EPERM, errno.EROFS,
    errno.ESTALE, errno.ETIMEDOUT,
})  # fmt: skip
"""Errors of the system that are about disks, space and permissions. They are no bugs of ours, wherever they come up."""


class LazyGroup(click.Group):
    """Imports a verb's command only when somebody asks for it, so that ``--help`` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, function = VERBS[cmd_name].command.split(":")
        command: click.Command = getattr(importlib.import_module(f"graphsurgery.cli.{module}"), function)(cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for group, verbs in GROUPS.items():
            with formatter.section(group):
                formatter.write_dl([(name, verb.summary) for name, verb in verbs.items()])


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`graphsurgery VERB --help` shows a verb's options. Every verb takes --json and --quiet.",
)
@click.version_option(__version__, prog_name="graphsurgery")
def cli() -> None:
    """ONNX graph surgery for embedding models: from a transformer-only file to one whose output is the embedding, proven."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with printing():
            code = run(given)
    except CannotPrintError as error:
        if error.closed:  # the reader of our output has closed it
            sys.exit(OK)
        with suppress(OSError):  # stderr itself may be broken
            click.echo(f"error: the output cannot be printed: {error}", err=True)
        code = WRONG
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code."""
    as_json = "--json" in arguments
    try:
        code = cli.main(args=list(arguments), prog_name="graphsurgery", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return WRONG
    except click.ClickException as error:
        return _wrong_usage(error, as_json)
    except (click.Abort, KeyboardInterrupt):
        if as_json:
            _print_error("KeyboardInterrupt", "interrupted", "nothing was left behind")
        click.echo("interrupted; nothing was left behind", err=True)
        return INTERRUPTED
    except CannotPrintError:
        raise
    except Exception as error:
        return _failed(error, as_json)
    return code if isinstance(code, int) else OK


def _wrong_usage(error: click.ClickException, as_json: bool) -> int:
    if as_json:
        _print_error(type(error).__name__, error.format_message(), "see graphsurgery --help")
    else:
        error.show()
    return WRONG


def _failed(error: Exception, as_json: bool) -> int:
    """Print an error and return its exit code. An error that is not ours is a bug and gets a traceback."""
    from graphsurgery.errors import GraphSurgeryError, VerificationFailed  # --help must not wait for it

    error = _named(error)
    if not isinstance(error, GraphSurgeryError):
        traceback.print_exception(error)
        advice = "this is a bug in graphsurgery: please report it with the traceback and, if you can, the file"
        if as_json:
            _print_error(type(error).__name__, str(error), advice)
        else:
            click.echo(advice, err=True)
        return BUG
    if as_json:
        outcome = getattr(error, "outcome", None)
        _print_error(type(error).__name__, error.message, error.advice, outcome.to_json() if outcome is not None else None)
    else:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {error.message}", err=True)
        if error.advice:
            click.echo(f"{click.style('what to do:', bold=True)} {error.advice}", err=True)
    return VERDICT if isinstance(error, VerificationFailed) else WRONG


def _named(error: Exception) -> Exception:
    """Return ``error``, or a SurroundingsError in its place if the system refused something, as with a full disk."""
    from graphsurgery.errors import GraphSurgeryError, SurroundingsError

    if isinstance(error, GraphSurgeryError) or not isinstance(error, OSError) or error.errno not in REFUSALS:
        return error
    where = f"{error.filename}: " if error.filename else ""
    return SurroundingsError(f"{where}{error.strerror}", "see what is wrong with the disk, its space or its permissions")


def _print_error(kind: str, message: str, advice: str, outcome: dict[str, Any] | None = None) -> None:
    """Print the error as JSON. If a proof failed, its report is in ``outcome``."""
    content: dict[str, Any] = {"error": {"type": kind, "message": message, "advice": advice}}
    click.echo(json.dumps(content | ({"outcome": outcome} if outcome is not None else {}), indent=2))
