"""keep-outputs: keep some outputs, in the order in which they are named."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from graphsurgery.edits.edit import GraphEdit, Resolved, parameter
from graphsurgery.edits.inputs import match_names
from graphsurgery.errors import AlreadyAppliedError, NameNotFoundError, RequestError, require_promised
from graphsurgery.interface import Interface
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model
from graphsurgery.suggestions import suggest


@dataclass(frozen=True)
class KeepOutputs(GraphEdit[None]):
    """Keep the named outputs, in the order in which they are named, and drop all others.

    No node changes. ONNX Runtime leaves out the nodes that no output needs any more.
    """

    repeatable: ClassVar[bool] = True

    name: tuple[str, ...] = parameter(
        "An output to keep, or a pattern that several match, such as 'present.*'.", (), "NAME", called="names", required=True
    )

    def resolve(self, model: Model) -> Resolved[Self, None]:
        """Find the outputs. Raises RequestError, NameNotFoundError, and AlreadyAppliedError if nothing changes."""
        outputs = [value.name for value in model.interface.outputs]
        listed = f"the outputs are {', '.join(outputs) or 'none'}"
        if not self.name:
            raise RequestError("no output is named", f"name those to keep with --name, in order; {listed}")
        names: dict[str, None] = {}
        for asked in self.name:
            found = match_names(outputs, asked)
            if not found:
                raise NameNotFoundError(f"the model has no output {asked!r}", f"{suggest(asked, outputs)}{listed}")
            names |= dict.fromkeys(found)
        if list(names) == outputs:
            raise AlreadyAppliedError(f"the outputs are {', '.join(outputs)} already", "nothing is left to do")
        dropped = [name for name in outputs if name not in names]
        return Resolved(replace(self, name=tuple(names)), None, tuple(f"output {name} is dropped" for name in dropped))

    def change(self, draft: Draft, found: None) -> None:
        by_name = {tensor.name: tensor for tensor in draft.graph.outputs}
        draft.graph.outputs = [by_name[name] for name in self.name]

    def ensure(self, before: Interface, after: Interface) -> None:
        super().ensure(before, after)
        require_promised(self.verb, "the outputs", tuple(map(before.output, self.name)), after.outputs)
