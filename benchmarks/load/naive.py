"""The service of a tutorial, written from its description: one text a request, padded to the maximum, no batching.

    python -m load.naive FOLDER PORT

FastAPI calls the endpoint in its threads, and ONNX Runtime has its default options. It answers in the form of `POST /embed`, so
that the same clients can ask both services.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from tokenizers import Tokenizer

LONGEST = 128
"""To so many tokens the tokenizer.json of all-MiniLM-L6-v2 pads every text, and there it cuts."""


class Asked(BaseModel):
    """The body of a request."""

    inputs: str


def main() -> None:

    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    uvicorn.run(make_app(folder), host="127.0.0.1", port=port, log_level="warning")


def make_app(folder: Path) -> FastAPI:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding(length=LONGEST)
    tokenizer.enable_truncation(LONGEST)
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}

    app = FastAPI()

    @app.get("/ready")
    def ready() -> str:
        return "ready"

    @app.post("/embed")
    def embed(asked: Asked) -> list[list[float]]:
        encoded = tokenizer.encode(asked.inputs)
        feed = {"input_ids": encoded.ids, "attention_mask": encoded.attention_mask, "token_type_ids": encoded.type_ids}
        inputs = {name: np.array([numbers], np.int64) for name, numbers in feed.items() if name in names}
        return session.run(["sentence_embedding"], inputs)[0].tolist()

    return app


if __name__ == "__main__":
    main()
