"""Every verb of the command line. Imports nothing, so that ``--help`` is quick."""

from __future__ import annotations

from typing import NamedTuple

EDIT = "writing:writing_command"


class Verb(NamedTuple):
    """What builds a verb's command, as ``module:function`` within this package (called with the verb), and the line that
    ``--help`` shows for it."""

    command: str
    summary: str


GROUPS: dict[str, dict[str, Verb]] = {
    "Whole models": {
        "bake": Verb("baking:bake_command", "a whole model folder into one verified file, in a folder to publish"),
        "run": Verb("recipes:run_command", "run a recipe file: edits and checks, on a file or a model folder"),
        "recipe": Verb("recipes:recipe_command", "recipe show MODEL: the recipe that a file was made with"),
        "optimize": Verb("optimizing:optimize_command", "fuse for ONNX Runtime, say what was missed and why, and prove it"),
        "export": Verb("exporting:export_command", "the transformer of a model folder as ONNX, through Optimum"),
    },
    "Look and prove": {
        "inspect": Verb("inspecting:inspect_command", "what a file is: interface, encoder, head, who can read it"),
        "verify": Verb("verifying:verify_command", "prove a file against the one it was made from"),
    },
    "Heads": {
        "add-pooling": Verb(EDIT, "append pooling: from token embeddings to one vector per text"),
        "add-normalize": Verb(EDIT, "append L2 normalisation: embeddings of length one"),
        "add-dense": Verb(EDIT, "append a linear layer with an activation, from a model folder's weights"),
        "add-layer-norm": Verb(EDIT, "append layer normalisation, from a model folder's weights"),
        "add-activation": Verb(EDIT, "append an activation: scores of a cross-encoder's logits"),
        "add-splade-pooling": Verb(EDIT, "append SPLADE pooling: from masked-language scores to one sparse vector per text"),
        "truncate": Verb(EDIT, "keep the first dims of an embedding (Matryoshka), normalised again"),
        "output-precision": Verb(EDIT, "give the embedding as int8, uint8 or packed bits"),
        "strip-head": Verb(EDIT, "take the recorded head off again: back to the encoder, byte for byte"),
    },
    "Tokens, before pooling": {
        "add-weighted-layer-pooling": Verb(EDIT, "take a weighted mean of the hidden layers, from a model folder's weights"),
        "add-word-weights": Verb(
            EDIT, "multiply the token embeddings with weights of their words, from a model folder's config"
        ),
        "add-cnn": Verb(EDIT, "append convolutions over the token embeddings, from a model folder's weights"),
        "add-lstm": Verb(EDIT, "append an LSTM over the token embeddings, from a model folder's weights"),
        "mask-tokens": Verb(EDIT, "set the vectors at padded positions to zero"),
    },
    "Interface": {
        "drop-input": Verb(EDIT, "take an input away that the graph can make by itself: token types, a mask, positions"),
        "optional-input": Verb(EDIT, "let an input be left out: token types, or a mask that only broadcasts"),
        "input-type": Verb(EDIT, "take ids and masks as int32 or int64: a cast inside"),
        "rename": Verb(EDIT, "give inputs, outputs and symbolic dims other names"),
        "dynamic-dim": Verb(EDIT, "let a batch or sequence size that was baked in be any size again"),
        "fix-dim": Verb(EDIT, "give a symbolic dim a number, wherever it is declared"),
    },
}
"""Verbs as ``--help`` groups them."""
VERBS = {name: verb for group in GROUPS.values() for name, verb in group.items()}
