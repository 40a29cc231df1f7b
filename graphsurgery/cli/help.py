"""The pages of ``--help``: bold headings and green names on a terminal, and two examples at the end of each verb's page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click

from graphsurgery.suggestions import find_spelling


class ColouredFormatter(click.HelpFormatter):
    """Writes headings in bold green and names in cyan. click removes both if stdout is not a terminal."""

    def write_heading(self, heading: str) -> None:
        self.write(f"{'':>{self.current_indent}}{click.style(f'{heading}:', fg='green', bold=True)}\n")

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        super().write_usage(prog, args, click.style("Usage: ", fg="green", bold=True) if prefix is None else prefix)

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        super().write_dl([(click.style(name, fg="cyan"), text) for name, text in rows], col_max, col_spacing)


class ColouredContext(click.Context):
    """A context whose help pages are coloured."""

    formatter_class = ColouredFormatter


class VerbCommand(click.Command):
    """The command of a verb. Its help ends with examples."""

    context_class = ColouredContext
    examples: Sequence[str] = ()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments. Options may be spelt the British way: ``--normalise``."""
        options = [name for option in self.params for name in option.opts]
        return super().parse_args(ctx, [find_spelling(one, options) for one in args])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        with formatter.section("Examples"):
            for line in self.examples:
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")  # unwrapped, so that it can be copied


def write_list(formatter: click.HelpFormatter, heading: str, rows: Sequence[tuple[str, str]]) -> None:
    """Write a heading with names and texts below it."""
    with formatter.section(heading):
        formatter.write_dl(rows)
