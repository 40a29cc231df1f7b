"""Nodes of the source that read another value than before, as an edit records them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import onnx

from graphsurgery.model.step_parameters import is_of_type

Rewired: TypeAlias = "dict[tuple[str, int], str]"
"""The new value of an input of a node, by the node's first output and the input's place."""


def parse_rows(texts: Sequence[str]) -> list[tuple[str, int, str]]:
    """Read the first three elements of each text, a JSON list: a name, a place and a name.

    Raise ValueError or RecursionError for any other text.
    """
    rows = [json.loads(text) for text in texts]
    if not all(is_of_type(row, list[str | int]) and list(map(type, row[:3])) == [str, int, str] for row in rows):
        raise ValueError("needed are a name, a place and a name")
    return [(row[0], row[1], row[2]) for row in rows]


def parse_rewired(texts: Sequence[str]) -> Rewired:
    """Read each text as `parse_rows` does: the node's first output, the input's place, and the new value. Raise as it does."""
    return {(output, place): value for output, place, value in parse_rows(texts)}


def rewire_node(parameters: Mapping[str, Any], node: onnx.NodeProto) -> None:
    """Let a node read the new values that ``rewired`` of ``parameters`` names, a `Rewired`."""
    for (output, place), value in parameters["rewired"].items():
        if node.output and node.output[0] == output and place < len(node.input):
            node.input[place] = value
