"""What a model folder holds: its modules, one route of them, and the encoder that the first one is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from graphsurgery.baking.encoder import TABLES, build_encoder
from graphsurgery.baking.features import TOKENS
from graphsurgery.baking.folder import CERTIFICATE
from graphsurgery.baking.naming import naming
from graphsurgery.encoder.hidden_state import find_hidden_state
from graphsurgery.errors import FolderError, NothingToPoolError, RequestError
from graphsurgery.folders.files import DOWNLOAD, is_there, open_file
from graphsurgery.folders.modules import MODULES, Module, read_modules
from graphsurgery.folders.onnx_files import find_onnx, onnx_files
from graphsurgery.folders.router import default_route, routes
from graphsurgery.folders.transformer_config import read_encoder_config, transformer_settings
from graphsurgery.model.loading import load
from graphsurgery.model.model import Model

LOGITS = "logits"
POINTER = b"version https://git-lfs"


def modules_of(folder: Path) -> tuple[Module, ...]:
    """The folder's modules; of a cross-encoder from before 5.4, which has no modules.json, the classifier alone."""
    if not (folder / "modules.json").is_file():
        encoder = read_encoder_config(folder)
        if encoder is not None and encoder.is_classifier:
            return (Module("Transformer", "", folder, {"transformer_task": "sequence-classification"}, "CrossEncoder"),)
    if not is_there(folder / MODULES):
        raise FolderError(f"{folder} has no {MODULES}", _without_modules(folder))
    return read_modules(folder)


def _without_modules(folder: Path) -> str:
    """What to do with a folder that is not one of sentence-transformers."""
    if (folder / CERTIFICATE).is_file():
        return "graphsurgery baked it already; bake the folder that it was made from"
    given = "give the folder of a sentence-transformers model, the one with modules.json"
    found = onnx_files(folder)
    return f"{given}; or pool the ONNX file alone: graphsurgery add-pooling {folder / found[0]}" if found else given


def routed(modules: tuple[Module, ...], route: str | None) -> tuple[tuple[Module, ...], list[str]]:
    """The modules with those of one route in a Router's place."""
    routers = [module for module in modules if module.kind == "Router"]
    if not routers:
        if route is not None:
            raise RequestError(f"the folder has no Router module, and the route {route!r} was asked for", "leave out --route")
        return modules, []
    choices = routes(routers[0])
    name = route if route is not None else default_route(routers[0])
    if name is None or name not in choices:
        what = "the Router has no default route" if name is None else f"the Router has no route {name!r}"
        raise RequestError(f"{what}; its routes are {', '.join(choices)}", "choose one with --route; a file holds one route")
    place = modules.index(routers[0])
    others = [other for other in choices if other != name]
    notes = [
        f"route {name} of {routers[0].name}" + (f"; bake {', '.join(others)} with --route, each into a file" if others else "")
    ]
    return (*modules[:place], *choices[name], *modules[place + 1 :]), notes


def encoder_of(folder: Path, module: Module, name: str | None, exported: Path | None) -> tuple[Model, list[str]]:
    """The encoder that the first module is, and what to say of it."""
    if exported is not None:
        return replace(load(exported), home=folder / "onnx"), ["the encoder was exported with Optimum"]
    if module.kind in TABLES:
        if name is not None:
            raise RequestError(f"a {module.kind} has no ONNX file", "leave out --onnx: its table is built from the weights")
        return load(build_encoder(module), folder=module.path), [
            f"the encoder is built from the table of {module.name or module.kind}"
        ]
    if module.kind != "Transformer":
        known = ", ".join(("Transformer", *TABLES))
        raise FolderError(
            f"{module.path}: the first module is a {module.kind}", f"what can be baked begins with one of {known}"
        )
    own = module.path if name is None and onnx_files(module.path) else folder
    path, others = find_onnx(own, name)
    note = f"the encoder is {path.relative_to(folder)}" + (f"; there are also {', '.join(others)} (--onnx)" if others else "")
    return _loaded(path), [note]


def _loaded(path: Path) -> Model:
    """The encoder, whose weights must be there: whatever is wrong with it is told with its name."""
    file = open_file(path)
    if file.read(0, min(file.size, len(POINTER))) == POINTER:
        raise FolderError(f"{path} is a Git LFS pointer, not the model itself", "git lfs pull, or " + DOWNLOAD)
    with naming(path):
        model = load(path)
        model.require_data("baking")
    return model


def first_features(module: Module, encoder: Model) -> tuple[dict[str, str], int | None]:
    """What the first module makes: its features, and the encoder's outputs that they are; how wide its token embeddings are."""
    if module.kind in TABLES:
        return {TOKENS: TOKENS}, find_hidden_state(encoder, TOKENS).width
    settings = transformer_settings(module)
    if settings.output_name == TOKENS and settings.task == "feature-extraction":
        with naming(encoder.path, encoder.path):
            hidden = find_hidden_state(encoder)
        return {TOKENS: hidden.name}, hidden.width
    if settings.task not in ("fill-mask", "sequence-classification"):
        raise FolderError(f"{module.path}: a Transformer loaded for {settings.task} cannot be baked", "use another export")
    if encoder.interface.output(LOGITS) is None:
        listed = ", ".join(map(str, encoder.interface.outputs))
        raise NothingToPoolError(
            f"{encoder.path}: a Transformer for {settings.task} gives {LOGITS}, and this file gives {listed}",
            f"export it with its head: optimum's task {settings.task}",
        )
    return {settings.output_name: LOGITS}, None
