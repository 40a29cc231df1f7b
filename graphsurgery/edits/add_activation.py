"""add-activation: scores from a cross-encoder's logits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from graphsurgery.edits.activation_graph import ACTIVATIONS, check_rank, parse_activation
from graphsurgery.edits.draft_operators import Operators
from graphsurgery.edits.edit import Resolved, parameter, require_opset
from graphsurgery.edits.outputs import (
    OutputEdit,
    build_output,
    choose_name,
    find_target,
    keep_target_parameter,
    output_name_parameter,
    target_parameter,
)
from graphsurgery.errors import RequestError, require_value
from graphsurgery.interface import Value
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model


@dataclass(frozen=True)
class AddActivation(OutputEdit[Value]):
    """Append an activation to an output: ``y = activation(x)``, float32. It turns a cross-encoder's logits into scores.

    It does what ``activation_fn`` does in sentence-transformers' CrossEncoder: by default sigmoid for one label and identity
    for several, unless the model's config names another. The activation is torch.nn's, with its defaults. Softmax, softmin and
    log-softmax are computed over the last dim of ``[batch, dim]``.
    """

    activation: str = parameter("The activation, as torch.nn names it: sigmoid, softmax, tanh, ...", "", "NAME", required=True)
    target: str | None = target_parameter()
    output_name: str | None = output_name_parameter()
    keep_target: bool = keep_target_parameter()

    def resolve(self, model: Model) -> Resolved[Self, Value]:
        """Find the activation and the target. Raises RequestError, NameNotFoundError, UnsupportedModelError."""
        require_opset(model, self.verb)
        if not self.activation:
            raise RequestError("add-activation needs an activation", "name it with --activation, such as --activation sigmoid")
        activation = parse_activation(self.activation)
        target = find_target(model, self.target, "activated")
        check_rank(activation, target)
        name = choose_name(model, self.output_name, target.name, self.keep_target)
        edit = replace(self, activation=activation, target=target.name, output_name=name)
        return Resolved(edit, target, (f"{activation} of {target.name}",))

    def change(self, draft: Draft, found: Value) -> None:
        ops = Operators(draft, "graphsurgery/activation")
        name, activation = require_value(self.output_name, "output_name"), ACTIVATIONS[self.activation]
        build_output(draft, found, name, ops, lambda x: activation(ops, x), last=found.last_dim, keep=self.keep_target)
