"""A generated table in a page of the documentation, between its marks."""

from __future__ import annotations

from pathlib import Path


def put(page: Path, name: str, text: str) -> None:
    """Put ``text`` into ``page`` as `filled` does."""
    page.write_text(filled(page, name, text), encoding="utf-8")


def filled(page: Path, name: str, text: str) -> str:
    """The content of ``page`` with ``text`` between ``<!-- name -->`` and ``<!-- end of name -->``.

    Raises ValueError if the page has no such marks.
    """
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(start)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"{page.name} has no {start} ... {end}")
    return f"{before}{start}\n{text}\n{end}{after}"
