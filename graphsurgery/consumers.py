"""The programs that read embedding models, and which outputs of a file each of them accepts.

Source: each project's own loading code (text-embeddings-inference, transformers.js, Vespa, OpenSearch ml-commons,
fastembed, langchain4j, Spring AI, infinity, sentence-transformers).
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from graphsurgery.interface import Interface, Value

FIRST = ("*first*",)
ANY = ("*any*",)


@dataclass(frozen=True)
class Consumer:
    """A program that reads embedding models, and the names of the outputs it looks for, in its order."""

    name: str
    looks_for: tuple[str, ...]
    settings: dict[int, str]
    """The setting that its user needs, by the output's rank. It accepts no other ranks."""


@dataclass(frozen=True)
class Compatibility:
    """Whether ``consumer`` reads the file as it is. ``detail`` gives the setting it needs, or says why it does not."""

    consumer: str
    reads: bool
    detail: str

    def to_json(self) -> dict[str, object]:
        return {"consumer": self.consumer, "reads": self.reads, "detail": self.detail}


TOKENS = ("last_hidden_state", "token_embeddings")
CONSUMERS = (
    Consumer(
        "text-embeddings-inference", ("sentence_embedding", *TOKENS), {2: "as it is", 3: "--pooling cls, mean or last-token"}
    ),
    Consumer("sentence-transformers (ONNX backend)", TOKENS, {3: "its own Pooling module pools"}),
    Consumer("transformers.js", ("last_hidden_state", "logits", "token_embeddings"), {3: "pooling option of the pipeline"}),
    Consumer("Vespa", ANY, {2: "transformer-output and pooling-strategy: none", 3: "transformer-output and pooling-strategy"}),
    Consumer("OpenSearch ml-commons", FIRST, {2: "pooling_mode: none", 3: "pooling_mode"}),
    Consumer("fastembed", FIRST, {2: "add_custom_model with PoolingType.DISABLED", 3: "add_custom_model with its pooling"}),
    Consumer("langchain4j", FIRST, {3: "PoolingMode; it always normalises"}),
    Consumer("Spring AI", ANY, {3: "modelOutputName; it pools by mean"}),
    Consumer("infinity", ("last_hidden_state",), {3: "pools and normalises itself"}),
)


def check_consumers(interface: Interface) -> tuple[Compatibility, ...]:
    """Return for every known consumer whether it can read a file of this interface as it is."""
    return tuple(_check_consumer(consumer, interface) for consumer in CONSUMERS)


def _check_consumer(consumer: Consumer, interface: Interface) -> Compatibility:
    candidates = _find_candidates(consumer, interface)
    if not candidates:
        return Compatibility(consumer.name, False, f"looks for an output named {' or '.join(consumer.looks_for)}")
    for value in candidates:
        if value.rank in consumer.settings and value.dtype == onnx.TensorProto.FLOAT:
            return Compatibility(consumer.name, True, f"{value.name}: {consumer.settings[value.rank]}")
    ranks = " or ".join(map(str, consumer.settings))
    return Compatibility(consumer.name, False, f"accepts float32 of rank {ranks}; it would read {candidates[0]}")


def _find_candidates(consumer: Consumer, interface: Interface) -> list[Value]:
    if consumer.looks_for == FIRST:
        return list(interface.outputs[:1])
    if consumer.looks_for == ANY:
        return list(interface.outputs)
    return [value for name in consumer.looks_for if (value := interface.output(name)) is not None][:1]
