"""The lengths of clips as ONNX operators: frame counts, frame masks, and what reads them.

``n [batch]`` int64 are samples, and then frames; ``m [batch, frames]`` bool is true at a clip's own frames. Padding is left out
with Where, not by multiplying, because what lies behind a clip may be NaN.
"""

from __future__ import annotations

import numpy as np
import onnx

from graphsurgery.deferred import gs
from graphsurgery.edits.clips import FRAMES, INPUT_LENGTHS, SCOPE, SCORES, STATISTICS, Clips, Cut
from graphsurgery.edits.draft_operators import BOOL, FLOAT, INT64, Operators
from graphsurgery.encoder.frames import FrameSteps
from graphsurgery.errors import require_value
from graphsurgery.graph.attributes import get_float
from graphsurgery.model.draft import Draft
from graphsurgery.runtime.mask_forms import LENGTHS, NONZERO

FLAT = 3
"""The rank of scores that have a row for each head of each clip."""


class ClipGraph:
    """Builds what the edit needs of the clips' lengths. Each count and each mask is built once."""

    def __init__(self, draft: Draft, clips: Clips) -> None:
        self.draft, self.clips = draft, clips
        self.ops = Operators(draft, SCOPE)
        self.counts: dict[FrameSteps, gs.Tensor] = {}
        self.masks: dict[tuple[FrameSteps, int], gs.Tensor] = {}
        with draft.at_front():
            self.counts[()] = self._build_lengths()
            for made in range(1, len(clips.steps) + 1):
                self._count(clips.steps[:made])
            self.zeros = {dtype: self.ops.constant(0.0, dtype.type, "zero") for dtype in self._list_dtypes(FRAMES, STATISTICS)}
            self.lowest = {
                dtype: self.ops.constant(np.finfo(dtype.name).min, dtype.type, "lowest") for dtype in self._list_dtypes(SCORES)
            }

    def apply_cuts(self) -> None:
        """Build every cut after the value that it replaces, and let its readers read it."""
        new = {reader: cut.made for cut in self.clips.cuts for reader in cut.readers}

        def rewire(node: onnx.NodeProto) -> None:
            for place in range(len(node.input)):
                node.input[place] = new.get((node.output[0] if node.output else "", place), node.input[place])

        for cut in self.clips.cuts:
            with self.draft.behind(cut.value):
                self._build_cut(cut)
        self.draft.changes.nodes.append(rewire)

    def mask_hidden_state(self, x: gs.Tensor) -> gs.Tensor:
        """Build ``m [batch, frames]`` for a hidden state ``x [batch, frames, dim]``."""
        return self._build_mask(x, self.clips.steps, 1)

    def _list_dtypes(self, *kinds: str) -> list[np.dtype[np.generic]]:
        """Return the types of the cuts of these kinds, each once. Norms are computed in float32."""
        found = [np.dtype(np.float32) if cut.kind == STATISTICS else cut.dtype for cut in self.clips.cuts if cut.kind in kinds]
        return list(dict.fromkeys(found))

    def _build_lengths(self) -> gs.Tensor:
        """Build n of samples: the input of lengths, or the number of samples at which a mask says that there is one."""
        mask = self.clips.mask
        if self.clips.is_new:
            return self.draft.add_input(INPUT_LENGTHS, onnx.TensorProto.INT64, [self.clips.batch])
        given = self.draft.tensor(require_value(mask.name, "the mask's name"))
        if mask.kind == LENGTHS:
            return self.ops.cast(given, INT64, "lengths")
        seen = given if given.dtype == np.bool_ else self.ops.cast(given, BOOL, "is_set")
        seen = seen if mask.kind == NONZERO else self.ops.node("Not", seen, name="is_sample")
        return self.ops.reduce_sum(self.ops.cast(seen, INT64, "samples"), 1, "lengths")

    def _count(self, steps: FrameSteps) -> None:
        """Build (n - k + s) / s from the n of the step before: floor((n - k) / s) + 1 frames, or none if that is 0 or less.

        ONNX rounds an integer quotient towards 0. That gives 0 or less whenever n < k, and then every later step does so, too.
        (n - k) / s + 1 would give 1 for the samples between k - s and k.
        """
        (kernel, stride), n = steps[-1], self.counts[steps[:-1]]
        ops = self.ops.within(f"step_{len(steps)}")
        dividend = ops.node("Add", n, ops.constant([stride - kernel], np.int64, "stride_less_kernel"), name="dividend")
        self.counts[steps] = ops.node("Div", dividend, ops.constant([stride], np.int64, "stride"), name="frames")

    def _build_mask(self, x: gs.Tensor, steps: FrameSteps, axis: int) -> gs.Tensor:
        """Build p < n, p = 0, 1, ... along the ``axis`` of ``x``: ``[batch, frames]``."""
        ops = self.ops.within(f"mask_{len(steps)}")
        dims = self._take_sizes(ops, ops.node("Shape", x, name="shape"), [0, axis], "dims")
        positions = ops.count(dims, np.int64, 1, from_zero=True)
        return ops.node("Less", positions, ops.unsqueeze(self.counts[steps], 1, "frames_2d"), name="is_frame")

    def _take_sizes(self, ops: Operators, shape: gs.Tensor, places: list[int], name: str) -> gs.Tensor:
        return ops.node("Gather", shape, ops.constant(places, np.int64, f"{name}/places"), name=name, axis=0)

    def _mask(self, x: gs.Tensor, steps: FrameSteps, rank: int) -> gs.Tensor:
        """Build m for ``x [batch, channels, frames]`` with dims of 1 in the middle, or return the one that was built."""
        if (steps, rank) not in self.masks:
            ops = self.ops.within(f"mask_{len(steps)}")
            first = rank == 2
            m = self._build_mask(x, steps, 2) if first else ops.unsqueeze(self._mask(x, steps, rank - 1), 1, f"mask_{rank}d")
            self.masks[steps, rank] = m
        return self.masks[steps, rank]

    def _build_cut(self, cut: Cut) -> None:
        ops, x = self.ops.within(cut.kind), self.draft.tensor(cut.value)
        if cut.kind == SCORES:
            self._build_scores(ops, cut, x)
        elif cut.kind == FRAMES:
            ops.node("Where", self._mask(x, cut.steps, 3), x, self.zeros[cut.dtype], name="kept", output=cut.made)
        else:
            self._build_statistics(ops, cut)

    def _build_scores(self, ops: Operators, cut: Cut, x: gs.Tensor) -> None:
        """Build the scores with the lowest number at keys that are padding.

        ``[batch, heads, queries, keys]``, or ``[batch heads, queries, keys]``, which is taken apart and joined again.
        """
        seen = self._mask(x, cut.steps, 4)
        lowest = self.lowest[cut.dtype]
        if cut.rank != FLAT:
            ops.node("Where", seen, x, lowest, name="kept", output=cut.made)
            return
        shape = ops.node("Shape", x, name="shape")
        rows = self._take_sizes(ops, ops.node("Shape", seen, name="mask_shape"), [0], "rows")
        last = self._take_sizes(ops, shape, [1, 2], "queries_and_keys")
        apart = ops.node("Concat", rows, ops.constant([-1], np.int64, "heads"), last, name="shape_4d", axis=0)
        kept = ops.node("Where", seen, ops.node("Reshape", x, apart, name="scores_4d"), lowest, name="kept_4d")
        ops.node("Reshape", kept, shape, name="kept", output=cut.made)

    def _build_statistics(self, ops: Operators, cut: Cut) -> None:
        """Build scale (x - mean) / sqrt(var + eps) + bias of ``x [batch, channels, frames]``, for each row and channel.

        mean and var are those of the row's own frames. InstanceNormalization takes them over all frames.
        """
        node = require_value(cut.node, "the normalisation")
        x, scale, bias = (self.draft.tensor(require_value(value, "an input").name or "") for value in node.inputs)
        if cut.dtype != np.float32:
            x, scale, bias = (ops.cast(one, FLOAT, name) for one, name in ((x, "x"), (scale, "scale"), (bias, "bias")))
        seen, zero = self._mask(x, cut.steps, 3), self.zeros[np.dtype(np.float32)]
        count = ops.reduce_sum(ops.cast(seen, FLOAT, "mask_float"), 2, "count", keepdims=True)
        n = ops.node("Max", count, ops.constant(1.0, np.float32, "one"), name="divisor")
        total = ops.reduce_sum(ops.node("Where", seen, x, zero, name="own"), 2, "total", keepdims=True)
        mean = ops.node("Div", total, n, name="mean")
        centred = ops.node("Where", seen, ops.node("Sub", x, mean, name="shifted"), zero, name="centred")
        squares = ops.reduce_sum(ops.node("Mul", centred, centred, name="squares"), 2, "squares_total", keepdims=True)
        var = ops.node("Div", squares, n, name="var")
        eps = ops.constant(get_float(node, "epsilon", 1e-5), np.float32, "eps")
        deviation = ops.node("Sqrt", ops.node("Add", var, eps, name="var_eps"), name="deviation")
        unit = ops.node("Div", centred, deviation, name="unit")
        scaled = ops.node("Mul", unit, ops.unsqueeze(scale, 1, "scale_2d"), name="scaled")
        shifted = ops.unsqueeze(bias, 1, "bias_2d")
        if cut.dtype == np.float32:
            ops.node("Add", scaled, shifted, name="normalized", output=cut.made)
        else:
            full = ops.node("Add", scaled, shifted, name="normalized_float32")
            to = onnx.helper.np_dtype_to_tensor_dtype(cut.dtype)
            ops.node("Cast", full, name="normalized", output=cut.made, to=int(to))
