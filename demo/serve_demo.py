"""A service from a model folder, asked by OpenAI's client, which does not notice that it speaks to another server.

Bakes a copy of fixtures/bert in the folder .demo, serves it on a free port of this machine, and ends the service.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from openai import OpenAI
from rich.text import Text
from steps import ROOT, SCRATCH, console, graphsurgery, say, similarity_matrix, step

from graphsurgery import Embedder

TEXTS = (
    "The old ferry waits beside the bridge.",
    "The ferry waits at the old bridge.",
    "Bees prefer the lavender near the farm.",
    "Is the night train still running?",
)
STARTING = 60.0


def main() -> None:
    step("1. A folder from token ids to the final vector")
    source = SCRATCH / "to-serve"
    for folder in (source, SCRATCH / "served"):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "fixtures" / "bert", source)
    graphsurgery("bake", "to-serve", "-o", "served", cwd=SCRATCH)

    step("2. Serve it")
    port = find_port()
    with serve("served", port) as address:
        say(f"It listens at {address}, for this machine alone, and is ready: the model has run once.")

        step("3. Ask it with OpenAI's client")
        show_answers(address)

        step("4. What it has counted")
        show_metrics(address)

        step("5. End it: SIGTERM, after which it answers what it has begun")
    say("The service has ended with exit code 0.")


@contextmanager
def serve(folder: str, port: int) -> Iterator[str]:
    """Start the service and yield its address; in the end, stop it."""
    arguments = ["serve", folder, "--port", str(port)]
    console.print(Text(f"$ graphsurgery {' '.join(arguments)} &", style="bold green"))
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-m", "graphsurgery", *arguments], cwd=SCRATCH, env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(address, process)
        yield address
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=STARTING)
    finally:
        process.kill()
        process.wait()
    if process.returncode != 0:
        sys.exit(f"the service ended with exit code {process.returncode}\n{output}")


def wait_until_ready(address: str, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + STARTING
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/ready", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    process.kill()
    sys.exit(f"the service did not start\n{process.communicate()[0]}")


def show_answers(address: str) -> None:
    client = OpenAI(base_url=f"{address}/v1", api_key="none is needed")
    answer = client.embeddings.create(model="bert", input=list(TEXTS))
    vectors = np.array([one.embedding for one in answer.data], np.float32)
    again = client.embeddings.create(model="bert", input=TEXTS[0])
    own = Embedder(SCRATCH / "served").encode(TEXTS)
    console.print(similarity_matrix(TEXTS, vectors @ vectors.T))
    console.print()
    console.print(f"vectors                            {len(vectors)} of {vectors.shape[1]} numbers")
    console.print(f"usage                              {answer.usage.prompt_tokens} tokens")
    console.print(f"the same bits as Embedder's        {np.array_equal(vectors, own)}")
    console.print(
        f"the same bits again, from a cache  {np.array_equal(vectors[0], np.array(again.data[0].embedding, np.float32))}"
    )
    console.print()
    say("The model is a test fixture with random weights: its similarities say nothing about the texts.")


def show_metrics(address: str) -> None:
    with urllib.request.urlopen(f"{address}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    for line in lines:
        if line.startswith(("te_request_success", "te_embed_count", "graphsurgery_cache_")) and "_created" not in line:
            console.print(line, markup=False)


def find_port() -> int:
    """Return a port that is free at the moment."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


if __name__ == "__main__":
    main()
