"""The plan of a bake: the modules of a model folder, the encoder, and the edits that the modules amount to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from graphsurgery.baking.encoder import describe_own_class, find_first_features, open_encoder
from graphsurgery.baking.features import SENTENCE, TOKENS, Features
from graphsurgery.baking.inner_tokens import LAYERS, TokenEmbeddings
from graphsurgery.baking.steps import (
    Planned,
    plan_classifier_head,
    plan_ending,
    plan_m3_outputs,
    plan_module,
    plan_truncation,
)
from graphsurgery.baking.targets import FLOAT16_FILE, USUAL_FILE, Target
from graphsurgery.baking.towers import TakenTower, take_towers
from graphsurgery.edits.add_activation import AddActivation
from graphsurgery.edits.add_logit_score import AddLogitScore
from graphsurgery.edits.edit import Edit
from graphsurgery.edits.output_precision import OutputPrecision
from graphsurgery.edits.rename import Rename
from graphsurgery.embedding.tokenization import Tokenization, read_tokenization
from graphsurgery.encoder.towers import IMAGE, TEXT
from graphsurgery.errors import FolderError, RequestError
from graphsurgery.exporting.export_folder import Exported
from graphsurgery.folders.files import BAKED, DOWNLOAD, is_there, list_onnx_files
from graphsurgery.folders.modules import MODULES, Module, read_modules
from graphsurgery.folders.router import read_default_route, read_routes
from graphsurgery.folders.transformer_config import FOLDER_CONFIG, FolderConfig, read_encoder_config, read_folder_config
from graphsurgery.inspection import count_bytes_by_type
from graphsurgery.interface import Interface
from graphsurgery.model.hub_cache import name_repository
from graphsurgery.model.model import Model
from graphsurgery.remarks import HasRemarks


@dataclass(frozen=True)
class Request:
    """What the user asks of a bake, besides the folder's own modules."""

    onnx: str | None = None
    """The encoder's file, if it is not onnx/model.onnx or model.onnx. It may lie outside of the folder."""
    route: str | None = None
    """The route of a Router module."""
    truncate_dim: str | None = None
    precision: str | None = None
    ranges: str | None = None
    keep_output: tuple[str, ...] = ()
    """Outputs besides the embedding: token_embeddings; for bge-m3 sparse_weights and colbert_vectors; others of the file."""
    skip_prompt: str | None = None
    target: Target | None = None
    """The program to bake for."""
    exported: Exported | None = None
    """The encoder's file if it was exported elsewhere. It counts as lying at onnx/model.onnx."""


@dataclass(frozen=True)
class BakePlan(HasRemarks):
    """The plan of a bake: the edits ``steps``, to be applied to ``encoder``."""

    folder: Path
    config: FolderConfig
    modules: tuple[Module, ...]
    encoder: Model
    steps: tuple[Edit, ...]
    origins: tuple[Path | None, ...]
    """The origin of each step: a module's folder or a config, or None if the user asked for it."""
    remarks: tuple[str, ...]
    tokenization: Tokenization
    width: int | None
    """The width of the encoder's token embeddings, if its weights tell."""
    uncut: int | None = None
    """The folder's truncate_dim, if it leaves the embedding whole."""
    target: Target | None = None
    """The program to bake for, if one was named."""
    is_exported: bool = False
    """Whether the encoder's file was made from the folder's weights for this bake."""
    picture_steps: tuple[Edit, ...] = ()
    """The edits that make a second file, for pictures, if ``encoder`` is a joint model. ``steps`` then make the file for
    texts."""

    def __repr__(self) -> str:
        """Return one line: the folder, and the edits."""
        return f"<{type(self).__name__} {self.folder}: {', '.join(step.verb for step in self.steps)}>"

    @property
    def repository(self) -> str | None:
        """The repository of a model hub that the folder is a copy of, if it lies in a hub's cache."""
        return name_repository(self.folder)

    @property
    def file(self) -> str:
        """The place of the ONNX file in the baked folder. Hub clients look there."""
        is_named = self.target is not None and self.target.names_precision and self._is_float16
        return FLOAT16_FILE if is_named else USUAL_FILE

    @property
    def _is_float16(self) -> bool:
        """Whether most of the encoder's weights are float16."""
        return next(iter(count_bytes_by_type(self.encoder)), "") == "float16"

    @property
    def name(self) -> str:
        return self.repository.rpartition("/")[2] if self.repository is not None else self.folder.resolve().name

    @property
    def is_cross_encoder(self) -> bool:
        """Whether the model scores pairs of texts."""
        return any(isinstance(step, (AddActivation, AddLogitScore)) for step in self.steps)


