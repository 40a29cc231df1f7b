"""Inspect a file: its interface, encoder, head, precision, the programs that can read it, and warnings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import onnx

from graphsurgery.argument_types import check_argument_types
from graphsurgery.consumers import Compatibility, list_readers
from graphsurgery.encoder.attention import COUNTED, counts_tokens
from graphsurgery.encoder.blocks import find_blocks
from graphsurgery.encoder.head import explain_pooling, has_own_head, read_head_steps
from graphsurgery.encoder.hidden_layers import list_hidden_layers
from graphsurgery.encoder.hidden_state import HiddenState, find_hidden_state, list_hidden_candidates
from graphsurgery.encoder.limits import Tables, find_tables
from graphsurgery.encoder.modalities import WAVEFORM, find_input
from graphsurgery.encoder.pooled_output import PooledOutput, find_pooled_outputs
from graphsurgery.encoder.roles import find_roles
from graphsurgery.errors import FolderError, GraphSurgeryError, MalformedModelError, UnsupportedModelError
from graphsurgery.folders.head_modules import list_folder_modules, warn_of_missing_modules
from graphsurgery.folders.modules import ListedModule
from graphsurgery.folders.pooling_config import find_pooling_config
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operator_counts import OperatorCount, count_operators
from graphsurgery.interface import Interface, type_name
from graphsurgery.model.certificate import Certificate, read_certificate
from graphsurgery.model.dtypes import compute_payload_size
from graphsurgery.model.loading import Loadable, load
from graphsurgery.model.model import Model
from graphsurgery.model.names import list_read_names, list_subgraphs, walk_graphs
from graphsurgery.model.provenance import GOLDEN, list_steps_since_edit
from graphsurgery.runtime.baked_sizes import declare_baked_sizes
from graphsurgery.runtime.input_facts import InputFacts, describe_inputs, warn_of_inputs
from graphsurgery.shown import Shown

T = TypeVar("T")
HALVES = ("float16", "bfloat16")
SMALL_INTEGERS = ("int8", "uint8", "int4", "uint4")
"""The types of quantised weights."""
QUANTISED_SHARE = 100
"""A file is called quantised if one byte in this many, or more, is of such a type."""
NO_LAYERS: tuple[int, tuple[str, ...]] = (0, ())
NOT_POOLED: tuple[PooledOutput, ...] = ()


@dataclass(frozen=True)
class Inspection(Shown):
    """The result of `inspect`. ``hidden`` is None if nothing can be pooled; ``why_not`` then says why."""

    path: str | None
    """The path of the file. None for a model from memory."""
    interface: Interface
    """The inputs and outputs, with their element types and dims."""
    inputs: tuple[InputFacts, ...]
    """What the inputs of token ids, pictures and sound expect."""
    file_bytes: int
    """The size of the ONNX file in bytes, without its data files."""
    weight_bytes: int
    """The size of all weights in bytes, in the file and in its data files."""
    data_files: tuple[str, ...]
    """The locations of the data files that hold external data."""
    ir_version: int
    opsets: dict[str, int]
    """The version of each imported operator set, by its domain."""
    producer: str
    """The program that wrote the file, with its version, as the file says."""
    nodes: int
    """The number of nodes of the main graph."""
    operators: tuple[OperatorCount, ...]
    """The operators of the graph and of its subgraphs, the commonest first."""
    layers: int
    """The number of attentions of the encoder, found by structure; 0 if none is recognised."""
    hidden_layers: tuple[str, ...]
    """The values of the hidden layers, the embeddings' output first, as tap counts them. Empty if they are not recognised."""
    hidden: HiddenState | None
    """The hidden state that `add_pooling` would pool. None if there is none, or no single one."""
    why_not: str | None
    """Why there is no hidden state to pool. None if there is one."""
    candidates: tuple[str, ...]
    """The values that could be pooled if they were named. Empty if ``hidden`` was found."""
    tables: Tables
    """The numbers of rows of the embedding tables, and so the longest text."""
    head: tuple[dict[str, Any], ...]
    """The edits that graphsurgery recorded in the file, oldest first."""
    goldens: bool
    """Whether the file records golden inputs and vectors, by which it can be verified alone."""
    certificate: Certificate | None
    """The recorded source files, package versions and proof. None if the file has no valid certificate."""
    optimized: dict[str, Any] | None
    """The recorded parameters of all rewrites of the file."""
    pools: str | None
    """How it is known that the file already pools. None if nothing shows it."""
    pooled: tuple[PooledOutput, ...]
    """The outputs that another program pooled, as far as their graph is recognised."""
    precision: dict[str, int]
    """Bytes of initializers by element type."""
    pooling_config: str | None
    """The pooling that the model folder's config asks for. None without such a config."""
    modules: tuple[ListedModule, ...]
    """The modules that the folder's modules.json lists, none without one."""
    warnings: tuple[str, ...]
    """Everything that may be wrong with the file or its folder."""
    consumers: tuple[Compatibility, ...]
    """For every known program whether it can read the file."""
    fingerprint: str
    """The sha256 (hex) of the file without its weights: see `Model.fingerprint`."""

    @property
    def weights_are(self) -> str | None:
        """What most of the weights are, if that is not float32: half precision or integers; None otherwise."""
        total = sum(self.precision.values())
        halves = [name for name in HALVES if self.precision.get(name, 0) * 2 > total]
        integers = [name for name in SMALL_INTEGERS if self.precision.get(name, 0) * QUANTISED_SHARE > total]
        if integers:
            return f"quantised: {self.precision[integers[0]] / total:.0%} of the weights' bytes are {integers[0]}"
        return f"half precision: most weights are {halves[0]}" if halves else None

    def __repr__(self) -> str:
        """Return one line: the file, its interface, and how it pools. `to_json` gives everything."""
        pools = self.pools or "; ".join(map(str, self.pooled)) or "does not pool"
        return f"<{type(self).__name__} {self.path or 'in memory'}: {self.interface}; {pools}>"

    def to_json(self) -> dict[str, Any]:
        """Return the inspection as JSON-ready data."""
        hidden = self.hidden and {"name": self.hidden.name, "dtype": type_name(self.hidden.dtype), "width": self.hidden.width}
        tables = {"vocabulary": self.tables.vocabulary, "types": self.tables.types, "positions": self.tables.positions}
        return {
            "path": self.path, "interface": self.interface.to_json(),
            "inputs": [one.to_json() for one in self.inputs],
            "optional_inputs": [str(value) for value in self.interface.optional], "file_bytes": self.file_bytes,
            "weight_bytes": self.weight_bytes, "data_files": list(self.data_files), "ir_version": self.ir_version,
            "opsets": self.opsets, "producer": self.producer, "nodes": self.nodes,
            "operators": [one.to_json() for one in self.operators], "attention_layers": self.layers,
            "hidden_layers": list(self.hidden_layers), "hidden_state": hidden, "why_no_hidden_state": self.why_not,
            "candidates": list(self.candidates),
            "embedding_tables": tables, "head": list(self.head), "goldens": self.goldens, "pools": self.pools,
            "pooled_outputs": [one.to_json() for one in self.pooled],
            "precision": self.precision, "weights_are": self.weights_are,
            "optimized": self.optimized, "certificate": None if self.certificate is None else self.certificate.to_json(),
            "pooling_config": self.pooling_config, "modules": [one.to_json() for one in self.modules],
            "warnings": list(self.warnings),
            "consumers": [reading.to_json() for reading in self.consumers], "fingerprint": self.fingerprint,
        }  # fmt: skip


