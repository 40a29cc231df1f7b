"""graphsurgery: from a transformer-only ONNX file to a verified embedding model, without PyTorch.

    import graphsurgery
    model = graphsurgery.load("model.onnx")
    model = graphsurgery.add_pooling(model, mode="mean", normalize=True)
    graphsurgery.save(model, "model.pooled.onnx")
    report = graphsurgery.verify("model.pooled.onnx", against="model.onnx")

Names are imported when they are first used (PEP 562): the command line lives in this package too, and its ``--help`` must not
wait for numpy and onnx.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from graphsurgery.version import __version__

if TYPE_CHECKING:
    from graphsurgery.api import (
        add_activation,
        add_dense,
        add_layer_norm,
        add_normalize,
        add_pooling,
        mask_tokens,
        output_precision,
        strip_head,
        truncate,
    )
    from graphsurgery.api_interface import drop_input, dynamic_dim, fix_dim, input_type, optional_input, rename
    from graphsurgery.api_tokens import (
        add_cnn,
        add_lstm,
        add_splade_pooling,
        add_weighted_layer_pooling,
        add_word_weights,
    )
    from graphsurgery.baking.bake import Baked, bake
    from graphsurgery.edits.add_activation import AddActivation
    from graphsurgery.edits.add_cnn import AddCnn
    from graphsurgery.edits.add_dense import AddDense
    from graphsurgery.edits.add_layer_norm import AddLayerNorm
    from graphsurgery.edits.add_lstm import AddLstm
    from graphsurgery.edits.add_normalize import AddNormalize
    from graphsurgery.edits.add_pooling import AddPooling
    from graphsurgery.edits.add_splade_pooling import AddSpladePooling
    from graphsurgery.edits.add_weighted_layer_pooling import AddWeightedLayerPooling
    from graphsurgery.edits.add_word_weights import AddWordWeights
    from graphsurgery.edits.drop_input import DropInput
    from graphsurgery.edits.dynamic_dim import DynamicDim
    from graphsurgery.edits.fix_dim import FixDim
    from graphsurgery.edits.input_type import InputType
    from graphsurgery.edits.mask_tokens import MaskTokens
    from graphsurgery.edits.optional_input import OptionalInput
    from graphsurgery.edits.output_precision import OutputPrecision
    from graphsurgery.edits.rename import Rename
    from graphsurgery.edits.strip_head import StripHead
    from graphsurgery.edits.truncate import Truncate
    from graphsurgery.errors import GraphSurgeryError, VerificationFailed
    from graphsurgery.exporting import Exported, export
    from graphsurgery.inspection import Inspection, inspect
    from graphsurgery.interface import Interface, Value
    from graphsurgery.model.loading import load
    from graphsurgery.model.model import Model
    from graphsurgery.model.saving import save
    from graphsurgery.model.staging import Saved
    from graphsurgery.optimizer.optimize import optimize
    from graphsurgery.outcome import Optimized, Outcome
    from graphsurgery.proof.golden import verify_itself
    from graphsurgery.proof.verify import verify
    from graphsurgery.recipe import Recipe
    from graphsurgery.recipe_run import run_recipe
    from graphsurgery.report import Report, Verdict
    from graphsurgery.runner import run

_HOMES = {
    "api": (
        "add_activation",
        "add_dense",
        "add_layer_norm",
        "add_normalize",
        "add_pooling",
        "mask_tokens",
        "output_precision",
        "strip_head",
        "truncate",
    ),
    "api_tokens": (
        "add_cnn",
        "add_lstm",
        "add_splade_pooling",
        "add_weighted_layer_pooling",
        "add_word_weights",
    ),
    "api_interface": ("drop_input", "dynamic_dim", "fix_dim", "input_type", "optional_input", "rename"),
    "baking.bake": ("Baked", "bake"),
    "edits.add_activation": ("AddActivation",),
    "edits.add_cnn": ("AddCnn",),
    "edits.add_dense": ("AddDense",),
    "edits.add_layer_norm": ("AddLayerNorm",),
    "edits.add_lstm": ("AddLstm",),
    "edits.add_normalize": ("AddNormalize",),
    "edits.add_pooling": ("AddPooling",),
    "edits.add_splade_pooling": ("AddSpladePooling",),
    "edits.add_weighted_layer_pooling": ("AddWeightedLayerPooling",),
    "edits.add_word_weights": ("AddWordWeights",),
    "edits.mask_tokens": ("MaskTokens",),
    "edits.output_precision": ("OutputPrecision",),
    "edits.strip_head": ("StripHead",),
    "edits.truncate": ("Truncate",),
    "edits.drop_input": ("DropInput",),
    "edits.optional_input": ("OptionalInput",),
    "edits.input_type": ("InputType",),
    "edits.rename": ("Rename",),
    "edits.dynamic_dim": ("DynamicDim",),
    "edits.fix_dim": ("FixDim",),
    "errors": ("GraphSurgeryError", "VerificationFailed"),
    "exporting": ("Exported", "export"),
    "inspection": ("Inspection", "inspect"),
    "interface": ("Interface", "Value"),
    "model.loading": ("load",),
    "model.model": ("Model",),
    "model.saving": ("save",),
    "model.staging": ("Saved",),
    "optimizer.optimize": ("optimize",),
    "outcome": ("Optimized", "Outcome"),
    "proof.golden": ("verify_itself",),
    "proof.verify": ("verify",),
    "recipe": ("Recipe",),
    "recipe_run": ("run_recipe",),
    "report": ("Report", "Verdict"),
    "runner": ("run",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AddActivation",
    "AddCnn",
    "AddDense",
    "AddLayerNorm",
    "AddLstm",
    "AddNormalize",
    "AddPooling",
    "AddSpladePooling",
    "AddWeightedLayerPooling",
    "AddWordWeights",
    "Baked",
    "DropInput",
    "DynamicDim",
    "Exported",
    "FixDim",
    "GraphSurgeryError",
    "InputType",
    "Inspection",
    "Interface",
    "MaskTokens",
    "Model",
    "Optimized",
    "OptionalInput",
    "Outcome",
    "OutputPrecision",
    "Recipe",
    "Rename",
    "Report",
    "Saved",
    "StripHead",
    "Truncate",
    "Value",
    "Verdict",
    "VerificationFailed",
    "__version__",
    "add_activation",
    "add_cnn",
    "add_dense",
    "add_layer_norm",
    "add_lstm",
    "add_normalize",
    "add_pooling",
    "add_splade_pooling",
    "add_weighted_layer_pooling",
    "add_word_weights",
    "bake",
    "drop_input",
    "dynamic_dim",
    "export",
    "fix_dim",
    "input_type",
    "inspect",
    "load",
    "mask_tokens",
    "optimize",
    "optional_input",
    "output_precision",
    "rename",
    "run",
    "run_recipe",
    "save",
    "strip_head",
    "truncate",
    "verify",
    "verify_itself",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
