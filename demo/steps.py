"""What both demos do: show a command and run it, embed texts with an ONNX file, show how similar they are."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = ROOT / ".demo"
console = Console(highlight=False, width=min(100, shutil.get_terminal_size().columns))


def say(text: str) -> None:
    """A paragraph of ours, between the commands."""
    console.print(text, style="italic")


def step(title: str) -> None:
    console.print()
    console.print(Rule(Text(title, style="bold"), align="left", style="cyan"))


def graphsurgery(*arguments: str, cwd: Path) -> None:
    """Show a ``graphsurgery`` command and run it in ``cwd``; the demo ends where it fails."""
    run("graphsurgery", arguments, [sys.executable, "-m", "graphsurgery"], cwd)


def run(name: str, arguments: Sequence[str], program: Sequence[str], cwd: Path, silent: bool = False) -> None:
    """Show ``name arguments`` and run ``program arguments``. ``silent``: its output is shown only where it fails."""
    console.print(Text(f"$ {shlex.join([name, *arguments])}", style="bold green"), soft_wrap=True)
    console.file.flush()
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": str(console.width)}
    done = subprocess.run([*program, *arguments], cwd=cwd, env=environment, check=False, capture_output=silent, text=True)
    if done.returncode != 0:
        console.print(Text((done.stdout or "") + (done.stderr or ""), style="red"))
        sys.exit(f"{name} ended with exit code {done.returncode}")


def load_tokenizer(path: Path, longest: int | None = None) -> Tokenizer:
    """A folder's tokenizer.json, with padding to the longest text of a batch and texts cut at ``longest`` tokens."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id("[PAD]"), pad_token="[PAD]")
    if longest is not None:
        tokenizer.enable_truncation(max_length=longest)
    return tokenizer


def embed(model: Path, tokenizer: Tokenizer, texts: Sequence[str], batch: int = 32) -> np.ndarray:
    """``[texts, dim]``: what the ONNX file gives, with nothing but ONNX Runtime and tokenizers."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    starts = range(0, len(texts), batch)
    return np.concatenate([session.run(["sentence_embedding"], _feed(tokenizer, texts[i : i + batch]))[0] for i in starts])


def _feed(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, np.ndarray]:
    found = tokenizer.encode_batch(list(texts))
    names = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    return {name: np.array([getattr(one, attribute) for one in found]) for name, attribute in names.items()}


def similarity_matrix(texts: Sequence[str], similarities: np.ndarray) -> Table:
    """How like every text is to every other, ``[texts, texts]``."""
    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    table.add_column("", justify="right")
    table.add_column("text", no_wrap=True, overflow="ellipsis", max_width=40)
    for number in range(1, len(texts) + 1):
        table.add_column(str(number), justify="right", min_width=4)
    for number, (text, row) in enumerate(zip(texts, similarities, strict=True), start=1):
        table.add_row(str(number), text, *(cosine_cell(cosine) for cosine in row))
    return table


def cosine_cell(cosine: float) -> Text:
    """A cosine, the brighter the larger."""
    styles = ((0.999, "bold"), (0.6, "bold green"), (0.3, "yellow"))
    return Text(f"{cosine:.2f}", style=next((style for least, style in styles if cosine >= least), "dim"))
