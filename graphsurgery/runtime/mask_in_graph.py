"""Read the meaning of an encoder's mask from its graph: which values of the mask mark tokens.

The nodes between the mask and the scores of an attention run twice: on the mask of a text without padding, and on one with a
hole, a position between tokens that is marked as padding. In the mask's own form, the attention then ignores the hole, and
without a hole it ignores nothing.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx

from graphsurgery.deferred import ir
from graphsurgery.encoder.attention import Attention, walk_attentions
from graphsurgery.encoder.flow import Flow, infer_last_dim, is_lookup
from graphsurgery.encoder.scores import PADDING
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.graph.operators import ATTENTIONS, MASK_INDEXES, get_operator
from graphsurgery.model.dtypes import compute_payload_size
from graphsurgery.model.model import Model
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.mask_forms import LENGTHS, decode_mask
from graphsurgery.runtime.probing import GRAPH, MaskMeaning, make_trial_masks, settle_form
from graphsurgery.runtime.session import Session

HIDING = 8.0
"""A score that falls by this much more than another one hides its position: exp(-8) is 3e-4."""
OPEN = 4.0
"""Without padding nothing is hidden: the largest term that the mask adds to a row of scores is above minus this number."""
MOST_TOKENS = 2048
"""If the file fixes a longer text than this, its mask is not computed: the nodes may expand it to ``[seq, seq]``."""
MOST_BYTES = 1 << 26
"""The number of bytes of weights to read at most for that computation."""


def find_meaning_in_graph(model: Model, generator: FeedGenerator) -> MaskMeaning:
    """Return the meaning of the mask, as the first attention that it reaches shows: by what the mask adds to its scores.

    Raises what `Graph` raises, and UnsupportedModelError if ONNX Runtime cannot compute these nodes.
    """
    if (generator.fixed_sequence or 0) > MOST_TOKENS:
        raise UnsupportedModelError(
            f"texts of {generator.fixed_sequence} tokens are too long to compute the mask of their scores"
        )
    flow, mask = Flow.of(model), generator.roles.mask
    value = None if mask is None else flow.graph.value(mask.name)
    if mask is None or value is None:
        return MaskMeaning(None)
    behind = flow.graph.descendants([value])
    masked = ((one, term) for one in walk_attentions(flow) for term in one.terms)
    first = next(((one, term.value) for one, term in masked if term.value in behind and PADDING in term.kinds), None)
    if first is None:
        return MaskMeaning(None)
    whole = make_trial_masks(generator, False)[0]
    part = MaskPart(flow, *first)
    scores = part.compute_terms(generator, whole)
    if scores is not None and scores.shape[-1] == len(whole) != whole.shape[1]:
        return MaskMeaning(None, GRAPH, sequence_first=True)
    return settle_form(GRAPH, mask, lambda form, at_end: _hides(part, replace(generator, form=form), at_end))


def _hides(part: MaskPart, generator: FeedGenerator, at_end: bool) -> bool:
    """Return whether, in the generator's form, a mask with a hole hides just the hole, and one without a hole hides nothing."""
    whole, holed, hole = make_trial_masks(generator, at_end)
    if holed is None:
        return False
    scores = [part.compute_terms(generator, mask) for mask in (whole, holed)]
    if any(one is None or one.shape[-1] != whole.shape[1] for one in scores):
        return False
    before, after = (one for one in scores if one is not None)
    with np.errstate(invalid="ignore"):
        falls = np.nan_to_num((after[:, hole] - after[:, 0]) - (before[:, hole] - before[:, 0]), nan=0, posinf=1e9, neginf=-1e9)
    open_ends = bool(np.all(np.max(before, axis=-1) > -OPEN))
    return open_ends and float(falls.min()) <= -HIDING and float(falls.max()) < HIDING


