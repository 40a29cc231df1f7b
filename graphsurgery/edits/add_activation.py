"""add-activation: scores of the logits that a cross-encoder gives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from graphsurgery.edits.activation_graph import ACTIVATIONS, OVER_LAST_DIM, parse_activation
from graphsurgery.edits.draft_operators import Operators
from graphsurgery.edits.edit import GraphEdit, Resolved, parameter, require_opset
from graphsurgery.edits.outputs import build_output, choose_name, ensure_others_unchanged, find_target
from graphsurgery.errors import RequestError, require_value
from graphsurgery.interface import Interface, Value
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model


@dataclass(frozen=True)
class AddActivation(GraphEdit[Value]):
    """Append an activation to an output: ``y = activation(x)``, float32. Makes scores of a cross-encoder's logits.

    As ``activation_fn`` of sentence-transformers' CrossEncoder, which is sigmoid where there is one label and identity where
    there are more, unless the model's config names another. The activation is torch.nn's, with its defaults; softmax and its
    like are over the last dim of ``[batch, dim]``.
    """

    activation: str = parameter("The activation, as torch.nn names it: sigmoid, softmax, tanh, ...", "", "NAME", required=True)
    target: str | None = parameter(
        "The output to work on.", None, "NAME", otherwise="sentence_embedding, else the only float output [batch, dim]"
    )
    output_name: str | None = parameter("The name of the result.", None, "NAME", otherwise="the target's name")
    keep_target: bool = parameter("Keep the target as an output as well.", False)

    def resolve(self, model: Model) -> Resolved[Self, Value]:
        """Find the activation and the target. Raises RequestError, NameNotFoundError, UnsupportedModelError."""
        require_opset(model, self.verb)
        if not self.activation:
            raise RequestError("add-activation needs an activation", "name it with --activation, such as --activation sigmoid")
        activation = parse_activation(self.activation)
        target = find_target(model, self.target, "activated")
        if activation in OVER_LAST_DIM and target.rank != 2:
            raise RequestError(f"{activation} of {target} would be over the batch in torch", "choose another activation")
        name = choose_name(model, self.output_name, target.name, self.keep_target)
        edit = replace(self, activation=activation, target=target.name, output_name=name)
        return Resolved(edit, target, (f"{activation} of {target.name}",))

    def change(self, draft: Draft, found: Value) -> None:
        ops = Operators(draft, "graphsurgery/activation")
        last = found.dims[-1] if found.dims else None
        name, activation = require_value(self.output_name, "output_name"), ACTIVATIONS[self.activation]
        build_output(draft, found, name, ops, lambda x: activation(ops, x), last=last, keep=self.keep_target)

    def ensure(self, before: Interface, after: Interface) -> None:
        super().ensure(before, after)
        target, made = require_value(self.target, "target"), require_value(self.output_name, "output_name")
        ensure_others_unchanged(self.verb, before, after, target, [made])
