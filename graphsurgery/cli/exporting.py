"""export: the transformer-only file of a model folder."""

from __future__ import annotations

from typing import Any

import click

from graphsurgery.cli.console import out, print_warnings, run_verb
from graphsurgery.cli.help import VerbCommand
from graphsurgery.cli.options import SHORTLY, STRICT, with_options
from graphsurgery.exporting.export_folder import Exported, export

FOLDER = click.argument("model", type=click.Path())
OPTIONS = (
    click.option("-o", "--output", type=click.Path(), help="The file to make. [default: onnx/model.onnx in the folder]"),
    click.option("--tower", metavar="text|image", help="The tower to export, of a model of several (CLIP, SigLIP)."),
    click.option("--hidden-states", is_flag=True, help="Make every layer's hidden state an output, too."),
    click.option("--force", is_flag=True, help="Replace an existing output."),
    click.option("--strict", is_flag=True, help=STRICT),
)


def make_export_command(verb: str) -> click.Command:
    def callback(model: str, output: str | None, as_json: bool, quiet: bool, verbose: bool, **options: Any) -> int:
        """Export the transformer of MODEL, a model folder, to ONNX, and compare the file with PyTorch. The encoder may take
        texts, pictures or waveforms. Needs the extra `export`."""
        return run_verb(
            lambda progress: export(model, output, progress=progress, **options),
            _show,
            as_json=as_json,
            quiet=quiet,
            brief=not verbose,
        )

    return click.command(verb, cls=VerbCommand)(with_options(callback, (FOLDER,), OPTIONS, SHORTLY))


def _show(exported: Exported) -> None:
    print_warnings(exported.warnings)
    out.print(
        f"{exported.path.name}: {exported.task}, exported by {exported.program}; "
        f"differs from PyTorch by at most {exported.worst:.1e}"
    )
