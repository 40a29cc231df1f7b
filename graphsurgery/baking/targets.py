"""The programs that a folder can be baked for: the outputs and file names that each wants, and how its user sets it up.

Which inputs and outputs a program takes is known in `consumers`. The result is checked against that.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from graphsurgery.baking.features import TOKENS
from graphsurgery.consumers import check_consumers
from graphsurgery.errors import RequestError
from graphsurgery.interface import Interface

USUAL_FILE = "onnx/model.onnx"
FLOAT16_FILE = "onnx/model_fp16.onnx"


@dataclass(frozen=True)
class BakedFolder:
    """The facts about a baked folder that a program's setting depends on."""

    name: str
    """The name of the folder."""
    file: str
    """The place of the ONNX file in it."""
    data: str | None
    """The place of its external data."""
    interface: Interface

    @property
    def dims(self) -> object:
        """The width of the embedding."""
        return self.interface.outputs[0].last_dim


@dataclass(frozen=True)
class Target:
    """A program to bake for."""

    consumer: str
    """Its name in `consumers`."""
    write_setting: Callable[[BakedFolder], list[str]]
    """Returns the lines, Markdown, that say how its user sets it up."""
    keep_output: tuple[str, ...] = ()
    """Outputs that it needs besides the embedding."""
    takes_one: bool = False
    """Whether the file may have one output only."""
    names_precision: bool = False
    """Whether it finds a file in float16 by its name."""


def _write_sentence_transformers(_: BakedFolder) -> list[str]:
    says = "Its modules pool the hidden state again. Version 6 has no ONNX backend that can be installed: use version 5."
    return [*_fence("python", 'SentenceTransformer("FOLDER", backend="onnx")'), says]


def _write_tei(_: BakedFolder) -> list[str]:
    return [*_fence("sh", "text-embeddings-router --model-id FOLDER"), "It takes `sentence_embedding` as it is."]


def _write_transformers_js(baked: BakedFolder) -> list[str]:
    dtype = "fp16" if baked.file == FLOAT16_FILE else "fp32"
    lines = [
        'import { AutoModel, AutoTokenizer } from "@huggingface/transformers";',
        'const tokenizer = await AutoTokenizer.from_pretrained("FOLDER");',
        f'const model = await AutoModel.from_pretrained("FOLDER", {{ {_join_options(dtype, baked)} }});',
        'const inputs = await tokenizer(["How are you?"], { padding: true, truncation: true });',
        f"const {{ {baked.interface.outputs[0].name} }} = await model(inputs);",
    ]
    notes = (
        "The pipeline `feature-extraction` pools `last_hidden_state` itself, as its options say. A text that is longer than "
        "the model takes loses its closing token in transformers.js, and gets another vector than elsewhere."
    )
    return [*_fence("js", *lines), notes]


def _join_options(dtype: str, baked: BakedFolder) -> str:
    return f'dtype: "{dtype}"' + (", use_external_data_format: true" if baked.data is not None else "")


def _write_vespa(baked: BakedFolder) -> list[str]:
    lines = [
        '<component id="embedder" type="hugging-face-embedder">',
        f'  <transformer-model path="{baked.file}"/>',
        '  <tokenizer-model path="tokenizer.json"/>',
        *(f"  <transformer-{kind}>{name}</transformer-{kind}>" for kind, name in _name_inputs(baked)),
        f"  <transformer-output>{baked.interface.outputs[0].name}</transformer-output>",
        "  <pooling-strategy>none</pooling-strategy>",
        "  <normalize>false</normalize>",
        "</component>",
    ]
    return [*_fence("xml", *lines), f"The field's type is `tensor<float>(x[{baked.dims}])`."]


def _name_inputs(baked: BakedFolder) -> list[tuple[str, str]]:
    """Return Vespa's settings for the inputs: it feeds token types unless their name is empty."""
    has_types = baked.interface.input("token_type_ids") is not None
    return [("input-ids", "input_ids"), ("attention-mask", "attention_mask"), ("token-type-ids", "token_type_ids" * has_types)]


def _write_opensearch(baked: BakedFolder) -> list[str]:
    config = {
        "model_format": "ONNX",
        "model_config": {
            "model_type": "bert", "embedding_dimension": baked.dims, "framework_type": "sentence_transformers",
            "pooling_mode": "NONE", "normalize_result": False,
        },
    }  # fmt: skip
    return [
        f"Put `{baked.file}` and `tokenizer.json` into one zip file, and register it with these settings:",
        *_fence("json", json.dumps(config, indent=2)),
    ]


def _write_fastembed(baked: BakedFolder) -> list[str]:
    files = "" if baked.data is None else f', additional_files=["{baked.data}"]'
    lines = [
        "from fastembed import TextEmbedding",
        "from fastembed.common.model_description import ModelSource, PoolingType",
        "TextEmbedding.add_custom_model(",
        f'    model="{baked.name}", pooling=PoolingType.DISABLED, normalization=False, dim={baked.dims},',
        f'    sources=ModelSource(hf="OWNER/{baked.name}"), model_file="{baked.file}"{files},',
        ")",
        f'embeddings = TextEmbedding("{baked.name}", specific_model_path="FOLDER").embed(["How are you?"])',
    ]
    return _fence("python", *lines)


def _fence(language: str, *lines: str) -> list[str]:
    return ["\n".join([f"```{language}", *lines, "```"])]


TARGETS = {
    "sentence-transformers": Target("sentence-transformers (ONNX backend)", _write_sentence_transformers, (TOKENS,)),
    "tei": Target("text-embeddings-inference", _write_tei),
    "transformers.js": Target("transformers.js", _write_transformers_js, (TOKENS,), names_precision=True),
    "vespa": Target("Vespa", _write_vespa),
    "opensearch": Target("OpenSearch ml-commons", _write_opensearch, takes_one=True),
    "fastembed": Target("fastembed", _write_fastembed),
}  # fmt: skip


def find_target(name: str | None) -> Target | None:
    """Return the program of that name, None for None. Raise RequestError for another name."""
    if name is not None and name not in TARGETS:
        raise RequestError(f"bake knows no program called {name!r}", f"choose from {', '.join(TARGETS)}")
    return None if name is None else TARGETS[name]


def check_target(target: Target, interface: Interface) -> None:
    """Raise RequestError if the program cannot run a file of this interface."""
    name = next(key for key, one in TARGETS.items() if one is target)
    if target.takes_one and len(interface.outputs) > 1:
        outputs = ", ".join(value.name for value in interface.outputs)
        raise RequestError(f"{name} takes one output, and the file has {outputs}", "leave out --keep-output and bake again")
    found = next(one for one in check_consumers(interface) if one.consumer == target.consumer)
    if not found.reads:
        raise RequestError(f"{name} cannot run the baked file: it {found.detail}", "bake without --for, or change the encoder")
