"""A match holds what a rewrite needs: from its values and weights alone numpy computes what the part of the graph gives."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from conftest import FIXTURES, fixture_names

import graphsurgery
from graphsurgery.encoder.blocks import Blocks, find_blocks
from graphsurgery.encoder.norms import LAYER, Norm
from graphsurgery.encoder.roles import find_roles
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.masks import make_mask
from graphsurgery.runtime.session import open_session

Get = Callable[[ir.Value | None], np.ndarray]
ERF = np.vectorize(math.erf)
KINDS = {
    "gelu": lambda x: x / 2 * (1 + ERF(x / math.sqrt(2))),
    "tanh gelu": lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + np.exp(-x)),
}
EPSILONS = (1e-12, 1e-5, 1e-6)


@pytest.fixture(scope="module", params=fixture_names())
def run(request: pytest.FixtureRequest) -> tuple[Blocks, Get, float]:
    """A fixture's parts, every value of one run by what stands for it, and how far numbers may be apart."""
    model = graphsurgery.load(FIXTURES / request.param / "model.onnx")
    blocks = find_blocks(model)
    graph = blocks.flow.graph
    wanted = [value.name for value in _values(blocks) if graph.tensor(value) is None and not value.is_graph_input()]
    feed = FeedGenerator.for_model(model, find_roles(model.interface)).generate(make_mask([9, 4]), seed=0)
    names = list(dict.fromkeys(wanted))
    found = {**feed, **open_session(model, extra_outputs=names).run(feed, names)}

    def get(value: ir.Value | None) -> np.ndarray:
        tensor = graph.tensor(value)
        return (model.values(tensor) if tensor is not None else found[value.name]).astype(np.float64)

    return blocks, get, 2e-2 if request.param == "bert-fp16" else 1e-4


def _values(blocks: Blocks) -> list[ir.Value]:
    """Every value that the tests below ask for."""
    nodes, values = [], []
    for one in blocks.attentions:
        nodes += [one.node, one.scores.product, one.weighting.product, one.sum.node]
        values += [one.output, *(term.value for term in one.terms), one.scores.scale, one.sum.product.outputs[0]]
        for part in (one.queries, one.keys, one.values):
            nodes += [part.product, *(reader for reader in blocks.flow.graph.consumers(part.output))]
            values += [part.source, part.weight]
    for _, norm in blocks.norms:
        values += [norm.source, norm.output, *norm.summands, *(one.node.outputs[0] for one in norm.lookups)]
    for _, one in blocks.activations:
        nodes += [one.gate] if one.gate is not None else []
        values += [one.source, one.output]
    read = [value for node in nodes for value in (*node.inputs, *node.outputs)]
    return [value for value in (*values, *read) if value is not None]


def close(found: np.ndarray, expected: np.ndarray, apart: float) -> bool:
    return np.allclose(found, expected, rtol=apart, atol=apart * max(1.0, float(np.abs(expected).max())))


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def test_projections(run: tuple[Blocks, Get, float]) -> None:
    """A product of the source with the weights; the bias is what the next node adds."""
    blocks, get, apart = run
    for attention in blocks.attentions:
        for part in (attention.queries, attention.keys, attention.values):
            product = get(part.source) @ get(part.weight)
            assert close(get(part.output), product, apart)
            if part.bias is not None:
                (added,) = blocks.flow.graph.consumers(part.output)
                assert close(get(added.outputs[0]), product + get(part.bias), apart)


def test_attentions(run: tuple[Blocks, Get, float]) -> None:
    """Scores, scaled and with what is added, become weights; these times the values, heads joined, are the output."""
    blocks, get, apart = run
    for one in blocks.attentions:
        scores = get(one.scores.product.outputs[0])
        assert close(scores, np.matmul(*map(get, one.scores.product.inputs)), apart)
        if one.scores.scale is not None:
            scores = scores / get(one.scores.scale) if "Div" in one.score_steps else scores * get(one.scores.scale)
        weights = softmax(scores + sum(get(term.value) for term in one.terms))
        assert get(one.mask).min() < -1e3 and close(get(one.node.outputs[0]), weights, apart)
        joined = (get(one.node.outputs[0]) @ get(one.weighting.values)).swapaxes(1, 2)
        sees = sum(get(term.value) for term in one.terms).max(axis=(1, 3))[:, :, None, None] > -1e3  # else some exports give 0
        assert close((get(one.output).reshape(joined.shape) * sees).ravel(), (joined * sees).ravel(), apart)


def test_sums(run: tuple[Blocks, Get, float]) -> None:
    """The output projection and its bias, plus the stream."""
    blocks, get, apart = run
    for one in blocks.attentions:
        weight = next(value for value in one.sum.product.inputs if blocks.flow.weights(value) is not None)
        branch = get(one.output) @ get(weight) + (0 if one.sum.bias is None else get(one.sum.bias))
        assert close(get(one.sum.branch), branch, apart)
        assert close(get(one.sum.value), branch + get(one.sum.stream), apart)


def test_norms(run: tuple[Blocks, Get, float]) -> None:
    blocks, get, apart = run
    for _, norm in blocks.norms:
        assert any(close(get(norm.output), normalised(norm, get, epsilon), apart) for epsilon in EPSILONS)
        if norm.summands:
            assert close(get(norm.source), sum(map(get, norm.summands)), apart)
        if norm.lookups:
            assert close(get(norm.source), sum(get(one.node.outputs[0]) for one in norm.lookups), apart)
        for one in norm.lookups:
            assert blocks.flow.weights(one.table).dims[-1] == get(norm.source).shape[-1]


def normalised(norm: Norm, get: Get, epsilon: float) -> np.ndarray:
    x = get(norm.source)
    x = x - x.mean(-1, keepdims=True) if norm.kind == LAYER else x
    scaled = x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * get(norm.scale)
    return scaled if norm.bias is None else scaled + get(norm.bias)


def test_activations(run: tuple[Blocks, Get, float]) -> None:
    blocks, get, apart = run
    for _, one in blocks.activations:
        assert close(get(one.output), KINDS[one.kind](get(one.source)), apart)
        if one.gate is not None:
            assert close(get(one.gate.outputs[0]), np.multiply(*map(get, one.gate.inputs)), apart)
            assert one.output in one.gate.inputs
