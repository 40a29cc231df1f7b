"""Exports in dynamo form of the fixtures' architectures: the verbs, against PyTorch and float64 numpy.

`make exports-table` pools and optimizes all thirty families of `fixtures/families.py`, by both exporters.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from exports import FIXTURES
from installed import HAS_OPTIMUM

import graphsurgery
from graphsurgery.cli.main import run

sys.path.insert(0, str(FIXTURES.parent / "benchmarks"))
sys.path.insert(0, str(FIXTURES))
from design_table import normalize, pool
from every_verb import SOURCE, TAKEN_OFF, Batch, Step, list_steps

FAMILIES = ("albert", "bert", "camembert", "deberta-v2", "distilbert", "electra", "mistral", "modernbert", "mpnet", "qwen3",
            "roberta", "xlm-roberta")  # fmt: skip
"""The fixtures' architectures that torch's own exporter exports, by transformers' model types."""
BY_TRANSFORMERS = ("bert", "t5")
"""Those that transformers' exporter exports here: torch's own does not get through T5."""
EXPORTS = [*((family, "dynamo") for family in FAMILIES), *((family, "transformers") for family in BY_TRANSFORMERS)]
WITH_EVERY_STEP = {("bert", "dynamo"), ("modernbert", "dynamo"), ("qwen3", "dynamo"), ("t5", "transformers")}
"""With and without token types, an encoder and a decoder, and by either exporter. Every step is done on these."""
ON_EVERY_EXPORT = {"dense", "token dense, pooled", "optimize", "portable", "half"}
"""Rewrites depend on the whole graph. The other steps add heads, which read the hidden state and the mask alone: each is done
on every third of the other exports."""

pytestmark = pytest.mark.skipif(HAS_OPTIMUM, reason="the exporters need transformers 5 and onnxscript, which exclude Optimum")


def test_every_architecture_of_the_fixtures_is_here() -> None:
    from architectures import COMMITTED, DYNAMO, ON_REQUEST

    assert {family for family, _ in EXPORTS} == {one.model_type for one in (*COMMITTED, *DYNAMO, *ON_REQUEST)}


def test_torch_does_not_export_t5(tmp_path: Path) -> None:
    """Should this fail one day, T5 belongs into `FAMILIES`."""
    from exports_table import export

    with pytest.raises(torch.onnx.OnnxExporterError):
        export(tmp_path, "t5", "dynamo")


def choose_steps(steps: Sequence[Step], family: str, exporter: str) -> list[Step]:
    """Choose the steps that are done on an export, and those that they start from."""
    if (family, exporter) in WITH_EVERY_STEP:
        return list(steps)
    first = EXPORTS.index((family, exporter)) % 3
    wanted = ON_EVERY_EXPORT | {step.name for step in steps[first::3]}
    for step in reversed(steps):
        wanted |= {step.start} if step.name in wanted else set()
    return [step for step in steps if step.name in wanted]


@pytest.mark.parametrize(("family", "exporter"), EXPORTS, ids=list(map("-".join, EXPORTS)))
def test_every_verb(
    family: str, exporter: str, tmp_path: Path, short_texts: None, capsys: pytest.CaptureFixture, worst
) -> None:
    export = Export(family, exporter, tmp_path, capsys)
    for step in export.steps:
        export.call(step.command[0], export.path(step.start), *step.command[1:], "-o", export.path(step.name))
        if step.expect is not None:
            export.compare(step, step.expect, worst)
    for name in TAKEN_OFF:
        if export.path(name).is_file():
            export.call("strip-head", export.path(name), "-o", export.path(f"{name}, taken off"))
            assert export.path(f"{name}, taken off").read_bytes() == export.path(SOURCE).read_bytes()
    export.call("verify", export.path("dense"), "--against", export.path(SOURCE))
    assert export.call("inspect", export.path("dense"))["warnings"] == []
    export.run_its_recipe("token dense, pooled")
    export.bake(worst)