@check_argument_types()
def inspect(source: Loadable) -> Inspection:
    """Describe a model without reading its weights: its interface, its encoder, its head, and the programs that read it.

    The model is run in two cases only: if its graph suggests that it takes a single batch or sequence size although it declares
    both free, and if only a run tells how large its pictures or how long its clips are.

    Args:
        source: a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model.

    Raises:
        What `load` raises. A graph that cannot be analysed is not an error: `Inspection.why_not` says why.
    """
    model = load(source)
    proto = model.proto
    runs_at, baked = declare_baked_sizes(model)
    hidden, why_not = _find_hidden(model)
    pooling, complaint = _read_pooling_config(model)
    modules, unlisted = _list_modules(model)
    pooled = NOT_POOLED if has_own_head(model) else _if_valid(lambda: find_pooled_outputs(model), NOT_POOLED)
    doubts = [one.warning for one in pooled if one.warning is not None]
    layers, counted = _if_valid(lambda: _count_layers(model), NO_LAYERS)
    return Inspection(
        path=str(model.path) if model.path is not None else None,
        interface=model.interface,
        inputs=describe_inputs(model),
        file_bytes=model.document.size,
        weight_bytes=model.weight_bytes,
        data_files=tuple(model.files),
        ir_version=proto.ir_version,
        opsets={imported.domain or "ai.onnx": imported.version for imported in proto.opset_import},
        producer=f"{proto.producer_name} {proto.producer_version}".strip(),
        nodes=len(proto.graph.node),
        operators=count_operators(model),
        layers=layers,
        hidden_layers=_if_valid(lambda: _list_hidden_layers(model, hidden), ()),
        hidden=hidden,
        why_not=why_not,
        candidates=() if hidden else _if_valid(lambda: tuple(list_hidden_candidates(model)), ()),
        tables=find_tables(model, find_roles(model.interface)),
        head=tuple(step.to_json() for step in read_head_steps(model)),
        certificate=read_certificate(model),
        optimized=_merge_rewrites(model),
        goldens=any(step.edit == GOLDEN for step in list_steps_since_edit(proto)),
        pools=explain_pooling(model),
        pooled=pooled,
        precision=count_bytes_by_type(model),
        pooling_config=pooling,
        modules=modules,
        warnings=(
            *model.warnings,
            *complaint,
            *(unlisted or warn_of_missing_modules(model)),
            *_list_unreadable_steps(model),
            *_list_warnings(model, hidden),
            *counted,
            *doubts,
            *baked,
            *warn_of_inputs(model, pooled),
        ),
        consumers=list_readers(model, runs_at),
        fingerprint=model.fingerprint,
    )


