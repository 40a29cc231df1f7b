"""From a model folder to what has to be done: which file is the encoder, and the edits that the modules come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from graphsurgery.anatomy.hidden_state import find_hidden_state
from graphsurgery.baking.built import TABLES, build_encoder
from graphsurgery.baking.features import SCORES, SENTENCE, TOKENS, Features
from graphsurgery.baking.folder import repository_of
from graphsurgery.baking.m3 import LAYERS, m3_steps
from graphsurgery.baking.module_steps import steps_of
from graphsurgery.baking.tokens import Tokens, tokens_of
from graphsurgery.edits.add_activation import AddActivation
from graphsurgery.edits.add_normalize import AddNormalize
from graphsurgery.edits.edit import Edit
from graphsurgery.edits.output_precision import OutputPrecision
from graphsurgery.edits.truncate import Truncate
from graphsurgery.errors import FolderError, NothingToPoolError, RequestError
from graphsurgery.folders.modules import Module, read_modules
from graphsurgery.folders.onnx_files import find_onnx, onnx_files
from graphsurgery.folders.router import default_route, routes
from graphsurgery.folders.transformer_config import (
    FolderConfig,
    read_encoder_config,
    read_folder_config,
    score_activation,
    transformer_settings,
)
from graphsurgery.model.loading import load
from graphsurgery.model.model import Model

LOGITS = "logits"


@dataclass(frozen=True)
class Request:
    """What is asked of a bake besides the folder's own modules."""

    onnx: str | None = None
    """The encoder's file, where it is not onnx/model.onnx or model.onnx."""
    route: str | None = None
    """The route of a Router module."""
    truncate_dim: str | None = None
    precision: str | None = None
    ranges: str | None = None
    keep_output: tuple[str, ...] = ()
    """What stays an output besides the embedding: token_embeddings; of bge-m3 sparse_weights and colbert_vectors."""
    skip_prompt: str | None = None
    exported: Path | None = None
    """The encoder's file where it was exported elsewhere; it counts as lying at onnx/model.onnx."""


@dataclass(frozen=True)
class BakePlan:
    """What will be done with ``folder``: ``steps`` on ``encoder``."""

    folder: Path
    config: FolderConfig
    modules: tuple[Module, ...]
    encoder: Model
    steps: tuple[Edit, ...]
    notes: tuple[str, ...]

    tokens: Tokens
    width: int | None
    """How wide the encoder's token embeddings are, where its weights tell."""

    @property
    def repository(self) -> str | None:
        """The repository of a model hub that the folder is a copy of, where it lies in a hub's cache."""
        return repository_of(self.folder)

    @property
    def name(self) -> str:
        """What the model is called."""
        return self.repository.rpartition("/")[2] if self.repository is not None else self.folder.resolve().name

    @property
    def is_cross_encoder(self) -> bool:
        """Whether it scores pairs of texts."""
        return any(isinstance(step, AddActivation) for step in self.steps)


def plan_bake(folder: Path, request: Request) -> BakePlan:
    """Read ``folder`` and settle everything, touching nothing. Raises FolderError, WeightsError, RequestError and what `load`
    raises."""
    config = read_folder_config(folder)
    modules, notes = _routed(_modules(folder, config), request.route)
    encoder, found = _encoder(folder, modules[0], request)
    made, width = _first_features(modules[0], encoder)
    kept = _kept(request, made)
    features = Features(made, kept, request.skip_prompt, width=width, notes=[*notes, *found])
    steps = m3_steps(folder, kept, features.made.get(TOKENS, ""))
    if modules[0].kind == "StaticEmbedding":
        steps += steps_of(
            Module("Pooling", "the mean of StaticEmbedding", modules[0].path, {"pooling_mode": "mean"}, ""), features
        )
    for module in modules[1:]:
        steps += steps_of(module, features)
    steps += _finish(folder, config, modules, features, request)
    if not steps:
        raise FolderError(
            f"{folder}: its modules come to no edit of {encoder.path}", "there is nothing to bake; use the encoder as it is"
        )
    tokens = tokens_of(folder, modules[0])
    return BakePlan(folder, config, modules, encoder, tuple(steps), tuple(features.notes), tokens, width)


