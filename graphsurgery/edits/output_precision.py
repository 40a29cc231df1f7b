"""output-precision: give embeddings as bytes or bits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from graphsurgery.deferred import gs
from graphsurgery.edits.draft_operators import FLOAT, INT8, UINT8, Operators
from graphsurgery.edits.edit import PATH, Resolved, parameter, require_opset, resolved_parameter
from graphsurgery.edits.module_weights import to_absolute_path, to_recorded_path
from graphsurgery.edits.outputs import (
    VECTORS,
    OutputEdit,
    build_output,
    find_output_width,
    find_target,
    target_parameter,
    warn_of_pooling,
)
from graphsurgery.errors import RequestError, WeightsDifferError
from graphsurgery.folders.ranges import read_ranges
from graphsurgery.interface import Value
from graphsurgery.model.checksums import hash_tensor
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model
from graphsurgery.remarks import Warn
from graphsurgery.runtime.measure import measure_ranges

SCALED, PACKED = ("int8", "uint8"), ("binary", "ubinary")
BUCKETS = 255
BITS = 8
TEXTS = ".txt"
SIGN = 128
"""Subtracted from an unsigned byte to make it a signed one."""


def quantize_by_ranges(ops: Operators, x: gs.Tensor, ranges: np.ndarray, signed: bool) -> gs.Variable:
    """Build clip(floor((x - min) / step), 0, 255), minus 128 if ``signed``; step = (max - min) / 255, or 1 if that is 0.

    ``x [batch, dim]`` float32; ``ranges [2, dim]`` float32 holds the min and max of each dim.
    """
    both = ops.constant(ranges, np.float32, "ranges")
    low, high = (
        ops.node("Gather", both, ops.constant(row, np.int64, f"row_{name}"), name=name, axis=0)
        for row, name in ((0, "min"), (1, "max"))
    )
    span = ops.node("Sub", high, low, name="span")
    step = ops.node("Div", span, ops.constant(BUCKETS, np.float32, "buckets"), name="raw_step")
    flat = ops.node("Equal", step, ops.constant(0, np.float32, "zero"), name="is_flat")
    step = ops.node("Where", flat, ops.constant(1, np.float32, "one"), step, name="step")
    bucket = ops.node("Floor", ops.node("Div", ops.node("Sub", x, low, name="above"), step, name="steps"), name="bucket")
    ends = ops.constant(0, np.float32, "first"), ops.constant(BUCKETS, np.float32, "last")
    return cast_to_byte(ops, ops.node("Clip", bucket, *ends, name="clipped"), signed)


def pack_signs(ops: Operators, x: gs.Tensor, width: int, signed: bool) -> gs.Variable:
    """Build bytes of eight dims each. A bit is 1 where x > 0; the first dim is the highest bit; zeros fill the last byte.

    ``x [batch, width]`` float32 -> ``[batch, ceil(width / 8)]``. Equal to ``numpy.packbits(x > 0, axis=-1)``, minus 128 if
    ``signed``.
    """
    bits = ops.cast(ops.node("Greater", x, ops.constant(0, np.float32, "zero"), name="is_set"), FLOAT, "bits")
    if width % BITS:
        bits = ops.node("Pad", bits, ops.constant([0, 0, 0, -width % BITS], np.int64, "filling"), name="filled")
    octets = ops.node("Reshape", bits, ops.constant([0, -(-width // BITS), BITS], np.int64, "octet_shape"), name="octets")
    places = ops.constant([1 << place for place in reversed(range(BITS))], np.float32, "places")
    return cast_to_byte(ops, ops.reduce_sum(ops.node("Mul", octets, places, name="weighted"), 2, "byte_value"), signed)


def cast_to_byte(ops: Operators, value: gs.Tensor, signed: bool) -> gs.Variable:
    """Build bytes from whole numbers 0..255 in float32: uint8, or int8 (minus 128) if ``signed``."""
    if not signed:
        return ops.cast(value, UINT8, "bytes")
    return ops.cast(ops.node("Sub", value, ops.constant(SIGN, np.float32, "sign"), name="centred"), INT8, "bytes")


@dataclass(frozen=True)
class Bytes:
    """The output to convert, its width, and each dim's min and max ``[2, dim]``. Bits need no ranges."""

    target: Value
    width: int
    ranges: np.ndarray | None


