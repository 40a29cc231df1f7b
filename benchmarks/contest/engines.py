"""The engines: each takes a list of texts and gives their vectors, tokenisation included, with two threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

THREADS = 2
BATCH = 32
LONGEST = 512
"""Tokens that every engine cuts texts to: all positions of all-MiniLM-L6-v2, because fastembed cuts there."""
BUDGET = 512
"""Tokens of one run: rows x longest, or real tokens for a file that computes no padding."""
DIM = 384

Encode = Callable[[list[str]], np.ndarray]


@dataclass(frozen=True)
class Files:
    """What the engines read. ``model`` is the sentence-transformers folder, also with ``onnx/model.onnx`` in it."""

    model: Path
    pooled: Path
    """Optimum's own export of the whole sentence-transformers model."""
    baked: Path
    speed: Path
    """The file that `graphsurgery optimize --speed` made of ``baked``."""
    padding_free: Path
    portable: Path
    """The padding-free file of standard operators."""
    int8: Path
    """The file that `graphsurgery quantize` made of ``baked``, if it was made."""
    packed_int8: Path
    """The same, made of ``padding_free``."""


class Runner(Protocol):
    """Runs one padded batch."""

    def __call__(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray: ...


Planner = Callable[[list[int]], Sequence[Sequence[int]]]


def plan_arrival(lengths: list[int]) -> Sequence[Sequence[int]]:
    """Batches of 32 in the order of arrival."""
    return [range(start, min(start + BATCH, len(lengths))) for start in range(0, len(lengths), BATCH)]


def plan_single(lengths: list[int]) -> Sequence[Sequence[int]]:
    return [[place] for place in range(len(lengths))]


def plan_sorted(lengths: list[int]) -> Sequence[Sequence[int]]:
    """Batches of 32 of similar length."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return [order[start : start + BATCH] for start in range(0, len(lengths), BATCH)]


def plan_padded(lengths: list[int]) -> Sequence[Sequence[int]]:
    from graphsurgery import plan

    return plan(lengths, BUDGET)


def plan_packed(lengths: list[int]) -> Sequence[Sequence[int]]:
    from graphsurgery import plan

    return plan(lengths, BUDGET, padded=False)


def make_planned(folder: Path, run: Runner, planner: Planner) -> Encode:
    """Return an engine that tokenises, plans, pads each batch and runs it."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)

    def encode(texts: list[str]) -> np.ndarray:
        encoded = [one.ids for one in tokenizer.encode_batch(texts)]
        vectors = np.empty((len(texts), DIM), np.float32)
        for rows in planner([len(one) for one in encoded]):
            width = max(len(encoded[row]) for row in rows)
            ids, mask = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), np.int64)
            for place, row in enumerate(rows):
                ids[place, : len(encoded[row])] = encoded[row]
                mask[place, : len(encoded[row])] = 1
            vectors[list(rows)] = run(ids, mask)
        return vectors

    return encode


