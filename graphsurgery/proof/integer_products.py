"""The products that a quantised file computes in integers, each held against the float32 product of the same input.

For ``y = x W + b`` of the source, the file's own ``x`` and ``y`` on real text are read, and ``y`` is compared with float64. The
error that 8-bit rounding makes is known: with a step ``s`` of the integers of a row and a step ``t`` of a column of weights,
both errors are uniform, so that the mean square of the error is

    s^2 / 12 * sum_k W_kj^2  +  t_j^2 / 12 * sum_k x_k^2

(B. Widrow, "A Study of Rough Amplitude Quantization by Means of Nyquist Sampling Theory", 1956). Rows have
``s = max |x| / 127``, and one range for all rows has the largest of them. Centres, divisors and compensation make the error
smaller; a wrong scale, a zero point that is off by one, sums that overflow and ranges that do not fit make it larger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from graphsurgery.compare.vectors import select_vectors
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.graph.operators import VENDOR, get_operator
from graphsurgery.model.model import Model
from graphsurgery.report import Check, Verdict
from graphsurgery.runtime.session import open_session

NAME = "products in integers"
PRODUCTS = ("MatMul", "MatMulInteger", f"{VENDOR}.MatMulIntegerToFloat", f"{VENDOR}.MatMulNBits")
BETWEEN = ("Add", "Cast", "Mul", "Max")
"""The operators between an integer product and the value that it replaces, and those of the scales of rows."""
MOST_STEPS = 6
HALF_STEPS = 1 << 11
"""The steps of a float16 number below the next power of two."""
BY_ROW, AT_ONCE, NOT = "by row", "at once", "not"
"""How the input of a product is quantised."""
STEPS = 127
MOST_TIMES = 1.7
"""The most that a product's error may be, as a multiple of the error that rounding explains. A zero point that is off by one
makes it 2.6 times or more."""
Mask = Callable[[Mapping[str, np.ndarray]], np.ndarray | None]


@dataclass
class _Product:
    """A product of the source that the file computes in integers."""

    given: str
    """The name of ``x``."""
    made: str
    """The name of ``y``."""
    weights: np.ndarray
    bias: np.ndarray | None
    largest: int
    """The largest integer among the file's weights."""
    rounded: str
    """How the input is quantised."""
    squares: float = 0.0
    """The sum of all squared errors."""
    explained: float = 0.0
    """The sum of their expectations."""
    energy: float = 0.0
    """The sum of all squares of ``y``."""
    most: float = field(default=0.0)
    """The largest step of any row, ``max |x| / STEPS``."""
    pending: list[tuple[float, int]] = field(default_factory=list)
    """For rows that share one step: the squared error that a step of one explains, and the number of these rows."""

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Add rows ``x [n, inner]`` and ``y [n, outer]``."""
        wanted = x.astype(np.float64) @ self.weights
        wanted = wanted if self.bias is None else wanted + self.bias
        self.squares += float(np.square(y - wanted).sum())
        self.energy += float(np.square(wanted).sum())
        steps = np.abs(x).max(axis=1, initial=0) / STEPS
        power = float(np.square(self.weights).sum())
        own = np.abs(self.weights).max(axis=0) / self.largest
        self.explained += float(np.square(x, dtype=np.float64).sum() * np.square(own).sum() / 12)
        self.most = max(self.most, float(steps.max(initial=0)))
        if self.rounded == BY_ROW:
            self.explained += float(np.square(steps, dtype=np.float64).sum()) * power / 12
        elif self.rounded == AT_ONCE:
            self.pending.append((power / 12, len(x)))

    @property
    def times(self) -> float:
        """The error over what rounding explains, as a ratio of root mean squares."""
        explained = self.explained + sum(self.most**2 * power * rows for power, rows in self.pending)
        return float(np.sqrt(self.squares / explained)) if explained else (np.inf if self.squares else 0.0)

    @property
    def share(self) -> float:
        """The error over the product, as a ratio of root mean squares."""
        return float(np.sqrt(self.squares / self.energy)) if self.energy else 0.0


def check_integer_products(
    source: Model, written: Model, counted: int | None, feeds: Sequence[Mapping[str, np.ndarray]], find_mask: Mask
) -> Check:
    """Check every product of ``source`` that ``written`` computes in integers.

    Args:
        counted: how many products of the source ``written`` is said to compute in integers. None to check those that are nodes
            of the source, of which there may be fewer.
        feeds: real text, or drawn feeds for a file without calibrated ranges.
    """
    products = list(_find_products(source, written))
    if counted is None and not products:
        return Check(NAME, "none of them is a product in the source", stated=Verdict.NOT_CHECKED)
    if counted is not None and len(products) != counted:
        what = f"the file is said to compute {counted} products in integers, and {len(products)} were found"
        return Check(NAME, what, stated=Verdict.FAILED)
    names = list(dict.fromkeys(name for one in products for name in (one.given, one.made)))
    session = open_session(written, extra_outputs=names)
    try:
        for feed in feeds:
            values = session.run(feed, names)
            for one in products:
                x, y = (select_vectors(values[name], find_mask(feed)) for name in (one.given, one.made))
                one.add(x, y)
    except UnsupportedModelError as error:
        return Check(NAME, f"the file cannot be run: {error}", stated=Verdict.FAILED)
    return _judge(products)


def _judge(products: Sequence[_Product]) -> Check:
    worst = max(products, key=lambda one: one.times)
    wrong = sum(not one.times <= MOST_TIMES for one in products)
    detail = (
        f"{len(products)}, each against float64 on its own input: errors of {min(one.share for one in products):.1%} to "
        f"{max(one.share for one in products):.1%}, at most {worst.times:.2f} times what rounding explains ({worst.made})"
    )
    if wrong:
        detail = f"{wrong} of {detail}; {MOST_TIMES} times are allowed"
    return Check(NAME, detail, stated=Verdict.FAILED if wrong else Verdict.PASSED)


def _find_products(source: Model, written: Model) -> Iterator[_Product]:
    """Yield the products with stored matrices of ``source`` whose value ``written`` computes from quantised weights."""
    before, after = source.proto.graph, written.proto.graph
    stored = {tensor.name: tensor for tensor in before.initializer}
    file = _File(
        written, {one.name: one for one in after.initializer}, {name: node for node in after.node for name in node.output}
    )
    for node in before.node:
        if get_operator(node) not in ("MatMul", "Gemm") or len(node.input) < 2 or node.input[1] not in stored:
            continue
        weights = stored[node.input[1]]
        if len(weights.dims) != 2 or weights.data_type != onnx.TensorProto.FLOAT:
            continue
        for made, bias in _list_results(before, node, stored):
            found = file.find_product(made)
            if found is None:
                continue
            matrix = source.values(weights).astype(np.float64)
            turned = any(one.name == "transB" and one.i for one in node.attribute)
            added = None if bias is None else source.values(stored[bias]).astype(np.float64)
            yield _Product(node.input[0], made, matrix.T if turned else matrix, added, *found)
            break


def _list_results(
    graph: onnx.GraphProto, node: onnx.NodeProto, stored: Mapping[str, onnx.TensorProto]
) -> list[tuple[str, str | None]]:
    """Return the values that a product makes, with the bias in each: the sum with a stored vector first."""
    bias = node.input[2] if len(node.input) > 2 else None
    sums = [
        (one.output[0], name)
        for one in graph.node if get_operator(one) == "Add" and node.output[0] in one.input
        for name in one.input if name in stored and len(stored[name].dims) == 1
    ]  # fmt: skip
    return [*sums, (node.output[0], bias)]


@dataclass(frozen=True)
class _File:
    """A quantised file: its constants, and the nodes that make its values."""

    model: Model
    constants: Mapping[str, onnx.TensorProto]
    makers: Mapping[str, onnx.NodeProto]

    def find_product(self, name: str) -> tuple[int, str] | None:
        """Return (the largest integer of the weights, how the input is quantised) of the product that makes ``name``.

        None if its weights are not quantised, or if no product makes it in a few steps.
        """
        for _ in range(MOST_STEPS):
            node = self.makers.get(name)
            if node is None:
                return None
            largest = self._find_largest(node)
            if largest is not None:
                return largest, self._find_input(node)
            before = [one for one in node.input if one in self.makers]
            if get_operator(node) not in BETWEEN or not before:
                return None
            name = next((one for one in before if get_operator(self.makers[one]) in (*BETWEEN[:-1], *PRODUCTS)), before[0])
        return None

    def _find_largest(self, node: onnx.NodeProto) -> int | None:
        """Return the largest integer of a product's weights. None if ``node`` is not a product, or its weights are float32."""
        operator = get_operator(node)
        if operator == f"{VENDOR}.MatMulNBits":
            bits = next(one.i for one in node.attribute if one.name == "bits")
            return int((1 << (bits - 1)) - 1)
        if operator not in PRODUCTS:
            return None
        maker = self.makers.get(node.input[1])
        name = node.input[1] if maker is None else maker.input[0]
        tensor = self.constants.get(name)
        if tensor is None or tensor.data_type == onnx.TensorProto.FLOAT:
            return None
        if tensor.data_type == onnx.TensorProto.FLOAT16:
            return HALF_STEPS
        return max(int(np.abs(self.model.values(tensor).astype(np.int64)).max()), 1)

    def _find_input(self, node: onnx.NodeProto) -> str:
        """Return how the input of a product is quantised."""
        maker = self.makers.get(node.input[0])
        if maker is None or get_operator(maker) not in ("QuantizeLinear", "DynamicQuantizeLinear", "DequantizeLinear"):
            return NOT
        divided = self.makers.get(maker.input[0])
        by_row = divided is not None and get_operator(divided) == "Div" and divided.input[1] in self.makers
        return BY_ROW if by_row else AT_ONCE
