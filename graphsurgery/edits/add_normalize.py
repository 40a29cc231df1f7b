"""add-normalize: vectors of length one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx

from graphsurgery.anatomy.head import EMBEDDING, head_steps
from graphsurgery.edits.edit import GraphEdit, parameter, require_opset
from graphsurgery.edits.normalize_graph import l2_normalize
from graphsurgery.edits.operators import FLOAT, Operators
from graphsurgery.errors import AlreadyPooledError, NameNotFoundError, RequestError, UnsupportedModelError
from graphsurgery.interface import Interface, Value
from graphsurgery.model.draft import Draft
from graphsurgery.model.dtypes import FLOATS
from graphsurgery.model.model import Model


@dataclass(frozen=True)
class AddNormalize(GraphEdit):
    """Append L2 normalisation to an embedding output: ``y = x / max(norm2(x), 1e-12)`` over the last dim, float32.

    The output keeps its name and its place; the value it had before gets a new name inside the graph. As sentence-transformers'
    Normalize module and ``torch.nn.functional.normalize``.
    """

    verb: ClassVar[str] = "add-normalize"
    step: ClassVar[str] = "normalized"
    summary: ClassVar[str] = "append L2 normalisation: embeddings of length one"

    target: str | None = parameter("The output to normalise, where it is not sentence_embedding.", None, "NAME")

    def resolve(self, model: Model) -> tuple[AddNormalize, tuple[str, ...]]:
        """Settle the target: ``target``, else ``sentence_embedding``, else the only rank-2 float output.

        Raises NameNotFoundError, RequestError (no or several candidates), AlreadyPooledError (normalised already),
        UnsupportedModelError.
        """
        require_opset(model, self.verb)
        value = _target(model, self.target)
        _refuse_second_time(model, value.name)
        producers = {output for node in model.proto.graph.node for output in node.output}
        if value.name not in producers:
            raise UnsupportedModelError(f"output {value.name} is not computed by any node", "normalise another output")
        return replace(self, target=value.name), (f"normalises {value}",)

    def change(self, draft: Draft, model: Model) -> None:
        assert self.target is not None
        declared = model.interface.output(self.target)
        assert declared is not None
        raw = draft.rename(self.target, draft.namer.new(f"{self.target}_unnormalized"))
        ops = Operators(draft, "graphsurgery/normalize")
        x = raw if declared.dtype == onnx.TensorProto.FLOAT else ops.cast(raw, FLOAT, "float32")
        unit = l2_normalize(ops, x, output=self.target)
        unit.dtype = np.float32
        unit.shape = list(declared.dims) if declared.dims is not None else None
        draft.graph.outputs = [unit if tensor is raw else tensor for tensor in draft.graph.outputs]

    def ensure(self, before: Interface, after: Interface) -> None:
        super().ensure(before, after)
        expected = tuple(
            Value(value.name, onnx.TensorProto.FLOAT, value.dims) if value.name == self.target else value
            for value in before.outputs
        )
        assert after.outputs == expected, "add-normalize changed more than its target"


def _target(model: Model, name: str | None) -> Value:
    outputs = model.interface.outputs
    listed = ", ".join(map(str, outputs)) or "none"
    if name is None:
        rank_two = [value for value in outputs if value.rank == 2 and value.dtype in FLOATS]
        found = model.interface.output(EMBEDDING) or (rank_two[0] if len(rank_two) == 1 else None)
        if found is None:
            what = "several outputs could be normalised" if rank_two else "no output is [batch, dim]"
            raise RequestError(f"{what}; the outputs are {listed}", "name one with --target, or pool first with add-pooling")
    else:
        found = model.interface.output(name)
        if found is None:
            raise NameNotFoundError(f"the model has no output {name!r}", f"its outputs are {listed}")
    if found.dtype not in FLOATS or found.rank in (0, 1):
        raise RequestError(f"{found} cannot be normalised: float vectors [..., dim] are needed", "name another with --target")
    return found


def _refuse_second_time(model: Model, name: str) -> None:
    for step in head_steps(model):
        pooled = step.edit == "add-pooling" and step.parameters.get("normalize") and step.parameters.get("output_name") == name
        if pooled or (step.edit == AddNormalize.verb and step.parameters.get("target") == name):
            raise AlreadyPooledError(
                f"{name} is normalised already: its metadata record {step.edit}",
                "nothing is left to do; see `graphsurgery inspect`",
            )
