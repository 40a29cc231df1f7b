"""graphsurgery: from a transformer-only ONNX file to a verified embedding model, without PyTorch.

    import graphsurgery
    model = graphsurgery.load("model.onnx")
    model = graphsurgery.add_pooling(model, mode="mean", normalize=True)
    graphsurgery.save(model, "model.pooled.onnx")
    report = graphsurgery.verify("model.pooled.onnx", against="model.onnx")

Every edit of `edit_list` is a class and a function here. A name is imported when it is first used (PEP 562), because the
command line is part of this package and its ``--help`` must not wait for numpy and onnx. Type checkers read
``__init__.pyi``, which `make generated` writes.
"""

from importlib import import_module

from graphsurgery.edit_list import EDIT_LIST
from graphsurgery.version import __version__ as __version__

HOMES = {
    "baking.split_towers": ("SplitTowers", "split_towers"),
    "baking.bake": ("Baked", "bake"),
    "benchmarking.bench": ("bench",),
    "benchmarking.results": ("Benchmark",),
    "deploying.deploy": ("Deployment", "deploy"),
    "embedding.embed_file": ("EmbeddedFile", "embed_file"),
    "embedding.embedder": ("Embedded", "Embedder", "TruncationWarning"),
    "errors": ("GraphSurgeryError", "VerificationFailed"),
    "exporting.export_folder": ("Exported", "export"),
    "fixing.fix": ("Fixed", "fix"),
    "inspection": ("Inspection", "inspect"),
    "interface": ("Interface", "Value"),
    "model.loading": ("load",),
    "model.model": ("Model",),
    "model.saving": ("save",),
    "model.staging": ("Saved",),
    "optimizer.optimize": ("optimize",),
    "optimizer.quantize": ("quantize",),
    "outcome": ("Optimized", "Outcome"),
    "proof.golden": ("verify_itself",),
    "proof.verify": ("verify",),
    "recipe": ("Recipe",),
    "recipe_run": ("run_recipe",),
    "report": ("Report", "Verdict"),
    "rewrites.compute_pooled_token": ("PooledToken",),
    "rewrites.convert_to_half": ("Half",),
    "rewrites.fuse_attention": ("FuseAttention",),
    "rewrites.fuse_encoder": ("Fuse",),
    "rewrites.fuse_rotary": ("FuseRotary",),
    "rewrites.pack_tokens": ("PaddingFree",),
    "rewrites.quantize_encoder": ("Quantize",),
    "rewrites.reattach_head": ("ReattachHead",),
    "rewrites.simplify_encoder": ("Simplify",),
    "runner": ("run",),
    "runtime.batches": ("plan",),
} | {f"edits.{listed.function}": (listed.class_name,) for listed in EDIT_LIST.values()}
"""The public names by the module that defines them, except for the edits' functions."""
_HOME_OF = {name: module for module, names in HOMES.items() for name in names}
_FUNCTIONS = {listed.function: listed for listed in EDIT_LIST.values()}

__all__ = sorted(["__version__", *_HOME_OF, *_FUNCTIONS])  # noqa: PLE0605 -- __init__.pyi has the literal list


def __getattr__(name: str) -> object:
    if name in _FUNCTIONS:
        listed = _FUNCTIONS[name]
        edit = getattr(import_module(f"{__name__}.edits.{listed.function}"), listed.class_name)
        value = import_module(f"{__name__}.api").make_function(edit)
    elif name in _HOME_OF:
        value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
