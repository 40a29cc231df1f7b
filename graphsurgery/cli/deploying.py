"""deploy: the files by which other programs serve a model folder."""

from __future__ import annotations

from typing import Any

import click

from graphsurgery.cli.console import out, print_warnings, run_verb
from graphsurgery.cli.help import VerbCommand
from graphsurgery.cli.options import SHOWN, with_options
from graphsurgery.deploying.deploy import MAX_BATCH, PROCESSORS, PROGRAM, REPLICAS, TARGETS, Deployment, deploy

FOLDER = click.argument("folder", type=click.Path(), metavar="FOLDER")
OPTIONS = (
    click.option("--for", "target", type=click.Choice(TARGETS), required=True, help="The program that is to serve FOLDER."),
    click.option(
        "-o", "--output", type=click.Path(), metavar="OUT",
        help="The folder to write to. [default: beside FOLDER, with the program in its name]",
    ),
    click.option("--name", metavar="NAME", help="How the model is called there. [default: FOLDER's name]"),
    click.option("--file", metavar="NAME", help="The ONNX file, if FOLDER has several. [default: model.onnx]"),
    click.option(
        "--place", metavar="PATH", help="Where the folder lies on the machine that serves it. [default: where it lies here]"
    ),
    click.option("--image", metavar="IMAGE", help="The container image that KServe runs."),
    click.option("--storage", metavar="URI", help="The model repository that KServe hands to Triton."),
    click.option(
        "--program", default=PROGRAM, show_default=True, metavar="PATH", help="The program on that machine, for systemd."
    ),
    click.option(
        "--processors", type=int, default=PROCESSORS, show_default=True, metavar="N",
        help="Processors of one service, for KServe and Ray.",
    ),
    click.option(
        "--replicas", type=int, default=REPLICAS, show_default=True, metavar="N", help="Services that run, for KServe and Ray."
    ),
    click.option(
        "--max-batch", type=int, default=MAX_BATCH, show_default=True, metavar="N",
        help="The most rows of one run, for Triton and TensorRT.",
    ),
    click.option(
        "--longest", type=int, metavar="N", help="The most tokens of a text, for TensorRT. [default: what the folder says]"
    ),
    click.option("--with-model", is_flag=True, help="Copy the ONNX file to where Triton looks for it."),
    click.option("--force", is_flag=True, help="Replace files that exist."),
)  # fmt: skip


def make_deploy_command(verb: str) -> click.Command:
    def callback(as_json: bool, quiet: bool, **options: Any) -> int:
        """Write the files by which Triton, KServe, Ray Serve, Docker, systemd or TensorRT serve FOLDER, from the names, types
        and dims of its ONNX file. Nothing is started."""
        return run_verb(lambda _: deploy(**options), _show, as_json=as_json, quiet=quiet)

    return click.command(verb, cls=VerbCommand)(with_options(callback, (FOLDER,), OPTIONS, SHOWN))


def _show(result: Deployment) -> None:
    print_warnings(result.warnings)
    for file in result.files:
        out.print(f"wrote {result.folder / file}", soft_wrap=True, markup=False)
    out.print(f"then, in {result.folder}:", soft_wrap=True, markup=False)
    for step in result.steps:
        out.print(f"  {step}", soft_wrap=True, markup=False)
