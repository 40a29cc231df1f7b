"""Exports that several reference tests start from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from graphsurgery.exporting.exporters import write_onnx
from graphsurgery.exporting.subject import load_subject

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
COMMITTED = tuple(sorted(path.parent.name for path in FIXTURES.glob("*/model.onnx")))
ON_REQUEST = ("albert", "camembert", "deberta-v2", "distilbert", "electra", "mistral", "mpnet", "roberta")
OPSETS = (11, 13, 17)
"""Older opsets than the fixtures' 18: before and after axes became inputs, and the first with LayerNormalization."""


def make_on_request(folder: Path) -> Path:
    """The architectures that are not in the repository, exported into ``folder`` by a process of its own."""
    script = FIXTURES / "make_fixtures.py"
    done = subprocess.run([sys.executable, script, "--all", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert tuple(sorted(path.name for path in folder.iterdir())) == ON_REQUEST
    return folder


def export_folder(source: Path, path: Path, task: str = "feature-extraction") -> Path:
    """The transformer of a model folder, exported to ``path`` by the environment's own exporter: Optimum, or transformers'.

    ``task`` is sentence-transformers': fill-mask and sequence-classification export the model with its head.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    export(source, path, task)
    return path


def export(source: Path, path: Path, task: str) -> None:
    """Export a model as `export_folder` does. A fixture of conftest.py replaces this by what it gave the first time."""
    write_onnx(load_subject(source, task), path)


def export_bert(folder: Path, opset: int):
    """A small BERT with random weights, exported by Optimum at an opset; the PyTorch model.

    Its attention is eager: scaled_dot_product_attention needs opset 14.
    """
    import torch
    from optimum.exporters.onnx import onnx_export_from_model
    from transformers import BertConfig, BertModel

    torch.manual_seed(opset)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    model = BertModel(BertConfig(vocab_size=400, max_position_embeddings=64, attn_implementation="eager", **sizes)).eval()
    onnx_export_from_model(model, folder, task="feature-extraction", opset=opset, do_validation=False)
    return model
