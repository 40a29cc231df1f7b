"""The page `/docs`: every route with its fields. It loads nothing from elsewhere, so it works offline and reveals nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

STYLE = "body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}code{background:#eee}td{padding:0 1em 0 0}"


def render_route_list(page: Mapping[str, Any]) -> str:
    """Return the OpenAPI description ``page`` as HTML: the routes, grouped by client, and then the fields of request bodies."""
    title = escape(page["info"]["title"])
    return "".join(
        (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style></head>',
            f'<body><h1>{title}</h1><p>For programs: <a href="openapi.json">openapi.json</a></p>',
            *_list_routes(page["paths"]), "<h2>Fields</h2>", *_list_schemas(page["components"]["schemas"]), "</body></html>",
        )
    )  # fmt: skip


def _list_routes(paths: Mapping[str, Any]) -> Iterator[str]:
    rows: dict[str, list[str]] = {}
    for path, methods in paths.items():
        for method, route in methods.items():
            body = route.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            cells = (f"<code>{method.upper()} {escape(path)}</code>", escape(route.get("summary", "")), _describe_type(body))
            rows.setdefault(", ".join(route.get("tags", ())), []).append(_make_row(cells))
    for tag, found in rows.items():
        yield f"<h2>{escape(tag)}</h2><table>{''.join(found)}</table>"


def _list_schemas(schemas: Mapping[str, Any]) -> Iterator[str]:
    for name, schema in schemas.items():
        fields = [
            _make_row((f"<code>{escape(field)}</code>", _describe_type(kind), escape(kind.get("description", ""))))
            for field, kind in schema.get("properties", {}).items()
        ]
        if fields:
            yield f'<h3 id="{escape(name)}">{escape(name)}</h3><table>{"".join(fields)}</table>'


def _make_row(cells: tuple[str, ...]) -> str:
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _describe_type(schema: Mapping[str, Any]) -> str:
    """Return a type in words, with a link where it has a name."""
    if name := schema.get("$ref", "").rpartition("/")[2]:
        return f'<a href="#{escape(name)}">{escape(name)}</a>'
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(map(_describe_type, choices))
    if "enum" in schema or "const" in schema:
        return " or ".join(escape(repr(one)) for one in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_describe_type(schema.get('items', {}))}"
    return escape(str(schema.get("type", "")))
