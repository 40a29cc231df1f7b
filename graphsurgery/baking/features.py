"""The features that the modules of a folder pass on to each other, and their names in the graph.

sentence-transformers' modules read and write one dict of features: the Transformer writes ``token_embeddings``, Pooling writes
``sentence_embedding``, a Dense reads and writes the features that its config names.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from graphsurgery.errors import FolderError
from graphsurgery.folders.files import DOWNLOAD
from graphsurgery.folders.modules import Module
from graphsurgery.model.parsing import shorten

TOKENS, SENTENCE, SCORES, CAUSAL = "token_embeddings", "sentence_embedding", "scores", "causal_logits"


@dataclass
class Features:
    """The features made so far."""

    outputs: dict[str, str]
    """The output of the graph that holds each feature, by the feature's name in sentence-transformers."""
    kept: tuple[str, ...] = ()
    """Features that stay outputs when another feature is made from them."""
    skip_prompt: str | None = None
    """How many of the prompt's tokens a Pooling module leaves out, or None if an input says it."""
    token_weights: str | None = None
    """The value of the graph that holds the weights of tokens, if a module made them."""
    width: int | None = None
    """The width of the token embeddings, if the encoder's weights tell it and no module changed them."""
    embedding: int | None = None
    """The width of the sentence embedding, if the modules' configs tell it."""
    score_count: int | None = None
    """The number of a reranker's scores, if a module's config tells it; None: the number that the encoder's config states."""
    encoder_outputs: tuple[str, ...] = ()
    """The outputs of the encoder's file: an export that pools already gives an embedding beside its token embeddings."""
    notes: list[str] = field(default_factory=list)

    def list_kept(self, tokens: str | None = None) -> tuple[str, ...]:
        """Return the outputs of the graph that stay, by their names there. ``tokens`` is the name of the token embeddings."""
        names = (tokens if name == TOKENS else name for name in self.kept)
        return tuple(name for name in names if name is not None)

    def require(self, module: Module, name: str) -> str:
        """Return the output that holds the feature ``name``, which ``module`` reads. FolderError if no module made it."""
        if name not in self.outputs:
            there = ", ".join(sorted(self.outputs))
            raise FolderError(
                f"{module.path}: {module.kind} reads {name!r}, which no module before it makes; there are {there}",
                "check the order of modules.json and the module's module_input_name; the model was saved with others",
            )
        return self.outputs[name]

    def make(self, module: Module, name: str, reads: str) -> str:
        """Add the feature ``name``, which ``module`` makes from the feature ``reads``. Return its name in the graph.

        FolderError if another module made it already, or if it is not a valid name.
        """
        if not name or not name.isprintable():
            raise FolderError(f"{module.path}: {module.kind} writes {shorten(repr(name))}, which is not a valid name", DOWNLOAD)
        if name in self.outputs and name != reads:
            raise FolderError(
                f"{module.path}: {module.kind} writes {name!r}, which a module before it wrote already",
                "one of the two has the wrong module_output_name",
            )
        if name == TOKENS:
            self.width = None
        self.outputs[name] = name
        return name
