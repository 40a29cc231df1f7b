"""The head proof: the appended nodes as a model of their own, run on drawn hidden states and compared with the reference.

No weights of the encoder are loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import onnx

from graphsurgery.compare.tolerance import NO_LIMITS, Limits
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Value, read_interface
from graphsurgery.model.model import Model
from graphsurgery.proof.difference import Difference
from graphsurgery.proof.head_cases import HeadFeeds
from graphsurgery.proof.inference import find_typed_value
from graphsurgery.proof.judging import judge
from graphsurgery.proof.source_feeds import find_images
from graphsurgery.references.chain import Chain, Link
from graphsurgery.references.nested import list_all_nodes
from graphsurgery.references.pooled_rows import DEVIATION
from graphsurgery.references.pooling import exclude_prompt, name_prompt_input
from graphsurgery.references.recorded_mask import RecordedMask
from graphsurgery.references.recorded_weights import RecordedWeights
from graphsurgery.references.reference import Expected, Known, RunModel, Values, expect_exactly
from graphsurgery.report import Check, Verdict
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.masks import Mask
from graphsurgery.runtime.session import Session


@dataclass(frozen=True)
class Head:
    """The appended nodes as a model. Its ``inputs`` are inputs or inner values of the whole model."""

    proto: onnx.ModelProto
    inputs: tuple[Value, ...]
    outputs: tuple[str, ...]


def extract_head(
    source: Model, output: Model, changed: Difference, also: Sequence[Value] = (), inner: Collection[str] = ()
) -> Head:
    """Return the nodes that were added to ``output`` as a model, which gives the values ``also`` as well.

    Nodes that make ``inner`` values, for nodes of the source, are left out.
    Raise UnsupportedModelError if nothing was added, or if it leads to no output.
    """
    outputs = [info for info in output.proto.graph.output if info.name in changed.made]
    outputs += [onnx.helper.make_tensor_value_info(value.name, value.dtype, None) for value in also]
    names = [info.name for info in outputs]
    if not names:
        raise UnsupportedModelError("no added node computes an output", "compare the outputs themselves")
    renamed = {new: old for old, new in changed.renamed.items()}
    added = [node for node in changed.added if not set(inner) & set(node.output)]
    read = {name for node in list_all_nodes(onnx.GraphProto(node=added)) for name in node.input}
    taken = [name for name in changed.taken if name not in output.initializers and (not inner or name in read)]
    inputs = [
        replace(_find_type(source, renamed[name]), name=name) if name in renamed else _find_type(output, name) for name in taken
    ]
    weights = [_read_tensor(output, output.initializers[name]) for name in changed.taken if name in output.initializers]
    graph = onnx.helper.make_graph(
        _read_nodes(output, added),
        "head",
        [onnx.helper.make_tensor_value_info(value.name, value.dtype, None) for value in inputs],
        outputs,
        weights,
    )
    proto = onnx.helper.make_model(graph, opset_imports=output.proto.opset_import, ir_version=max(output.proto.ir_version, 4))
    return Head(proto, tuple(inputs), tuple(names))


def _find_type(model: Model, name: str) -> Value:
    """Return a value that the head takes, with its type; float32 if the type is unknown.

    After operators that onnx does not know, the dims are those that the model declares.
    """
    value = find_typed_value(model, name) or Value(name, onnx.TensorProto.FLOAT, None)
    declared = model.interface.output(name)
    return value if value.dims is not None or declared is None else replace(value, dims=declared.dims)


def _read_tensor(model: Model, tensor: onnx.TensorProto) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(model.values(tensor), tensor.name)


def _read_nodes(model: Model, nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return copies of the nodes, with the large tensors in their attributes read in."""
    done = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for attribute in copy.attribute:
            if attribute.HasField("t") and model.document.payloads.find(attribute.t) is not None:
                attribute.t.CopyFrom(_read_tensor(model, attribute.t))
        done.append(copy)
    return done


def find_added_values(output: Model, chain: Chain, changed: Difference) -> frozenset[str]:
    """Return the values that added nodes must make: outputs, and values that nodes of the source take in place of inputs."""
    taken = {name for node in list_all_nodes(output.proto.graph) for name in node.input}
    return chain.made | {name for name in chain.stand_ins if name in taken or name in changed.made}


NAME = "head proof"
NORMALIZED_SOUND = "add-waveform-normalize"


