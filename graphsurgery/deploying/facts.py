"""The facts from which the files of a deployment are written: the interface of an ONNX file, its sizes and its names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graphsurgery.embedding.embedder import find_longest
from graphsurgery.embedding.tokenization import read_folder_tokenization
from graphsurgery.errors import MissingDataError, UnsupportedModelError
from graphsurgery.folders.files import find_onnx
from graphsurgery.interface import Dim, Interface, Value
from graphsurgery.model.loading import load
from graphsurgery.model.model import Model
from graphsurgery.model.names import walk_graphs
from graphsurgery.proof.source_feeds import make_feed_generator

ONNX_DOMAINS = frozenset({"", "ai.onnx"})
LONGEST_NAME = 63
"""The most characters of a name in Kubernetes."""


@dataclass(frozen=True)
class Facts:
    """A model folder, as far as a deployment needs to know it."""

    name: str
    """A name that Triton, Kubernetes, Docker and systemd all accept."""
    file: str
    """The ONNX file, relative to the folder."""
    interface: Interface
    longest: int | None
    """The most tokens of a text, or None if the file takes no texts or has no limit."""
    size: int
    """The bytes of the ONNX file and its data files."""
    domains: tuple[str, ...] = ()
    """The domains of operators that neither ONNX nor the file itself defines."""

    @property
    def values(self) -> tuple[Value, ...]:
        return (*self.interface.inputs, *self.interface.outputs)

    @property
    def is_batched(self) -> bool:
        """Whether the first dim of every input and output counts the rows of a batch of any size."""
        firsts = [value.dims[0] if value.dims else 0 for value in self.values]
        return not any(isinstance(one, int) for one in firsts) and len({one for one in firsts if one is not None}) <= 1


def read_facts(folder: Path, file: str | None = None, name: str | None = None) -> tuple[Facts, Model]:
    """Read what a deployment of ``folder`` needs to know. ``file`` names the ONNX file if the folder has several.

    Raises:
        FolderError, ModelError: the folder has no such file, or it cannot be read, or its data files are missing.
        UnsupportedModelError: an input or output has no declared type or dims.
    """
    path, _ = find_onnx(folder, file)
    model = load(path)
    for value in (*model.interface.inputs, *model.interface.outputs):
        if value.dims is None or not value.dtype:
            what = f"the file does not declare the type and the dims of {value}, which a configuration has to state"
            raise UnsupportedModelError(what, "export it again, or let onnx.shape_inference infer them")
    for one in model.files.values():
        if one.identity is None:
            what = f"{path} has weights in {one.path}, which is not there"
            raise MissingDataError(what, "download the folder again, whole")
    size = path.stat().st_size + sum(one.identity.size for one in model.files.values() if one.identity is not None)
    domains = {node.domain for graph in walk_graphs(model.proto.graph) for node in graph.node} - ONNX_DOMAINS
    domains -= {function.domain for function in model.proto.functions}
    own = folder.resolve().name
    chosen = name or make_name(own if file is None else f"{own}-{path.stem}")
    facts = Facts(
        chosen, path.relative_to(folder).as_posix(), model.interface, _find_longest(folder, model), size, tuple(sorted(domains))
    )
    return facts, model


def make_name(text: str) -> str:
    """Return a name of small letters, digits and hyphens that begins with a letter."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    named = name if name[:1].isalpha() else f"model-{name}"
    return named[:LONGEST_NAME].rstrip("-")


def _find_longest(folder: Path, model: Model) -> int | None:
    try:
        generator = make_feed_generator(model)
    except UnsupportedModelError:  # what its inputs mean is not known
        return None
    return None if generator.roles.ids is None else find_longest(read_folder_tokenization(folder), generator)


def list_numbers(dims: Sequence[Dim]) -> list[int]:
    """Return dims as most programs write them: -1 where the size is not fixed."""
    return [dim if isinstance(dim, int) else -1 for dim in dims]