@dataclass(frozen=True)
class OutputPrecision(OutputEdit[Bytes]):
    """Give the embedding in fewer bits: int8 or uint8 (one byte per dim), binary or ubinary (one bit per dim, eight to a byte).

    The result equals that of sentence-transformers' ``quantize_embeddings``: ``uint8 = clip(floor((x - min) / step), 0,
    255)`` with ``step = (max - min) / 255``, or 1 if that is 0; ``ubinary = packbits(x > 0)``, with the first dim in the
    highest bit. int8 and binary are these minus 128. min and max are the smallest and largest value of each dim over texts of
    the kind to be embedded. They come from ``--ranges``, a .npy or .json file of ``[2, dim]``.
    """

    to: str = parameter("int8, uint8, binary or ubinary.", "", "int8|uint8|binary|ubinary", required=True)
    ranges: str | None = parameter(
        "For int8 and uint8: the min and max of each dim over embeddings of your own, [2, dim], as .npy or .json; or a .txt "
        "file of 100 or more texts, one per line. Their embeddings then give the ranges.",
        None,
        PATH,
    )
    target: str | None = target_parameter("The output to convert.")
    digests: tuple[str, ...] = resolved_parameter(())

    @property
    def signed(self) -> bool:
        return self.to in ("int8", "binary")

    def resolve(self, model: Model) -> Resolved[Self, Bytes]:
        """Find target and ranges. Raises RequestError (precision, no ranges), WeightsError (a file without ranges),
        NameNotFoundError, UnsupportedModelError."""
        require_opset(model, self.verb)
        if self.to not in (*SCALED, *PACKED):
            what = f"the precision {self.to!r} is not known" if self.to else "output-precision needs a precision"
            raise RequestError(what, f"choose from {', '.join((*SCALED, *PACKED))} with --to", ("--to",))
        target = find_target(model, self.target, "converted", VECTORS)
        width = find_output_width(model, target)
        if self.to in PACKED:
            unused = (Warn("--ranges is not used: bits need no ranges"),) if self.ranges is not None else ()
            edit = replace(self, target=target.name, ranges=None, digests=())
            note = f"packs the signs of {target.name} into {-(-width // BITS)} bytes"
            return Resolved(edit, Bytes(target, width, None), (*unused, note, *warn_of_pooling(model, target.name)))
        values = self._read_ranges(model, target.name, width)
        place = to_recorded_path(model, to_absolute_path(model, self.ranges or ""))
        edit = replace(self, target=target.name, ranges=place, digests=(f"ranges={hash_tensor(values)}",))
        note = f"gives {target.name} as {self.to}: {width} bytes, scaled by the ranges of {Path(place).name}"
        return Resolved(edit, Bytes(target, width, values), (note, *warn_of_pooling(model, target.name)))

    def _read_ranges(self, model: Model, target: str, width: int) -> np.ndarray:
        """Read ``[2, dim]`` from the file of ranges, or measure them on the embeddings of the file's texts."""
        if self.ranges is None:
            raise RequestError(
                f"{self.to} needs each dim's smallest and largest value",
                "give a few hundred texts of your own, one per line, as --ranges texts.txt; or save "
                "numpy.vstack((x.min(0), x.max(0))) of your own embeddings x, as --ranges ranges.npy",
            )
        path = to_absolute_path(model, self.ranges)
        values = measure_ranges(model, target, path) if path.suffix == TEXTS else read_ranges(path, width)
        if self.digests and self.digests != (f"ranges={hash_tensor(values)}",):
            raise WeightsDifferError(
                f"{path} differs from what the file records for this edit", "use the ranges that the file was made with"
            )
        return values

    def change(self, draft: Draft, found: Bytes) -> None:
        ops = Operators(draft, "graphsurgery/precision")
        target, width, ranges = found.target, found.width, found.ranges

        def build(x: gs.Tensor) -> gs.Variable:
            return pack_signs(ops, x, width, self.signed) if ranges is None else quantize_by_ranges(ops, x, ranges, self.signed)

        last = -(-width // BITS) if ranges is None else width
        kind = np.int8 if self.signed else np.uint8
        build_output(draft, target, target.name, ops, build, last=last, dtype=kind)
