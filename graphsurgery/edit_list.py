"""The list of all edits. The command line, the library's functions, recipes, references, the check of recorded steps and the
documentation all read it.

An edit's verb determines all other names: `add-dense` is the class `AddDense` in `edits/add_dense.py`, the function
`graphsurgery.add_dense`, the reference `references/dense.py` and the folder of golden cases `tests/cases/add_dense/`. The
parameters are the fields of the class. This module imports nothing heavy, because `--help` needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")
Types = dict[str, Any]
"""The type of each parameter, by name."""

TEXT = str | None
TARGET: Types = {"target": str}
MADE: Types = {**TARGET, "output_name": str, "keep_target": bool}
WEIGHTS: Types = {"weights": str, "width": int, "digests": list[str]}
MASK: Types = {"mask": str, "ids": TEXT}
POOLED: Types = {**MASK, "output_name": str, "keep_output": list[str], "width": int}
FILLED: Types = {"input": str, "fill": str, "dtype": str}

HEADS, TOKENS, INTERFACE = "Heads", "Tokens, before pooling", "Interface"
"""The groups of the command line's help that hold edits."""


EXAMPLES = {
    "add-pooling": (
        "model.onnx --mode mean --normalize",
        "model.onnx --mode cls --keep-output last_hidden_state -o embedder.onnx",
    ),
    "add-normalize": (
        "model.pooled.onnx",
        "model.onnx --target last_hidden_state -o unit-tokens.onnx",
    ),
    "add-dense": (
        "model.pooled.onnx --weights my-model/2_Dense",
        "model.pooled.onnx --weights my-model/2_Dense/model.safetensors --activation tanh -o dense.onnx",
    ),
    "add-layer-norm": (
        "model.pooled.onnx --weights my-model/2_LayerNorm",
        "model.pooled.onnx --weights my-model/2_LayerNorm/model.safetensors -o normed.onnx",
    ),
    "add-activation": (
        "reranker.onnx --activation sigmoid",
        "reranker.onnx --activation sigmoid --output-name scores --keep-target -o both.onnx",
    ),
    "add-splade-pooling": (
        "masked-lm.onnx",
        "masked-lm.onnx --strategy sum --mask pad:0 -o splade.onnx",
    ),
    "add-logit-score": (
        "causal-lm.onnx --true-token 9693 --false-token 2152",
        "causal-lm.onnx --true-token 9693 --output-name relevance -o scorer.onnx",
    ),
    "truncate": (
        "model.pooled.onnx --dim 16",
        "model.pooled.onnx --dim 16 --keep-length -o small.onnx",
    ),
    "output-precision": (
        "model.pooled.onnx --to ubinary",
        "model.pooled.onnx --to int8 --ranges ranges.npy -o bytes.onnx",
    ),
    "strip-head": (
        "model.pooled.onnx",
        "model.pooled.onnx -o encoder.onnx",
    ),
    "add-weighted-layer-pooling": (
        "model.onnx --weights my-model/1_WeightedLayerPooling",
        "model.onnx --weights my-model/1_WeightedLayerPooling --keep-target -o layers.onnx",
    ),
    "add-word-weights": (
        "model.onnx --weights my-model/1_WordWeights",
        "model.onnx --weights my-model/1_WordWeights/config.json -o weighted.onnx",
    ),
    "add-cnn": (
        "model.onnx --weights my-model/1_CNN",
        "model.onnx --weights my-model/1_CNN --keep-target --output-name features -o cnn.onnx",
    ),
    "add-lstm": (
        "model.onnx --weights my-model/1_LSTM",
        "model.onnx --weights my-model/1_LSTM --keep-target --output-name features -o lstm.onnx",
    ),
    "mask-tokens": (
        "model.onnx --target last_hidden_state",
        "model.onnx --target last_hidden_state --skip-first -o tokens.onnx",
    ),
    "tap": (
        "model.onnx --layer 1",
        "model.onnx --layer -2 -o second-to-last.onnx",
    ),
    "drop-input": (
        "model.onnx --input token_type_ids",
        "model.onnx --input attention_mask --fill ones -o no-mask.onnx",
    ),
    "optional-input": (
        "model.onnx --input token_type_ids",
        "model.onnx --input attention_mask --fill ones -o lenient.onnx",
    ),
    "add-input": (
        "model.onnx --input segment_ids",
        "model.onnx --input task_ids --like attention_mask --to int32 -o fed.onnx",
    ),
    "add-image-input": (
        "vision.onnx --config preprocessor_config.json",
        "vision.onnx --for cuda --clamp -o pictures.onnx",
    ),
    "input-type": (
        "model.onnx --to int32",
        "model.onnx --to int32 --input input_ids -o ids32.onnx",
    ),
    "add-waveform-normalize": (
        "speech.onnx",
        "speech.onnx --mask ones -o normalized.onnx",
    ),
    "align-mask": (
        "masked-frames.onnx",
        "masked-frames.onnx -o aligned.onnx",
    ),
    "relax-dim": (
        "fixed-speech.onnx",
        "fixed-speech.onnx --dim batch --dim samples=length -o any-clip.onnx",
    ),
    "rename": (
        "model.onnx --name last_hidden_state=token_embeddings",
        "model.onnx --name input_ids=ids --dim batch_size=batch -o named.onnx",
    ),
    "keep-outputs": (
        "model.two-outputs.onnx --name sentence_embedding",
        "model.two-outputs.onnx --name 'last_*' -o tokens-alone.onnx",
    ),
    "extract-tower": (
        "joint.onnx --tower text",
        "joint.onnx --tower image --target image_embeds -o image.onnx",
    ),
    "dynamic-dim": (
        "fixed.onnx --dim batch --dim sequence",
        "fixed.onnx --dim batch=texts -o any-batch.onnx",
    ),
    "fix-dim": (
        "model.onnx --dim batch_size=1",
        "model.onnx --dim batch_size=8 --dim sequence_length=32 -o eight.onnx",
    ),
}
"""Two examples for each edit: what follows its verb. They run in a folder that `tests/test_help.py` prepares."""


