"""What an output must give: the source's own run, and what the recorded edits mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from graphsurgery.model.model import Model
from graphsurgery.model.namer import Namer
from graphsurgery.model.provenance import Step
from graphsurgery.proof.inference import value_in
from graphsurgery.references.chain import after, made_by, origin, starts
from graphsurgery.references.recorded_weights import RecordedWeights
from graphsurgery.references.reference import RELATIVE, Expected, Values, exact
from graphsurgery.runtime.session import Session, open_session

HALVES = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


@dataclass(frozen=True)
class Source:
    """The source, loaded so that it gives what the reference starts from."""

    session: Session
    plain: tuple[str, ...]
    """Values that it gives as they are."""
    negated: dict[str, str]
    """Values that it gives in float32 and negated, and what it calls that."""
    kept: tuple[str, ...]
    """Its outputs that are outputs still, under whatever name."""

    def __call__(self, feed: Values) -> dict[str, Expected]:
        """What the reference starts from: what was fed, inner values, and kept outputs of numbers."""
        found = self.session.run(feed, list(dict.fromkeys([*self.plain, *self.negated.values(), *self.kept])))
        starting = {name: found[name] for name in self.plain} | {name: -found[given] for name, given in self.negated.items()}
        values = exact(feed | starting)
        for name in self.kept:
            array = found[name]
            if isinstance(array, np.ndarray) and array.dtype.kind in "biuf":
                values[name] = Expected(starting.get(name, array), np.array(0.0), output=array)
        return values


@dataclass(frozen=True)
class Reference:
    """What the outputs of a file must be for a feed of its own."""

    source: Source
    steps: Sequence[Step]
    weights: RecordedWeights

    def __call__(self, feed: Values, outputs: Sequence[str]) -> dict[str, Expected]:
        """Each output that the steps make, or that is the source's: then equal to 1e-5 * max(1, |x|)."""
        made, expected = made_by(self.steps), {}
        for name, one in after(self.steps, self.source, self.weights)(feed).items():
            if name in outputs and one.output is not None:
                kept = RELATIVE * np.maximum(1, np.abs(one.output.astype(np.float64)))
                expected[name] = Expected(one.output, np.maximum(kept, one.tolerance))
            elif name in outputs and name in made:
                expected[name] = one
        return expected


def open_source(source: Model, output: Model, steps: Sequence[Step], plain_run: bool = False) -> Source:
    """The source, giving what ``steps`` read of it. Raises UnsupportedModelError or MissingDataError when ONNX Runtime cannot.

    Where the CPU has no kernel for float16, ONNX Runtime computes in float32 and rounds what is an output; a head, which starts
    with a cast to float32, gets the value unrounded. The reference then has to start from that as well: the value is cast here,
    too, and negated because a cast that is itself an output is not treated so; and only what ``output`` keeps stays an output.
    ``plain_run``: without ONNX Runtime's graph optimisations.
    """
    origins = [origin(steps, value.name) for value in output.interface.outputs]
    kept = tuple(name for name in origins if name is not None and source.interface.output(name) is not None)
    inside = [name for name in starts(steps) if source.interface.input(name) is None]
    half = [name for name in inside if _may_be_half(source, name)]
    plain = tuple(name for name in inside if name not in half)
    if not half:
        return Source(open_session(source, extra_outputs=plain, plain=plain_run), plain, {}, kept)
    source.require_data("running the model")
    proto = source.to_proto()
    namer = Namer.of(source.proto)
    negated = {name: namer.new(f"{name}/negated") for name in half}
    for name, given in negated.items():
        cast = namer.new(f"{name}/float32")
        proto.graph.node.append(onnx.helper.make_node("Cast", [name], [cast], namer.new("cast"), to=onnx.TensorProto.FLOAT))
        proto.graph.node.append(onnx.helper.make_node("Neg", [cast], [given], namer.new("negated")))
    outputs = [info for info in proto.graph.output if info.name in kept]
    outputs += [onnx.ValueInfoProto(name=name) for name in (*plain, *negated.values()) if name not in kept]
    del proto.graph.output[:]
    proto.graph.output.extend(outputs)
    return Source(Session(proto.SerializeToString(), folder=source.folder, plain=plain_run), plain, negated, kept)


def computes_in_half(source: Model) -> bool:
    """Whether any weight is float16 or bfloat16."""
    return any(tensor.data_type in HALVES for tensor in source.initializers.values())


def _may_be_half(source: Model, name: str) -> bool:
    found = value_in(source, name)
    return found is None or found.dtype not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
