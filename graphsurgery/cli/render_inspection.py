"""The description of a file in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from graphsurgery.cli.render import (
    CONSUMERS,
    format_size,
    make_table,
    render_consumers,
    render_facts,
    render_interface,
    render_paragraphs,
    render_section,
)
from graphsurgery.encoder.modalities import TOKEN_IDS
from graphsurgery.graph.operator_counts import OperatorCount
from graphsurgery.inspection import Inspection
from graphsurgery.interface import type_name
from graphsurgery.model.dtypes import FLOATS
from graphsurgery.remarks import Warn
from graphsurgery.report import list_few


def render_inspection(inspection: Inspection, operators: bool = False) -> RenderableType:
    """Return the interface, the encoder, the file, warnings and readers; with ``operators``, these as well."""
    parts: list[RenderableType] = [
        Text(inspection.path or "model", style="bold"),
        render_section("Interface", render_interface(inspection.interface)),
        render_section("Encoder", render_facts(_describe_encoder(inspection))),
        render_section("File", render_facts(_describe_file(inspection))),
    ]
    if operators:
        parts.append(render_section("Operators", _render_operators(inspection.operators)))
    if inspection.warnings:
        parts.append(render_section("Warnings", render_paragraphs(map(Warn, inspection.warnings))))
    if inspection.consumers:
        parts.append(render_section(CONSUMERS, render_consumers(inspection.consumers)))
    return Group(*parts)


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
    facts = [
        ("head", inspection.pools or _describe_foreign_head(inspection)),
        *(("pooled output", str(one)) for one in inspection.pooled),
    ]
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
    facts += _describe_layers(inspection)
    facts += [("input", str(one)) for one in inspection.inputs]
    if any(one.kind == TOKEN_IDS for one in inspection.inputs) or not inspection.inputs:
        facts.append(("vocabulary", _describe_table(tables.vocabulary)))
        facts.append(("positions", _describe_table(tables.positions)))
    return [*facts, *_describe_folder(inspection)]


def _describe_foreign_head(inspection: Inspection) -> str:
    """Say what is known of a head that graphsurgery did not make."""
    vectors = [value.name for value in inspection.interface.outputs if value.rank == 2 and value.dtype in FLOATS]
    if inspection.pooled:
        return "none by graphsurgery"
    if vectors and inspection.hidden is None:
        return f"none by graphsurgery; {list_few(vectors)}: how it is pooled is not recognised"
    return "none: the file does not pool"


def _describe_layers(inspection: Inspection) -> Iterator[tuple[str, str]]:
    """Yield how many attentions there are, and the hidden layers that tap can give."""
    yield "attention layers", str(inspection.layers)
    if inspection.hidden_layers:
        last = len(inspection.hidden_layers) - 1
        yield "hidden layers", f"0 (the embeddings) to {last}; tap --layer N gives one of them"


def _describe_folder(inspection: Inspection) -> Iterator[tuple[str, str]]:
    """Yield what the model's folder says of pooling and of its modules."""
    if inspection.modules:
        yield "folder's modules", f"{', '.join(one.kind for one in inspection.modules)} (modules.json)"
    if inspection.pooling_config is not None:
        yield "folder says", f"pooling mode {inspection.pooling_config} (1_Pooling/config.json)"


def _describe_file(inspection: Inspection) -> list[tuple[str, str]]:
    precision = ", ".join(f"{name} {format_size(size)}" for name, size in inspection.precision.items())
    return [
        ("opsets", ", ".join(f"{domain} {version}" for domain, version in inspection.opsets.items())),
        ("IR version", str(inspection.ir_version)),
        ("made by", repr(inspection.producer)[1:-1] or "unknown"),
        ("nodes", str(inspection.nodes)),
        ("size", f"{format_size(inspection.file_bytes)}, weights {format_size(inspection.weight_bytes)}"),
        ("initializers", precision or "none"),
        ("data files", ", ".join(inspection.data_files) or "none"),
        ("fingerprint", inspection.fingerprint[:16]),
    ]


def _render_operators(operators: Sequence[OperatorCount]) -> RenderableType:
    table = make_table(("operator",), ("nodes", "weights"), "")
    for one in operators:
        table.add_row(one.name, str(one.nodes), format_size(one.weight_bytes) if one.weight_bytes else "-")
    return table


def _describe_table(rows: int | None) -> str:
    return "no table found" if rows is None else str(rows)
