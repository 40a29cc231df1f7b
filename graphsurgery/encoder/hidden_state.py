"""Find the value to pool: the token embeddings ``[batch, seq, hidden]``, or the scores of a masked-language model."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

import onnx

from graphsurgery.deferred import ir
from graphsurgery.encoder.flow import Flow, infer_last_dim
from graphsurgery.encoder.head import read_head_steps
from graphsurgery.encoder.limits import find_tables
from graphsurgery.encoder.norms import find_norms
from graphsurgery.encoder.pooled_output import find_pooled_outputs
from graphsurgery.encoder.roles import IDS_NAMES, find_roles, is_ids_like, strip_index
from graphsurgery.errors import NameNotFoundError, NothingToPoolError
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import NORMS, SCALING, get_operator
from graphsurgery.interface import Dim, Interface, Value, read_interface, read_value
from graphsurgery.model.dtypes import FLOATS
from graphsurgery.model.model import Model
from graphsurgery.suggestions import suggest

LOG = logging.getLogger(__name__)
NARROW = (1, 2, 3)
"""Widths of outputs that count as scores or weights of tokens, and not as hidden states unless the user names them."""
FEW, SHARE = 64, 4
"""Unnamed outputs narrower than ``FEW``, and than the encoder's norms by this factor or more, are scores of labels as well."""
KNOWN_NAMES = ("last_hidden_state", "token_embeddings", "hidden_states")
LOGITS = "logits"
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
"""A word in a name: ``start_logits``, ``startLogits``."""
PREDICTION = re.compile(r"\w*(?:logits|probs)|scores|start|end")
"""Words in the names of outputs that are predictions, not embeddings."""


@dataclass(frozen=True)
class HiddenState:
    """A value of the graph to pool. ``dtype`` is 0 and ``width`` is None if only a run can tell."""

    name: str
    dtype: int
    batch: Dim
    sequence: Dim
    width: int | None


@dataclass(frozen=True)
class SearchTarget:
    """How messages describe the value that is looked for."""

    option: str = "--hidden-state"
    """The option of the command line that names it."""
    dims: str = "[batch, seq, hidden]"
    advice: str = ""
    """The advice if it is not found. If empty, the advice names the option and the values that it could be."""


HIDDEN_STATE = SearchTarget()
MLM_SCORES = SearchTarget(
    "--target", "[batch, seq, vocabulary]",
    "name the scores [batch, seq, vocabulary] with --target, or export the model with its masked-language-model head",
)  # fmt: skip


def find_hidden_state(
    model: Model, name: str | None = None, ids: str | None = None, *, target: SearchTarget = HIDDEN_STATE
) -> HiddenState:
    """Find the value to pool.

    The first of these that exists is taken: ``name``; an output with a well-known name that a recorded edit of tokens made; an
    output with a well-known name; the only float output of rank 3 whose sequence dim is that of the ids and whose width is not
    the vocabulary. ``ids`` names the input of token ids.

    Raises:
        NameNotFoundError: ``name`` is not in the graph.
        NothingToPoolError: Nothing fits. The message lists the candidates.
    """
    graph = Graph.of(model)
    outputs = {value.name: value for value in model.interface.outputs}
    if name is None:
        known = {strip_index(one.name): one.name for one in reversed(model.interface.outputs) if _is_poolable(one)}
        recorded = [step.parameters.get("output_name") for step in reversed(read_head_steps(model))]
        name = next((known[one] for one in (*recorded, *KNOWN_NAMES) if one in KNOWN_NAMES and one in known), None)
        name = name or _choose(model, _list_output_candidates(model, graph, ids), target, ids)
    elif graph.value(name) is None:
        raise make_missing_value_error(graph, name, *_advise(model, graph, ids, target))
    declared = outputs.get(name) or _find_declared(model, name)
    problem = _find_problem(graph, name, declared, target)
    if problem is not None:
        raise NothingToPoolError(problem, *_advise(model, graph, ids, target))
    dims = declared.dims if declared is not None and declared.dims is not None else (None, None, None)
    dtype = declared.dtype if declared is not None else onnx.TensorProto.UNDEFINED
    batch = dims[0] if name in outputs and dims[0] is not None else _find_batch_dim(model.interface)
    return HiddenState(name, dtype, batch, dims[1], infer_last_dim(graph, graph.value(name)))


