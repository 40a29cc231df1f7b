"""Tokens side by side instead of in rows: ``[1, tokens, ...]`` instead of ``[batch, seq, ...]``.

    pack [tokens]      the places of the tokens in the flattened batch; rows one after the other, each in the order of its text
    rest [batch, seq]  the place of each token among the tokens; at padding, that of the last token before it, or 0
    positions, rows    pack mod seq, pack div seq: the position and the row of each token
    starts, ends       the first token of each row that has any, and the place after its last one

Where an encoder has flat values, ``[batch x seq, ...]``, as GPT-2 before each Gemm, they become ``[tokens, ...]``.

A batch without any token gets one, at its first place, so that nothing is empty. A packed value is a batch of one row, so that
most nodes need no change at all.
"""

from __future__ import annotations

from functools import cached_property

import onnx

from graphsurgery.deferred import ir
from graphsurgery.errors import require_value
from graphsurgery.graph.editor import Editor
from graphsurgery.rewrites.padding_free.building import Builder
from graphsurgery.rewrites.padding_free.layout import LEADING, Layout
from graphsurgery.runtime.mask_forms import ADDITIVE, LENGTHS, NOT
from graphsurgery.runtime.observed_dims import POSITIONS, ROWS

BOOL, INT64 = onnx.TensorProto.BOOL, onnx.TensorProto.INT64


