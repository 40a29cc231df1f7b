"""An encoder's architecture: its model type in the optimizer's terms, its heads, width and depth.

The graph tells; ``config.json`` is asked for the name and for what the graph leaves open. Where they disagree the graph counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from graphsurgery.encoder.attention import Attention
from graphsurgery.encoder.blocks import Blocks, find_blocks
from graphsurgery.encoder.norms import COMPUTED, RMS
from graphsurgery.encoder.projections import NORMALISED
from graphsurgery.encoder.scores import CAUSAL, CONTENT, POSITION
from graphsurgery.graph.attributes import read_at
from graphsurgery.model.model import Model

BERT, T5 = "bert", "t5"
"""Model types of the optimizer: its patterns for anything but T5 are BERT's, no other type's fuse more."""
CONFIG_KEYS = {
    "heads": ("num_attention_heads", "n_heads", "num_heads", "n_head", "encoder_attention_heads"),
    "hidden": ("hidden_size", "dim", "d_model", "n_embd"),
    "layers": ("num_hidden_layers", "n_layers", "num_layers", "n_layer", "encoder_layers"),
}
"""Their names in transformers' configs, which differ by architecture."""
GRAPH, CONFIG, BOTH = "the graph", "config.json", "the graph and config.json"


@dataclass(frozen=True)
class Architecture:
    """``hidden`` is the width of the token embeddings; an attention is ``heads x head_size`` wide, which can be more."""

    model_type: str
    name: str
    """config.json's model_type, else what the structure is like."""
    heads: int
    hidden: int
    layers: int
    head_size: int | None
    source: str
    """Where this was read: in the graph, in config.json, or in both."""
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        size = f" of {self.head_size}" if self.head_size is not None else ""
        terms = f" (model type {self.model_type} to the optimizer)" if self.model_type != self.name else ""
        found = f"{self.layers} layers, {self.heads} heads{size}, hidden size {self.hidden}"
        return f"{self.name}{terms}: {found} (by {self.source})"

    def to_json(self) -> dict[str, Any]:
        """Return the architecture as JSON-ready data."""
        return {
            "model_type": self.model_type, "name": self.name, "heads": self.heads, "hidden": self.hidden,
            "layers": self.layers, "head_size": self.head_size, "source": self.source, "notes": list(self.notes),
        }  # fmt: skip


def find_architecture(model: Model, config: Mapping[str, Any] | None = None) -> Architecture | None:
    """Return the architecture of an encoder.

    None where the graph has no attention, or where neither the graph nor ``config``, transformers' ``config.json``, tells the
    number of heads and the width. Raises MalformedModelError as `Graph` does.
    """
    blocks = find_blocks(model)
    if not blocks.attentions:
        return None
    said = _said(config or {})
    told = {
        "heads": _most(one.heads for one in blocks.attentions),
        "hidden": _most(_width(blocks, one) for one in blocks.attentions),
        "layers": len(blocks.attentions),
    }
    found = {key: told[key] or said.get(key) for key in CONFIG_KEYS}
    heads, hidden, layers = (found[key] for key in CONFIG_KEYS)
    if not heads or not hidden or not layers:
        return None
    kind = find_likeness(blocks)
    name = str(config["model_type"]) if config and isinstance(config.get("model_type"), str) else f"like {kind}"
    return Architecture(
        T5 if kind == "T5" else BERT,
        name,
        heads,
        hidden,
        layers,
        _most(one.head_size for one in blocks.attentions) or (hidden // heads if hidden % heads == 0 else None),
        _source(told, said),
        tuple(_notes(told, said)),
    )


def _said(config: Mapping[str, Any]) -> dict[str, int]:
    """Return heads, width and depth as a config has them; of several towers those of the text's."""
    inner = config.get("text_config")
    places = [config, inner] if isinstance(inner, Mapping) else [config]
    found = {}
    for key, names in CONFIG_KEYS.items():
        numbers = [place.get(name) for place in places for name in names]
        known = [number for number in numbers if isinstance(number, int) and not isinstance(number, bool) and number > 0]
        found.update({key: known[0]} if known else {})
    return found


def _most(numbers: Iterable[int | None]) -> int | None:
    """Return the most frequent of the known numbers."""
    counted = Counter(number for number in numbers if number)
    return counted.most_common(1)[0][0] if counted else None


def _width(blocks: Blocks, attention: Attention) -> int | None:
    """Return the width of the value that an attention reads."""
    flow = blocks.flow
    if attention.queries is not None:
        return attention.queries.reads
    weight = flow.weights(read_at(attention.node, 1))
    return int(weight.dims[0]) if weight is not None and len(weight.dims) == 2 else attention.width


def _source(told: Mapping[str, int | None], said: Mapping[str, int]) -> str:
    if not said:
        return GRAPH
    return BOTH if any(told[key] for key in ("heads", "hidden")) else CONFIG


def _notes(told: Mapping[str, int | None], said: Mapping[str, int]) -> Iterable[str]:
    for key in CONFIG_KEYS:
        if told[key] and key in said and told[key] != said[key]:
            yield f"config.json says {said[key]} {key}, the graph has {told[key]}: the graph counts"
        elif not told[key] and key in said:
            yield f"the graph does not tell {key}: taken from config.json"


def find_likeness(blocks: Blocks) -> str:
    """Return the encoder whose structure this one has, ``BERT`` where nothing sets it apart."""
    if not blocks.attentions:
        return "BERT"
    first = blocks.attentions[0]
    rms = any(norm.kind == RMS for _, norm in blocks.norms)
    if CONTENT in first.added:
        return "DeBERTa"
    if POSITION in first.added and not first.rotations:
        return "T5" if rms else "MPNet"
    if first.rotations:
        return _rotary_kind(first, rms)
    return "GPT-2" if CAUSAL in first.added else _bert_kind(blocks)


def _rotary_kind(first: Attention, rms: bool) -> str:
    normed = first.queries is not None and NORMALISED in first.queries.steps
    if CAUSAL in first.added:
        return "Qwen3" if normed else "Llama"
    return "ModernBERT" if first.packed and not rms else "a rotary encoder"


def _bert_kind(blocks: Blocks) -> str:
    """Return which of BERT's kin it is, by shared weights, positions computed from ids, token types, and mapped embeddings."""
    weights = {one.queries.weight for one in blocks.attentions if one.queries is not None}
    embeddings = next((norm for layer, norm in blocks.norms if layer is None), None)
    if len(blocks.attentions) > 1 and len(weights) == 1:
        return "ALBERT"
    if embeddings is None or not embeddings.lookups:
        return "BERT"
    if any(one.by == COMPUTED for one in embeddings.lookups):
        return "RoBERTa"
    if len(embeddings.lookups) == 2:
        return "DistilBERT"
    return "BERT" if _reads(blocks, embeddings.output) else "ELECTRA"


def _reads(blocks: Blocks, value: ir.Value) -> bool:
    """Return whether the first attention reads ``value`` itself."""
    first, origin = blocks.attentions[0], blocks.flow.graph.origin
    sources = first.sources or {one for one in first.node.inputs[:1] if one is not None}
    return origin(value) in map(origin, sources)
