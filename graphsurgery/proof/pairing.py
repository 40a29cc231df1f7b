"""Which inputs and outputs of two files of different makers belong together, and the feeds that both take.

Inputs belong together that have the same role (ids, mask, token types, positions) or the same name, and so do the last one
left on each side if they look alike. A mask or positions that only one file takes get their meaning: every position is a
token, and positions are counted from 0. Any other input that only one file takes gets zeros. Outputs belong together that have
the same name; if no name is shared, those that have the same shape, in the order of the files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from graphsurgery.encoder.roles import strip_index
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Value
from graphsurgery.model.dtypes import FLOATS
from graphsurgery.model.model import Model
from graphsurgery.proof.source_feeds import make_feed_generator
from graphsurgery.report import list_few
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.masks import make_mask
from graphsurgery.runtime.session import Arrays, Session, open_session

ROLES = ("ids", "mask", "types", "positions")
MEANT = ("mask", "positions")
"""The roles whose numbers have a meaning that zeros do not have."""
TRIED = [5, 3]
"""The tokens of the texts on which both files run to find the shapes of their outputs."""
Names = dict[str, str]


@dataclass(frozen=True)
class Pairing:
    """The inputs and outputs of two files that belong together."""

    output: Model
    generator: FeedGenerator
    """Draws feeds for the source that the other file takes, too."""
    other: FeedGenerator
    """Draws the inputs that only the other file takes."""
    inputs: Names
    """From the source's inputs to those of the other file, except masks: their forms may differ."""
    outputs: Names
    """From the source's outputs to those of the other file."""
    remarks: tuple[str, ...]
    """How the inputs and outputs were matched and what was fed, in words."""
    left_out: tuple[str, ...]
    """What is not compared, in words."""

    def open_output(self, plain: bool = False) -> PairedSession:
        """Open the other file. The session takes the source's feeds, and names its outputs as the source does."""
        return PairedSession(open_session(self.output, plain=plain), self)

    def translate(self, feed: Arrays) -> dict[str, np.ndarray]:
        """Return the inputs of the other file for a feed of the source."""
        arrays = self.other.generate(self._find_tokens(feed), seed=0)
        for name, own in self.inputs.items():
            arrays[own] = feed[name].astype(arrays[own].dtype)
        return arrays

    def _find_tokens(self, feed: Arrays) -> np.ndarray:
        """Return which positions of a feed are tokens, ``[batch, seq]``: all, if the source takes no mask and reads none."""
        mask = self.generator.find_mask(feed)
        if mask is not None:
            return mask
        ids = self.generator.roles.ids
        if ids is not None and self.generator.pad_id is not None:
            return np.asarray(feed[ids.name] != self.generator.pad_id)
        shapes = [feed[name].shape for name in ([ids.name] if ids is not None else feed) if feed[name].ndim > 1]
        return np.ones(shapes[0][:2] if shapes else (1, 1), dtype=np.bool_)