def make_missing_value_error(graph: Graph, name: str, advice: str, options: tuple[str, ...] = ()) -> NameNotFoundError:
    """Return the error for a value ``name`` that the graph lacks. ``advice`` follows the name that was probably meant."""
    near = suggest(name, (value.name for value in graph.values if value.name))
    return NameNotFoundError(f"there is no value {name!r} in the graph", f"{near}{advice}", options)


def find_logits(model: Model, name: str | None = None, ids: str | None = None) -> HiddenState:
    """Find the scores ``[batch, seq, vocabulary]`` of a masked-language model, one for each token and word of the vocabulary.

    They are the value ``name``, else the output ``logits``, else the only float output of rank 3 as wide as the vocabulary.
    Raises what `find_hidden_state` raises.
    """
    if name is None:
        has_logits = model.interface.output(LOGITS) is not None
        name = LOGITS if has_logits else _choose(model, _list_logits_candidates(model, ids), MLM_SCORES, ids)
    return find_hidden_state(model, name, ids, target=MLM_SCORES)


def list_hidden_candidates(model: Model, ids: str | None = None) -> list[str]:
    """Return the outputs that could be pooled, or if there are none, the inner values that look like hidden states."""
    graph = Graph.of(model)
    return _list_output_candidates(model, graph, ids) or _list_inner_candidates(model, graph)


def _choose(model: Model, candidates: list[str], target: SearchTarget, ids: str | None) -> str:
    """Return the only candidate. Raises NothingToPoolError if there are none or several."""
    if len(candidates) == 1:
        return candidates[0]
    outputs = ", ".join(map(str, model.interface.outputs)) or "none"
    what = "more than one output could be pooled" if candidates else f"no output is {target.dims}"
    raise NothingToPoolError(f"{what}; the outputs are {outputs}", *_advise(model, Graph.of(model), ids, target))


def _find_problem(graph: Graph, name: str, declared: Value | None, target: SearchTarget) -> str | None:
    """Return why the value ``name`` cannot be pooled, or None if it can."""
    if graph.tensor(graph.value(name)) is not None:
        return f"{name!r} is a constant, the same for every text"
    if declared is not None and declared.rank not in (3, None):
        return f"{declared} has rank {declared.rank}; pooling needs {target.dims}"
    if declared is not None and declared.dtype and declared.dtype not in FLOATS:
        return f"{declared} holds no floats"
    return None


def _list_output_candidates(model: Model, graph: Graph, ids: str | None) -> list[str]:
    """Return the float outputs of rank 3 that are neither predictions nor narrow, and whose sequence dim is that of the ids.

    If every value has its own names for its dims, these tell nothing. Then those are taken that are as wide as the last norm.
    """
    sequence = _find_sequence_dim(model.interface, ids)
    vocabulary = find_tables(model, find_roles(model.interface, ids)).vocabulary
    wide = [
        value
        for value in model.interface.outputs
        if _is_poolable(value)
        and value.rank == 3
        and not _is_prediction(value.name)
        and _find_width(graph, value) not in (vocabulary or 0, *NARROW)
        and not _holds_labels(model, graph, value)
    ]
    named = [one.name for one in wide if sequence is None or one.dims is None or one.dims[1] in (sequence, None)]
    values = (*model.interface.inputs, *model.interface.outputs)
    if named or not wide or sum(sequence in (value.dims or ()) for value in values) > 1:
        return named
    width = _find_norm_width(model, graph)
    return [one.name for one in wide if width is not None and _find_width(graph, one) == width]


def _holds_labels(model: Model, graph: Graph, value: Value) -> bool:
    """Return whether an output is much narrower than what the encoder's last norm gives."""
    width = _find_width(graph, value)
    if width is None or width >= FEW:
        return False
    norm = _find_norm_width(model, graph)
    return norm is not None and width * SHARE <= norm


def _find_norm_width(model: Model, graph: Graph) -> int | None:
    """Return how wide the encoder's last norm is, or None if there is none or the weights do not tell."""
    last = _list_inner_candidates(model, graph)[:1]
    return infer_last_dim(graph, graph.value(last[0])) if last else None


def _find_width(graph: Graph, value: Value) -> int | None:
    """Return the last dim of an output by the weights, or else as it is declared; None if neither tells."""
    width = infer_last_dim(graph, graph.value(value.name))
    return width if width is not None or not isinstance(value.last_dim, int) else value.last_dim


