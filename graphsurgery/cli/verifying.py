"""verify: prove a file against the one it was made from."""

from __future__ import annotations

import click

from graphsurgery.cli.console import out, print_json, progress
from graphsurgery.cli.main import OK, VERDICT
from graphsurgery.cli.options import MODEL, SHOWN, with_options
from graphsurgery.errors import RequestError
from graphsurgery.model.loading import load
from graphsurgery.proof.golden import verify_itself
from graphsurgery.proof.verify import verify

OPTIONS = (
    click.option(
        "--against",
        type=click.Path(),
        metavar="SOURCE",
        help="The file before the edit, or any file with the same inputs.",
    ),
    click.option("--self", "itself", is_flag=True, help="Hold MODEL against the golden vectors that it records, as bake does."),
    click.option("--texts", type=click.Path(), help="A UTF-8 file of texts, one a line, to compare on as well."),
    click.option("--atol", type=float, help="Allowed absolute difference between outputs of the same name."),
    click.option("--min-cosine", type=float, help="Smallest allowed cosine between outputs of the same name."),
    click.option("--full", is_flag=True, help="The whole proof, every byte of the weights compared, at any size."),
)


def _refuse_with_self(given: dict[str, object]) -> None:
    """RequestError for options that `verify --self` has no use for: the file records its inputs, and how far it may be off."""
    listed = " and ".join(option for option, value in given.items() if value is not None)
    if listed:
        raise RequestError(
            f"{listed} cannot be given with --self: the file records its own inputs and how far apart its outputs may be",
            f"leave out {listed}, or give --against SOURCE in place of --self",
        )


def verify_command(verb: str) -> click.Command:
    def callback(
        model: str, against: str | None, itself: bool, texts: str | None, atol: float | None, min_cosine: float | None,
        full: bool, as_json: bool, quiet: bool,
    ) -> int:  # fmt: skip
        """Prove that MODEL computes what the edits it records mean, applied to SOURCE; or, where it records none, that both
        files give the same outputs; or, with --self, that it still gives what it recorded when it was made. Exit code 0 when
        the verdict is PASSED, 1 when it is FAILED or nothing could be checked."""
        if itself == (against is not None):
            raise RequestError("verify needs something to hold the file against", "give either --against SOURCE or --self")
        if itself:
            _refuse_with_self({"--texts": texts, "--atol": atol, "--min-cosine": min_cosine, "--full": full or None})
        with progress(quiet or as_json) as tell:
            if against is None:
                report = verify_itself(load(model))
            else:
                report = verify(model, against=against, texts=texts, atol=atol, min_cosine=min_cosine, full=full, progress=tell)
        if as_json:
            print_json({"model": model, "against": against, "report": report.to_json()})
        elif not quiet:
            from rich.text import Text  # rich is not needed for --json

            from graphsurgery.cli.render import STYLES, report_details

            out.print(report_details(report))
            out.print(Text.assemble((report.verdict.value, STYLES[report.verdict]), f"  {report.cases} cases compared"))
        return OK if report else VERDICT

    return click.command(verb)(with_options(callback, (MODEL,), OPTIONS, SHOWN))
