"""Remarks for the user: notes, and warnings that something may be wrong. This is the one place that tells them apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphsurgery.errors import StrictError


class Warn(str):
    """A remark that is a warning. Every other string among remarks is a note.

    Text made from it (by joining, or in an f-string) is a plain string again.
    """

    __slots__ = ()


class HasRemarks:
    """Something that carries remarks, and gives its warnings and its notes apart."""

    remarks: tuple[str, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """The remarks that are warnings: something may be wrong with the file or with the request."""
        return select_warnings(self.remarks)

    @property
    def notes(self) -> tuple[str, ...]:
        """The remarks that are not warnings."""
        return select_notes(self.remarks)


def select_warnings(remarks: Iterable[str]) -> tuple[str, ...]:
    """Return the warnings among ``remarks``, each once."""
    return tuple(dict.fromkeys(str(one) for one in remarks if isinstance(one, Warn)))


def select_notes(remarks: Iterable[str]) -> tuple[str, ...]:
    """Return the remarks that are not warnings."""
    return tuple(one for one in remarks if not isinstance(one, Warn))


def make_strict_error(warnings: Sequence[str], fate: str, outcome: object = None) -> StrictError:
    """Return the error for ``warnings`` that ``strict`` does not allow. ``fate`` says what became of the output."""
    count = "there is a warning" if len(warnings) == 1 else f"there are {len(warnings)} warnings"
    what = f"{count}, and --strict allows none: {'; '.join(warnings)}; {fate}"
    return StrictError(what, "remove the cause, or leave out --strict", outcome)
