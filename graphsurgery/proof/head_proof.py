"""The head proof: the appended subgraph alone, on drawn hidden states, against the float64 reference. No weights are loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import onnx

from graphsurgery.compare.limits import NO_LIMITS, Limits
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Value, interface_of
from graphsurgery.model.provenance import Step
from graphsurgery.proof.head import Head
from graphsurgery.proof.head_cases import HeadFeeds
from graphsurgery.proof.judging import judged
from graphsurgery.references.chain import after, destiny, inside, meaning, meanings, read_by, starts
from graphsurgery.references.pooling import prompt_input, without_prompt
from graphsurgery.references.recorded_weights import RecordedWeights
from graphsurgery.references.reference import Expected, Known, Meaning, Values, exact
from graphsurgery.report import Check, Verdict
from graphsurgery.runtime.feeds import Drawer
from graphsurgery.runtime.masks import Mask
from graphsurgery.runtime.session import Session

NAME = "head proof"


def head_proof(
    head: Head, steps: Sequence[Step], drawer: Drawer, widths: Mapping[str, int], renamed: dict[str, str],
    weights: RecordedWeights, limits: Limits = NO_LIMITS,
) -> Check:  # fmt: skip
    """Run ``head`` on drawn values and compare its outputs with what ``steps`` mean.

    ``widths`` has the last dim of every value of the source that they start from; ``renamed`` maps values of the source to the
    names they have in the output.
    """
    try:
        session = Session(head.proto.SerializeToString(), threads=1)
    except UnsupportedModelError as error:
        _require_runtime(head.proto)
        return Check(NAME, str(error), stated=Verdict.FAILED)
    found = {value.name: value for value in head.inputs}
    called = {name: _called(steps, renamed, name) for name in starts(steps)}
    values = [found.get(name) or Value(name, onnx.TensorProto.FLOAT, None) for name in called.values()]
    sizes = {called[name]: size for name, size in widths.items()}
    chain = meanings(steps)
    feeds = HeadFeeds(
        values, drawer, sizes, masked=any(isinstance(step.parameters.get("mask"), str) for step, _ in chain),
        padded=drawer.has_mask and _ignores_padding(chain), multiplies=any(_multiplies(step) for step, _ in chain),
        saturates=any(means.saturates for _, means in chain), per_token=_per_token(steps, renamed),
        any_integers=bool(inside(steps)) and not any(means.looks_up for _, means in chain), pooled=_pooled(steps, drawer),
    )  # fmt: skip
    what = ", ".join(step.edit for step, _ in chain)
    return judged(
        NAME,
        f"{what}: the appended subgraph alone on drawn values, against the float64 reference",
        lambda feed: session.run({name: feed[name] for name in found}),
        interface_of(head.proto.graph).outputs,
        ((kind, _expected(cases, steps, renamed, weights, head.outputs)) for kind, cases in feeds.cases()),
        limits,
    )


def strangers(head: Head, steps: Sequence[Step], renamed: dict[str, str]) -> list[str]:
    """Values that ``head`` starts from though no step reads them."""
    known = {renamed.get(name, name) for name in read_by(steps)}
    return [value.name for value in head.inputs if value.name not in known]


def _called(steps: Sequence[Step], renamed: dict[str, str], name: str) -> str:
    """What the output calls the source's value ``name``."""
    declared = destiny(steps, name)
    return renamed.get(declared, declared)


def _expected(
    cases: Sequence[Values], steps: Sequence[Step], renamed: dict[str, str], weights: RecordedWeights, outputs: Sequence[str]
) -> Iterator[tuple[Values, dict[str, Expected]]]:
    reference = after(steps, exact, weights)
    for feed in cases:
        found = reference(feed | {old: feed[new] for old, new in renamed.items() if new in feed})
        yield feed, {name: found[name] for name in outputs if name in found}


def _ignores_padding(chain: Sequence[tuple[Step, Meaning]]) -> bool:
    """Whether what stands at padding must make no difference: unless it has reached the tokens before it is left out."""
    for step, means in chain:
        if means.ignores_padding(step.parameters) or means.mixes_positions:
            return means.ignores_padding(step.parameters)
    return False


def _per_token(steps: Sequence[Step], renamed: dict[str, str]) -> set[str]:
    """What the output calls values that are one number per token."""
    found = set()
    for place, (step, means) in enumerate(meanings(steps)):
        found |= {_called(steps[place:], renamed, name) for name in means.per_token(step.parameters)}
    return found


def _pooled(steps: Sequence[Step], drawer: Drawer) -> Callable[[Values, Mask], Mask] | None:
    """Which tokens of a feed are pooled, where a prompt's are not."""
    given = next((step.parameters for step in steps if step.parameters.get("skip_prompt") is not None), None)
    if given is None:
        return None
    name = prompt_input(given)

    def pooled(feed: Values, mask: Mask) -> Mask:
        length = {} if name is None or drawer.prompt is None else {name: feed[drawer.prompt]}
        return without_prompt(given, Known(exact(length)), mask)

    return pooled


def _multiplies(step: Step) -> bool:
    return meaning(step).multiplies or any(step.parameters.get(name) for name in ("normalize", "token_weights"))


def _require_runtime(proto: onnx.ModelProto) -> None:
    """UnsupportedModelError when this ONNX Runtime takes no model at all of these opsets and IR version."""
    infos = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n"]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "nothing", infos[:1], infos[1:])
    Session(onnx.helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version).SerializeToString())
