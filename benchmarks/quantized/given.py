"""What every quantised file is made of: the float32 file of the real all-MiniLM-L6-v2, and the texts."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

import graphsurgery
from graphsurgery import AddPooling, Model
from graphsurgery.proof.quantized import QuantizedJudge
from graphsurgery.proof.source_feeds import encode_texts
from graphsurgery.rewrites.quantize.targets import AVX2, detect_target
from graphsurgery.runtime.feeds import generate_text_feeds
from graphsurgery.runtime.session import Session
from graphsurgery.runtime.texts import CALIBRATE, JUDGE, bundled_texts

ROOT = Path(__file__).resolve().parents[2]
THREADS = 2
LONGEST = 256
"""Texts are cut at so many tokens, as the folder of all-MiniLM-L6-v2 says."""
QUICK = {JUDGE: 26, CALIBRATE: 30}
"""With --quick, one in so many texts is used."""
FEW_LAYERS = 2
"""With --quick, the encoder has only its first layers."""
Feed = dict[str, np.ndarray]


class Runner(Protocol):
    """Runs one batch, and gives the outputs by name."""

    def run(self, feeds: Feed, outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True)
class Made:
    """A quantised model, ready to run."""

    runner: Runner
    size: int
    """The bytes of its files."""
    note: str = ""


@dataclass(frozen=True)
class Given:
    """The float32 file, and the texts to calibrate on and to judge by. New files go into ``folder``."""

    folder: Path
    quick: bool

    @property
    def model_folder(self) -> Path:
        """The folder of sentence-transformers, with the transformer's ONNX file in it."""
        return self.folder / "model"

    @property
    def transformer(self) -> Path:
        return self.model_folder / "onnx" / "model.onnx"

    @property
    def baked(self) -> Path:
        """The pooled file in float32. The tokenizer is in the folder above."""
        return self.model_folder / "onnx" / "baked.onnx"

    @cached_property
    def source(self) -> Model:
        return graphsurgery.load(self.baked)

    @cached_property
    def judge(self) -> QuantizedJudge:
        return QuantizedJudge(self.source, self.list_texts(JUDGE))

    def list_texts(self, use: str) -> list[str]:
        """Return the package's texts for one use, or a few of them."""
        texts = bundled_texts(use)
        return [one for one in texts if "\n" not in one][:: QUICK[use]] if self.quick else texts

    def find_texts(self, use: str) -> str | None:
        """Return a file with the texts, or None for the package's own."""
        if not self.quick:
            return None
        path = self.folder / f"{use}.txt"
        path.write_text("\n".join(self.list_texts(use)), encoding="utf-8")
        return str(path)

    @property
    def calibration(self) -> list[Feed]:
        """The calibration texts, each a feed of its own, without padding."""
        generator = self.judge.generator
        encoded = encode_texts(self.source, self.source, generator, self.list_texts(CALIBRATE), LONGEST)
        return [feed for row in range(len(encoded.ids)) for feed in generate_text_feeds(generator, encoded.take([row]))]


def prepare(folder: Path, *, quick: bool) -> Given:
    """Export the real model, or with ``quick`` its first layers, and pool it."""
    sys.path.insert(0, str(ROOT / "demo"))
    from minilm import model_folder

    from graphsurgery.exporting.exporters import write_onnx
    from graphsurgery.exporting.subject import load_subject

    given = Given(folder, quick)
    shutil.copytree(model_folder(), given.model_folder)
    if quick:
        config = given.model_folder / "config.json"
        known = json.loads(config.read_text(encoding="utf-8"))
        config.write_text(json.dumps(known | {"num_hidden_layers": FEW_LAYERS}), encoding="utf-8")
    given.transformer.parent.mkdir()
    write_onnx(load_subject(given.model_folder, "feature-extraction"), given.transformer)
    graphsurgery.run([AddPooling("mean", normalize=True)], given.transformer, output=given.baked, verify=False)
    return given


def saturates() -> bool:
    """Return whether products of uint8 with int8 overflow here, so that weights have to have 7 bits."""
    return detect_target() == AVX2


def open_onnx(path: Path) -> Made:
    return Made(Session(path, threads=THREADS), path.stat().st_size)