def plan_bake(folder: Path, request: Request) -> BakePlan:
    """Read ``folder`` and plan the bake. Nothing is written.

    Raises FolderError, WeightsError, RequestError and what `load` raises.
    """
    config = read_folder_config(folder)
    modules, notes = _choose_route(_read_modules(folder), request.route)
    joint, note = open_encoder(folder, modules[0], request.onnx, request.exported)
    towers = take_towers(modules[0], joint)
    encoder = towers[TEXT].model if towers else joint
    outputs, tokens = find_first_features(folder, modules, encoder)
    kept = _choose_kept(request, outputs, encoder, tokens)
    width = tokens.width if tokens is not None else None
    features = Features(
        outputs, kept, request.skip_prompt, width=width,
        notes=[*notes, note, *describe_own_class(modules[0], encoder), *_describe_tokens(folder, kept, tokens)],
        encoder_outputs=tuple(value.name for value in encoder.interface.outputs),
    )  # fmt: skip
    planned: list[Planned] = [(edit, joint.path) for edit in towers[TEXT].edits] if towers else []
    planned += _name_embedding(features, encoder.path)
    if modules[0].kind == "Transformer" and modules[0].own_class is None:
        planned += [(step, modules[0].path) for step in plan_classifier_head(modules[0], features)]
    planned += [(step, folder) for step in plan_m3_outputs(folder, kept, features.outputs.get(TOKENS, ""))]
    mean = Module("Pooling", "the mean of StaticEmbedding", modules[0].path, {"pooling_mode": "mean"}, "")
    for module in (*([mean] if modules[0].kind == "StaticEmbedding" else []), *modules[1:]):
        planned += [(step, module.path) for step in plan_module(module, features)]
    planned += plan_ending(folder, config, modules, features)
    planned += plan_truncation(folder, config, features, request.truncate_dim)
    if request.precision is not None:
        planned.append((OutputPrecision(request.precision, request.ranges), None))
    _refuse_unused(request, [step for step, _ in planned])
    if not planned:
        raise FolderError(
            f"the modules of {folder} do not change the output of {encoder.path}",
            "there is nothing to bake; use the encoder as it is",
        )
    steps, origins = zip(*planned, strict=True)
    tokenization = read_tokenization(folder, modules[0])
    uncut = config.truncate_dim if request.truncate_dim is None and config.truncate_dim == features.embedding else None
    pictures = _plan_pictures(folder, config, modules, request, towers[IMAGE]) if towers else ()
    return BakePlan(
        folder, config, modules, joint, steps, origins, tuple(features.notes), tokenization, width, uncut,
        request.target, request.exported is not None, pictures,
    )  # fmt: skip


def _plan_pictures(
    folder: Path, config: FolderConfig, modules: tuple[Module, ...], request: Request, tower: TakenTower
) -> tuple[Edit, ...]:
    """Return the edits that make the file of pictures: the tower, and the same modules and cuts as for texts."""
    (embedding,) = (value.name for value in tower.model.interface.outputs)
    features = Features({SENTENCE: embedding}, encoder_outputs=(embedding,))
    planned = _name_embedding(features, None)
    for module in modules[1:]:
        planned += [(step, module.path) for step in plan_module(module, features)]
    planned += plan_truncation(folder, config, features, request.truncate_dim)
    if request.precision is not None:
        planned.append((OutputPrecision(request.precision, request.ranges), None))
    return (*tower.edits, *(step for step, _ in planned))


def _name_embedding(features: Features, encoder: Path | None) -> list[Planned]:
    """Return the edit that renames the embedding of an encoder that pools by itself; none if it has the usual name already."""
    name = features.outputs.get(SENTENCE, SENTENCE)
    if name == SENTENCE:
        return []
    features.outputs[SENTENCE] = SENTENCE
    return [(Rename((f"{name}={SENTENCE}",)), encoder)]


def check_uncut(plan: BakePlan, interface: Interface) -> None:
    """Raise FolderError if the embedding is wider than the configs said when the folder's cut was left out."""
    embedding = interface.output(SENTENCE)
    width = embedding.dims[-1] if embedding is not None and embedding.dims else None
    if plan.uncut is not None and isinstance(width, int) and width > plan.uncut:
        cut = f"{plan.folder / FOLDER_CONFIG} cuts the embedding to {plan.uncut} dims, its whole width by the modules' configs"
        raise FolderError(f"{cut}, but it has {width} dims", DOWNLOAD)


