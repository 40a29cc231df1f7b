"""The head proof: the appended subgraph alone, on drawn hidden states, against the float64 reference. No weights are loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import onnx

from graphsurgery.compare.limits import NO_LIMITS, Limits
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Value, interface_of
from graphsurgery.proof.head_cases import HeadFeeds
from graphsurgery.proof.judging import judged
from graphsurgery.proof.subgraph import Head
from graphsurgery.references.chain import Chain, Link
from graphsurgery.references.pooling import prompt_input, without_prompt
from graphsurgery.references.recorded_weights import RecordedWeights
from graphsurgery.references.reference import Before, Expected, Known, Values, exact
from graphsurgery.report import Check, Verdict
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.masks import Mask
from graphsurgery.runtime.session import Session

NAME = "head proof"


def head_proof(
    head: Head, chain: Chain, generator: FeedGenerator, widths: Mapping[str, int], renamed: dict[str, str],
    weights: RecordedWeights, limits: Limits = NO_LIMITS,
) -> Check:  # fmt: skip
    """Run ``head`` on drawn values and compare its outputs with the references of ``chain``.

    ``widths`` has the last dim of every value of the source that they start from; ``renamed`` maps values of the source to the
    names they have in the output.
    """
    try:
        session = Session(head.proto.SerializeToString(), threads=1)
    except UnsupportedModelError as error:
        _require_runtime(head.proto)
        return Check(NAME, str(error), stated=Verdict.FAILED)
    found = {value.name: value for value in head.inputs}
    called = {name: _called(chain, renamed, name) for name in chain.starts}
    values = [found.get(name) or Value(name, onnx.TensorProto.FLOAT, None) for name in called.values()]
    sizes = {called[name]: size for name, size in widths.items()}
    feeds = HeadFeeds(
        values, generator, sizes, masked=any(link.parameters.get("mask") is not None for link in chain),
        padded=generator.has_mask and _ignores_padding(chain), multiplies=any(map(_multiplies, chain)),
        saturates=any(link.reference.saturates for link in chain), per_token=_per_token(chain, renamed),
        any_integers=bool(chain.inside) and not any(link.reference.looks_up for link in chain),
        pooled=_pooled(chain, generator),
    )  # fmt: skip
    reference = chain.after(exact, weights)
    what = ", ".join(link.edit for link in chain)
    return judged(
        NAME,
        f"{what}: the appended subgraph alone on drawn values, against the float64 reference",
        lambda feed: session.run({name: feed[name] for name in found}),
        interface_of(head.proto.graph).outputs,
        ((kind, _expected(cases, reference, renamed, head.outputs)) for kind, cases in feeds.cases()),
        limits,
    )


def strangers(head: Head, chain: Chain, renamed: dict[str, str]) -> list[str]:
    """Return the values that ``head`` starts from although no edit reads them."""
    known = {renamed.get(name, name) for name in chain.read}
    return [value.name for value in head.inputs if value.name not in known]


def _called(chain: Chain, renamed: dict[str, str], name: str) -> str:
    """Return the output's name for the source's value ``name``."""
    declared = chain.destiny(name)
    return renamed.get(declared, declared)


def _expected(
    cases: Sequence[Values], reference: Before, renamed: dict[str, str], outputs: Sequence[str]
) -> Iterator[tuple[Values, dict[str, Expected]]]:
    for feed in cases:
        found = reference(feed | {old: feed[new] for old, new in renamed.items() if new in feed})
        yield feed, {name: found[name] for name in outputs if name in found}


def _ignores_padding(chain: Chain) -> bool:
    """Whether the values at padded positions must make no difference. They may if they reach the tokens before that."""
    for link in chain:
        ignores = link.reference.ignores_padding(link.parameters)
        if ignores or link.reference.mixes_positions:
            return ignores
    return False


def _per_token(chain: Chain, renamed: dict[str, str]) -> set[str]:
    """Return the output's names for values that are one number per token."""
    declared = [
        link.destiny(name, behind) for link, behind in chain.destinies() for name in link.reference.per_token(link.parameters)
    ]
    return {renamed.get(name, name) for name in declared}


def _pooled(chain: Chain, generator: FeedGenerator) -> Callable[[Values, Mask], Mask] | None:
    """Return a function that tells which tokens of a feed are pooled; None if all are."""
    given = next((link.parameters for link in chain if link.parameters.get("skip_prompt") is not None), None)
    if given is None:
        return None
    name = prompt_input(given)

    def pooled(feed: Values, mask: Mask) -> Mask:
        length = {} if name is None or generator.prompt is None else {name: feed[generator.prompt]}
        return without_prompt(given, Known(exact(length)), mask)

    return pooled


def _multiplies(link: Link) -> bool:
    return link.reference.multiplies or any(link.parameters.get(name) for name in ("normalize", "token_weights"))


def _require_runtime(proto: onnx.ModelProto) -> None:
    """Raise UnsupportedModelError if this ONNX Runtime takes no model at all of these opsets and IR version."""
    infos = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n"]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "nothing", infos[:1], infos[1:])
    Session(onnx.helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version).SerializeToString())
