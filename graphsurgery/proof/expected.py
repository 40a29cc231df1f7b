"""The expected outputs of a file, from the source's own run and the references of the recorded edits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from graphsurgery.model.model import Model
from graphsurgery.model.names import Namer
from graphsurgery.proof.corrected_source import CorrectedSource, correct_source, needs_correction
from graphsurgery.proof.inference import find_typed_value
from graphsurgery.references.chain import Chain
from graphsurgery.references.nested import drop_unread_inputs
from graphsurgery.references.recorded_weights import RecordedWeights
from graphsurgery.references.reference import RELATIVE, Expected, Values, expect_exactly
from graphsurgery.runtime.session import Session, open_proto, open_session

HALVES = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


@dataclass(frozen=True)
class OpenedSource:
    """The source, opened so that it gives the values that the references start from."""

    session: Session | CorrectedSource
    plain: tuple[str, ...]
    """The values that it gives unchanged."""
    negated: dict[str, str]
    """The values that it gives negated and in float32, with the names of the negated values."""
    kept: tuple[str, ...]
    """The outputs that the file still gives, under any name."""

    def __call__(self, feed: Values) -> dict[str, Expected]:
        """Return the values that the references start from: the feed, inner values, and kept outputs of numbers."""
        outputs = self.session.run(feed, list(dict.fromkeys([*self.plain, *self.negated.values(), *self.kept])))
        starting = {name: outputs[name] for name in self.plain}
        starting |= {name: -outputs[negated] for name, negated in self.negated.items()}
        values = expect_exactly(feed | starting)
        for name in self.kept:
            array = outputs[name]
            if isinstance(array, np.ndarray) and array.dtype.kind in "biuf":
                values[name] = Expected(starting.get(name, array), np.array(0.0), output=array)
        return values


@dataclass(frozen=True)
class ExpectedOutputs:
    """Computes the values that the outputs of a file must have, for any feed of the file."""

    source: OpenedSource
    chain: Chain
    weights: RecordedWeights

    def __call__(self, feed: Values, outputs: Sequence[str]) -> dict[str, Expected]:
        """Return the expected ``outputs``: those that the edits make, and those that the source gives, with a tolerance of 1e-5
        * max(1, |x|)."""
        made, expected = self.chain.made, {}
        for name, one in self.chain.compose(self.source, self.weights)(feed).items():
            if name in outputs and one.output is not None:
                kept = RELATIVE * np.maximum(1, np.abs(one.output.astype(np.float64)))
                expected[name] = Expected(one.output, np.maximum(kept, one.tolerance))
            elif name in outputs and name in made:
                expected[name] = one
        return expected


def open_source(source: Model, output: Model, chain: Chain, plain_run: bool = False) -> OpenedSource:
    """Open the source so that it gives the values which ``chain`` reads.

    Raises UnsupportedModelError or MissingDataError if ONNX Runtime cannot run it.

    If the CPU has no kernel for float16, ONNX Runtime computes in float32 and rounds only the outputs. A head starts with a
    cast to float32, so it gets the unrounded value, and the reference must start from the same value. So the value is cast
    here, too. The cast is negated, because ONNX Runtime rounds a cast that is an output. Only outputs that ``output`` keeps
    stay outputs. ``plain_run`` switches ONNX Runtime's graph optimisations off. If an edit of ``chain`` drops a part of the
    source, that part is not run, because feeds of the output do not have its inputs. If an edit mends the source, it is run
    as `CorrectedSource` says.
    """
    origins = [chain.name_in_source(value.name) for value in output.interface.outputs]
    kept = tuple(name for name in origins if name is not None and source.interface.output(name) is not None)
    inside = [name for name in chain.starts if source.interface.input(name) is None]
    half = [name for name in inside if _may_be_half(source, name)]
    plain = tuple(name for name in inside if name not in half)
    drops = any(link.reference.fields is not None and link.reference.fields.keeps(link.parameters) for link in chain)
    mends = needs_correction(chain)
    if not half and not drops and not mends:
        return OpenedSource(open_session(source, extra_outputs=plain, plain=plain_run), plain, {}, kept)
    source.require_data("running the model")
    proto = source.to_proto()
    namer = Namer.of(source.proto)
    negated = {name: namer.new(f"{name}/negated") for name in half}
    for name, new in negated.items():
        cast = namer.new(f"{name}/float32")
        proto.graph.node.append(onnx.helper.make_node("Cast", [name], [cast], namer.new("cast"), to=onnx.TensorProto.FLOAT))
        proto.graph.node.append(onnx.helper.make_node("Neg", [cast], [new], namer.new("negated")))
    outputs = [info for info in proto.graph.output if info.name in kept]
    outputs += [onnx.ValueInfoProto(name=name) for name in (*plain, *negated.values()) if name not in kept]
    del proto.graph.output[:]
    proto.graph.output.extend(outputs)
    if drops:
        drop_unread_inputs(proto.graph, {chain.name_in_source(one.name) for one in output.proto.graph.input})
    opened = correct_source(proto, source, chain, plain_run) if mends else open_proto(proto, source, plain=plain_run)
    return OpenedSource(opened, plain, negated, kept)


def has_half_weights(source: Model) -> bool:
    """Return whether any weight is float16 or bfloat16."""
    return any(tensor.data_type in HALVES for tensor in source.initializers.values())


def _may_be_half(source: Model, name: str) -> bool:
    value = find_typed_value(source, name)
    return value is None or value.dtype not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
