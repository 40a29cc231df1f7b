"""An encoder's architecture: its model type in the optimizer's terms, its heads, width and depth.

It is read from the graph. ``config.json`` gives the name and the numbers that the graph leaves open. Where the two disagree,
the graph is right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from graphsurgery.deferred import ir
from graphsurgery.encoder.attention import Attention
from graphsurgery.encoder.blocks import Blocks, find_blocks
from graphsurgery.encoder.norms import COMPUTED, RMS
from graphsurgery.encoder.projections import NORMALISED
from graphsurgery.encoder.scores import CAUSAL, CONTENT, POSITION
from graphsurgery.graph.attributes import get_input
from graphsurgery.model.model import Model

BERT, T5 = "bert", "t5"
"""Model types of the optimizer. Encoders other than T5 get BERT's patterns, because no other type's patterns fuse more of
them."""
CONFIG_KEYS = {
    "heads": ("num_attention_heads", "n_heads", "num_heads", "n_head", "encoder_attention_heads"),
    "hidden": ("hidden_size", "dim", "d_model", "n_embd"),
    "layers": ("num_hidden_layers", "n_layers", "num_layers", "n_layer", "encoder_layers"),
}
"""The keys in transformers' configs, which differ by architecture."""
GRAPH, CONFIG, BOTH = "the graph", "config.json", "the graph and config.json"


@dataclass(frozen=True)
class Architecture:
    """What the optimizer needs to know of an encoder."""

    model_type: str
    name: str
    """config.json's model_type, or else the encoder with the same structure."""
    heads: int
    hidden: int
    """The width of the token embeddings. An attention is ``heads x head_size`` wide, which can be more."""
    layers: int
    head_size: int | None
    source: str
    """Where this was read: `GRAPH`, `CONFIG` or `BOTH`."""
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        size = f" of {self.head_size}" if self.head_size is not None else ""
        terms = f" (model type {self.model_type} to the optimizer)" if self.model_type != self.name else ""
        numbers = f"{self.layers} layers, {self.heads} heads{size}, hidden size {self.hidden}"
        return f"{self.name}{terms}: {numbers} (by {self.source})"

    def to_json(self) -> dict[str, Any]:
        """Return the architecture as JSON-ready data."""
        return {
            "model_type": self.model_type, "name": self.name, "heads": self.heads, "hidden": self.hidden,
            "layers": self.layers, "head_size": self.head_size, "source": self.source, "notes": list(self.notes),
        }  # fmt: skip


def find_architecture(model: Model, config: Mapping[str, Any] | None = None) -> Architecture | None:
    """Return the architecture of an encoder.

    None if the graph has no attention, or if neither the graph nor ``config`` (transformers' ``config.json``) tells the number
    of heads and the width. Raises what `Graph` raises.
    """
    blocks = find_blocks(model)
    if not blocks.attentions:
        return None
    from_config = _read_config(config or {})
    from_graph = {
        "heads": _find_most_common(one.heads for one in blocks.attentions),
        "hidden": _find_most_common(_find_source_width(blocks, one) for one in blocks.attentions),
        "layers": len(blocks.attentions),
    }
    heads, hidden, layers = (from_graph[key] or from_config.get(key) for key in CONFIG_KEYS)
    if not heads or not hidden or not layers:
        return None
    family = find_family(blocks)
    name = str(config["model_type"]) if config and isinstance(config.get("model_type"), str) else f"like {family}"
    return Architecture(
        T5 if family == "T5" else BERT,
        name,
        heads,
        hidden,
        layers,
        _find_most_common(one.head_size for one in blocks.attentions) or (hidden // heads if hidden % heads == 0 else None),
        _find_source(from_graph, from_config),
        tuple(_compare(from_graph, from_config)),
    )


def _read_config(config: Mapping[str, Any]) -> dict[str, int]:
    """Return heads, width and depth as a config has them. If it describes several towers, those of the text tower."""
    inner = config.get("text_config")
    places = [config, inner] if isinstance(inner, Mapping) else [config]
    found = {}
    for key, names in CONFIG_KEYS.items():
        numbers = [place.get(name) for place in places for name in names]
        known = [number for number in numbers if isinstance(number, int) and not isinstance(number, bool) and number > 0]
        found.update({key: known[0]} if known else {})
    return found


def _find_most_common(numbers: Iterable[int | None]) -> int | None:
    """Return the most frequent of the known numbers."""
    counts = Counter(number for number in numbers if number)
    return counts.most_common(1)[0][0] if counts else None


def _find_source_width(blocks: Blocks, attention: Attention) -> int | None:
    """Return the width of the value that an attention reads."""
    if attention.queries is not None:
        return attention.queries.source_width
    weight = blocks.flow.weights(get_input(attention.node, 1))
    return int(weight.dims[0]) if weight is not None and len(weight.dims) == 2 else attention.width


def _find_source(from_graph: Mapping[str, int | None], from_config: Mapping[str, int]) -> str:
    if not from_config:
        return GRAPH
    return BOTH if from_graph["heads"] or from_graph["hidden"] else CONFIG


def _compare(from_graph: Mapping[str, int | None], from_config: Mapping[str, int]) -> Iterator[str]:
    """Yield notes on where the graph and config.json differ."""
    for key, configured in from_config.items():
        found = from_graph[key]
        if not found:
            yield f"the graph does not tell {key}: taken from config.json"
        elif found != configured:
            yield f"config.json says {configured} {key}, the graph has {found}: the graph counts"


def find_family(blocks: Blocks) -> str:
    """Return the well-known encoder that has this structure, ``BERT`` by default."""
    if not blocks.attentions:
        return "BERT"
    first = blocks.attentions[0]
    rms = any(norm.kind == RMS for _, norm in blocks.norms)
    if CONTENT in first.added:
        return "DeBERTa"
    if POSITION in first.added and not first.rotations:
        return "T5" if rms else "MPNet"
    if first.rotations:
        return _find_rotary_family(first, rms)
    return "GPT-2" if CAUSAL in first.added else _find_bert_family(blocks)


def _find_rotary_family(first: Attention, rms: bool) -> str:
    is_normed = first.queries is not None and NORMALISED in first.queries.steps
    if CAUSAL in first.added:
        return "Qwen3" if is_normed else "Llama"
    return "ModernBERT" if first.packed and not rms else "a rotary encoder"


def _find_bert_family(blocks: Blocks) -> str:
    """Return the variant of BERT, by shared weights, positions computed from ids, token types, and mapped embeddings."""
    weights = {one.queries.weight for one in blocks.attentions if one.queries is not None}
    embeddings = next((norm for layer, norm in blocks.norms if layer is None), None)
    if len(blocks.attentions) > 1 and len(weights) == 1:
        return "ALBERT"
    if embeddings is None or not embeddings.lookups:
        return "BERT"
    if any(one.indexed_by == COMPUTED for one in embeddings.lookups):
        return "RoBERTa"
    if len(embeddings.lookups) == 2:
        return "DistilBERT"
    return "BERT" if _is_read_by_attention(blocks, embeddings.output) else "ELECTRA"


def _is_read_by_attention(blocks: Blocks, value: ir.Value) -> bool:
    """Return whether the first attention reads ``value`` itself."""
    first, origin = blocks.attentions[0], blocks.flow.graph.origin
    sources = first.sources or {one for one in first.node.inputs[:1] if one is not None}
    return origin(value) in map(origin, sources)
