"""The token embeddings that an edit works on: ``[batch, seq, hidden]``, one of the model's outputs."""

from __future__ import annotations

from dataclasses import dataclass

from graphsurgery.edits.edit import already_recorded
from graphsurgery.edits.targets import check_free
from graphsurgery.encoder.head import head_steps
from graphsurgery.encoder.hidden_state import find_hidden_state
from graphsurgery.errors import NameNotFoundError, NothingToPoolError, RequestError
from graphsurgery.interface import Value
from graphsurgery.model.model import Model
from graphsurgery.runtime.probe import measured_width

TOKENS = "token_embeddings"
"""What token embeddings are called once an edit has changed them, as in sentence-transformers."""


@dataclass(frozen=True)
class TokenTarget:
    """An output of token embeddings, and its last dim, derived from the weights or from a run."""

    value: Value
    width: int

    @property
    def name(self) -> str:
        return self.value.name


def token_target(model: Model, name: str | None, ids: str | None = None) -> TokenTarget:
    """The output ``name``, else the hidden state that pooling would find.

    Raises NameNotFoundError and NothingToPoolError as `find_hidden_state`, and where that is no output computed by a node;
    UnsupportedModelError where only a run could tell its width, and the run failed.
    """
    try:
        hidden = find_hidden_state(model, name, ids)
    except (NameNotFoundError, NothingToPoolError) as error:
        raise type(error)(error.message, error.advice.replace("--hidden-state", "--target")) from error
    value = model.interface.output(hidden.name)
    if value is None or not any(hidden.name in node.output for node in model.proto.graph.node):
        listed = ", ".join(map(str, model.interface.outputs)) or "none"
        what = f"{hidden.name!r} is no output that a node computes; the outputs are {listed}"
        raise NothingToPoolError(what, "name an output of token embeddings with --target")
    return TokenTarget(value, hidden.width if hidden.width is not None else measured_width(model, hidden))


def check_not_repeated(model: Model, verb: str, digests: tuple[str, ...]) -> None:
    """AlreadyPooledError where the newest recorded edit is this one with these weights, on whatever target."""
    newest = head_steps(model)[-1:]
    if newest and newest[0].edit == verb and newest[0].parameters["digests"] == list(digests):
        raise already_recorded(verb)


def settled_tokens_name(model: Model, name: str, target: TokenTarget, keep: bool) -> str:
    """What the new token embeddings are called: ``name``, where it is free, or the target's own and that is not to ``keep``;
    RequestError otherwise."""
    if name != target.name:
        check_free(model, name)
    elif keep:
        raise RequestError(f"{name} cannot be kept and replaced", "say with --output-name what the result is called")
    return name
