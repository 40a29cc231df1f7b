"""The cache of the Hugging Face hub, laid out as its library does, in every form."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

OWN, STORE, AT_ONCE = "in its own blobs", "in the store, by two links", "in the store, by one link"
LAYOUTS = {
    "until huggingface_hub 1.31": (OWN, OWN),
    "since huggingface_hub 1.32": (STORE, STORE),
    "links to the store at once": (AT_ONCE, AT_ONCE),
    "a small model with its data in the store": (OWN, STORE),
    "a model in the store and data from before": (STORE, OWN),
}
"""Where models and where all other files lie."""
REPOSITORY, SNAPSHOT = "models--someone--small-model", "snapshots/0123456789abcdef"


def lay_out(folder: Path, cache: Path, layout: str = "until huggingface_hub 1.31", repository: str = REPOSITORY) -> Path:
    """Move every file of ``folder`` into a ``cache``; return the snapshot, which has links in their place."""
    model_place, other_place = LAYOUTS[layout]
    snapshot = cache / repository / SNAPSHOT
    (cache / "blobs").mkdir(parents=True)
    (cache / "blobs" / ".huggingface-shared-blobs").write_text("1\n")
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        place = model_place if path.suffix == ".onnx" else other_place
        name = hashlib.sha256(path.name.encode() + path.read_bytes()).hexdigest()
        own, stored = cache / repository / "blobs" / name, cache / "blobs" / name[:2] / name
        kept, link = own if place == OWN else stored, snapshot / path.relative_to(folder)
        for one in (own, kept, link):
            one.parent.mkdir(parents=True, exist_ok=True)
        path.rename(kept)
        kept.chmod(0o444)
        if place == STORE:
            link_to(own, stored)
        link_to(link, stored if place == AT_ONCE else own)
    return snapshot


def link_to(link: Path, target: Path) -> None:
    link.symlink_to(os.path.relpath(target, link.parent))
