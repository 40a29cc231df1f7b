"""The programs that read embedding models, which inputs each of them feeds, and which outputs it accepts.

Source: each project's own loading code (text-embeddings-inference, transformers.js, Vespa, OpenSearch ml-commons,
fastembed, langchain4j, Spring AI, infinity, txtai, sentence-transformers).
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from graphsurgery.encoder.modalities import TOKEN_IDS, list_modalities
from graphsurgery.interface import Interface, Value
from graphsurgery.model.model import Model

FIRST = ("*first*",)
ANY = ("*any*",)
SECOND = ("*second*",)
"""The second of several outputs for vectors of texts, the first for vectors of tokens."""
FED = ("input_ids", "attention_mask", "token_type_ids")
"""The inputs that all of these programs feed: int64 ``[batch, seq]`` of any size."""


@dataclass(frozen=True)
class Consumer:
    """A program that reads embedding models, and the names of the outputs it looks for, in its order."""

    name: str
    looks_for: tuple[str, ...]
    settings: dict[int, str]
    """The setting that its user needs, by the output's rank. It accepts no other ranks."""
    names_inputs: bool = False
    """Whether its user says which input is which, so that they may have other names."""
    by_name: str = ""
    """The setting that names an output that is not the first, if it takes the first one otherwise."""
    takes_one: bool = False
    """Whether it joins all outputs into one array, so that it fails if there are several."""


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
    Consumer(
        "sentence-transformers (ONNX backend)",
        TOKENS,
        {3: "its own Pooling module pools, up to version 5; 6 has no ONNX backend that can be installed"},
    ),
    Consumer("transformers.js", ("last_hidden_state", "logits", "token_embeddings"), {3: "pooling option of the pipeline"}),
    Consumer(
        "Vespa", ANY, {2: "transformer-output and pooling-strategy: none", 3: "transformer-output and pooling-strategy"}, True
    ),
    Consumer("OpenSearch ml-commons", SECOND, {2: "pooling_mode: none", 3: "pooling_mode"}),
    Consumer(
        "fastembed",
        ANY,
        {2: "add_custom_model with PoolingType.DISABLED", 3: "add_custom_model with its pooling"},
        by_name="output_name",
    ),
    Consumer("langchain4j", FIRST, {3: "PoolingMode; it always normalises"}),
    Consumer("Spring AI", ANY, {3: "modelOutputName; it pools by mean"}),
    Consumer("txtai", FIRST, {2: "as it is"}, takes_one=True),
    Consumer("infinity", ("last_hidden_state",), {3: "pools and normalises itself"}),
)


def list_readers(model: Model, interface: Interface) -> tuple[Compatibility, ...]:
    """Return what `check_consumers` does for the ``interface`` of ``model``.

    All these programs feed token ids, so there are none for a model of pictures or sound alone.
    """
    kinds = {one.kind for one in list_modalities(model)}
    return check_consumers(interface) if TOKEN_IDS in kinds or not kinds else ()


def check_consumers(interface: Interface) -> tuple[Compatibility, ...]:
    """Return for every known consumer whether it can read a file of this interface as it is."""
    return tuple(_check_consumer(consumer, interface) for consumer in CONSUMERS)


def _check_consumer(consumer: Consumer, interface: Interface) -> Compatibility:
    unfed = next((why for value in interface.inputs if (why := _explain_unfed(consumer, value)) is not None), None)
    if unfed is None and len(interface.inputs) > len(FED):
        unfed = f"feeds {len(FED)} inputs at most, and there are {len(interface.inputs)} (drop-input makes one constant)"
    if unfed is not None:
        return Compatibility(consumer.name, False, unfed)
    if consumer.takes_one and len(interface.outputs) > 1:
        return Compatibility(
            consumer.name, False, f"takes one output, and there are {len(interface.outputs)} (keep-outputs leaves one)"
        )
    candidates = _find_candidates(consumer, interface)
    if not candidates:
        names = f"looks for an output named {' or '.join(consumer.looks_for)}"
        places = "pools the first output, and with pooling_mode none takes the second of several as it is"
        return Compatibility(consumer.name, False, places if consumer.looks_for == SECOND else names)
    for value in candidates:
        if value.rank in consumer.settings and value.dtype == onnx.TensorProto.FLOAT:
            named = f" and {consumer.by_name}" if consumer.by_name and value is not interface.outputs[0] else ""
            optional = "".join(f"; {one.name} is optional" for one in interface.optional)
            return Compatibility(consumer.name, True, f"{value.name}: {consumer.settings[value.rank]}{named}{optional}")
    ranks = " or ".join(map(str, consumer.settings))
    return Compatibility(consumer.name, False, f"accepts float32 of rank {ranks}; it would read {candidates[0]}")


def _explain_unfed(consumer: Consumer, value: Value) -> str | None:
    """Return why a program does not feed the input ``value`` and how that is mended, or None if it feeds it."""
    if value.rank not in (2, None):
        return f"feeds [batch, seq] only, and there is {value} (drop-input makes it constant)"
    if not consumer.names_inputs and value.name not in FED:
        return f"feeds no {value.name} (rename gives it the name of {', '.join(FED)}; drop-input makes it constant)"
    if value.dtype != onnx.TensorProto.INT64:
        return f"feeds int64, and there is {value} (input-type changes ids and masks of integers)"
    if any(isinstance(dim, int) for dim in value.dims or ()):
        return f"feeds any number of texts of any length, and there is {value} (dynamic-dim frees its sizes)"
    return None


def _find_candidates(consumer: Consumer, interface: Interface) -> list[Value]:
    if consumer.looks_for == FIRST:
        return list(interface.outputs[:1])
    if consumer.looks_for == SECOND:
        first, without_pooling = interface.outputs[:1], (interface.outputs[1:2] or interface.outputs[:1])
        return [one for one in first if one.rank == 3] + [one for one in without_pooling if one.rank == 2]
    if consumer.looks_for == ANY:
        return list(interface.outputs)
    return [value for name in consumer.looks_for if (value := interface.output(name)) is not None][:1]