def _find_hidden(model: Model) -> tuple[HiddenState | None, str | None]:
    try:
        return find_hidden_state(model), None
    except GraphSurgeryError as error:
        return None, str(error)


def _count_layers(model: Model) -> tuple[int, tuple[str, ...]]:
    """Return how many attentions the encoder has, and a warning if they are not told where the tokens are."""
    blocks = find_blocks(model)
    counted = any(counts_tokens(blocks.flow, one) for one in blocks.attentions)
    return len(blocks.attentions), (COUNTED,) if counted else ()


def _list_hidden_layers(model: Model, hidden: HiddenState | None) -> tuple[str, ...]:
    if hidden is None:
        return ()
    return tuple(value.name or "" for value in list_hidden_layers(Graph.of(model), hidden.name))


def _if_valid(answer: Callable[[], T], otherwise: T) -> T:
    """Return ``answer()``, or ``otherwise`` if the graph cannot be analysed. `why_not` says why."""
    try:
        return answer()
    except (MalformedModelError, UnsupportedModelError):
        return otherwise


def _read_pooling_config(model: Model) -> tuple[str | None, list[str]]:
    try:
        found = find_pooling_config(model.place) if model.place is not None else None
    except GraphSurgeryError as error:
        return None, [str(error)]
    return (",".join(found.modes) if found else None), []


def _list_modules(model: Model) -> tuple[tuple[ListedModule, ...], list[str]]:
    """Return the modules of the model's folder, and a warning if they cannot be read."""
    try:
        return list_folder_modules(model), []
    except FolderError as error:
        return (), [str(error)]


def _list_unreadable_steps(model: Model) -> list[str]:
    return [f"{step.unreadable}: the recorded parameters cannot be read" for step in model.recorded if step.unreadable]


def _merge_rewrites(model: Model) -> dict[str, Any] | None:
    merged: dict[str, Any] = {}
    for step in model.rewrites:
        merged |= {name: value for name, value in step.given.items() if value is not None or name not in merged}
    return merged or None


def count_bytes_by_type(model: Model) -> dict[str, int]:
    """Return the bytes of the weights by element type, the largest number first."""
    sizes: Counter[str] = Counter()
    for tensor in model.initializers.values():
        sizes[type_name(tensor.data_type)] += compute_payload_size(tensor.data_type, tensor.dims) or 0
    return dict(sizes.most_common())


def _list_warnings(model: Model, hidden: HiddenState | None) -> list[str]:
    graph = model.proto.graph
    found = []
    imported = {entry.domain or "ai.onnx" for entry in model.proto.opset_import}
    missing = {node.domain or "ai.onnx" for one in walk_graphs(graph) for node in one.node} - imported
    found += [f"operators of {domain} are used, but its opset is not imported" for domain in sorted(missing)]
    if not _is_sorted(graph):
        found.append("nodes are not topologically sorted: ONNX Runtime accepts this, onnx.checker does not")
    if hidden is not None and hidden.width is not None:
        declared = model.interface.output(hidden.name)
        last = declared.last_dim if declared is not None else None
        if isinstance(last, int) and last != hidden.width:
            found.append(f"{hidden.name} is declared {last} wide, but the weights give {hidden.width}")
    if hidden is not None and find_roles(model.interface).mask is None:
        ways = (
            "--mask ones or --mask pad:ID"
            if find_input(model, WAVEFORM) is None
            else "--lengths, or --mask ones without padding"
        )
        found.append(f"there is no attention mask input: pooling needs {ways}")
    return found


def _is_sorted(graph: onnx.GraphProto) -> bool:
    """Return whether each node comes after the nodes that make the values it or its subgraphs read, also in subgraphs."""
    coming = {name for node in graph.node for name in node.output}
    for node in graph.node:
        if not coming.isdisjoint(list_read_names(node)) or not all(map(_is_sorted, list_subgraphs(node))):
            return False
        coming.difference_update(node.output)
    return True
