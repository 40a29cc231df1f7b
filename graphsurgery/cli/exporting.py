"""export: the transformer-only file of a model folder, through Optimum."""

from __future__ import annotations

import click

from graphsurgery.cli.console import out, print_json, progress
from graphsurgery.cli.options import SHOWN, with_options
from graphsurgery.exporting import export

FOLDER = click.argument("model", type=click.Path())
OPTIONS = (
    click.option("-o", "--output", type=click.Path(), help="The file to make. [default: onnx/model.onnx in the folder]"),
    click.option("--force", is_flag=True, help="Replace an existing output."),
)


def export_command(verb: str) -> click.Command:
    def callback(model: str, output: str | None, force: bool, as_json: bool, quiet: bool) -> int:
        """Export the transformer of MODEL, a model folder, to ONNX, alone, and compare it with PyTorch. Needs the extra
        `export`."""
        with progress(quiet or as_json) as tell:
            exported = export(model, output, force=force, progress=tell)
        if as_json:
            print_json(exported.to_json())
        elif not quiet:
            out.print(f"{exported.path.name}: {exported.task}, at most {exported.worst:.1e} from PyTorch")
        return 0

    return click.command(verb)(with_options(callback, (FOLDER,), OPTIONS, SHOWN))