class Packing:
    """The indexes of the tokens, and the values that were packed or restored by them."""

    def __init__(self, editor: Editor, layout: Layout, mask: ir.Value, form: str, like: ir.Value) -> None:
        """``mask`` says in ``form`` which positions are tokens. ``like`` is an input ``[batch, seq]``."""
        self.builder = Builder(editor)
        self._layout = layout
        self._mask, self._form, self._like = mask, form, like
        self._packed: dict[tuple[ir.Value, int], ir.Value] = {}
        self._restored: dict[ir.Value, ir.Value] = {}

    @cached_property
    def sizes(self) -> ir.Value:
        """``[batch, seq]``, as an int64 vector."""
        return self.builder.node("Shape", [self._like], "sizes")

    @cached_property
    def batch(self) -> ir.Value:
        """The number of rows, ``[1]``."""
        return self.builder.gather(self.sizes, self.builder.integers([0]), 0, "batch")

    @cached_property
    def width(self) -> ir.Value:
        """The sequence length, ``[1]``."""
        return self.builder.gather(self.sizes, self.builder.integers([1]), 0, "width")

    @cached_property
    def _found(self) -> ir.Value:
        """1 where the mask says that there is a token, and 0 elsewhere, of the flattened batch: int64 ``[batch x seq]``."""
        build, flat = self.builder, self.builder.integers([-1])
        if self._form == LENGTHS:
            places = self._count("places")
            lengths = build.node("Unsqueeze", [build.cast(self._mask, INT64, "lengths"), build.integers([1])], "row_lengths")
            position = build.node("Mod", [build.node("Reshape", [places, self.sizes], "grid"), self.width], "columns")
            is_token = build.node("Less", [position, lengths], "is_token")
        else:
            is_token = build.cast(self._mask, BOOL, "is_token")
            is_token = build.node("Not", [is_token], "is_zero") if self._form in (NOT, ADDITIVE) else is_token
        return build.cast(build.node("Reshape", [is_token, flat], "flat"), INT64, "found")

    @cached_property
    def _total(self) -> ir.Value:
        """The number of tokens, ``[1]``."""
        return self.builder.node("ReduceSum", [self._found, self.builder.integers([0])], "found_tokens")

    @cached_property
    def tokens(self) -> ir.Value:
        """1 at tokens and 0 at padding, of the flattened batch: int64 ``[batch x seq]``."""
        build = self.builder
        missing = build.node("Sub", [build.integers([1]), self._total], "missing_tokens")
        filler = build.node("Less", [self._count("places"), missing], "is_filler")  # the first place, if nothing was found
        return build.node("Add", [self._found, build.cast(filler, INT64, "filler")], "tokens")

    @cached_property
    def is_full(self) -> ir.Value:
        """Whether every position is a token: a boolean ``[1]``."""
        return self.builder.node("Equal", [self._total, self.builder.node("Size", [self._like], "all_places")], "is_full")

    def _count(self, name: str) -> ir.Value:
        """Return 0, 1, ..., batch x seq - 1."""
        size = self.builder.node("Size", [self._like], f"{name}_size")
        return self.builder.node("Range", [self.builder.integers(0), size, self.builder.integers(1)], name)

    @cached_property
    def pack(self) -> ir.Value:
        found = self.builder.node("NonZero", [self.tokens], "token_places")
        return self.builder.node("Reshape", [found, self.builder.integers([-1])], "pack")

    @cached_property
    def rest(self) -> ir.Value:
        build = self.builder
        counted = build.node("CumSum", [self.tokens, build.integers(0)], "tokens_so_far")
        before = build.node("Sub", [counted, build.integers(1)], "token_index")
        return build.node("Reshape", [build.node("Max", [before, build.integers(0)], "from_zero"), self.sizes], "rest")

    @cached_property
    def positions(self) -> ir.Value:
        return self.builder.node("Mod", [self.pack, self.width], "positions")

    @cached_property
    def rows(self) -> ir.Value:
        return self.builder.node("Div", [self.pack, self.width], "rows")

    @cached_property
    def full_rows(self) -> ir.Value:
        """The rows that have tokens, ``[rows]``."""
        places = self.builder.node("NonZero", [self._row_lengths], "row_places")
        return self.builder.node("Reshape", [places, self.builder.integers([-1])], "full_rows")

    @cached_property
    def _row_lengths(self) -> ir.Value:
        grid = self.builder.node("Reshape", [self.tokens, self.sizes], "token_grid")
        return self.builder.node("ReduceSum", [grid, self.builder.integers([1])], "row_lengths", {"keepdims": 0})

    @cached_property
    def lengths(self) -> ir.Value:
        """The number of tokens of each row that has any."""
        return self.builder.gather(self._row_lengths, self.full_rows, 0, "lengths")

    @cached_property
    def ends(self) -> ir.Value:
        return self.builder.node("CumSum", [self.lengths, self.builder.integers(0)], "ends")

    @cached_property
    def starts(self) -> ir.Value:
        return self.builder.node("Sub", [self.ends, self.lengths], "starts")

    def note(self, value: ir.Value, packed: ir.Value) -> None:
        """Note that ``packed`` holds the tokens of ``value``."""
        self._packed[value, self._layout.rank(value)] = packed

    def get(self, value: ir.Value) -> ir.Value | None:
        """Return the noted tokens of ``value``, or None."""
        return self._packed.get((value, self._layout.rank(value)))

    def take(self, value: ir.Value, rank: int) -> ir.Value:
        """Return the tokens of ``value``, which broadcasts beside ``[batch, seq, ...]`` of ``rank`` dims.

        This is ``value`` itself if it is the same for all tokens.
        """
        if self._layout.is_free(value):
            return value
        if (value, rank) not in self._packed:
            self._packed[value, rank] = self._gather_tokens(value, rank)
        return self._packed[value, rank]

    def _gather_tokens(self, value: ir.Value, rank: int) -> ir.Value:
        dims, build = self._layout.dims(value) or (), self.builder
        if self._layout.is_flat(value):
            return build.gather(value, self.pack, 0, f"{value.name}/tokens")
        lead, name = rank - len(dims), f"{value.name}/tokens"
        rest = [size.number for size in dims[max(LEADING - lead, 0) :] if size is not None]
        if self._layout.has_tokens(value) and not lead:
            flat = build.node("Reshape", [value, build.integers([-1, *rest])], f"{value.name}/flat")
            return build.node("Unsqueeze", [build.gather(flat, self.pack, 0, name), build.integers([0])], f"{name}_row")
        if POSITIONS in dims:
            return build.gather(value, self.positions, dims.index(POSITIONS), name)
        rows = build.gather(value, self.rows, dims.index(ROWS), name)
        return build.node("Reshape", [rows, build.integers([1, -1, *rest])], f"{name}_row")

    def restore(self, value: ir.Value) -> ir.Value:
        """Return ``value [batch, seq, ...]`` made of its noted tokens. At padding it has another token of the batch."""
        packed = require_value(self.get(value), "the packed value")
        if value not in self._restored and self._layout.is_flat(value):
            places = self.builder.node("Reshape", [self.rest, self.builder.integers([-1])], "flat_rest")
            self._restored[value] = self.builder.gather(packed, places, 0, f"{value.name}/restored")
        elif value not in self._restored:
            flat = self.builder.node("Squeeze", [packed, self.builder.integers([0])], f"{value.name}/flat")
            self._restored[value] = self.builder.gather(flat, self.rest, 0, f"{value.name}/restored")
        return self._restored[value]
