"""What is asked of `optimize`."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from graphsurgery.errors import RequestError
from graphsurgery.rewrites.fuse.kernels import TARGETS

PRECISIONS = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}


@dataclass(frozen=True)
class Request:
    """``target``: cpu or cuda. ``model_type``, ``heads``, ``hidden_size``: in place of what the graph tells. ``precision``:
    fp16 or bf16 for the encoder's body. ``portable``: standard operators only. ``rehead``: our head in place of another
    program's."""

    target: str = "cpu"
    model_type: str | None = None
    heads: int | None = None
    hidden_size: int | None = None
    precision: str | None = None
    portable: bool = False
    rehead: bool = False
    strict: bool = False
    half_io: bool = False
    """Whether float inputs and outputs become half precision, too."""

    def __post_init__(self) -> None:
        """RequestError for what contradicts itself."""
        if self.target not in TARGETS:
            raise RequestError(f"there is no target {self.target!r}", f"choose from {', '.join(TARGETS)}")
        if self.precision is not None and self.precision not in PRECISIONS:
            raise RequestError(f"there is no precision {self.precision!r}", f"choose from {', '.join(PRECISIONS)}")
        if self.half_io and self.precision is None:
            raise RequestError("inputs and outputs were to be in half precision, and the encoder not", "add --fp16 or --bf16")
        if (self.heads is None) != (self.hidden_size is None):
            raise RequestError("the optimizer takes heads and hidden size together", "give both, or none")
        if self.heads is not None and (self.heads < 1 or not self.hidden_size or self.hidden_size % self.heads):
            what = f"{self.hidden_size} dims do not divide by {self.heads} heads"
            raise RequestError(what, "give the numbers of the model's config.json, or none: they are read from the graph")
        cuda = self.target == "cuda"
        for_fusions = {"--strict": self.strict, "--model-type": self.model_type, "--heads": self.heads, "--for cuda": cuda}
        given = [option for option, value in for_fusions.items() if value]
        if self.portable and given:
            raise RequestError(f"{given[0]} is about fusions, and --portable makes none", "leave out one of them")
