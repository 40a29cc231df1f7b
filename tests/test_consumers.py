"""Which programs read a file: one case for each program and each kind of input, and for each kind of outputs."""

from __future__ import annotations

import pytest
from onnx import TensorProto

from graphsurgery.consumers import CONSUMERS, Compatibility, check_consumers
from graphsurgery.interface import Interface, Value

INT64, INT32, FLOAT, FLOAT16 = TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT, TensorProto.FLOAT16
DIMS = ("batch", "sequence")
IDS, MASK, TYPES = (Value(name, INT64, DIMS) for name in ("input_ids", "attention_mask", "token_type_ids"))
TOKENS = Value("last_hidden_state", FLOAT, (*DIMS, 32))
EMBEDDING = Value("sentence_embedding", FLOAT, ("batch", 32))
NAMES = [one.name for one in CONSUMERS]
SENTENCE_TRANSFORMERS = "sentence-transformers (ONNX backend)"
INPUTS = {
    "ids and mask": ((IDS, MASK), NAMES, ""),
    "ids, mask and types": ((IDS, MASK, TYPES), NAMES, ""),
    "ids alone": ((IDS,), NAMES, ""),
    "another name": ((Value("tokens", INT64, DIMS), MASK), ["Vespa"], "feeds no tokens (rename"),
    "int32": ((Value("input_ids", INT32, DIMS), MASK), [], "feeds int64, and there is input_ids: int32"),
    "a float mask": ((IDS, Value("attention_mask", FLOAT, DIMS)), [], "feeds int64, and there is attention_mask: float32"),
    "a scalar": ((IDS, MASK, Value("task_id", INT64, ())), [], "feeds [batch, seq] only"),
    "a cache": ((IDS, MASK, Value("past.0.key", FLOAT, ("batch", 2, "past", 8))), [], "feeds [batch, seq] only"),
    "positions": ((IDS, MASK, Value("position_ids", INT64, DIMS)), ["Vespa"], "feeds no position_ids"),
    "four inputs": ((IDS, MASK, TYPES, Value("position_ids", INT64, DIMS)), [], ""),
    "fixed length": ((Value("input_ids", INT64, ("batch", 128)), MASK), [], "(dynamic-dim frees its sizes)"),
    "fixed batch": ((Value("input_ids", INT64, (1, "sequence")), MASK), [], "(dynamic-dim frees its sizes)"),
}
"""The inputs of a file of token embeddings, the programs that feed them, and what is said of the first of the others."""
OUTPUTS = {
    "text-embeddings-inference": {"tokens": True, "vector": True, "both": True, "half": False},
    SENTENCE_TRANSFORMERS: {"tokens": True, "vector": False, "both": True, "half": False},
    "transformers.js": {"tokens": True, "vector": False, "both": True, "half": False},
    "Vespa": {"tokens": True, "vector": True, "both": True, "half": False},
    "OpenSearch ml-commons": {"tokens": True, "vector": True, "both": False, "half": False},
    "fastembed": {"tokens": True, "vector": True, "both": True, "half": False},
    "langchain4j": {"tokens": True, "vector": False, "both": False, "half": False},
    "Spring AI": {"tokens": True, "vector": False, "both": True, "half": False},
    "txtai": {"tokens": False, "vector": True, "both": False, "half": False},
    "infinity": {"tokens": True, "vector": False, "both": True, "half": False},
}
KINDS = {
    "tokens": (TOKENS,), "vector": (EMBEDDING,), "both": (EMBEDDING, TOKENS),
    "half": (Value("last_hidden_state", FLOAT16, (*DIMS, 32)),),
}  # fmt: skip
"""OpenSearch takes the second of several outputs as it is, or pools the first. A vector before tokens suits neither."""


def check(consumer: str, inputs: tuple[Value, ...], outputs: tuple[Value, ...]) -> Compatibility:
    return next(one for one in check_consumers(Interface(inputs, outputs)) if one.consumer == consumer)


@pytest.mark.parametrize("consumer", NAMES)
@pytest.mark.parametrize("kind", INPUTS)
def test_inputs(kind: str, consumer: str) -> None:
    inputs, readers, said = INPUTS[kind]
    found = check(consumer, inputs, (EMBEDDING if consumer == "txtai" else TOKENS,))  # which does not pool
    assert found.reads == (consumer in readers)
    if not found.reads and consumer != "Vespa":
        assert said in found.detail


@pytest.mark.parametrize("consumer", OUTPUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_outputs(kind: str, consumer: str) -> None:
    assert check(consumer, (IDS, MASK), KINDS[kind]).reads == OUTPUTS[consumer][kind]


def test_every_program_is_tried() -> None:
    assert set(OUTPUTS) == set(NAMES)


def test_fastembed_is_told_the_name_of_an_output_that_is_not_the_first() -> None:
    other = Value("half", FLOAT16, ("batch", 32))
    assert "output_name" in check("fastembed", (IDS, MASK), (other, EMBEDDING)).detail
    assert "output_name" not in check("fastembed", (IDS, MASK), (EMBEDDING, other)).detail


def test_txtai_takes_one_output() -> None:
    """It makes one array of all outputs, which have different shapes."""
    assert check("txtai", (IDS, MASK), (EMBEDDING, TOKENS)).detail.startswith("takes one output, and there are 2 (keep-outputs")


def test_opensearch_takes_the_second_of_several_outputs() -> None:
    assert check("OpenSearch ml-commons", (IDS, MASK), (TOKENS, EMBEDDING)).detail.startswith("last_hidden_state: pooling_mode")
    second = check("OpenSearch ml-commons", (IDS, MASK), (Value("scores", FLOAT, ("batch", 2)), EMBEDDING))
    assert second.reads and second.detail.startswith("sentence_embedding: pooling_mode: none")


def test_sentence_transformers_reads_up_to_version_5() -> None:
    detail = check(SENTENCE_TRANSFORMERS, (IDS, MASK), (TOKENS,)).detail
    assert "up to version 5" in detail and "6 has no ONNX backend" in detail
