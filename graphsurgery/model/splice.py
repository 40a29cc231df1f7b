"""Replace the records of one field, leaving every other record where it is."""

from __future__ import annotations

from collections.abc import Sequence

from graphsurgery.model.records import Record

LARGEST_FIELD = 1 << 29


def spliced(records: Sequence[Record], field: int, wanted: Sequence[Record]) -> tuple[Record, ...]:
    """``records`` with exactly ``wanted`` as its records of ``field``, in that order.

    A record that stays keeps its place; a new one follows the wanted record before it. Where the kept ones change their order,
    all of ``wanted`` stands where the first of them stood. Where nothing is kept they stand where the first was, or before the
    first field of a higher number, or at the end.
    """
    place = {id(record): index for index, record in enumerate(records) if record.field == field}
    kept = [place[id(record)] for record in wanted if id(record) in place]
    if kept != sorted(kept):
        kept = []
    anchored = {id(records[index]) for index in kept}
    before: list[Record] = []
    after: dict[int, list[Record]] = {}
    current = before
    for record in wanted:
        if id(record) in anchored:
            current = after.setdefault(id(record), [])
        else:
            current.append(record)
    start = min(kept) if kept else _first_place(records, field)
    out: list[Record] = []
    for index, record in enumerate(records):
        if index == start:
            out += before
        if record.field != field:
            out.append(record)
        elif id(record) in anchored:
            out += [record, *after[id(record)]]
    return tuple(out if start < len(records) else [*out, *before])


def _first_place(records: Sequence[Record], field: int) -> int:
    for first in ([field], range(field + 1, LARGEST_FIELD)):
        for index, record in enumerate(records):
            if record.field in first:
                return index
    return len(records)
