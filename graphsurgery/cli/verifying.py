"""verify: prove a file against the one it was made from."""

from __future__ import annotations

import click

from graphsurgery.cli.console import out, print_json, print_warnings, show_progress
from graphsurgery.cli.help import VerbCommand
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
    click.option(
        "--self", "itself", is_flag=True, help="Compare MODEL with the golden vectors that it records. bake records them."
    ),
    click.option("--texts", type=click.Path(), help="A UTF-8 file with one text per line, to compare on as well."),
    click.option("--atol", type=float, help="The allowed absolute difference between outputs of the same name."),
    click.option("--min-cosine", type=float, help="The smallest allowed cosine between outputs of the same name."),
    click.option(
        "--top-k",
        type=int,
        metavar="K",
        help="Judge a lossy file on real text: the K nearest neighbours of each text. [default: 10]",
    ),
    click.option(
        "--min-overlap", type=float, help="The smallest mean share of these neighbours that both files have in common."
    ),
    click.option("--rank", type=float, help="The smallest rank correlation of the similarities of all pairs of texts."),
    click.option(
        "--outputs",
        is_flag=True,
        help="Compare two files of different makers by their outputs alone, on the inputs that both have.",
    ),
    click.option("--full", is_flag=True, help="Run the whole proof and compare every byte of the weights, whatever the size."),
)


VERBOSE = (click.option("-v", "--verbose", is_flag=True, help="Print every check on every kind of feed."),)


def _refuse_with_self(options: dict[str, object]) -> None:
    """Raise RequestError for options that `verify --self` cannot use: the file records its inputs and its tolerances."""
    listed = " and ".join(option for option, value in options.items() if value is not None)
    if listed:
        raise RequestError(
            f"{listed} cannot be given with --self: the file records its own inputs and how far apart its outputs may be",
            f"leave out {listed}, or give --against SOURCE in place of --self",
        )


def make_verify_command(verb: str) -> click.Command:
    def callback(
        model: str, against: str | None, itself: bool, texts: str | None, atol: float | None, min_cosine: float | None,
        top_k: int | None, min_overlap: float | None, rank: float | None, outputs: bool, full: bool,
        as_json: bool, quiet: bool, verbose: bool,
    ) -> int:  # fmt: skip
        """Prove that MODEL is correct. With --against: the edits that MODEL records, applied to SOURCE, give MODEL's outputs.
        If it records no edits, both files give the same outputs. With --self: MODEL still gives the vectors that it recorded
        when it was made. With --top-k, --min-overlap or --rank: MODEL is a lossy version of SOURCE (int8, float16). Its vectors
        of real texts are judged by these and by --min-cosine, instead of by equality. With --outputs: both files, whoever made
        them, give the same outputs on the inputs that both have. The exit code is 0 if the verdict is
        PASSED, and 1 if it is FAILED or nothing could be checked."""
        if itself and against is not None:
            raise RequestError("--against and --self cannot be given together", "give one of them")
        if not itself and against is None:
            raise RequestError("verify needs something to compare the file with", "give either --against SOURCE or --self")
        if itself:
            _refuse_with_self({
                "--texts": texts, "--atol": atol, "--min-cosine": min_cosine, "--top-k": top_k, "--min-overlap": min_overlap,
                "--rank": rank, "--outputs": outputs or None, "--full": full or None,
            })  # fmt: skip
        with show_progress(quiet or as_json) as progress:
            if against is None:
                report = verify_itself(load(model))
            else:
                report = verify(
                    model, against=against, texts=texts, atol=atol, min_cosine=min_cosine, top_k=top_k,
                    min_overlap=min_overlap, rank=rank, outputs=outputs, full=full, progress=progress,
                )  # fmt: skip
        if as_json:
            print_json({"model": model, "against": against, "report": report.to_json(), "warnings": list(report.warnings)})
        elif quiet:
            print_warnings(report.warnings)
        else:
            from graphsurgery.cli.render import render_report, render_short_report  # rich is not needed for --json

            out.print(render_report(report) if verbose else render_short_report(report))
        return OK if report else VERDICT

    return click.command(verb, cls=VerbCommand)(with_options(callback, (MODEL,), OPTIONS, VERBOSE, SHOWN))