def _list_inner_candidates(model: Model, graph: Graph) -> list[str]:
    """Return the outputs of the last three normalisations. A model with a head may have its hidden state there.

    Those of an encoder normalise what a layer adds to its input; one that normalises anything else, such as the activation in
    the head of a masked-language model, comes last.
    """
    norms = find_norms(Flow.of(model))
    if not norms:
        return [node.outputs[0].name or "" for node in graph.nodes if _is_norm(graph, node)][:-4:-1]
    of_sums = [norm.output.name or "" for norm in norms if norm.summands]
    others = [norm.output.name or "" for norm in norms if not norm.summands]
    return (of_sums[::-1] + others[::-1])[:3]


def _list_logits_candidates(model: Model, ids: str | None) -> list[str]:
    """Return the float outputs of rank 3 that are as wide as the vocabulary."""
    graph, vocabulary = Graph.of(model), find_tables(model, find_roles(model.interface, ids)).vocabulary
    return [
        value.name
        for value in model.interface.outputs
        if vocabulary is not None and value.rank == 3 and value.dtype in FLOATS and value.dims is not None
        and vocabulary in (infer_last_dim(graph, graph.value(value.name)), value.dims[-1])
    ]  # fmt: skip


def _is_prediction(name: str) -> bool:
    """Return whether a word of ``name`` says that the value is a prediction."""
    return any(PREDICTION.fullmatch(word.lower()) for word in WORD.findall(name))


def _is_norm(graph: Graph, node: ir.Node) -> bool:
    """Return whether a node is a norm, or the last node of a decomposed one (times scale, plus bias)."""
    if get_operator(node) in NORMS:
        return True
    sources = [graph.origin(value) for value in node.inputs if value is not None]
    tensors = [tensor for value in sources if (tensor := graph.tensor(value)) is not None]
    producers = [producer for value in sources if (producer := value.producer()) is not None]
    has_vector = any(len(tensor.dims) == 1 for tensor in tensors)
    return get_operator(node) == "Add" and has_vector and any(get_operator(one) in SCALING for one in producers)


def _advise(model: Model, graph: Graph, ids: str | None, target: SearchTarget) -> tuple[str, tuple[str, ...]]:
    """Return the advice of an error, and the options that it names."""
    if target.advice:
        return target.advice, (target.option,)
    candidates = _list_output_candidates(model, graph, ids) or _list_inner_candidates(model, graph)
    pooled = "".join(f"{one}; to pool otherwise, " for one in find_pooled_outputs(model))
    advice = f"{pooled}name the hidden state with {target.option}"
    if candidates:
        return f"{advice}; it could be {', '.join(candidates)}", (target.option,)
    return f"{advice} (inspect shows the graph's outputs), or export the encoder without its head", (target.option,)


def _is_poolable(value: Value) -> bool:
    return value.dtype in FLOATS and value.rank in (3, None)


def _find_sequence_dim(interface: Interface, ids: str | None) -> Dim:
    """Return the sequence dim of the input of token ids, or else of any input like it."""
    like_ids = [value for value in interface.inputs if is_ids_like(value) and value.dims is not None]
    named = [value for value in like_ids if (value.name == ids if ids else strip_index(value.name) in IDS_NAMES)]
    return next((value.dims[1] for value in (*named, *like_ids) if value.dims is not None), None)


def _find_batch_dim(interface: Interface) -> Dim:
    """Return the batch dim's name by the inputs. Names that shape inference gives are invented."""
    return next((value.dims[0] for value in interface.inputs if value.dims and value.dims[0] is not None), None)


def _find_declared(model: Model, name: str) -> Value | None:
    """Return an inner value's type and dims as the graph declares them, or else as onnx infers them."""
    for info in (*model.proto.graph.value_info, *model.proto.graph.input):
        if info.name == name:
            return read_value(info)
    return infer_values(model).output(name)


def infer_values(model: Model) -> Interface:
    """Return the inner values that onnx's shape inference finds, as the outputs of an interface. Empty if inference fails."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model.proto)
    for tensor in copy.graph.initializer:
        if model.document.payloads.find(tensor) is not None:
            tensor.ClearField("raw_data")
    try:
        inferred = onnx.shape_inference.infer_shapes(copy)
    except Exception as error:  # onnx raises several types; without inference, a run has to tell
        LOG.debug("onnx cannot infer the types and dims of the graph: %s", error)
        return Interface((), ())
    return read_interface(onnx.GraphProto(output=inferred.graph.value_info))
