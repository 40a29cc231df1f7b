"""inspect: what a file is."""

from __future__ import annotations

import click

from graphsurgery.cli.console import out, print_json
from graphsurgery.cli.main import OK
from graphsurgery.cli.options import MODEL, SHOWN, with_options
from graphsurgery.inspection import Inspection, inspect
from graphsurgery.interface import type_name


def inspect_command(verb: str) -> click.Command:
    def callback(model: str, as_json: bool, quiet: bool) -> int:
        """Show what MODEL is: interface, encoder, head found, layers, precision, warnings, who can read it. Runs nothing
        and reads no weights."""
        found = inspect(model)
        if as_json:
            print_json(found.to_json())
        elif not quiet:
            _print(found)
        return OK

    return click.command(verb)(with_options(callback, (MODEL,), SHOWN))


def _print(found: Inspection) -> None:
    from rich.text import Text  # rich is not needed for --json

    from graphsurgery.cli.render import bullets, consumer_table, facts_table, interface_table, section

    out.print(Text(found.path or "model", style="bold"))
    out.print(section("Interface", interface_table(found.interface)))
    out.print(section("Encoder", facts_table(_encoder_facts(found))))
    out.print(section("File", facts_table(_file_facts(found))))
    if found.warnings:
        out.print(section("Beware", bullets(found.warnings)))
    out.print(section("Who reads it as it is", consumer_table(found.consumers)))


def _encoder_facts(found: Inspection) -> list[tuple[str, str]]:
    tables = found.tables
    facts = [("head", found.pools or "none: it does not pool")]
    if found.head:
        facts.append(("steps", ", ".join(step["edit"] for step in found.head)))
    if found.optimized is not None:
        for_ = found.optimized.get("for") or "any runtime"
        facts.append(("optimized", f"for {for_}, with ONNX Runtime {found.optimized.get('onnxruntime', 'unknown')}"))
    if found.goldens:
        facts.append(("golden vectors", "recorded: verify --self"))
    if found.certificate is not None:
        facts.append(("certificate", str(found.certificate)))
    if found.hidden is not None:
        width = found.hidden.width if found.hidden.width is not None else "unknown (a run tells)"
        facts.append(("hidden state", f"{found.hidden.name}, {type_name(found.hidden.dtype)}, width {width}"))
    elif found.pools is None:
        facts.append(("hidden state", f"{found.why_not}"))
        facts.append(("could be pooled", ", ".join(found.candidates) or "nothing was found"))
    facts.append(("attention layers", str(found.layers)))
    facts.append(("vocabulary", _known(tables.vocabulary)))
    facts.append(("positions", _known(tables.positions)))
    if found.pooling_config is not None:
        facts.append(("folder says", f"pooling mode {found.pooling_config} (1_Pooling/config.json)"))
    return facts


def _file_facts(found: Inspection) -> list[tuple[str, str]]:
    precision = ", ".join(f"{name} {_size(size)}" for name, size in found.precision.items())
    return [
        ("opsets", ", ".join(f"{domain} {version}" for domain, version in found.opsets.items())),
        ("IR version", str(found.ir_version)),
        ("made by", repr(found.producer)[1:-1] or "unknown"),
        ("nodes", str(found.nodes)),
        ("size", f"{_size(found.file_bytes)}, weights {_size(found.weight_bytes)}"),
        ("initializers", precision or "none"),
        ("data files", ", ".join(found.data_files) or "none"),
        ("fingerprint", found.fingerprint[:16]),
    ]


def _known(number: int | None) -> str:
    return "no table found" if number is None else str(number)


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"
