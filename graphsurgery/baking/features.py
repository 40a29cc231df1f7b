"""The features that the modules of a folder pass on to each other, and their names in the graph.

sentence-transformers' modules read and write one dict of features: the Transformer writes ``token_embeddings``, Pooling writes
``sentence_embedding``, a Dense reads and writes what its config names.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from graphsurgery.errors import FolderError
from graphsurgery.folders.files import DOWNLOAD
from graphsurgery.folders.modules import Module
from graphsurgery.model.parsing import shown

TOKENS, SENTENCE, SCORES = "token_embeddings", "sentence_embedding", "scores"


@dataclass
class Features:
    """The features made so far, by their names in sentence-transformers; values are output names of the graph."""

    made: dict[str, str]
    kept: tuple[str, ...] = ()
    """Features that stay outputs."""
    skip_prompt: str | None = None
    """The number of the prompt's tokens that a Pooling module leaves out; None: an input says it."""
    token_weights: str | None = None
    """The value of the graph that holds the weights of tokens, where a module made them."""
    width: int | None = None
    """The width of the token embeddings, if the encoder's weights tell it and no module changed them."""
    embedding: int | None = None
    """The width of the sentence embedding, if the modules' configs tell it."""
    notes: list[str] = field(default_factory=list)

    def value(self, module: Module, name: str) -> str:
        """The output that is the feature ``name``, which ``module`` reads; FolderError when no module before made it."""
        if name not in self.made:
            there = ", ".join(sorted(self.made))
            raise FolderError(
                f"{module.path}: {module.kind} reads {name!r}, which no module before it makes; there are {there}",
                "the order of modules.json, or the module's module_input_name, is not what the model was saved with",
            )
        return self.made[name]

    def make(self, module: Module, name: str, reads: str) -> str:
        """Let ``module``, which ``reads`` a feature, make the feature ``name``; what the graph calls it. FolderError when
        another module made that one already, or when it is no name."""
        if not name or not name.isprintable():
            raise FolderError(f"{module.path}: {module.kind} writes {shown(repr(name))}, which is no name", DOWNLOAD)
        if name in self.made and name != reads:
            raise FolderError(
                f"{module.path}: {module.kind} writes {name!r}, which a module before it wrote already",
                "one of the two has the wrong module_output_name",
            )
        if name == TOKENS:
            self.width = None
        self.made[name] = name
        return name

    def keeps(self, name: str) -> bool:
        """Whether the feature stays an output when another is made of it."""
        return name in self.kept