def _read_modules(folder: Path) -> tuple[Module, ...]:
    """Read the folder's modules. A cross-encoder from before 5.4 has no modules.json: its only module is the classifier."""
    if not (folder / MODULES).is_file():
        encoder = read_encoder_config(folder)
        if encoder is not None and encoder.is_classifier:
            return (Module("Transformer", "", folder, {"transformer_task": "sequence-classification"}, "CrossEncoder"),)
        if not is_there(folder / MODULES):
            raise FolderError(f"{folder} has no {MODULES}", _advise_without_modules(folder))
    return read_modules(folder)


def _advise_without_modules(folder: Path) -> str:
    """Return what to do with a folder that is not one of sentence-transformers."""
    if (folder / BAKED).is_file():
        return "graphsurgery baked it already; bake the folder that it was made from"
    advice = "give the folder of a sentence-transformers model, the one with modules.json"
    files = list_onnx_files(folder)
    return f"{advice}; or pool the ONNX file alone: graphsurgery add-pooling {folder / files[0]}" if files else advice


def _choose_route(modules: tuple[Module, ...], route: str | None) -> tuple[tuple[Module, ...], list[str]]:
    """Return the modules, with those of one route in place of a Router, and a note on the route."""
    router = next((module for module in modules if module.kind == "Router"), None)
    if router is None:
        if route is not None:
            raise RequestError(f"the folder has no Router module, but the route {route!r} was asked for", "leave out --route")
        return modules, []
    choices = read_routes(router)
    name = route if route is not None else read_default_route(router)
    if name is None or name not in choices:
        what = "the Router has no default route" if name is None else f"the Router has no route {name!r}"
        raise RequestError(f"{what}; its routes are {', '.join(choices)}", "choose one with --route; a file holds one route")
    place = modules.index(router)
    others = [other for other in choices if other != name]
    note = f"route {name} of {router.name}" + (f"; bake {', '.join(others)} with --route, each into a file" if others else "")
    return (*modules[:place], *choices[name], *modules[place + 1 :]), [note]


def _refuse_unused(request: Request, steps: Sequence[Edit]) -> None:
    """Raise RequestError for options that would have no effect."""
    if request.ranges is not None and request.precision is None:
        raise RequestError("ranges are for int8 and uint8, but no precision was asked for", "add --output-precision int8")
    if request.skip_prompt is not None and not any(getattr(step, "skip_prompt", None) for step in steps):
        raise RequestError("no module of the folder leaves the prompt out of pooling", "leave out --skip-prompt")


def _choose_kept(request: Request, outputs: dict[str, str], encoder: Model, tokens: TokenEmbeddings | None) -> tuple[str, ...]:
    """Return the features to keep: those that are asked for, and the heads of bge-m3 that the file makes itself.

    The encoder's own name for the hidden state is accepted, and so are its other outputs, which stay as they are. RequestError
    for anything else.
    """
    wanted = request.target.keep_output if request.target is not None else ()
    kept = tuple(TOKENS if name == outputs.get(TOKENS) else name for name in (*request.keep_output, *wanted))
    known = (TOKENS, *LAYERS) if TOKENS in outputs else ()
    choices = (*known, *(value.name for value in encoder.interface.outputs if value.name != outputs.get(TOKENS)))
    unknown = [name for name in kept if name not in choices]
    if unknown:
        raise RequestError(f"there is no output {unknown[0]!r} to keep", f"choose from {', '.join(choices)}")
    return tuple(dict.fromkeys((*kept, *(tokens.heads if tokens is not None else ()))))


def _describe_tokens(folder: Path, kept: tuple[str, ...], tokens: TokenEmbeddings | None) -> Iterator[str]:
    """Yield notes on token embeddings that the file does not give, and on layers of bge-m3 that are not asked for."""
    if tokens is None:
        return
    if tokens.is_inside:
        yield f"the file gives no token embeddings: its outputs are made of {tokens.name}, as a run shows, and so are these"
    left = [name for name, file in LAYERS.items() if name not in kept and is_there(folder / file)]
    if left:
        yield f"the folder has {', '.join(map(LAYERS.__getitem__, left))}: {' '.join(f'--keep-output {one}' for one in left)}"