class EditEntry(NamedTuple):
    """The facts about an edit that are known without importing its file."""

    verb: str
    group: str
    step: str
    """The word in the file name of its output: ``model.<step>.onnx``."""
    summary: str
    records: Types | None
    """The parameters that a file records for it, with their types. None for an edit that is never recorded.

    The class declares the same parameters in the form that users give. This second declaration is intended: records are checked
    against it, because the proof must not trust the classes. `tests/test_hostile_records.py` compares the two.
    """
    drops: bool = False
    """Whether it drops what the new outputs do not need: nodes, and their weights. Such an edit cannot be undone."""

    @property
    def function(self) -> str:
        """The name of its library function, its module in `edits/` and its folder of golden cases."""
        return self.verb.replace("-", "_")

    @property
    def class_name(self) -> str:
        return "".join(part.capitalize() for part in self.verb.split("-"))

    @property
    def reference(self) -> str:
        """The name of its module in `references/`."""
        return self.function.removeprefix("add_")

    @property
    def examples(self) -> tuple[str, ...]:
        """What follows the verb in the two command lines that its help ends with."""
        return EXAMPLES.get(self.verb, ())


EDIT_LIST = {
    one.verb: one
    for one in (
        EditEntry(
            "add-pooling", HEADS, "pooled", "append pooling: from token embeddings to one vector per text",
            {**POOLED, "mode": str, "normalize": bool, "hidden_state": str, "token_weights": TEXT, "skip_prompt": TEXT,
             "weights_from": TEXT, "replace": bool | None, "lengths": bool | None, "padding": TEXT, "waveform": TEXT,
             "batch": TEXT, "frame_steps": list[str] | None, "rewired": list[str] | None},
        ),
        EditEntry("add-normalize", HEADS, "normalized", "append L2 normalisation: embeddings of length one",
                  {**TARGET, "again": bool | None}),
        EditEntry(
            "add-dense", HEADS, "dense", "append a linear layer with an activation, with weights from a model folder",
            {**MADE, **WEIGHTS, "activation": str, "residual": bool, "layer": TEXT},
        ),
        EditEntry(
            "add-layer-norm", HEADS, "layernormed", "append layer normalisation, with weights from a model folder",
            {**TARGET, **WEIGHTS, "layer": TEXT},
        ),
        EditEntry(
            "add-activation", HEADS, "activated", "append an activation: scores from a cross-encoder's logits",
            {**MADE, "activation": str},
        ),
        EditEntry(
            "add-splade-pooling", HEADS, "splade",
            "append SPLADE pooling: from masked-language scores to one sparse vector per text",
            {**POOLED, **TARGET, "strategy": str, "activation": str},
        ),
        EditEntry(
            "add-logit-score", HEADS, "scored",
            "append the score of a yes-or-no reranker: from a causal language model's logits to one number per pair",
            {**POOLED, **TARGET, "true_token": str, "false_token": TEXT},
        ),
        EditEntry(
            "truncate", HEADS, "truncated", "keep the first dims of an embedding (Matryoshka) and normalise again",
            {**TARGET, "dim": str, "keep_length": bool},
        ),
        EditEntry(
            "output-precision", HEADS, "bytes", "give the embedding as int8, uint8 or packed bits",
            {**TARGET, "to": str, "ranges": TEXT, "digests": list[str]},
        ),
        EditEntry("strip-head", HEADS, "encoder", "take the recorded head off again: back to the encoder, byte for byte", None),
        EditEntry(
            "add-weighted-layer-pooling", TOKENS, "layerpooled",
            "take a weighted mean of the hidden layers, with weights from a model folder",
            {**MADE, **WEIGHTS, "layers": str, "before_norm": bool, "layer_start": int},
        ),
        EditEntry(
            "add-word-weights", TOKENS, "wordweighted",
            "multiply each token embedding by the weight of its word, from a model folder's config",
            {**MADE, **WEIGHTS, "mask": str, "ids": str, "token_weights": str},
        ),
        EditEntry(
            "add-cnn", TOKENS, "cnn", "append convolutions over the token embeddings, with weights from a model folder",
            {**MADE, **WEIGHTS},
        ),
        EditEntry(
            "add-lstm", TOKENS, "lstm", "append an LSTM over the token embeddings, with weights from a model folder",
            {**MADE, **WEIGHTS, **MASK},
        ),
        EditEntry(
            "mask-tokens", TOKENS, "masked", "set the vectors at padded positions to zero",
            {**TARGET, **MASK, "skip_first": bool},
        ),
        EditEntry(
            "tap", TOKENS, "tapped", "give a hidden layer as the output, and drop the layers above it with their weights",
            {**TARGET, "layer": str, "norm": TEXT, "values": list[str], "width": int}, drops=True,
        ),
        EditEntry(
            "drop-input", INTERFACE, "dropped",
            "remove inputs that the graph can compute by itself: token types, a mask, positions, caches, flags",
            {**FILLED, "like": TEXT, "value": TEXT, **dict.fromkeys(("inputs", "dims", "empty"), list[str] | None)},
        ),
        EditEntry(
            "optional-input", INTERFACE, "optional",
            "let callers leave an input out: token types or a mask", {**FILLED, "like": str, "inside": TEXT},
        ),
        EditEntry(
            "add-input", INTERFACE, "fed", "take an input that the model ignores, for programs that always feed it",
            {"input": str, "like": str, "to": str, "dims": list[str]},
        ),
        EditEntry(
            "add-image-input", INTERFACE, "images",
            "take pictures as bytes, of any size: the image processor inside the graph",
            {"config": str, "input": str, "name": str, "device": str, "clamp": bool, "resize": list[str], "resample": str,
             "crop": list[str], "scale": str, "mean": list[str], "std": list[str], "dtype": str, "dims": list[str]},
        ),
        EditEntry(
            "input-type", INTERFACE, "typed", "take ids and masks as int32 or int64, or half precision as float32",
            {"to": str, "input": list[str], "inside": list[str], "dtypes": list[str]},
        ),
        EditEntry(
            "add-waveform-normalize", INTERFACE, "waveform",
            "normalise waveforms inside the graph: zero mean and unit variance of each clip",
            {"input": str, "mask": str, "inside": str},
        ),
        EditEntry(
            "align-mask", TOKENS, "aligned", "let a mask hide frames where the export lets it hide channels",
            {"where": list[str], "rewired": list[str]},
        ),
        EditEntry(
            "rename", INTERFACE, "renamed", "give inputs, outputs and symbolic dims other names",
            {"name": list[str], "dim": list[str]},
        ),
        EditEntry(
            "keep-outputs", INTERFACE, "outputs", "keep some outputs, in a given order, and drop the others",
            {"name": list[str]},
        ),
        EditEntry(
            "extract-tower", INTERFACE, "tower", "take one tower out of a joint model of texts and pictures",
            {
                **TARGET, "tower": str, "vector": str, "inputs": list[str], "dtype": str, "batch": TEXT, "scale": TEXT,
                "bias": TEXT,
            },
            drops=True,
        ),
        EditEntry(
            "dynamic-dim", INTERFACE, "dynamic", "let a batch or sequence size vary again that the export fixed",
            {
                "dim": list[str], "sizes": list[str], "inputs": list[str], "ids": str, "mask": TEXT, "follows": list[str],
                "rewired": list[str],
            },
        ),
        EditEntry(
            "relax-dim", INTERFACE, "relaxed", "let declared sizes of pictures or sound vary if the graph runs at any size",
            {"dim": list[str], "sizes": list[str], "follows": list[str]},
        ),
        EditEntry(
            "fix-dim", INTERFACE, "fixed", "give a symbolic dim a number, wherever the file declares it", {"dim": list[str]},
        ),
    )
}  # fmt: skip
"""Every edit by its verb, in the order of the help."""
ENTRY_BY_CLASS = {one.class_name: one for one in EDIT_LIST.values()}
RECORDED_EDITS = {verb: one for verb, one in EDIT_LIST.items() if one.records is not None}


class ByVerb(Mapping[str, T], Generic[T]):
    """A mapping from verbs to one object per edit, which ``find`` imports when it is looked up."""

    def __init__(self, listed: Mapping[str, EditEntry], find: Callable[[EditEntry], T]) -> None:
        self._listed, self._find = listed, find

    def __getitem__(self, verb: str) -> T:
        return self._find(self._listed[verb])

    def __contains__(self, verb: object) -> bool:
        return verb in self._listed

    def __iter__(self) -> Iterator[str]:
        return iter(self._listed)

    def __len__(self) -> int:
        return len(self._listed)