class Export:
    """An export, the files made of it, and PyTorch's results."""

    def __init__(self, family: str, exporter: str, folder: Path, capsys: pytest.CaptureFixture) -> None:
        """Export the family's encoder."""
        from exports_table import export, read_feeds

        self.folder, self.name, self._capsys = folder, f"{family}, {exporter}", capsys
        export(folder, family, exporter)
        self.feeds = list(read_feeds(folder))
        self.batches = [
            Batch(one["input_ids"], one["attention_mask"], one["hidden"].astype(np.float64), one["states"].astype(np.float64))
            for one in self.feeds
        ]
        interface, found = graphsurgery.load(self.path(SOURCE)).interface, graphsurgery.inspect(self.path(SOURCE))
        assert found.hidden is not None
        width, layers = self.batches[0].x.shape[-1], len(self.batches[0].states)
        self.inputs = {one.name: tuple(map(str, one.dims or ())) for one in interface.inputs}
        steps = list(list_steps(width, layers, self.inputs, found.hidden.name, folder))
        self.steps = choose_steps(steps, family, exporter)

    def path(self, name: str) -> Path:
        """The file of a step."""
        return self.folder / f"{name}.onnx"

    def call(self, *arguments: object) -> dict:
        """Call the command line, and return its report. It must be done and proven."""
        code = run([*map(str, arguments), "--json"])
        report = json.loads(self._capsys.readouterr().out)
        where = f"{self.name}: {' '.join(map(str, arguments))}: {report}"
        assert code == 0, where
        return report

    def run_its_recipe(self, name: str) -> None:
        """Run the recipe that a step's file records on the export. It gives the same bytes."""
        recipe, made = self.folder / "recipe.toml", self.path("by its recipe")
        assert run(["recipe", "show", str(self.path(name))]) == 0
        recipe.write_text(self._capsys.readouterr().out, encoding="utf-8")
        self.call("run", recipe, self.path(SOURCE), "-o", made)
        assert made.read_bytes() == self.path(name).read_bytes()

    def compare(self, step: Step, expect: Callable[[Batch], dict[str, np.ndarray]], worst) -> None:
        """Compare a step's file with what is expected of it, at tokens."""
        batches = list(filter(step.fits, self.batches))
        assert batches, f"no batch fits {step.name}"
        for batch, found in zip(batches, self.run(self.path(step.name), batches), strict=True):
            for name, expected in expect(batch).items():
                assert found[name].shape == expected.shape and found[name].dtype == np.float32
                at = batch.m == 1 if expected.ndim == 3 else slice(None)
                allowed = step.allowed * max(1.0, float(np.abs(batch.x).max()))
                worst.within(f"dynamo form: {step.name}", found[name][at], expected[at], allowed, self.name)

    def run(self, path: Path, batches: Iterable[Batch]) -> Iterator[dict[str, np.ndarray]]:
        """The outputs of a file by name for each batch, from ONNX Runtime."""
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        types = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
        names = [one.name for one in session.get_outputs()]
        for batch in batches:
            known = {"input_ids": batch.ids, "attention_mask": batch.m, "token_type_ids": np.zeros_like(batch.ids)}
            feed = {one.name: known[one.name].astype(types[one.type]) for one in session.get_inputs()}
            yield dict(zip(names, session.run(names, feed), strict=True))

    def bake(self, worst) -> None:
        """Bake a model folder around the export: mean, then unit length."""
        folder, made = self.folder / "folder", self.folder / "baked"
        (folder / "1_Pooling").mkdir(parents=True)
        for name in ("model.onnx", "model.onnx.data"):
            shutil.copyfile(self.folder / name, folder / name)
        kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
        modules = [
            {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for place, (path, kind) in enumerate(kinds.items())
        ]
        pooling = {"word_embedding_dimension": self.batches[0].x.shape[-1], "pooling_mode_mean_tokens": True}
        (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
        self.call("bake", folder, "-o", made)
        for batch, found in zip(self.batches, self.run(made / "onnx" / "model.onnx", self.batches), strict=True):
            expected = normalize(pool(batch.x, batch.m, "mean"))
            worst.within("dynamo form: bake", found["sentence_embedding"], expected, 2e-5, self.name)
