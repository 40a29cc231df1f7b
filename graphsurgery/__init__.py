"""graphsurgery: from a transformer-only ONNX file to a verified embedding model, without PyTorch.

    import graphsurgery
    model = graphsurgery.load("model.onnx")
    model = graphsurgery.add_pooling(model, mode="mean", normalize=True)
    graphsurgery.save(model, "model.pooled.onnx")
    report = graphsurgery.verify("model.pooled.onnx", against="model.onnx")
"""

from graphsurgery.api import add_normalize, add_pooling, strip_head
from graphsurgery.edits.add_normalize import AddNormalize
from graphsurgery.edits.add_pooling import AddPooling
from graphsurgery.edits.strip_head import StripHead
from graphsurgery.errors import GraphSurgeryError
from graphsurgery.inspection import Inspection, inspect
from graphsurgery.interface import Interface, Value
from graphsurgery.model.loading import load
from graphsurgery.model.model import Model
from graphsurgery.model.saving import Saved, save
from graphsurgery.report import Report, Verdict
from graphsurgery.runner import Outcome, run
from graphsurgery.verify.verify import verify
from graphsurgery.version import __version__

__all__ = [
    "AddNormalize",
    "AddPooling",
    "GraphSurgeryError",
    "Inspection",
    "Interface",
    "Model",
    "Outcome",
    "Report",
    "Saved",
    "StripHead",
    "Value",
    "Verdict",
    "__version__",
    "add_normalize",
    "add_pooling",
    "inspect",
    "load",
    "run",
    "save",
    "strip_head",
    "verify",
]