def _kept(request: Request, made: dict[str, str]) -> tuple[str, ...]:
    """What is kept, by the names of features; RequestError for what there is not. The hidden state may be named as the encoder
    calls it."""
    kept = tuple(TOKENS if name == made.get(TOKENS) else name for name in request.keep_output)
    could = (TOKENS, *LAYERS)
    unknown = [name for name in kept if name not in could]
    if unknown:
        raise RequestError(f"there is no {unknown[0]!r} that could be kept", f"choose from {', '.join(could)}")
    return tuple(dict.fromkeys(kept))


def _modules(folder: Path, config: FolderConfig) -> tuple[Module, ...]:
    """The folder's modules; of a cross-encoder from before 5.4, which has no modules.json, the classifier alone."""
    if not (folder / "modules.json").is_file():
        encoder = read_encoder_config(folder)
        if encoder is not None and encoder.is_classifier:
            return (Module("Transformer", "", folder, {"transformer_task": "sequence-classification"}, "CrossEncoder"),)
    return read_modules(folder)


def _routed(modules: tuple[Module, ...], route: str | None) -> tuple[tuple[Module, ...], list[str]]:
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


def _encoder(folder: Path, module: Module, request: Request) -> tuple[Model, list[str]]:
    """The encoder that the first module is, and what to say of it."""
    name = request.onnx
    if request.exported is not None:
        return replace(load(request.exported), folder=folder / "onnx"), ["the encoder was exported with Optimum"]
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
    return load(path), [note]


def _first_features(module: Module, encoder: Model) -> tuple[dict[str, str], int | None]:
    """What the first module makes: its features, and the encoder's outputs that they are; how wide its token embeddings are."""
    if module.kind in TABLES:
        return {TOKENS: TOKENS}, find_hidden_state(encoder, TOKENS).width
    settings = transformer_settings(module)
    if settings.output_name == TOKENS and settings.task == "feature-extraction":
        hidden = find_hidden_state(encoder)
        return {TOKENS: hidden.name}, hidden.width
    if settings.task not in ("fill-mask", "sequence-classification"):
        raise FolderError(f"{module.path}: a Transformer loaded for {settings.task} cannot be baked", "use another export")
    if encoder.interface.output(LOGITS) is None:
        listed = ", ".join(map(str, encoder.interface.outputs))
        raise NothingToPoolError(
            f"{module.path}: a Transformer for {settings.task} gives {LOGITS}, and the ONNX file gives {listed}",
            f"export it with its head: optimum's task {settings.task}",
        )
    return {settings.output_name: LOGITS}, None


def _finish(folder: Path, config: FolderConfig, modules: Sequence[Module], features: Features, request: Request) -> list[Edit]:
    """What comes after the modules: scores of a cross-encoder, unit vectors of a late-interaction model, what was asked for."""
    steps: list[Edit] = []
    if SCORES in features.made:
        encoder = read_encoder_config(modules[0].path)
        if encoder is not None:
            steps.append(AddActivation(score_activation(config, encoder, encoder.num_labels), features.made[SCORES], SCORES))
    elif SENTENCE not in features.made:
        if config.model_type != "ColBERT" and not _ends_at_tokens(modules):
            raise FolderError(
                f"{folder}: no module of it pools", "a plain transformer folder: pool its ONNX file with add-pooling"
            )
        features.notes.append("no module pools: the file gives a vector per token, normalised, as late interaction takes them")
        steps.append(AddNormalize(features.made[TOKENS]))
    if request.truncate_dim is not None:
        steps.append(Truncate(request.truncate_dim))
    elif config.truncate_dim is not None:
        steps.append(Truncate(str(config.truncate_dim), keep_length=True))
    if request.precision is not None:
        steps.append(OutputPrecision(request.precision, request.ranges))
    return steps


def _ends_at_tokens(modules: Sequence[Module]) -> bool:
    """Whether the last module is a Dense over tokens: the mark of a late-interaction model."""
    last = modules[-1]
    return last.kind == "Dense" and last.config.get("module_input_name") == TOKENS