class MaskPart:
    """The nodes that compute what a mask adds to the scores of an attention, as a session. It is opened once for all trials."""

    def __init__(self, flow: Flow, attention: Attention, value: ir.Value) -> None:
        """Open the nodes that compute ``value``, an operand of ``attention`` or of the nodes that compute its scores.

        Rows of embedding tables become inputs, so that the tables are not read. Raises UnsupportedModelError if ONNX Runtime
        cannot load the nodes, or if too many weights would be read.
        """
        graph, model = flow.graph, flow.model
        self.flow, self.attention, self.value = flow, attention, value
        rows = {node.outputs[0] for node in graph.nodes if is_lookup(graph, node) and node.outputs[0] in flow.tokens}
        made = graph.ancestors([value], until=rows)
        nodes = [node for node in graph.nodes if any(one in made and graph.tensor(one) is None for one in node.outputs)]
        read = list(dict.fromkeys([*(one for node in nodes for one in graph.all_inputs(node)), value]))
        weights = {one.name or "": tensor for one in read if (tensor := graph.tensor(one)) is not None}
        if sum(compute_payload_size(one.data_type, one.dims) or 0 for one in weights.values()) > MOST_BYTES:
            raise UnsupportedModelError(f"{value.name} is made of more than {MOST_BYTES >> 20} MiB of weights")
        self.widths = {one.name or "": infer_last_dim(graph, one) or 1 for one in read if one in rows}
        self.inputs = {one.name: one.dtype for one in model.interface.inputs if graph.value(one.name) in read}
        types = self.inputs | dict.fromkeys(self.widths, onnx.TensorProto.FLOAT)
        part = onnx.ModelProto(
            ir_version=max(model.proto.ir_version, 4), opset_import=model.proto.opset_import, functions=model.proto.functions
        )
        part.graph.name = "mask"
        part.graph.node.extend(map(ir.serde.serialize_node, nodes))
        part.graph.input.extend(onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in types.items())
        part.graph.output.append(onnx.ValueInfoProto(name=value.name))
        part.graph.initializer.extend(onnx.numpy_helper.from_array(model.values(one), name) for name, one in weights.items())
        self.session = Session(part.SerializeToString(), threads=1, plain=True)

    def compute_terms(self, generator: FeedGenerator, mask: np.ndarray) -> np.ndarray | None:
        """Return what the value adds to the scores of the first head in the first row of the batch, ``[queries, keys]``.

        Looked-up rows are zeros. None if it is not known how the value reaches the scores. Raises UnsupportedModelError if ONNX
        Runtime fails.
        """
        feed = {name: array for name, array in generator.generate(mask, seed=0).items() if name in self.inputs}
        feed |= {name: np.zeros((*mask.shape, width), np.float32) for name, width in self.widths.items()}
        (computed,) = self.session.run(feed).values()
        added = _convert_to_terms(self.flow, self.attention, self.value, computed, mask.shape[1])
        if added is None or added.ndim < 2 or not added.size:
            return None
        return added.reshape(-1, *added.shape[-2:])[0].astype(np.float64)


def _convert_to_terms(flow: Flow, attention: Attention, value: ir.Value, array: np.ndarray, length: int) -> np.ndarray | None:
    """Return what an operand of an attention adds to scores, by the operator that reads it; None where that is not known."""
    if attention.scores is None:
        return _convert_operand(attention.node, attention.node.inputs.index(value), array, length)
    for node in flow.graph.consumers(value):
        place = node.inputs.index(value)
        scores = next((at for at, one in enumerate(node.inputs) if one in flow.tokens and at != place), None)
        if scores is None:
            continue
        if get_operator(node) == "Where" and place == 0:
            return _convert_choice(array if scores == 1 else np.logical_not(array))
        if get_operator(node) in ("Add", "Sub"):
            return array if get_operator(node) == "Add" else -array
    return None


def _convert_operand(node: ir.Node, place: int, array: np.ndarray, length: int) -> np.ndarray | None:
    """Return what an operand of an operator that is a whole attention adds to scores, or None if that is not known."""
    if place in MASK_INDEXES.get(get_operator(node), ()):
        if array.ndim == 1:
            array = decode_mask(array[:1], LENGTHS, length)
        return _convert_choice(array[:, None, :] if array.ndim == 2 else array)
    if array.dtype == np.bool_:
        return _convert_choice(array)
    return array if array.dtype.kind in "fV" and get_operator(node) in ATTENTIONS else None


def _convert_choice(seen: np.ndarray) -> np.ndarray:
    """Return 0 where a key is seen, and a large negative number where it is not."""
    return np.where(seen.astype(np.bool_), 0.0, -1e9)
