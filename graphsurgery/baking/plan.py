"""From a model folder to what has to be done: which file is the encoder, and the edits that the modules come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graphsurgery.baking.features import SENTENCE, TOKENS, Features
from graphsurgery.baking.finish import Planned, cut, finished
from graphsurgery.baking.folder import repository_of
from graphsurgery.baking.m3 import LAYERS, m3_steps
from graphsurgery.baking.module_steps import steps_of
from graphsurgery.baking.opening import encoder_of, first_features, modules_of, routed
from graphsurgery.baking.tokens import Tokens, tokens_of
from graphsurgery.edits.add_activation import AddActivation
from graphsurgery.edits.edit import Edit
from graphsurgery.edits.output_precision import OutputPrecision
from graphsurgery.errors import FolderError, RequestError
from graphsurgery.folders.files import DOWNLOAD
from graphsurgery.folders.modules import Module
from graphsurgery.folders.transformer_config import FOLDER_CONFIG, FolderConfig, read_folder_config
from graphsurgery.interface import Interface
from graphsurgery.model.model import Model


@dataclass(frozen=True)
class Request:
    """A request for a bake, besides the folder's own modules."""

    onnx: str | None = None
    """The encoder's file, where it is not onnx/model.onnx or model.onnx."""
    route: str | None = None
    """The route of a Router module."""
    truncate_dim: str | None = None
    precision: str | None = None
    ranges: str | None = None
    keep_output: tuple[str, ...] = ()
    """Outputs to keep besides the embedding: token_embeddings; for bge-m3 sparse_weights and colbert_vectors."""
    skip_prompt: str | None = None
    exported: Path | None = None
    """The encoder's file where it was exported elsewhere; it counts as lying at onnx/model.onnx."""


@dataclass(frozen=True)
class BakePlan:
    """The plan for ``folder``: ``steps`` on ``encoder``."""

    folder: Path
    config: FolderConfig
    modules: tuple[Module, ...]
    encoder: Model
    steps: tuple[Edit, ...]
    origins: tuple[Path | None, ...]
    """The origin of each step: a module's folder or a config; None if it was asked for."""
    notes: tuple[str, ...]

    tokens: Tokens
    width: int | None
    """The width of the encoder's token embeddings, if its weights tell."""
    uncut: int | None = None
    """The folder's truncate_dim, if it leaves the embedding whole."""

    @property
    def repository(self) -> str | None:
        """The repository of a model hub that the folder is a copy of, where it lies in a hub's cache."""
        return repository_of(self.folder)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.repository.rpartition("/")[2] if self.repository is not None else self.folder.resolve().name

    @property
    def is_cross_encoder(self) -> bool:
        """Whether it scores pairs of texts."""
        return any(isinstance(step, AddActivation) for step in self.steps)


def plan_bake(folder: Path, request: Request) -> BakePlan:
    """Read ``folder`` and plan everything, touching nothing. Raises FolderError, WeightsError, RequestError and what `load`
    raises."""
    config = read_folder_config(folder)
    modules, notes = routed(modules_of(folder), request.route)
    encoder, found = encoder_of(folder, modules[0], request.onnx, request.exported)
    made, width = first_features(modules[0], encoder)
    kept = _kept(request, made)
    features = Features(made, kept, request.skip_prompt, width=width, notes=[*notes, *found])
    planned: list[Planned] = [(step, folder) for step in m3_steps(folder, kept, features.made.get(TOKENS, ""))]
    mean = Module("Pooling", "the mean of StaticEmbedding", modules[0].path, {"pooling_mode": "mean"}, "")
    for module in (*([mean] if modules[0].kind == "StaticEmbedding" else []), *modules[1:]):
        planned += [(step, module.path) for step in steps_of(module, features)]
    planned += finished(folder, config, modules, features)
    planned += cut(folder, config, features, request.truncate_dim)
    if request.precision is not None:
        planned.append((OutputPrecision(request.precision, request.ranges), None))
    _refuse_unused(request, [step for step, _ in planned])
    if not planned:
        raise FolderError(
            f"{folder}: its modules come to no edit of {encoder.path}", "there is nothing to bake; use the encoder as it is"
        )
    steps, origins = zip(*planned, strict=True)
    tokens = tokens_of(folder, modules[0])
    uncut = config.truncate_dim if request.truncate_dim is None and config.truncate_dim == features.embedding else None
    return BakePlan(folder, config, modules, encoder, steps, origins, tuple(features.notes), tokens, width, uncut)


def check_uncut(plan: BakePlan, made: Interface) -> None:
    """Raise FolderError if the embedding is wider than the configs said when the folder's cut was left out."""
    embedding = made.output(SENTENCE)
    width = embedding.dims[-1] if embedding is not None and embedding.dims else None
    if plan.uncut is not None and isinstance(width, int) and width > plan.uncut:
        what = f"{plan.folder / FOLDER_CONFIG} cuts to {plan.uncut} dims, all that the modules' configs name"
        raise FolderError(f"{what}, and the embedding has {width}", DOWNLOAD)


def _refuse_unused(request: Request, steps: Sequence[Edit]) -> None:
    """RequestError for what was asked for and would make no difference."""
    if request.ranges is not None and request.precision is None:
        raise RequestError("ranges are for int8 and uint8, and no precision was asked for", "ask with --output-precision int8")
    if request.skip_prompt is not None and not any(getattr(step, "skip_prompt", None) for step in steps):
        raise RequestError("no module of the folder leaves the prompt out of pooling", "leave out --skip-prompt")


def _kept(request: Request, made: dict[str, str]) -> tuple[str, ...]:
    """What is kept, by the names of features; RequestError for what there is not. The hidden state may be named as the encoder
    calls it."""
    kept = tuple(TOKENS if name == made.get(TOKENS) else name for name in request.keep_output)
    could = (TOKENS, *LAYERS)
    unknown = [name for name in kept if name not in could]
    if unknown:
        raise RequestError(f"there is no {unknown[0]!r} that could be kept", f"choose from {', '.join(could)}")
    return tuple(dict.fromkeys(kept))
