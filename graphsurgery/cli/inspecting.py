"""inspect: describe a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from graphsurgery.cli.console import out, print_json
from graphsurgery.cli.main import OK
from graphsurgery.cli.options import MODEL, SHOWN, with_options
from graphsurgery.inspection import Inspection, inspect
from graphsurgery.interface import type_name


def make_inspect_command(verb: str) -> click.Command:
    def callback(model: str, as_json: bool, quiet: bool) -> int:
        """Describe MODEL: its interface, encoder, head, layers and precision, warnings, and which programs can read it. Runs
        nothing and reads no weights."""
        inspection = inspect(model)
        if as_json:
            print_json(inspection.to_json())
        elif not quiet:
            _show(inspection)
        return OK

    return click.command(verb)(with_options(callback, (MODEL,), SHOWN))


def _show(inspection: Inspection) -> None:
    from rich.text import Text  # rich is not needed for --json

    from graphsurgery.cli import render

    out.print(Text(inspection.path or "model", style="bold"))
    out.print(render.render_section("Interface", render.render_interface(inspection.interface, inspection.optional_inputs)))
    out.print(render.render_section("Encoder", render.render_facts(_describe_encoder(inspection))))
    out.print(render.render_section("File", render.render_facts(_describe_file(inspection))))
    if inspection.warnings:
        out.print(render.render_section("Warnings", render.render_paragraphs(inspection.warnings)))
    out.print(render.render_section(render.CONSUMERS, render.render_consumers(inspection.consumers)))


def _describe_rewrites(recorded: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what the records of rewrites say of the encoder."""
    form = recorded.get("padding_free")
    for_, version = recorded.get("for"), recorded.get("onnxruntime") or "unknown"
    quantised = recorded.get("quantized")
    if for_ is not None or (form is None and quantised is None):
        yield "optimized", f"for {for_ or 'any runtime'}, with ONNX Runtime {version}"
    if form is not None:
        full = "; batches without any padding run as before" if recorded.get("keep_padded") else ""
        yield "padding-free", f"computes on tokens alone; attention by {form!r}{full}"
    if quantised is not None:
        scheme, target = quantised.get("scheme"), quantised.get("target")
        budget = f", least cosine {quantised['min_cosine']:g}" if "min_cosine" in quantised else ""
        yield "quantised", f"{quantised.get('products')} products by the scheme {scheme}, for {target}{budget}"


def _describe_encoder(inspection: Inspection) -> list[tuple[str, str]]:
    tables = inspection.tables
    foreign = "none by graphsurgery" if inspection.pooled else "none: the file does not pool"
    facts = [("head", inspection.pools or foreign), *(("pooled output", str(one)) for one in inspection.pooled)]
    if inspection.head:
        facts.append(("steps", ", ".join(step["edit"] for step in inspection.head)))
    if inspection.optimized is not None:
        facts += _describe_rewrites(inspection.optimized)
    if inspection.goldens:
        facts.append(("golden vectors", "recorded; verify --self compares the file with them"))
    if inspection.certificate is not None:
        facts.append(("certificate", str(inspection.certificate)))
    if inspection.hidden is not None:
        width = inspection.hidden.width if inspection.hidden.width is not None else "unknown without a run"
        facts.append(("hidden state", f"{inspection.hidden.name}, {type_name(inspection.hidden.dtype)}, width {width}"))
    elif inspection.pools is None:
        facts.append(("hidden state", str(inspection.why_not)))
        facts.append(("could be pooled", ", ".join(inspection.candidates) or "no value"))
    facts.append(("precision", inspection.weights_are or next(iter(inspection.precision), "no weights")))
    facts.append(("attention layers", str(inspection.layers)))
    facts.append(("vocabulary", _describe_table(tables.vocabulary)))
    facts.append(("positions", _describe_table(tables.positions)))
    if inspection.pooling_config is not None:
        facts.append(("folder says", f"pooling mode {inspection.pooling_config} (1_Pooling/config.json)"))
    return facts


def _describe_file(inspection: Inspection) -> list[tuple[str, str]]:
    precision = ", ".join(f"{name} {_format_size(size)}" for name, size in inspection.precision.items())
    return [
        ("opsets", ", ".join(f"{domain} {version}" for domain, version in inspection.opsets.items())),
        ("IR version", str(inspection.ir_version)),
        ("made by", repr(inspection.producer)[1:-1] or "unknown"),
        ("nodes", str(inspection.nodes)),
        ("size", f"{_format_size(inspection.file_bytes)}, weights {_format_size(inspection.weight_bytes)}"),
        ("initializers", precision or "none"),
        ("data files", ", ".join(inspection.data_files) or "none"),
        ("fingerprint", inspection.fingerprint[:16]),
    ]


def _describe_table(rows: int | None) -> str:
    return "no table found" if rows is None else str(rows)


def _format_size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"
