"""Write the Einsums of attentions as MatMul, between nodes that turn the operands and the result.

Einsum("ibnd,jbnd->bnij", q, k) = MatMul(q [b, n, i, d], k [b, n, d, j])            [b, n, i, j]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from string import ascii_letters
from typing import NamedTuple

from graphsurgery.deferred import ir
from graphsurgery.encoder.attention import Attention
from graphsurgery.graph.attributes import get_string
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.operators import get_operator

Order = list[int]
"""The ``perm`` of a Transpose."""


class Product(NamedTuple):
    """How an Einsum of two operands is a product of matrices."""

    exchanged: bool
    """Whether its second operand is the first one of the product."""
    first: Order
    second: Order
    """The orders of the axes of the operands of the product: [batch..., rows, summed] and [batch..., summed, columns]."""
    result: Order
    """The order of the axes of its result [batch..., rows, columns] that gives the Einsum's."""


def spell_out_einsums(work: Editor, attentions: Iterable[Attention]) -> int:
    """Replace the Einsums by which ``attentions`` multiply, and return how many there were.

    An Einsum that is not a product of matrices stays as it is.
    """
    products = [part.product for one in attentions for part in (one.scores, one.weighting) if part is not None]
    einsums = [node for node in products if get_operator(node) == "Einsum"]
    if not einsums:
        return 0
    facts = Facts(work)
    found = {node: product for node in einsums if (product := read_einsum(node, facts)) is not None}
    for node, product in found.items():
        operands = [one for one in node.inputs if one is not None][:: -1 if product.exchanged else 1]
        made: list[ir.Node] = []
        pairs = zip(operands, (product.first, product.second), strict=True)
        made.append(work.make_value("MatMul", [_turn(work, made, *pair) for pair in pairs], f"{node.name}/MatMul"))
        result = _turn(work, made, made[-1].outputs[0], product.result)
        work.insert(node, made)
        work.replace_node(node, [result])
    return len(found)


def read_einsum(node: ir.Node, facts: Facts) -> Product | None:
    """Return how the Einsum ``node`` is a product of matrices, or None if it is none.

    A letter of all three terms is of the batch. One letter is summed, one belongs to the rows and one to the columns. Of the
    last two, the columns are those that come last in the result.
    """
    equation = _name_all_dims(get_string(node, "equation") or "", [len(facts[one].dims or ()) for one in node.inputs])
    terms, arrow, result = equation.partition("->")
    letters = terms.split(",")
    if not arrow or len(letters) != 2 or "." in equation:
        return None
    if any(len(set(term)) != len(term) for term in (*letters, result)):
        return None
    exchanged = result.endswith(tuple(set(letters[0]) - set(letters[1])))
    first, second = letters[:: -1 if exchanged else 1]
    batch = [one for one in result if one in first and one in second]
    rows, columns = [one for one in result if one not in second], [one for one in result if one not in first]
    summed = [one for one in first if one in second and one not in result]
    if not len(rows) == len(columns) == len(summed) == 1:
        return None
    if set(first) != {*batch, *rows, *summed} or set(second) != {*batch, *summed, *columns}:
        return None
    natural = [*batch, *rows, *columns]
    return Product(
        exchanged,
        [first.index(one) for one in (*batch, *rows, *summed)],
        [second.index(one) for one in (*batch, *summed, *columns)],
        [natural.index(one) for one in result],
    )


def _name_all_dims(equation: str, ranks: Sequence[int]) -> str:
    """Return an equation with letters for the dims that dots stand for, if both of two operands have as many of them."""
    equation, dots = equation.replace(" ", ""), "..."
    terms = equation.partition("->")[0].split(",")
    counts = {rank - len(term.replace(dots, "")) for term, rank in zip(terms, ranks, strict=False) if dots in term}
    if len(counts) != 1 or not all(dots in term for term in terms):
        return equation
    unused = [letter for letter in ascii_letters if letter not in equation]
    return equation.replace(dots, "".join(unused[: max(counts.pop(), 0)]))


def _turn(work: Editor, made: list[ir.Node], value: ir.Value, perm: Order) -> ir.Value:
    """Return ``value`` with its axes in another order, and add the node that does that, if they are not in it."""
    if perm == sorted(perm):
        return value
    made.append(work.make_value("Transpose", [value], f"{value.name}/turned", {"perm": perm}))
    return made[-1].outputs[0]
