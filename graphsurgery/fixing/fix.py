"""fix: mend the known faults of an export, or name them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphsurgery.argument_types import check_argument_types
from graphsurgery.errors import NothingToFixError
from graphsurgery.fixing.faults import Examined, Fault, examine
from graphsurgery.model.loading import Loadable, load
from graphsurgery.outcome import Outcome
from graphsurgery.progress import Progress, ignore_progress
from graphsurgery.remarks import make_strict_error
from graphsurgery.runner import run
from graphsurgery.shown import Shown

STEP = "mended"


@dataclass(frozen=True)
class Fixed(Shown):
    """The result of `fix`."""

    outcome: Outcome
    """The edits that mended faults, the file, and its proof."""
    faults: tuple[Fault, ...]
    """Every fault that was found, mended or only named."""

    def __repr__(self) -> str:
        """Return one line: how many faults were mended, and the outcome."""
        return f"<{type(self).__name__} {len(self.mended)} of {len(self.faults)} faults: {self.outcome!r}>"

    @property
    def mended(self) -> tuple[Fault, ...]:
        """The faults that the file no longer has."""
        return tuple(one for one in self.faults if one.mended_by is not None)

    @property
    def named(self) -> tuple[Fault, ...]:
        """The faults that it still has."""
        return tuple(one for one in self.faults if one.mended_by is None)

    @property
    def warnings(self) -> tuple[str, ...]:
        """All warnings, with a sentence for each fault that was only named."""
        return (*(f"not mended: {one}" for one in self.named), *self.outcome.warnings)

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON-ready data."""
        content = self.outcome.to_json() | {"faults": [one.to_json() for one in self.faults]}
        return content | {"warnings": list(self.warnings)}


@check_argument_types()
def fix(
    model: Loadable,
    *,
    output: str | os.PathLike[str] | None = None,
    verify: bool = True,
    full: bool = False,
    force: bool = False,
    dry_run: bool = False,
    keep_failed: bool = False,
    strict: bool = False,
    hash_weights: bool = False,
    progress: Progress = ignore_progress,
) -> Fixed:
    """Mend the known faults of an export of text, pictures or sound, and name those that cannot be mended.

    - A mask of frames that hides channels in place of frames is mended by `align_mask`.

    - Sizes that are declared as numbers although the nodes take others are freed, by `relax_dim` for pictures and sound, and by
      `dynamic_dim` for texts.

    - Sizes that are baked into nodes are freed by `dynamic_dim` for texts. For pictures and sound, the node is only named.

    - Inputs of half precision become float32 by `input_type`. Sound that overflows is only named.

    Each edit is recorded and proven like any other: against the source where the source is right, and against numpy where it is
    wrong.

    Args:
        model: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model.
        output: the file to write. If None, it is beside the source: ``model.mended.onnx``.
        verify, full, force, dry_run, keep_failed, hash_weights: as in `run`.
        strict: also fail if a fault can only be named.

    Raises:
        NothingToFixError if no fault can be mended (``error.outcome`` holds those that were named); StrictError;
        VerificationFailed; what `load` and `run` raise.
    """
    source = load(model)
    progress("looking for faults")
    examined = examine(source)
    if not examined.edits:
        raise make_nothing_error(examined)
    named = tuple(str(one) for one in examined.faults if one.mended_by is None)
    if strict and named:
        raise make_strict_error(named, "nothing was written", examined)
    if output is None and source.path is not None:
        output = _choose_output(source.path)
    outcome = run(
        examined.edits, source, output=output, verify=verify, full=full, force=force, dry_run=dry_run,
        keep_failed=keep_failed, strict=strict, hash_weights=hash_weights, progress=progress,
    )  # fmt: skip
    return Fixed(outcome, examined.faults)


def make_nothing_error(examined: Examined) -> NothingToFixError:
    """Return the error for a file with no fault that can be mended. It names the others."""
    if not examined.faults:
        return NothingToFixError("none of the known faults was found", "nothing is left to do", examined)
    named = "; ".join(map(str, examined.faults))
    count = len(examined.faults)
    what = f"{count} fault{'s' * (count > 1)} of this file can only be named: {named}"
    return NothingToFixError(what, "nothing was written; see above what to do about each of them", examined)


def _choose_output(source: Path) -> Path:
    return source.with_name(f"{source.name.removesuffix('.onnx')}.{STEP}.onnx")
