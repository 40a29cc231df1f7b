"""An optimized model, put together: a rewritten encoder, and the head as it was."""

from __future__ import annotations

from dataclasses import replace

import onnx

from graphsurgery.graph.write_back import document_of
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import rewritten
from graphsurgery.rewrites.encoder_rewrites import Rewritten
from graphsurgery.rewrites.head_parts import Parts


def assembled(parts: Parts, given: onnx.ModelProto, made: Rewritten, source: Model) -> Model:
    """The head of ``parts`` on the rewritten encoder, with a record of the rewrite; ``source`` is what it was made from."""
    document = rewritten(document_of(parts.encoder, given, made.graph), made.recorded, source.fingerprint)
    return parts.joined(replace(parts.encoder, document=document, loaded=None))
