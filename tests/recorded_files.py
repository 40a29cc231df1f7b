"""Real files, one for every edit that a file can record, and records that lie: each parameter replaced by hostile values."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import onnx
from baked_folders import write_folder
from encoders import HIDDEN, IDS, MASK, TYPE_IDS
from faults import Case as Planted
from golden import CASES, Case
from interface_faults import EMBEDDING, FREED_POOLED, Edited
from module_folders import dense, layer_norm, ranges
from token_faults import CNN_POOLED, MIXED_POOLED, PAD, SPLADE_PAD, WEIGHED_PAD, YES_NO_PAD

import graphsurgery
from graphsurgery import (
    AddActivation,
    AddDense,
    AddLayerNorm,
    AddPooling,
    DropInput,
    FixDim,
    InputType,
    MaskTokens,
    OptionalInput,
    OutputPrecision,
    Rename,
    Truncate,
)  # fmt: skip
from graphsurgery.edit_list import RECORDED_EDITS
from graphsurgery.edits.edit import Edit
from graphsurgery.model.checksums import compute_checksum
from graphsurgery.model.provenance import CERTIFICATE, GOLDEN, PREFIX

MISSING = "(missing)"
HOSTILE: tuple[Any, ...] = (
    None, 5, -1, 0, True, 1.5, "", "pad:abc", "pad:", "pad:-", "pad:" + "9" * 5000, "pad:" + "9" * 30, "pad:-5", "pad:1_0", "²",
    "9" * 5000, "a=" + "9" * 5000, "a=999999999999", "=", "batch=0", "batch=999999999", "sequence=999999999", "ones", [], [5],
    [None], ["=", "a=b", "a=b"], ["batch=999999999"], ["batch=" + "9" * 5000], [["a", 1]], ["[" * 3000], ['["a", 1e999, "b"]'],
    {}, {"a": 1}, [[[[]]]], "x" * 100_000, 10**30, 10**400, float("nan"), float("inf"), "\ud800", ["\ud800"], MISSING,
)  # fmt: skip
"""What takes the place of a recorded parameter."""
EXTRA = {"edit": "add-normalize"}
"""A key that no edit has, and that would name another edit where keys were merged."""


@dataclass(frozen=True)
class Recorded:
    """``output``, made from ``source``: a real file with a record of ``edit``."""

    edit: str
    source: onnx.ModelProto
    output: onnx.ModelProto

    def content(self) -> dict[str, Any]:
        """What the file records of the edit."""
        content: dict[str, Any] = json.loads(self._entry(self.output).value)
        return content

    def _entry(self, model: onnx.ModelProto) -> onnx.StringStringEntryProto:
        return next(
            one for one in model.metadata_props if one.key.startswith(PREFIX) and json.loads(one.value)["edit"] == self.edit
        )

    def with_content(self, content: dict[str, Any]) -> onnx.ModelProto:
        """The file with another record of the edit: sealed where it had a seal, by somebody who knows how."""
        parameters = content["parameters"]
        if "seal" in self.content()["parameters"] and parameters.get("seal") != "no seal":
            parameters["seal"] = compute_checksum(parameters, content["version"], content["source"])
        model = onnx.ModelProto()
        model.CopyFrom(self.output)
        self._entry(model).value = json.dumps(content)
        return model

    def places(self) -> Iterator[tuple[str, ...]]:
        """Where a record can lie: each parameter, of a golden array each of its fields; the fields beside the parameters."""
        yield from _places(self.content()["parameters"], ())

    def damaged(self, place: tuple[str, ...], value: Any) -> onnx.ModelProto:
        """The file with ``value`` at ``place`` of the parameters it records."""
        content = self.content()
        inner = content["parameters"]
        for key in place[:-1]:
            inner = inner[key]
        if value is MISSING:
            del inner[place[-1]]
        else:
            inner[place[-1]] = value
        return self.with_content(content)

    def with_another_key(self) -> onnx.ModelProto:
        content = self.content()
        content["parameters"] |= EXTRA
        return self.with_content(content)


def _places(content: dict[str, Any], above: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for key, value in content.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from _places(value, (*above, key))


def _made(edits: list[Edit], **encoder: Any) -> Recorded:
    case = Edited(edits, encoder)
    return Recorded(edits[-1].verb, case.source, case.output)


def _of(case: Planted, edit: str) -> Recorded:
    return Recorded(edit, case.source, case.output)


def _golden(verb: str) -> Recorded:
    """The first golden case of an edit that gives a file and needs nothing beside it."""
    for path in sorted((CASES / verb.replace("-", "_")).glob("*.txt")):
        case = Case.read(path)
        if case.after is not None and len(case.commands) == 1:
            (edit,) = case.edits()
            return Recorded(verb, case.source().to_proto(), edit.apply(case.source()).to_proto())
    raise LookupError(f"no golden case of {verb} gives a file with one command")


def _baked(edit: str) -> Recorded:
    with tempfile.TemporaryDirectory() as folder:
        model = write_folder(Path(folder, "model"))
        graphsurgery.bake(model, Path(folder, "baked"), verify=False)
        return Recorded(edit, onnx.load(model / "onnx" / "model.onnx"), onnx.load(Path(folder, "baked", "onnx", "model.onnx")))


POOL = AddPooling("mean")


@cache
def recorded_files() -> dict[str, Recorded]:
    """A file for every edit, and for what else is recorded."""
    found = [
        _made([AddPooling("mean,cls", mask="pad:7", skip_prompt="2")], mask_dtype=None),
        _made([POOL, AddDense(dense(8, 8), "tanh")]),
        _made([POOL, AddLayerNorm(layer_norm(8))]),
        _made([POOL, AddActivation("sigmoid")]),
        _made([MaskTokens(HIDDEN, mask="pad:7")]),
        _made([POOL, Truncate("6")]),
        _made([POOL, OutputPrecision("int8", ranges(8))]),
        _made([POOL, DropInput(TYPE_IDS)], inputs=[TYPE_IDS]),
        _made([POOL, OptionalInput(TYPE_IDS)], inputs=[TYPE_IDS]),
        _made([POOL, InputType("int32")]),
        _made([POOL, Rename((f"{IDS}=ids", f"{MASK}=valid", f"{EMBEDDING}=vector"), ("batch=N",))]),
        _made([POOL, FixDim(("batch=3", "sequence=5"))]),
        Recorded("dynamic-dim", FREED_POOLED.source, FREED_POOLED.output),
        _of(CNN_POOLED, "add-cnn"),
        _of(PAD, "add-lstm"),
        _of(WEIGHED_PAD, "add-word-weights"),
        _of(MIXED_POOLED, "add-weighted-layer-pooling"),
        _of(SPLADE_PAD, "add-splade-pooling"),
        _of(YES_NO_PAD, "add-logit-score"),
        _baked(GOLDEN),
        _baked(CERTIFICATE),
    ]
    files = {one.edit: one for one in found}
    return {verb: _golden(verb) for verb in RECORDED_EDITS if verb not in files} | files
