"""Which value holds the weights that token embeddings were multiplied with, so that means divide by their sum."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_graphsurgeon as gs

from graphsurgery.edits.operators import FLOAT, Operators
from graphsurgery.encoder.head import WORD_WEIGHTS, head_steps
from graphsurgery.encoder.hidden_state import infer_values
from graphsurgery.errors import NameNotFoundError, RequestError
from graphsurgery.graph.graph import Graph
from graphsurgery.interface import Value
from graphsurgery.model.dtypes import FLOATS
from graphsurgery.model.model import Model

DIVIDING = ("mean", "mean_sqrt_len_tokens", "weightedmean")
"""The pooling modes that divide by the sum of token weights where there are any, as in sentence-transformers."""


def settled_token_weights(model: Model, name: str | None, modes: Sequence[str]) -> str | None:
    """The value ``name``, else that of the newest recorded add-word-weights; None where no mode divides.

    NameNotFoundError when there is no such value, RequestError when it is not ``[batch, seq]`` floats.
    """
    found = name if name is not None else _recorded(model)
    if found is None or not any(mode in DIVIDING for mode in modes):
        return None
    if Graph.of(model).value(found) is None:
        raise NameNotFoundError(f"there is no value {found!r} in the graph", "add-word-weights makes token weights")
    value = _value(model, found)
    if value is not None and (value.rank not in (2, None) or value.dtype not in (*FLOATS, onnx.TensorProto.UNDEFINED)):
        raise RequestError(f"{value} cannot be the tokens' weights", "name a value of floats [batch, seq] with --token-weights")
    return found


def token_weights_value(ops: Operators, model: Model, name: str) -> gs.Tensor:
    """The value ``name`` in float32."""
    value = _value(model, name)
    found = ops.draft.tensor(name)
    return found if value is not None and value.dtype == FLOAT else ops.cast(found, FLOAT, "token_weights_float32")


def _recorded(model: Model) -> str | None:
    names = [str(step.parameters["token_weights"]) for step in head_steps(model) if step.edit == WORD_WEIGHTS]
    return names[-1] if names else None


def _value(model: Model, name: str) -> Value | None:
    return model.interface.input(name) or model.interface.output(name) or infer_values(model).output(name)
