"""align-mask: let a mask hide frames where the export lets it hide channels."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Self

import onnx

from graphsurgery.deferred import gs
from graphsurgery.edits.draft_operators import Operators
from graphsurgery.edits.edit import GraphEdit, Resolved, require_opset, resolved_parameter
from graphsurgery.edits.misaligned_masks import Misaligned, is_misaligned, list_suspects
from graphsurgery.errors import RequestError, require_promised
from graphsurgery.interface import Interface
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model
from graphsurgery.model.names import Namer

SCOPE = "graphsurgery/mask"


@dataclass(frozen=True)
class Aligned:
    """A `Where` node that reads its condition with a third dim, and the name of that value."""

    where: Misaligned
    made: str


Found = tuple[Aligned, ...]


@dataclass(frozen=True)
class AlignMask(GraphEdit[Found]):
    """Let a mask of frames hide frames: ``Where(mask [batch, frames], a, b)`` with a or b ``[batch, frames, channels]``.

    ONNX aligns shapes at their ends, so such a node reads the mask as ``[1, frames, channels]``. It fails in most runs; with as
    many frames as channels it runs, and hides channels. fairseq's ``x[padding_mask] = 0`` is exported in this form. The edit
    puts an Unsqueeze before the condition: ``[batch, frames, 1]``. The nodes are found by their ranks and by runs. The proof
    computes each of them in numpy, between the parts of the source before it and after it.
    """

    where: tuple[str, ...] = resolved_parameter(())
    rewired: tuple[str, ...] = resolved_parameter(())

    def resolve(self, model: Model) -> Resolved[Self, Found]:
        """Find the nodes. Raises UnsupportedModelError for an old opset, RequestError if no node has this fault."""
        require_opset(model, self.verb)
        namer, mended = Namer.of(model.proto), model
        found: Found = ()
        for suspect, values in list_suspects(model):
            if is_misaligned(mended, suspect, values):  # the nodes before it have to run
                found = (*found, Aligned(suspect, namer.new(f"{SCOPE}/condition")))
                mended = replace(model, document=self._record(found).document(model, found, None))
        if not found:
            raise RequestError(
                "no Where node reads a mask [batch, frames] for values [batch, frames, channels]",
                "nothing is left to do; `graphsurgery fix` looks for other faults of exports, too",
            )
        names = ", ".join(one.where.node for one in found)
        return Resolved(self._record(found), found, (f"the mask of {names} hides frames now, and no channels",))

    def _record(self, found: Found) -> Self:
        """Return the edit as the file records it: each node with the values that it read, and what it reads now."""
        read = [[one.where.output, one.where.condition, one.where.chosen, one.where.other] for one in found]
        rewired = [[one.where.output, 0, one.made] for one in found]
        return replace(self, where=tuple(map(json.dumps, read)), rewired=tuple(map(json.dumps, rewired)))

    def change(self, draft: Draft, found: Found) -> None:
        names = {one.where.output: one.made for one in found}

        def take_new_condition(node: onnx.NodeProto) -> None:
            if node.output and node.output[0] in names:
                node.input[0] = names[node.output[0]]

        draft.changes.nodes.append(take_new_condition)
        ops = Operators(draft, SCOPE)
        for one in found:
            condition = one.where.condition
            is_input = draft.model.interface.input(condition) is not None
            with draft.at_front() if is_input else draft.behind(condition):
                ops.unsqueeze(gs.Variable(condition), -1, "condition", one.made)

    def ensure(self, before: Interface, after: Interface) -> None:
        require_promised(self.verb, "the inputs", before.inputs, after.inputs)
        require_promised(self.verb, "the outputs", before.outputs, after.outputs)
