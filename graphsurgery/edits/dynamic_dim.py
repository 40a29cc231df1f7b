"""dynamic-dim: batch and sequence sizes that were baked in, free again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx
import onnx_graphsurgeon as gs

from graphsurgery.contracts import present, require_promised
from graphsurgery.edits.baked_dims import AXES, CUT, SEQUENCE, Rewrite, described, planned
from graphsurgery.edits.dynamic_graph import Values
from graphsurgery.edits.dynamic_trial import tried
from graphsurgery.edits.edit import GraphEdit, parameter, require_opset, settled
from graphsurgery.edits.inputs import listed_dims
from graphsurgery.edits.operators import Operators
from graphsurgery.encoder.roles import Roles, roles_of
from graphsurgery.errors import RequestError, UnsupportedModelError
from graphsurgery.interface import Interface, Value
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model
from graphsurgery.model.namer import Namer


@dataclass(frozen=True)
class DynamicDim(GraphEdit):
    """Let a batch or sequence size that an export baked in be any size again.

    The declared dims change, and with them what can be told from where the size stands: shapes to reshape and expand to,
    positions 0, 1, ..., ends of slices, tables and masks of a length (cut, so that the baked length is the longest). It is done
    only where the model then gives at other sizes what it gives at its own: row by row, shorter texts padded with the mask.
    """

    dim: tuple[str, ...] = parameter(
        "The size that may vary again, batch or sequence, and a name for the dim.",
        (),
        "batch|sequence[=NAME]",
        takes=Sequence[str] | Mapping[str, str],
        called="dims",
        required=True,
    )
    sizes: tuple[str, ...] = settled(())
    inputs: tuple[str, ...] = settled(())
    ids: str | None = settled(None)
    mask: str | None = settled(None)
    follows: tuple[str, ...] | None = settled(None)
    rewired: tuple[str, ...] = settled(())

    @property
    def names(self) -> dict[str, str]:
        """What each freed dim is called. RequestError for what is neither batch nor sequence."""
        found: dict[str, str] = {}
        for text in self.dim:
            which, _, name = str(text).partition("=")
            if which not in AXES or which in found:
                raise RequestError(f"{text!r} is no dim to free", "write --dim batch, --dim sequence or --dim sequence=NAME")
            found[which] = name or which
        return found

    @property
    def baked(self) -> dict[str, int]:
        return {which: int(size) for which, _, size in (text.partition("=") for text in self.sizes)}

    def resolve(self, model: Model) -> tuple[DynamicDim, tuple[str, ...]]:
        """Settle sizes and what to rewrite, and try it. Raises RequestError, and UnsupportedModelError with the reason where
        the size stays baked in."""
        require_opset(model, self.verb)
        roles = roles_of(model.interface)
        sizes = self._sizes(model, roles)
        ids = present(roles.ids, "the input of token ids")
        values = [value for value in (ids, roles.mask, roles.types, roles.positions) if value is not None]
        settled_ = replace(
            self, dim=tuple(f"{which}={name}" for which, name in self.names.items()), ids=ids.name,
            sizes=tuple(f"{which}={size}" for which, size in sizes.items()), inputs=tuple(value.name for value in values),
            mask=roles.mask.name if roles.mask is not None else None, follows=None, rewired=(),
        )  # fmt: skip
        rewrites = planned(model, sizes)
        reasons = []
        for attempt in (settled_, replace(settled_, rewired=_recorded(model, rewrites))) if rewrites else (settled_,):
            trial = tried(model, replace(model, document=attempt.document(model, None)), roles, sizes)
            if trial.reason is None:
                follows = tuple(json.dumps(one) for one in trial.follows)
                return replace(attempt, follows=follows), attempt._notes(sizes)
            reasons.append(trial.reason)
        places = list(dict.fromkeys(described(model, rewrites)))
        where = f"; the size stands in {', '.join(places[:3])}" if places else ""
        raise UnsupportedModelError(
            f"{' and '.join(f'{which} {size}' for which, size in sizes.items())} cannot be freed: {reasons[-1]}{where}",
            "export the model again with dynamic axes",
        )

    def _notes(self, sizes: Mapping[str, int]) -> tuple[str, ...]:
        freed = ", ".join(f"{which} {size} is any size ({self.names[which]})" for which, size in sizes.items())
        notes = [f"{freed}; {len(self.rewired)} constants rewritten" if self.rewired else freed]
        if SEQUENCE in sizes:
            cut = any(json.loads(text)[3] == CUT for text in self.rewired)
            why = "tables of that length are in the graph" if cut else "longer ones cannot be held against the model as it was"
            notes.append(f"texts of {sizes[SEQUENCE]} tokens are the longest: {why}")
        return tuple(notes)

    def _sizes(self, model: Model, roles: Roles) -> dict[str, int]:
        """The baked size of each dim that is asked for."""
        names = self.names
        if not names:
            raise RequestError("no dim is named", "name it with --dim batch or --dim sequence")
        if roles.ids is None or roles.ids.rank != 2 or roles.ids.dims is None:
            raise UnsupportedModelError(
                "there is no input of token ids [batch, seq]", "export the model again with dynamic axes"
            )
        if SEQUENCE in names and roles.mask is None:
            raise UnsupportedModelError(
                "there is no attention mask, so that a shorter text cannot be held against the baked length",
                "export the model again with dynamic axes",
            )
        taken = listed_dims((*model.interface.inputs, *model.interface.outputs))
        found = {}
        for which, name in names.items():
            size = roles.ids.dims[AXES[which]]
            if not isinstance(size, int):
                raise RequestError(f"{roles.ids} has no {which} size that is baked in", "leave it out")
            if name in taken or not name.isidentifier():
                raise RequestError(f"a dim cannot be called {name!r} here", f"choose another: --dim {which}=NAME")
            found[which] = size
        return found

    def change(self, draft: Draft, model: Model) -> None:
        names, follows = self.names, [json.loads(text) for text in self.follows or ()]

        def freed(kind: str, info: onnx.ValueInfoProto) -> bool:
            dims = info.type.tensor_type.shape.dim
            if kind == "input" and info.name in self.inputs:
                for which, name in names.items():
                    dims[AXES[which]].dim_param = name
            if kind == "output" and self.follows is None:  # to be tried: what is declared of outputs would mislead
                info.type.tensor_type.ClearField("shape")
            for output, axis, which in follows if kind == "output" else ():
                if output == info.name and axis < len(dims):
                    dims[axis].dim_param = names[which]
            return kind != "value_info"  # they are of the baked sizes

        draft.changes.infos.append(freed)
        if self.rewired:
            self._rewire(draft, model)

    def _rewire(self, draft: Draft, model: Model) -> None:
        wanted = {(output, place): name for output, place, name, _ in map(json.loads, self.rewired)}

        def rewired(node: onnx.NodeProto) -> None:
            for place in range(len(node.input)):
                node.input[place] = wanted.get((node.output[0] if node.output else "", place), node.input[place])

        draft.changes.nodes.append(rewired)
        with draft.at_front():
            values = Values(Operators(draft, "graphsurgery/dims"), gs.Variable(present(self.ids, "ids")), model)
            for rewrite in planned(model, self.baked):
                values.make(rewrite, wanted[rewrite.output, rewrite.place])

    def ensure(self, before: Interface, after: Interface) -> None:
        freed = [self._freed(value) if value.name in self.inputs else value for value in before.inputs]
        require_promised(self.verb, "the inputs", freed, after.inputs)
        typed, given = ([replace(value, dims=None) for value in one.outputs] for one in (before, after))
        require_promised(self.verb, "the outputs, but for their dims", typed, given)

    def _freed(self, value: Value) -> Value:
        """An input with the names of the freed sizes among its dims."""
        dims = list(present(value.dims, f"the dims of {value.name}"))
        for which, name in self.names.items():
            dims[AXES[which]] = name
        return replace(value, dims=tuple(dims))


def _recorded(model: Model, rewrites: list[Rewrite]) -> tuple[str, ...]:
    """Which input of which node becomes which new value, and how that is made."""
    namer = Namer.of(model.proto)
    return tuple(
        json.dumps([rewrite.output, rewrite.place, namer.new("graphsurgery/dims/value"), rewrite.kind]) for rewrite in rewrites
    )
