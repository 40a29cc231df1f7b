"""The products of an encoder that can be computed in integers: those of tokens with stored matrices.

Products that read the same value share its integers, so they belong to one group. The products of a head, of a pooler and of
the one token that is pooled stay as they are: there is little to gain, and every error in them is an error of the embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from graphsurgery.deferred import ir
from graphsurgery.encoder.activations import GELU, QUICK_GELU, RELU, SILU, TANH_GELU, find_activations
from graphsurgery.encoder.flow import Flow
from graphsurgery.errors import require_value
from graphsurgery.graph.attributes import get_float, get_input, get_int
from graphsurgery.graph.element_types import FLOAT
from graphsurgery.graph.operators import MATRIX_PRODUCTS, get_operator
from graphsurgery.graph.sizes import BATCH, Dim, Layout

LOWEST = {GELU: -0.16998, TANH_GELU: -0.17005, QUICK_GELU: -0.16362, SILU: -0.27847, RELU: 0.0}
"""By activation: a bound below all of its values, just below the minimum of the function."""
SMALLEST = 8
"""Matrices with a smaller side stay as they are."""


@dataclass(frozen=True, eq=False)
class Product:
    """``output = x W + bias`` with a stored matrix ``W [inner, outer]``."""

    node: ir.Node
    weights: ir.Value
    is_transposed: bool
    """Whether ``W`` is stored as ``[outer, inner]``."""
    bias: ir.Value | None
    """The stored vector that is added, or None."""
    adding: ir.Node | None
    """The Add of the bias. None if there is none, or if the product adds it itself."""

    @property
    def output(self) -> ir.Value:
        """The result, with the bias if there is one."""
        return (self.adding or self.node).outputs[0]


@dataclass(frozen=True, eq=False)
class Group:
    """The products of one value ``x [..., inner]``."""

    source: ir.Value
    products: tuple[Product, ...]
    lowest: float | None
    """No element of ``x`` is smaller, because it is the result of an activation. None if nothing bounds it."""

    @property
    def name(self) -> str:
        return self.source.name or ""


@dataclass(frozen=True)
class GroupSize:
    """What a group computes for each token."""

    name: str
    inner: int
    """The numbers of one vector that is read."""
    operations: int
    """Multiplications and additions."""
    numbers: int
    """Numbers that are read and written."""


def find_groups(flow: Flow) -> tuple[Group, ...]:
    """Return the groups of products in the order in which they run."""
    layout = Layout(flow.graph)
    lowest = {one.output: LOWEST[one.kind] for one in find_activations(flow) if one.kind in LOWEST}
    groups: dict[ir.Value, list[Product]] = {}
    for source, product in _find_products(flow, layout):
        groups.setdefault(source, []).append(product)
    return tuple(Group(source, tuple(those), lowest.get(flow.graph.origin(source))) for source, those in groups.items())


def measure_group(flow: Flow, group: Group) -> GroupSize:
    """Return what ``group`` computes for each token."""
    shapes = [_read_shape(flow, one) for one in group.products]
    inner = shapes[0][0]
    return GroupSize(group.name, inner, sum(2 * inner * outer for _, outer in shapes), inner + sum(one for _, one in shapes))


def read_weights(flow: Flow, product: Product) -> np.ndarray:
    """Return ``W [inner, outer]`` in float32. Raises MissingDataError if its values are not there."""
    array = flow.model.values(require_value(flow.graph.tensor(product.weights), "the weights"))
    return np.ascontiguousarray(array.T if product.is_transposed else array)


def _read_shape(flow: Flow, product: Product) -> tuple[int, int]:
    """Return the numbers of rows and columns of ``W``."""
    dims = [int(dim) for dim in require_value(flow.graph.tensor(product.weights), "the weights").dims]
    return (dims[1], dims[0]) if product.is_transposed else (dims[0], dims[1])


def read_bias(flow: Flow, product: Product) -> np.ndarray | None:
    """Return the bias ``[outer]`` in float32, or None if there is none."""
    return None if product.bias is None else flow.model.values(require_value(flow.graph.tensor(product.bias), "the bias"))


def _find_products(flow: Flow, layout: Layout) -> Iterator[tuple[ir.Value, Product]]:
    for node in flow.graph.nodes:
        source, weights = get_input(node, 0), get_input(node, 1)
        if get_operator(node) not in MATRIX_PRODUCTS or source is None or source not in flow.tokens:
            continue
        tensor = flow.graph.tensor(weights)
        if tensor is None or weights is None or tensor.data_type != FLOAT or len(tensor.dims) != 2:
            continue
        if min(tensor.dims) >= SMALLEST and _has_many_rows(layout, source):
            product = _read_gemm(flow, node, weights) if get_operator(node) == "Gemm" else _read_matmul(flow, node, weights)
            if product is not None:
                yield source, product


def _has_many_rows(layout: Layout, value: ir.Value) -> bool:
    """Return whether the number of vectors in ``value`` grows with the length of the texts, or is unknown."""
    dims = layout.dims(value)
    return dims is None or any(dim is None or _grows(dim) for dim in dims[:-1])


def _grows(dim: Dim) -> bool:
    return dim[0] != dim[1] and dim != BATCH


def _read_matmul(flow: Flow, node: ir.Node, weights: ir.Value) -> Product:
    """Return the product with the vector that the next node adds to it, if no other node reads the sum's input."""
    output = node.outputs[0]
    readers = [user for user, _ in output.uses()]
    adding = readers[0] if len(readers) == 1 and get_operator(readers[0]) == "Add" else None
    if adding is None or output.is_graph_output() or adding not in flow.graph.consumers(output):
        return Product(node, weights, False, None, None)
    other = adding.inputs[1] if adding.inputs[0] is output else adding.inputs[0]
    tensor = flow.graph.tensor(other)
    is_bias = tensor is not None and tensor.data_type == FLOAT and list(tensor.dims) == _list_outer(flow, weights)
    return Product(node, weights, False, other if is_bias else None, adding if is_bias else None)


def _list_outer(flow: Flow, weights: ir.Value) -> list[int]:
    return [int(require_value(flow.graph.tensor(weights), "the weights").dims[1])]


def _read_gemm(flow: Flow, node: ir.Node, weights: ir.Value) -> Product | None:
    """Return the product of a Gemm, or None if it is scaled, turned, or adds something else than a stored vector."""
    added = get_input(node, 2)
    tensor = flow.graph.tensor(added)
    is_plain = get_float(node, "alpha", 1.0) == get_float(node, "beta", 1.0) == 1.0 and not get_int(node, "transA", 0)
    if not is_plain or (added is not None and (tensor is None or tensor.data_type != FLOAT or len(tensor.dims) != 1)):
        return None
    return Product(node, weights, bool(get_int(node, "transB", 0)), added, None)
