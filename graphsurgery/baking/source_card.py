"""What a baked folder's README says in its front matter, as model hubs read it; the licence is the source's own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from graphsurgery.baking.plan import BakePlan
from graphsurgery.errors import GraphSurgeryError
from graphsurgery.folders.files import is_there, open_file

CARD = "README.md"
LARGEST = 1 << 16
"""Bytes of a model card in which the front matter has to end."""
KEPT = ("license", "license_name", "license_link", "language")
MOST_LINES = 200


def front_matter(plan: BakePlan) -> str:
    """The front matter, between its rules."""
    lines = [
        *_own(plan.folder),
        *([f"base_model: {json.dumps(plan.repository)}"] if plan.repository else []),
        f"pipeline_tag: {'text-ranking' if plan.is_cross_encoder else 'sentence-similarity'}",
        "tags: [onnx, graphsurgery]",
    ]
    return "\n".join(["---", *lines, "---", "", ""])


def _own(folder: Path) -> Iterator[str]:
    """Licence and languages as the source's card gives them."""
    if not is_there(folder / CARD):
        return
    try:
        file = open_file(folder / CARD)
        text = file.read(0, min(file.size, LARGEST)).decode("utf-8", "replace")
    except GraphSurgeryError:
        return
    found = re.match(r"---\r?\n(.*?)\r?\n---\s*(\r?\n|$)", text, re.DOTALL)
    taken = False
    for line in found.group(1).splitlines()[:MOST_LINES] if found else []:
        key = re.match(r"(\w+):", line)
        taken = key.group(1) in KEPT if key else taken and line[:1] in (" ", "-")
        if taken:
            yield line
