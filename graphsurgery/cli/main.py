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

from graphsurgery.cli.help import ColouredContext, VerbCommand, write_list
from graphsurgery.cli.printing import CannotPrintError, guard_output
from graphsurgery.edit_list import EDIT_LIST
from graphsurgery.suggestions import find_spelling, suggest
from graphsurgery.version import __version__

SHOW_ALL = "graphsurgery.show_all"
"""Whether the help lists all verbs: a key of click's context."""
OK, VERDICT, WRONG, BUG, INTERRUPTED = 0, 1, 2, 3, 130


class Verb(NamedTuple):
    """A verb of the command line."""

    command: str
    """The function that makes the verb's command, as ``module:function`` within this package."""
    summary: str
    """The line that ``--help`` shows."""
    examples: tuple[str, ...]
    """What follows the verb in the two command lines that its help ends with. `tests/test_help.py` runs them."""


GROUPS: dict[str, dict[str, Verb]] = {
    "Whole models": {
        "bake": Verb(
            "baking:make_bake_command",
            "make one proven file of a model folder, ready to publish",
            ("my-model", "my-model --truncate-dim 16 -o my-model-16"),
        ),
        "run": Verb(
            "recipes:make_run_command",
            "run a recipe, by name or from a file, on a file or a folder",
            (
                "minilm model.onnx",
                "minilm model.onnx -o embedder.onnx --dry-run",
            ),
        ),
        "recipe": Verb(
            "recipes:make_recipe_command",
            "recipe list: our recipes; recipe show NAME|MODEL: print one",
            ("list", "show model.pooled.onnx"),
        ),
        "optimize": Verb(
            "optimizing:make_optimize_command",
            "fuse operators for ONNX Runtime, and prove the result",
            (
                "model.pooled.onnx",
                "model.pooled.onnx --fp16 --no-timing -o half.onnx",
            ),
        ),
        "quantize": Verb(
            "quantizing:make_quantize_command",
            "compute in 8-bit integers within a budget of quality",
            (
                "model.pooled.onnx --min-cosine 0.99",
                "model.pooled.onnx --scheme weights-8bit --no-timing -o small-weights.onnx",
            ),
        ),
        "split-towers": Verb(
            "splitting:make_split_command",
            "write the two towers of a joint model of texts and pictures",
            ("joint.onnx -o towers", "joint.onnx -o towers --raw --separate --force"),
        ),
        "fix": Verb(
            "fixing:make_fix_command",
            "mend the known faults of an export, or name them",
            ("fixed-speech.onnx", "masked-frames.onnx -o mended.onnx"),
        ),
        "embed": Verb(
            "embedding:make_embed_command",
            "embed a file of texts, in a run that can be interrupted",
            (
                "texts.txt --model my-model-baked -o vectors.parquet",
                "texts.txt --model my-model-baked --precision float16 -o vectors.npy",
            ),
        ),
        "serve": Verb(
            "serving:make_serve_command",
            "serve a folder over HTTP: the routes of TEI, OpenAI, Cohere",
            ("my-model-baked", "my-model-baked --port 9000 --cache redis://localhost:6379/0 --json-logs"),
        ),
        "deploy": Verb(
            "deploying:make_deploy_command",
            "write the files by which Triton, Docker and others serve a folder",
            (
                "my-model-baked --for triton -o repository --with-model",
                "my-model-baked --for systemd --place /srv/models/my-model",
            ),
        ),
        "export": Verb(
            "exporting:make_export_command",
            "export the transformer of a model folder, with PyTorch",
            ("my-model", "my-model --hidden-states -o encoder.onnx"),
        ),
    },
    "Look and prove": {
        "inspect": Verb(
            "inspecting:make_inspect_command",
            "describe a file: interface, encoder, head, who can read it",
            ("model.onnx", "model.onnx --ops"),
        ),
        "verify": Verb(
            "verifying:make_verify_command",
            "prove a file against the one that it was made from",
            (
                "model.pooled.onnx --against model.onnx",
                "my-model-baked/onnx/model.onnx --self",
            ),
        ),
        "bench": Verb(
            "benching:make_bench_command",
            "measure latency, throughput and memory, side by side",
            (
                "model.onnx model.pooled.onnx",
                "model.pooled.onnx --batches 1,8 --lengths 16,32 --seconds 0.5",
            ),
        ),
    },
}
"""The verbs as ``--help-all`` groups them."""
for _one in EDIT_LIST.values():
    GROUPS.setdefault(_one.group, {})[_one.verb] = Verb("editing:make_edit_command", _one.summary, _one.examples)