class PairedSession(Session):
    """A session on one file that takes another's feeds and names its outputs as that does."""

    def __init__(self, session: Session, pairing: Pairing) -> None:
        """Wrap ``session``, which is on the other file of ``pairing``."""
        self._inner, self._pairing, self.outputs = session, pairing, list(pairing.outputs)

    def run(self, feeds: Arrays, outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Run the other file on a feed of the source. Return its outputs by the source's names."""
        names = self.outputs if outputs is None else outputs
        own = {name: self._pairing.outputs[name] for name in names}
        found = self._inner.run(self._pairing.translate(feeds), list(own.values()))
        return {name: found[one] for name, one in own.items()}


def pair_models(source: Model, output: Model) -> Pairing:
    """Match the inputs and outputs of two files.

    Raise UnsupportedModelError if no input or no output belongs together, or if the files have different fixed sizes.
    """
    theirs, own = make_feed_generator(source), make_feed_generator(output)
    inputs = _pair_inputs(theirs, own)
    if not inputs:
        sides = (list_few(map(str, model.interface.inputs)) or "nothing" for model in (output, source))
        raise UnsupportedModelError("the two files have no input in common: the model takes {}, the source {}".format(*sides))
    lone = _find_lone(theirs, own, inputs)
    generator = _limit_generator(replace(theirs, zeros=lone.zeros[0], without_padding=bool(lone.meant)), own)
    pairing = Pairing(output, generator, replace(own, zeros=lone.zeros[1]), inputs, {}, lone.remarks, lone.left_out)
    outputs, remarks = _pair_outputs(source, output, pairing)
    left_out = [*pairing.left_out, *_list_lone_outputs(source, output, outputs)]
    return replace(pairing, outputs=outputs, remarks=(*pairing.remarks, *remarks), left_out=tuple(left_out))


def _pair_inputs(theirs: FeedGenerator, own: FeedGenerator) -> Names:
    """Match all inputs but masks: by role, by name, and the last one on each side if they look alike."""
    by_role = ((getattr(theirs.roles, role), getattr(own.roles, role)) for role in ROLES if role != "mask")
    pairs = {one.name: other.name for one, other in by_role if one is not None and other is not None}
    names = {strip_index(value.name): value for value in own.roles.others}
    for value in theirs.roles.others:
        other = names.get(strip_index(value.name))
        if other is not None and _look_alike(value, other):
            pairs[value.name] = other.name
    rest = [
        [value for value in (side.roles.ids, *side.roles.others) if value is not None and value.name not in taken]
        for side, taken in ((theirs, pairs.keys()), (own, pairs.values()))
    ]
    if len(rest[0]) == len(rest[1]) == 1 and _look_alike(rest[0][0], rest[1][0]):
        pairs[rest[0][0].name] = rest[1][0].name
    return pairs


def _look_alike(one: Value, other: Value) -> bool:
    """Return whether two values are both floats or both not, and of the same rank as far as it is known."""
    return (one.dtype in FLOATS) == (other.dtype in FLOATS) and (one.rank == other.rank or None in (one.rank, other.rank))


@dataclass(frozen=True)
class _Lone:
    """The inputs that only one file takes."""

    meant: list[str]
    """The roles among them that have a meaning."""
    zeros: tuple[frozenset[str], frozenset[str]]
    """Those that get zeros: the source's, the other file's."""
    remarks: tuple[str, ...]
    left_out: tuple[str, ...]


def _find_lone(theirs: FeedGenerator, own: FeedGenerator, inputs: Names) -> _Lone:
    meant: list[str] = []
    zeros: list[frozenset[str]] = []
    masks = (theirs.roles.mask, own.roles.mask)
    shown = inputs if masks[0] is None or masks[1] is None else inputs | {masks[0].name: masks[1].name}
    remarks = [f"inputs of both files: {list_few(_describe_pair(one, other) for one, other in shown.items())}"]
    sides = ((theirs, own, set(inputs), "the source"), (own, theirs, set(inputs.values()), "the model"))
    for side, opposite, paired, whose in sides:
        lone_roles = {role: getattr(side.roles, role) for role in MEANT if getattr(opposite.roles, role) is None}
        lone = {role: value.name for role, value in lone_roles.items() if value is not None and value.name not in paired}
        others = [*side.roles.others, *(one for one in (side.roles.types, side.roles.ids) if one is not None)]
        fed = [value.name for value in others if value.name not in paired | side.ones]
        kept = [value.name for value in others if value.name in side.ones - paired]
        said = {"mask": "every position is a token", "positions": "0, 1, 2, ..."}
        remarks += [f"{name}, which only {whose} takes, was fed its meaning: {said[role]}" for role, name in lone.items()]
        remarks += [f"{list_few(kept)}, which only {whose} takes, was fed ones: zeros hide every token"] if kept else []
        remarks += [f"{list_few(fed)}, which only {whose} takes, {_was(fed)} fed zeros"] if fed else []
        meant += [role for role in lone if not (role == "mask" and opposite.pad_id is not None)]
        zeros.append(frozenset(fed))
    left_out = [f"padding: only one of the files takes {' and '.join(sorted(set(meant)))}"] if meant else []
    return _Lone(meant, (zeros[0], zeros[1]), tuple(remarks), tuple(left_out))


def _was(names: Sequence[str]) -> str:
    return "was" if len(names) == 1 else "were"


def _describe_pair(one: str, other: str) -> str:
    return one if one == other else f"{one} (the model's {other})"


def _limit_generator(theirs: FeedGenerator, own: FeedGenerator) -> FeedGenerator:
    """Return the source's generator within the ids, the lengths and the sizes that the other file takes."""
    sizes = []
    for what, one, other in (
        ("batches", theirs.fixed_batch, own.fixed_batch),
        ("texts", theirs.fixed_sequence, own.fixed_sequence),
    ):
        if one is not None and other is not None and one != other:
            unit = "texts" if what == "batches" else "tokens"
            raise UnsupportedModelError(f"the model takes only {what} of {other} {unit}, and the source only of {one}")
        sizes.append(other if one is None else one)
    first, second = theirs.tables, own.tables
    vocabulary, types = _find_least(first.vocabulary, second.vocabulary), _find_least(first.types, second.types)
    tables = replace(first, vocabulary=vocabulary, types=types)
    shorter = second.longest is not None and second.longest < (first.longest or second.longest + 1)
    longest = _find_least(theirs.max_length, own.max_length, second.longest if shorter else None)
    pad = own.pad_id if theirs.pad_id is None else theirs.pad_id
    return replace(theirs, tables=tables, max_length=longest, baked=(sizes[0], sizes[1]), pad_id=pad)


def _find_least(*numbers: int | None) -> int | None:
    return min((one for one in numbers if one is not None), default=None)


def _pair_outputs(source: Model, output: Model, pairing: Pairing) -> tuple[Names, list[str]]:
    """Match the outputs that are numbers, by name or else by shape. Raise UnsupportedModelError if none belong together."""
    theirs, own = ({one.name: one for one in _list_numbers(model)} for model in (source, output))
    same = {name: name for name in theirs if name in own and _have_like_ranks(theirs[name], own[name])}
    if same:
        return same, []
    if not theirs or not own:
        raise UnsupportedModelError(f"the {'source' if not theirs else 'model'} has no output that is a tensor of numbers")
    shapes = _find_shapes(source, output, pairing, list(theirs), list(own))
    pairs: Names = {}
    for name in theirs:
        twins = (one for one in own if one not in pairs.values() and shapes[1][one] == shapes[0][name])
        twin = next((one for one in twins if (theirs[name].dtype in FLOATS) == (own[one].dtype in FLOATS)), None)
        pairs |= {} if twin is None else {name: twin}
    if not pairs:
        sides = (list_few(f"{name} {list(shape)}" for name, shape in one.items()) for one in (shapes[1], shapes[0]))
        what = "no output of the two files has the same name or the same shape: the model gives {}, the source {}"
        raise UnsupportedModelError(what.format(*sides))
    return pairs, [f"outputs matched by shape: {list_few(_describe_pair(one, other) for one, other in pairs.items())}"]


def _find_shapes(
    source: Model, output: Model, pairing: Pairing, theirs: list[str], own: list[str]
) -> tuple[Mapping[str, tuple[int, ...]], Mapping[str, tuple[int, ...]]]:
    """Return the shapes of the outputs of both files on one feed."""
    generator = pairing.generator
    mask = make_mask(TRIED[:1] if generator.without_padding else TRIED)
    (mask, *_) = generator.sizes.split_into_batches(mask)
    feed = generator.generate(mask, seed=0)
    found = open_session(source).run(feed, theirs), open_session(output).run(pairing.translate(feed), own)
    first, second = ({name: np.shape(array) for name, array in one.items()} for one in found)
    return first, second


def _list_numbers(model: Model) -> list[Value]:
    kinds = (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING)
    return [value for value in model.interface.outputs if value.dtype not in kinds]


def _have_like_ranks(one: Value, other: Value) -> bool:
    return None in (one.rank, other.rank) or one.rank == other.rank


def _list_lone_outputs(source: Model, output: Model, pairs: Names) -> list[str]:
    sides = ((source, set(pairs), "the source"), (output, set(pairs.values()), "the model"))
    lone = {whose: [one.name for one in model.interface.outputs if one.name not in taken] for model, taken, whose in sides}
    return [f"output {list_few(names)} of {whose}: nothing to compare it with" for whose, names in lone.items() if names]
