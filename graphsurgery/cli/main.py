"""The ``graphsurgery`` command: runs a verb's command and turns errors into messages and exit codes.

Exit codes: 0 done, and every check that was asked for passed; 1 a verdict failed or nothing could be checked; 2 the request,
the file or the surroundings are wrong; 3 a bug; 130 interrupted. Nothing heavy is imported before a verb is chosen.
"""

from __future__ import annotations

import errno
import importlib
import json
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import click

from graphsurgery.cli.printing import CannotPrintError, guard_output
from graphsurgery.edit_list import EDIT_LIST
from graphsurgery.version import __version__

OK, VERDICT, WRONG, BUG, INTERRUPTED = 0, 1, 2, 3, 130


class Verb(NamedTuple):
    """A verb of the command line."""

    command: str
    """The function that makes the verb's command, as ``module:function`` within this package."""
    summary: str
    """The line that ``--help`` shows."""


GROUPS: dict[str, dict[str, Verb]] = {
    "Whole models": {
        "bake": Verb(
            "baking:make_bake_command", "make one verified file of a whole model folder, in a folder ready to publish"
        ),
        "run": Verb("recipes:make_run_command", "run a recipe file (edits and checks) on a file or a model folder"),
        "recipe": Verb("recipes:make_recipe_command", "recipe show MODEL: print the recipe that made a file"),
        "optimize": Verb(
            "optimizing:make_optimize_command", "fuse for ONNX Runtime, say what did not fuse and why, and prove it"
        ),
        "quantize": Verb(
            "quantizing:make_quantize_command", "compute in 8-bit integers as far as a budget of quality allows, and prove it"
        ),
        "export": Verb("exporting:make_export_command", "export the transformer of a model folder to ONNX, with PyTorch"),
    },
    "Look and prove": {
        "inspect": Verb("inspecting:make_inspect_command", "show a file's interface, encoder and head, and who can read it"),
        "verify": Verb("verifying:make_verify_command", "prove a file against the one it was made from"),
        "bench": Verb("benching:make_bench_command", "measure latency, throughput and memory of models, side by side"),
    },
}
"""The verbs as ``--help`` groups them."""
for _one in EDIT_LIST.values():
    GROUPS.setdefault(_one.group, {})[_one.verb] = Verb("editing:make_edit_command", _one.summary)
VERBS = {name: verb for group in GROUPS.values() for name, verb in group.items()}

REFUSALS = frozenset({
    errno.EACCES, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EPERM, errno.EROFS,
    errno.ESTALE, errno.ETIMEDOUT,
})  # fmt: skip
"""The system's errors about disks, space and permissions. They are never bugs of graphsurgery."""


class LazyGroup(click.Group):
    """Imports a verb's command only when it is needed, so that ``--help`` is quick."""

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
    try:
        with guard_output():
            code = run(sys.argv[1:] if arguments is None else arguments)
    except CannotPrintError as error:
        if error.is_closed:  # the reader of our output has closed it
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
        return _report_wrong_usage(error, as_json)
    except (click.Abort, KeyboardInterrupt):
        if as_json:
            _print_error("KeyboardInterrupt", "interrupted", "nothing was left behind")
        click.echo("interrupted; nothing was left behind", err=True)
        return INTERRUPTED
    except CannotPrintError:
        raise
    except Exception as error:
        return _report(error, as_json)
    return code if isinstance(code, int) else OK


def _report_wrong_usage(error: click.ClickException, as_json: bool) -> int:
    if as_json:
        _print_error(type(error).__name__, error.format_message(), "see graphsurgery --help")
    else:
        error.show()
    return WRONG


def _report(error: Exception, as_json: bool) -> int:
    """Print an error and return its exit code. An error that is not ours is a bug and gets a traceback."""
    from graphsurgery.errors import GraphSurgeryError, VerificationFailed  # --help must not wait for it

    error = _recognize_refusal(error)
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


def _recognize_refusal(error: Exception) -> Exception:
    """Return ``error``, or a SurroundingsError in its place if the system refused something, for example on a full disk."""
    from graphsurgery.errors import GraphSurgeryError, SurroundingsError

    if isinstance(error, GraphSurgeryError) or not isinstance(error, OSError) or error.errno not in REFUSALS:
        return error
    where = f"{error.filename}: " if error.filename else ""
    return SurroundingsError(f"{where}{error.strerror}", "check the disk, its free space and its permissions")


def _print_error(kind: str, message: str, advice: str, outcome: dict[str, Any] | None = None) -> None:
    """Print an error as JSON. ``outcome`` holds the report of a proof that failed."""
    content: dict[str, Any] = {"error": {"type": kind, "message": message, "advice": advice}}
    click.echo(json.dumps(content | ({"outcome": outcome} if outcome is not None else {}), indent=2))