VERBS = {name: verb for group in GROUPS.values() for name, verb in group.items()}
FIRST = ("export", "inspect", "add-pooling", "bake", "verify", "optimize", "quantize", "bench", "embed", "serve")
"""The ten verbs that most users need, in the order in which they need them. ``--help`` shows these, ``--help-all`` all."""

REFUSALS = frozenset({
    errno.EACCES, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EPERM, errno.EROFS,
    errno.ESTALE, errno.ETIMEDOUT,
})  # fmt: skip
"""The system's errors about disks, space and permissions. They are never bugs of graphsurgery."""


class LazyGroup(click.Group):
    """Imports a verb's command only when it is needed, so that ``--help`` is quick."""

    context_class = ColouredContext

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        cmd_name = find_spelling(cmd_name, VERBS)
        if cmd_name not in VERBS:
            return None
        module, function = VERBS[cmd_name].command.split(":")
        command: VerbCommand = getattr(importlib.import_module(f"graphsurgery.cli.{module}"), function)(cmd_name)
        command.examples = [f"graphsurgery {cmd_name} {arguments}" for arguments in VERBS[cmd_name].examples]
        return command

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs before the options, because they are looked for first."""
        self.format_commands(ctx, formatter)
        click.Command.format_options(self, ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups = GROUPS if ctx.meta.get(SHOW_ALL) else {"Verbs, in order of use": {name: VERBS[name] for name in FIRST}}
        for group, verbs in groups.items():
            write_list(formatter, group, [(name, verb.summary) for name, verb in verbs.items()])


def _show_all_verbs(context: click.Context, _: click.Parameter, is_wanted: bool) -> None:
    if is_wanted:
        context.meta[SHOW_ALL] = True
        click.echo(context.get_help(), color=context.color)
        context.exit()


@click.command(
    cls=LazyGroup,
    subcommand_metavar="VERB ...",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=f"`graphsurgery --help-all` lists all {len(VERBS)} verbs. `graphsurgery VERB --help` shows a verb's options and two "
    "examples. Every verb takes --json and --quiet.",
)
@click.option(
    "--help-all", is_flag=True, is_eager=True, expose_value=False, callback=_show_all_verbs, help="Show all verbs and exit."
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
    message, advice = _explain_wrong_usage(error)
    if as_json:
        _print_error(type(error).__name__, message, advice)
    else:
        _show_error(message, advice)
    return WRONG


def _explain_wrong_usage(error: click.ClickException) -> tuple[str, str]:
    """Return click's error in our words: what is wrong, and what to do."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "graphsurgery"
    if isinstance(error, click.exceptions.NoSuchCommand):
        advice = f"{suggest(error.command_name, VERBS)}`graphsurgery --help-all` lists all verbs"
        return f"there is no verb {error.command_name!r}", advice
    if isinstance(error, click.NoSuchOption):
        options = [one for option in context.command.params for one in option.opts] if context is not None else []
        advice = f"{suggest(error.option_name, options)}`{command} --help` lists the options"
        return f"{command} has no option {error.option_name}", advice
    message = error.format_message().removesuffix(".")
    return message[:1].lower() + message[1:], f"`{command} --help` shows how it is used"


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
        _show_error(error.message, error.advice)
    return VERDICT if isinstance(error, VerificationFailed) else WRONG


def _show_error(message: str, advice: str) -> None:
    click.echo(f"{click.style('error:', fg='red', bold=True)} {message}", err=True)
    if advice:
        click.echo(f"{click.style('what to do:', bold=True)} {advice}", err=True)


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