def open_onnx(path: Path) -> Runner:
    """Return ONNX Runtime's session of a file that gives the embedding."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}
    output = next(value.name for value in session.get_outputs() if value.name == "sentence_embedding")

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        vectors: np.ndarray = session.run([output], {name: feed[name] for name in names})[0]
        return vectors

    return run


def open_openvino(path: Path) -> Runner:
    """Return OpenVINO's compiled model of the same file, in float32."""
    import openvino

    hints = {"INFERENCE_NUM_THREADS": THREADS, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(str(path), "CPU", hints)
    names = [port.get_any_name() for port in compiled.inputs]
    request = compiled.create_infer_request()

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        request.infer({name: feed[name] for name in names})
        vectors: np.ndarray = request.get_output_tensor(0).data.copy()
        return vectors

    return run


def open_sentence_transformers(files: Files, **options: Any) -> Encode:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(THREADS)
    model = SentenceTransformer(str(files.model), device="cpu", **options)
    model.max_seq_length = LONGEST
    return lambda texts: np.asarray(model.encode(texts, batch_size=BATCH, show_progress_bar=False))


def open_st_onnx(files: Files) -> Encode:
    import onnxruntime

    session = onnxruntime.SessionOptions()
    session.intra_op_num_threads = THREADS
    kwargs = {"file_name": "onnx/model.onnx", "provider": "CPUExecutionProvider", "session_options": session}
    return open_sentence_transformers(files, backend="onnx", model_kwargs=kwargs)


def open_fastembed(files: Files) -> Encode:
    """Return fastembed on the transformer-only file, which it pools and normalises by itself."""
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    TextEmbedding.add_custom_model(
        model="local/minilm", pooling=PoolingType.MEAN, normalization=True, sources=ModelSource(hf="local/minilm"), dim=DIM,
        model_file="onnx/model.onnx",
    )  # fmt: skip
    model = TextEmbedding("local/minilm", threads=THREADS, specific_model_path=str(files.model))
    return lambda texts: np.stack(list(model.embed(texts, batch_size=BATCH)))


def open_txtai(files: Files) -> Encode:
    """Return txtai on our pooled file: it does not pool what an ONNX file gives. It sorts by characters, and runs 32 texts."""
    import torch
    from txtai import Embeddings

    torch.set_num_threads(THREADS)
    model = Embeddings(path=str(files.baked), tokenizer=str(files.model), maxlength=LONGEST, encodebatch=BATCH, gpu=False)
    return lambda texts: np.asarray(model.batchtransform(texts))


def open_embedder(path: Path, budget: int | None = None) -> Encode:
    """Return `graphsurgery.Embedder` on a file: it tokenises, plans by a budget that it measures, and runs."""
    from graphsurgery import Embedder

    model = Embedder(path, threads=THREADS, providers="cpu", max_batch_tokens=budget)
    return lambda texts: model.encode(texts)


ENGINES: dict[str, Callable[[Files], Encode]] = {
    "sentence-transformers, PyTorch": open_sentence_transformers,
    "sentence-transformers, ONNX": open_st_onnx,
    "Optimum's pooled export, arrival": lambda files: make_planned(files.model, open_onnx(files.pooled), plan_arrival),
    "fastembed": open_fastembed,
    "txtai, ONNX": open_txtai,
    "ONNX Runtime, arrival": lambda files: make_planned(files.model, open_onnx(files.baked), plan_arrival),
    "ONNX Runtime, one at a time": lambda files: make_planned(files.model, open_onnx(files.baked), plan_single),
    "ONNX Runtime, sorted": lambda files: make_planned(files.model, open_onnx(files.baked), plan_sorted),
    "OpenVINO, arrival": lambda files: make_planned(files.model, open_openvino(files.baked), plan_arrival),
    "OpenVINO, our plan": lambda files: make_planned(files.model, open_openvino(files.baked), plan_padded),
    "OpenVINO, our portable file and plan": lambda files: make_planned(files.model, open_openvino(files.portable), plan_packed),
    "ours: baked, plan": lambda files: make_planned(files.model, open_onnx(files.baked), plan_padded),
    "ours: baked, --speed, plan": lambda files: make_planned(files.model, open_onnx(files.speed), plan_padded),
    "ours: padding-free, plan": lambda files: make_planned(files.model, open_onnx(files.padding_free), plan_packed),
    "ours: padding-free, arrival": lambda files: make_planned(files.model, open_onnx(files.padding_free), plan_arrival),
    "Embedder: baked": lambda files: open_embedder(files.baked),
    "Embedder: baked, --speed": lambda files: open_embedder(files.speed),
}
"""The first one is what all others are compared with."""
BUDGETS = (128, 256, 512, 1024, 2048, 4096)
SEARCHED: dict[str, Callable[[Files], Encode]] = {
    **{f"Embedder: baked, {budget} positions": partial(lambda budget, files: open_embedder(files.baked, budget), budget)
       for budget in BUDGETS},
    "Embedder: padding-free": lambda files: open_embedder(files.padding_free),
    "Embedder: int8": lambda files: open_embedder(files.int8),
    "Embedder: padding-free, int8": lambda files: open_embedder(files.packed_int8),
}  # fmt: skip
"""Engines of the benchmark of the Embedder alone: the budgets among which the measured one should be the best, and int8."""