def prove_head(
    head: Head, chain: Chain, generator: FeedGenerator, widths: Mapping[str, int], renamed: dict[str, str],
    weights: RecordedWeights, stored: Values, limits: Limits = NO_LIMITS,
) -> Check:  # fmt: skip
    """Run ``head`` on drawn values and compare its outputs with the references of ``chain``.

    ``widths`` holds the last dim of every value of the source that they start from, and ``stored`` those of these values that
    are weights of the source. ``renamed`` maps values of the source to their names in the output.
    """
    try:
        session = Session(head.proto.SerializeToString(), threads=1)
    except UnsupportedModelError as error:
        _require_runtime(head.proto)
        return Check(NAME, str(error), stated=Verdict.FAILED)
    inputs = {value.name: value for value in head.inputs}
    generator = _shrink_unused(generator, inputs)
    called = {name: _name_in_output(chain, renamed, name) for name in chain.starts}
    values = [inputs.get(name) or Value(name, onnx.TensorProto.FLOAT, None) for name in called.values()]
    sizes, images = {called[name]: size for name, size in widths.items()}, find_images(chain)
    feeds = HeadFeeds(
        values, generator, sizes, masked=any(link.parameters.get("mask") is not None for link in chain),
        padded=generator.has_mask and _ignores_padding(chain), multiplies=any(map(_multiplies, chain)),
        saturates=any(link.reference.saturates for link in chain), per_token=_find_per_token(chain, renamed),
        any_integers=bool(chain.stand_ins) and not any(link.reference.looks_up for link in chain),
        images=images, only_images=images is not None and set(inputs) == {images.name},
        pooled=_find_pooled(chain, generator), sounds=_find_sounds(chain),
    )  # fmt: skip
    reference = chain.compose(lambda feed: expect_exactly(feed | stored), weights)
    what = ", ".join(link.edit for link in chain)
    return judge(
        NAME,
        f"{what}: the appended subgraph alone on drawn values, against the float64 reference",
        lambda feed: session.run({name: feed[name] for name in inputs}),
        [_free_positions(value, generator) for value in read_interface(head.proto.graph).outputs],
        ((kind, _add_expected(cases, reference, renamed, head.outputs)) for kind, cases in feeds.generate_cases()),
        limits,
    )


def _shrink_unused(generator: FeedGenerator, inputs: Container[str]) -> FeedGenerator:
    """Return ``generator`` with pictures of one pixel for the inputs that the head does not take: hundreds of rows are fed."""
    media = (
        one if one.name in inputs or one.has_columns else replace(one, sizes=(1,) * len(one.sizes)) for one in generator.media
    )
    return replace(generator, media=tuple(media))


def find_unread_inputs(head: Head, chain: Chain, renamed: dict[str, str]) -> list[str]:
    """Return the values that ``head`` starts from and no edit reads."""
    known = {renamed.get(name, name) for name in chain.read}
    return [value.name for value in head.inputs if value.name not in known]


def _name_in_output(chain: Chain, renamed: dict[str, str], name: str) -> str:
    """Return the output's name for the source's value ``name``."""
    declared = chain.name_in_output(name)
    return renamed.get(declared, declared)


def _add_expected(
    cases: Sequence[Values], reference: RunModel, renamed: dict[str, str], outputs: Sequence[str]
) -> Iterator[tuple[Values, dict[str, Expected]]]:
    for feed in cases:
        expected = reference(feed | {old: feed[new] for old, new in renamed.items() if new in feed})
        yield feed, {name: expected[name] for name in outputs if name in expected}


def _ignores_padding(chain: Chain) -> bool:
    """Return whether the values at padded positions must make no difference. They may if they reach the tokens first."""
    for link in chain:
        ignores = link.reference.ignores_padding(link.parameters)
        if ignores or link.reference.mixes_positions:
            return ignores
    return False


def _find_per_token(chain: Chain, renamed: dict[str, str]) -> set[str]:
    """Return the output's names for the values that hold one number per token."""
    declared = [
        link.name_in_output(name, behind)
        for link, behind in chain.walk_from_output()
        for name in link.reference.per_token(link.parameters)
    ]
    return {renamed.get(name, name) for name in declared}


def _find_pooled(chain: Chain, generator: FeedGenerator) -> Callable[[Values, Mask], Mask] | None:
    """Return a function that finds the pooled tokens of a feed; None if all are pooled."""
    parameters = next((link.parameters for link in chain if link.parameters.get("skip_prompt") is not None), None)
    if parameters is None:
        return None
    name = name_prompt_input(parameters)

    def pooled(feed: Values, mask: Mask) -> Mask:
        length = {} if name is None or generator.prompt is None else {name: feed[generator.prompt]}
        return exclude_prompt(parameters, Known(expect_exactly(length)), mask)

    return pooled


def _free_positions(value: Value, generator: FeedGenerator) -> Value:
    """Return an output of ``[batch, seq, dim]`` with any seq if the model has no texts: hidden states of any length are drawn.

    The whole proof compares the declared number of patches with what a picture gives.
    """
    if generator.has_texts or value.dims is None or len(value.dims) != 3:
        return value
    return replace(value, dims=(value.dims[0], None, value.dims[2]))


def _find_sounds(chain: Chain) -> dict[str, Callable[[Values], Mask]]:
    """Return, for each waveform that an edit normalises, a function that finds a clip's own samples."""
    found: dict[str, Callable[[Values], Mask]] = {}
    for link, behind in chain.walk_inputs_from_output():
        if link.edit == NORMALIZED_SOUND:
            name, mask = behind(link.parameters["input"]), link.parameters["mask"]
            found[name] = partial(
                _find_own_samples, name, replace(mask, input=None if mask.input is None else behind(mask.input))
            )
    return found


def _find_own_samples(name: str, mask: RecordedMask, feed: Values) -> Mask:
    tokens: Mask = mask.find_tokens(Known(expect_exactly(feed)), (len(feed[name]), feed[name].shape[-1]))
    return tokens


def _multiplies(link: Link) -> bool:
    squares = DEVIATION in (link.parameters.get("mode") or ())
    return link.reference.multiplies or squares or any(link.parameters.get(name) for name in ("normalize", "token_weights"))


def _require_runtime(proto: onnx.ModelProto) -> None:
    """Raise UnsupportedModelError if this ONNX Runtime takes no model with these opsets and this IR version."""
    infos = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n"]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "nothing", infos[:1], infos[1:])
    Session(onnx.helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version).SerializeToString())
