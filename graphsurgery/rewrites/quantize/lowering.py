"""Nodes that compute a group of products in integers.

    rows:    m = max |x| of each row;  q = round(127 x / m) + 128;             y = m / 127 * (q - 128) Q * scales + b
    static:  q = round(x / a) + z for one range of all rows, from calibration;  y = a * (q - z) Q * scales + b

``q`` is uint8, ``Q`` int8. A row's integers depend on that row alone, so a text's vector does not depend on its batch. An
activation with a known minimum, such as a GELU, has a zero point near 0, so that its rows use nearly all 256 steps.

QuantizeLinear (opset 10) rounds half to even and saturates. The product is com.microsoft.MatMulIntegerToFloat (ONNX Runtime's
docs/ContribOperators.md), or MatMulInteger (opset 10), Cast and Mul.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphsurgery.deferred import ir
from graphsurgery.encoder.flow import Flow, is_lookup
from graphsurgery.errors import require_value
from graphsurgery.graph.attributes import get_input
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.element_types import FLOAT
from graphsurgery.graph.operators import VENDOR
from graphsurgery.rewrites.padding_free.building import Builder
from graphsurgery.rewrites.quantize.plans import Matrix, Plan
from graphsurgery.rewrites.quantize.products import Group, Product
from graphsurgery.rewrites.quantize.rounding import round_blocks, round_weights

MIDDLE, STEPS, LAST = 128, 127, 255
"""The zero point and the steps on either side of it in a symmetric row, and the last integer."""
STEPS_BELOW = 96
"""The steps between 0 and -1 in the rows of an activation with a known minimum, at most: 16 for a GELU."""
HALF_BITS = 16
BLOCKS = {8: 128, 4: 32}
"""The rows that have a scale of their own, by the number of bits."""
TINY = 1e-12
"""The scale of a row of zeros."""
AXES_SINCE = 18
"""The opset since which ReduceMax has its axes as an input."""


class Lowering:
    """Replaces products of a graph by products in integers."""

    def __init__(self, editor: Editor, *, standard: bool) -> None:
        """``standard``: use operators of the standard alone."""
        self._editor = editor
        self._standard = standard

    def quantise(self, group: Group, plan: Plan, *, static: bool) -> None:
        """Compute the products of ``group`` in integers."""
        builder = Builder(self._editor, f"{group.name}/quantized")
        value = self._equalise(builder, group.source, plan)
        if static and plan.range is not None:
            quantised = self._quantise_by_range(builder, value, *plan.range)
        else:
            quantised = self._quantise_rows(builder, value, group.lowest if plan.divisors is None else None)
        for product, matrix in zip(group.products, plan.matrices, strict=True):
            self._replace(builder, product, matrix, *quantised)

    def quantise_dynamically(self, group: Group, plan: Plan) -> None:
        """Compute the products with one range for the whole batch (DynamicQuantizeLinear, opset 11)."""
        builder = Builder(self._editor, f"{group.name}/quantized")
        names = [self._editor.namer.new(f"{group.name}/{part}") for part in ("integers", "step", "zero")]
        dynamic = self._editor.make_node("DynamicQuantizeLinear", [group.source], names, {}, f"{group.name}/dynamic")
        builder.nodes.append(dynamic)
        integers, step, zero = dynamic.outputs
        for product, matrix in zip(group.products, plan.matrices, strict=True):
            weights = self._add_constant(builder, "weights", matrix.integers)
            scales = self._add_constant(builder, "scales", matrix.scales)
            bias = None if matrix.bias is None else self._add_constant(builder, "bias", matrix.bias)
            if self._standard:
                total = builder.node("MatMulInteger", [integers, weights, zero], "sums")
                both = builder.node("Mul", [scales, step], "steps")
                value = builder.node("Mul", [builder.cast(total, FLOAT, "float_sums"), both], "products")
                value = value if bias is None else builder.node("Add", [value, bias], "biased")
            else:
                inputs = [integers, weights, step, scales, zero, *([None, bias] if bias is not None else [])]
                value = builder.node("MatMulIntegerToFloat", inputs, "products", {}, VENDOR)
            self._put(builder, product, value)

    def mark_integers(self, group: Group, plan: Plan) -> None:
        """Put QuantizeLinear and DequantizeLinear around the products (QDQ, opset 13), which runtimes fuse into integers."""
        builder = Builder(self._editor, f"{group.name}/quantized")
        low, high = require_value(plan.range, "a calibrated range")
        value = self._equalise(builder, group.source, plan)
        integers, scale, zero, _ = self._quantise_by_range(builder, value, low, high)
        point = self._add_constant(builder, "zero", np.uint8(zero))
        value = builder.node("DequantizeLinear", [integers, scale, point], "dequantized")
        for product, matrix in zip(group.products, plan.matrices, strict=True):
            self._put(builder, product, self._multiply(builder, value, self._dequantise(builder, matrix), matrix.bias))

    def shrink_weights(self, product: Product, matrix: Matrix | np.ndarray, bits: int) -> None:
        """Store the matrix of a product in fewer bits, and compute in float32.

        ``matrix`` is a rounded one (8 bits, DequantizeLinear), or ``W [inner, outer]``: in float16 (16 bits), or in blocks (8
        or 4 bits, com.microsoft.MatMulNBits).
        """
        builder = Builder(self._editor, f"{product.weights.name}/{bits}bit")
        source = require_value(get_input(product.node, 0), "the input")
        bias = product.bias
        if isinstance(matrix, Matrix):
            value = self._multiply(builder, source, self._dequantise(builder, matrix), None)
        elif bits == HALF_BITS:
            halves = self._add_constant(builder, "halves", matrix.astype(np.float16))
            value = self._multiply(builder, source, builder.cast(halves, FLOAT, "weights"), None)
        else:
            block = BLOCKS[bits]
            integers, scales = round_blocks(matrix, bits, block)
            constants = [self._add_constant(builder, name, one) for name, one in (("weights", integers), ("scales", scales))]
            attributes = {"K": matrix.shape[0], "N": matrix.shape[1], "bits": bits, "block_size": block}
            value = builder.node("MatMulNBits", [source, *constants], "products", attributes, VENDOR)
        self._put(builder, product, value if bias is None else builder.node("Add", [value, bias], "biased"))

    def shrink_tables(self, flow: Flow) -> int:
        """Store embedding tables in float16. Return their number."""
        return self._store_tables(flow, self._store_halves)

    def quantise_tables(self, flow: Flow) -> int:
        """Store embedding tables in integers, one scale for each row. Return their number."""
        return self._store_tables(flow, self._store_integers)

    def _store_halves(self, builder: Builder, rows: np.ndarray, ids: ir.Value) -> ir.Value:
        found = builder.gather(self._add_constant(builder, "halves", rows.astype(np.float16)), ids, 0, "half_rows")
        return builder.cast(found, FLOAT, "vectors")

    def _store_integers(self, builder: Builder, rows: np.ndarray, ids: ir.Value) -> ir.Value:
        integers, scales = round_weights(np.ascontiguousarray(rows.T), STEPS)
        found = builder.gather(self._add_constant(builder, "rows", np.ascontiguousarray(integers.T)), ids, 0, "integers")
        factors = builder.gather(self._add_constant(builder, "scales", scales[:, None]), ids, 0, "row_scales")
        return builder.node("Mul", [builder.cast(found, FLOAT, "float_rows"), factors], "vectors")

    def _store_tables(self, flow: Flow, store: Callable[[Builder, np.ndarray, ir.Value], ir.Value]) -> int:
        """Replace every lookup in a float32 table by what ``store`` makes. Return the number of lookups."""
        done = 0
        for node in list(self._editor.nodes):
            table = get_input(node, 0)
            tensor = self._editor.tensor(table)
            if table is None or tensor is None or tensor.data_type != FLOAT or not is_lookup(self._editor, node):
                continue
            builder = Builder(self._editor, f"{table.name}/quantized")
            value = store(builder, flow.model.values(tensor), require_value(get_input(node, 1), "the ids"))
            self._editor.insert(node, builder.nodes)
            self._editor.replace_value(node.outputs[0], value)
            self._editor.remove(node)
            done += 1
        return done

    def _dequantise(self, builder: Builder, matrix: Matrix) -> ir.Value:
        weights = self._add_constant(builder, "weights", matrix.integers)
        scales = self._add_constant(builder, "scales", matrix.scales)
        return builder.node("DequantizeLinear", [weights, scales], "float_weights", {"axis": 1})

    def _multiply(self, builder: Builder, value: ir.Value, weights: ir.Value, bias: np.ndarray | None) -> ir.Value:
        value = builder.node("MatMul", [value, weights], "products")
        return value if bias is None else builder.node("Add", [value, self._add_constant(builder, "bias", bias)], "biased")

    def _equalise(self, builder: Builder, value: ir.Value, plan: Plan) -> ir.Value:
        """Return ``(x - c) / s``."""
        if plan.center is not None:
            value = builder.node("Sub", [value, self._add_constant(builder, "center", plan.center)], "centered")
        if plan.divisors is not None:
            factors = (1 / plan.divisors).astype(np.float32)
            value = builder.node("Mul", [value, self._add_constant(builder, "factors", factors)], "equalised")
        return value

    def _quantise_by_range(
        self, builder: Builder, value: ir.Value, low: float, high: float
    ) -> tuple[ir.Value, ir.Value, int, ir.Value | None]:
        """Return (the integers, their scale, their zero point, None)."""
        low, high = min(low, 0.0), max(high, 0.0)
        step = max((high - low) / LAST, TINY)
        zero = int(np.clip(round(-low / step), 0, LAST))
        scale = self._add_constant(builder, "step", np.float32(step))
        return self._quantise(builder, value, scale, zero), scale, zero, None

    def _quantise_rows(
        self, builder: Builder, value: ir.Value, lowest: float | None
    ) -> tuple[ir.Value, ir.Value, int, ir.Value | None]:
        """Return (the integers, 1, their zero point, the scale of each row)."""
        if lowest is None:
            zero, least = MIDDLE, TINY
            most = self._reduce_max(builder, builder.node("Abs", [value], "absolute"))
        else:
            zero = round(-lowest * STEPS_BELOW)
            least = -lowest / zero if zero else TINY  # the minimum itself has to fit
            most = self._reduce_max(builder, value)
        steps = STEPS if lowest is None else LAST - zero
        share = builder.node("Mul", [most, self._add_constant(builder, "share", np.float32(1 / steps))], "share_of_row")
        scales = builder.node("Max", [share, self._add_constant(builder, "least", np.float32(least))], "row_scales")
        scaled = builder.node("Div", [value, scales], "scaled")
        one = self._add_constant(builder, "one", np.float32(1))
        return self._quantise(builder, scaled, one, zero), one, zero, scales

    def _quantise(self, builder: Builder, value: ir.Value, scale: ir.Value, zero: int) -> ir.Value:
        point = self._add_constant(builder, "zero", np.uint8(zero))
        return builder.node("QuantizeLinear", [value, scale, point], "integers")

    def _reduce_max(self, builder: Builder, value: ir.Value) -> ir.Value:
        if self._editor.opset >= AXES_SINCE:
            return builder.node("ReduceMax", [value, builder.integers([-1])], "row_maximum", {"keepdims": 1})
        return builder.node("ReduceMax", [value], "row_maximum", {"axes": [-1], "keepdims": 1})

    def _replace(
        self, builder: Builder, product: Product, matrix: Matrix, integers: ir.Value, scale: ir.Value, zero: int,
        rows: ir.Value | None,
    ) -> None:  # fmt: skip
        """Put a product in integers in the place of ``product``."""
        bias = None if matrix.bias is None else self._add_constant(builder, "bias", matrix.bias)
        is_joined = rows is None and bias is not None and not self._standard
        point = self._add_constant(builder, "zero", np.uint8(zero))
        weights = self._add_constant(builder, "weights", matrix.integers)
        if self._standard:
            total = builder.node("MatMulInteger", [integers, weights, point], "sums")
            total = builder.cast(total, FLOAT, "float_sums")
            step = float(require_value(self._editor.array(scale), "the step"))
            scales = self._add_constant(builder, "scales", (matrix.scales * np.float32(step)).astype(np.float32))
            value = builder.node("Mul", [total, scales], "products")
        else:
            scales = self._add_constant(builder, "scales", matrix.scales)
            inputs: Sequence[ir.Value | None] = [integers, weights, scale, scales, point, *([None, bias] if is_joined else [])]
            value = builder.node("MatMulIntegerToFloat", inputs, "products", {}, VENDOR)
        if rows is not None:
            value = builder.node("Mul", [value, rows], "rescaled")
        if bias is not None and not is_joined:
            value = builder.node("Add", [value, bias], "biased")
        self._put(builder, product, value)

    def _put(self, builder: Builder, product: Product, value: ir.Value) -> None:
        """Put the nodes of ``builder`` in the place of ``product``. ``value`` is the output of the last one."""
        self._editor.insert(product.node, builder.nodes)
        builder.nodes.clear()
        self._editor.replace_value(product.output, value)
        for node in filter(None, (product.adding, product.node)):
            self._editor.remove(node)

    def _add_constant(self, builder: Builder, name: str, array: np.ndarray | np.generic) -> ir.Value:
        return self._editor.add_constant(f"{builder.prefix}/{name}", np.asarray(array))
