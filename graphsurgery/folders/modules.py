"""A model folder's ``modules.json``: which modules are applied to a text, in which order, and with which settings.

sentence-transformers moved its classes twice: ``sentence_transformers.models.Pooling`` (up to 5.3, and
``sentence_transformers.sparse_encoder.models.SpladePooling``) became
``sentence_transformers.sentence_transformer.modules.pooling.Pooling`` and ``sentence_transformers.base.modules.dense.Dense``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from graphsurgery.errors import FolderError
from graphsurgery.folders.files import (
    DOWNLOAD,
    LARGEST_CONFIG,
    LARGEST_VOCABULARY,
    is_folder,
    is_there,
    read_json,
    read_setting,
    resolve_inside,
)
from graphsurgery.model.parsing import shorten

TRANSFORMER_CONFIGS = tuple(
    f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""File names of the Transformer module's own settings, in the order in which they are looked for."""
DIMENSION = MappingProxyType({"word_embedding_dimension": "embedding_dimension"})


@dataclass(frozen=True)
class Kind:
    """How one kind of module is stored."""

    configs: tuple[str, ...] = ("config.json",)
    """Possible names of its config. The first that exists is used."""
    needs_config: bool = True
    needs_folder: bool = True
    renamed: Mapping[str, str] = field(default_factory=dict)
    """The current names of keys, by their older names."""
    has_vocabulary: bool = False
    """Whether its config holds a vocabulary and may be large."""


_TRANSFORMER = Kind(
    TRANSFORMER_CONFIGS,
    needs_config=False,
    renamed={"model_args": "model_kwargs", "tokenizer_args": "processor_kwargs", "config_args": "config_kwargs"},
)
KINDS = {
    "Transformer": _TRANSFORMER,
    "CLIPModel": _TRANSFORMER,
    "Pooling": Kind(renamed=DIMENSION),
    "Dense": Kind(),
    "Normalize": Kind((), needs_config=False, needs_folder=False),
    "LayerNorm": Kind(),
    "Dropout": Kind(needs_config=False, needs_folder=False),
    "WeightedLayerPooling": Kind(renamed=DIMENSION),
    "WordWeights": Kind(has_vocabulary=True),
    "WordEmbeddings": Kind(("wordembedding_config.json",)),
    "CNN": Kind(("cnn_config.json",), renamed={"in_word_embedding_dimension": "in_embedding_dimension"}),
    "LSTM": Kind(("lstm_config.json",), renamed=DIMENSION),
    "BoW": Kind(has_vocabulary=True),
    "StaticEmbedding": Kind((), needs_config=False),
    "SpladePooling": Kind(renamed=DIMENSION),
    "SparseStaticEmbedding": Kind(needs_config=False),
    "SparseAutoEncoder": Kind(),
    "LogitScore": Kind(),
    "Router": Kind(("router_config.json", "config.json")),
}
"""Every kind of sentence-transformers 5.7. Normalize needs no settings and Dropout does nothing after training. Their folders
are empty then, and downloads leave out empty folders, so they may be missing."""
DEFAULT_SETTINGS: dict[str, dict[str, Any]] = {
    "MLMTransformer": {"transformer_task": "fill-mask"},
    "CLIPModel": {
        "module_output_name": "sentence_embedding",
        "modality_config": {"text": {"method": "get_text_features", "method_output_name": None}},
    },
}
FIXED_SETTINGS: dict[str, dict[str, Any]] = {
    "pylate Dense": {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"},
}
"""Settings that follow from the class: `DEFAULT_SETTINGS` where the config leaves them out, `FIXED_SETTINGS` whatever it
says."""
ALIASES = {"Asym": "Router", "MLMTransformer": "Transformer", "pylate Dense": "Dense"}
SENTENCE_TRANSFORMERS = re.compile(
    r"sentence_transformers\.(?:(?:base|sentence_transformer|sparse_encoder|cross_encoder)\.)?(?:models|modules)\.(?:\w+\.)?(\w+)"
)
PYLATE = re.compile(r"pylate\.models\.(?:Dense\.)?Dense")


def find_class(type_name: str) -> str | None:
    """Return the class of a ``type`` in modules.json, as `KINDS` and `ALIASES` name it, or None if it is unknown."""
    if PYLATE.fullmatch(type_name):
        return "pylate Dense"
    found = SENTENCE_TRANSFORMERS.fullmatch(type_name)
    name = found.group(1) if found else None
    return name if name in KINDS or name in ALIASES else None


def is_own_class(type_name: str) -> bool:
    """Return whether a ``type`` in modules.json is a class that the folder or another package brings."""
    package, dot, _ = type_name.partition(".")
    return bool(dot) and package != "sentence_transformers" and find_class(type_name) is None


def find_kind(class_name: str) -> str:
    """Return the kind of a class that `find_class` returned."""
    return ALIASES.get(class_name, class_name)


MODULES = "modules.json"
MOST_MODULES = 1000


@dataclass(frozen=True)
class Module:
    """One step of a model. ``kind`` is one of `KINDS`. ``config`` has the keys of sentence-transformers 5.7, whatever version
    wrote the file, and is empty without a config."""

    kind: str
    name: str
    path: Path
    config: dict[str, Any]
    type: str
    """The class path as the folder states it."""
    arguments: tuple[str, ...] = ()
    """The arguments of a call, besides the text, that the folder says the module reads (``task``)."""

    @property
    def own_class(self) -> str | None:
        """The class path of a first module that is the folder's own (``custom_st.Transformer``), or None for a known class."""
        return self.type if is_own_class(self.type) else None


@dataclass(frozen=True)
class ListedModule:
    """A module as modules.json lists it, without its settings."""

    kind: str
    """One of `KINDS`, or the class path of an unknown class."""
    name: str

    def to_json(self) -> dict[str, str]:
        return {"name": self.name, "kind": self.kind}


def list_modules(folder: Path) -> tuple[ListedModule, ...]:
    """Return what modules.json lists, whatever the classes. Raise FolderError if it is malformed."""
    path = folder / MODULES
    return tuple(
        ListedModule(find_kind(find_class(type_name) or type_name), name)
        for _, type_name, name in (_read_listing(path, position, entry) for position, entry in enumerate(_read_entries(folder)))
    )


def read_modules(folder: Path) -> tuple[Module, ...]:
    """Return the modules of a model folder, in the order in which they are applied.

    Raises FolderError if modules.json is missing or malformed, names an unknown class, a path outside the folder or a missing
    one, or if a module's config is missing or malformed.
    """
    path = folder / MODULES
    if not is_there(path):
        raise FolderError(
            f"{folder} has no {MODULES}", "give the folder of a sentence-transformers model, the one with modules.json"
        )
    entries = _read_entries(folder)
    found = tuple(_read_entry(folder, path, position, entry) for position, entry in enumerate(entries))
    _check_distinct(folder, path, found, [entry.get("idx", position) for position, entry in enumerate(entries)])
    return found


def read_module(
    folder: Path, place: str, type_name: str, name: str, source: Path, *, first: bool = False, arguments: tuple[str, ...] = ()
) -> Module:
    """Return the module of class ``type_name`` in ``folder / place``, both as ``source`` states them.

    The ``first`` one may be of a class of the folder's own: it is a Transformer then, which no code but its own describes.
    """
    class_name = "Transformer" if first and is_own_class(type_name) else find_class(type_name)
    if class_name is None:
        known = ", ".join(sorted(KINDS))
        raise FolderError(
            f"{source}: the module {shorten(name)!r} is of the unknown class {shorten(type_name)!r}; known are {known}",
            "no module is left out silently: bake the encoder alone with add-pooling, and apply this module yourself",
        )
    kind = KINDS[find_kind(class_name)]
    path = folder if place in ("", ".", "./") else resolve_inside(folder, place.removesuffix("/"), str(source))
    if kind.needs_folder and not is_folder(path):
        raise FolderError(f"{source}: the module {shorten(name)!r} is missing: {path} is not a folder", DOWNLOAD)
    config = {**DEFAULT_SETTINGS.get(class_name, {}), **_read_config(path, kind), **FIXED_SETTINGS.get(class_name, {})}
    return Module(find_kind(class_name), name, path, config, type_name, arguments)


def _read_entries(folder: Path) -> list[Any]:
    entries: list[Any] = read_json(resolve_inside(folder, MODULES, str(folder)), list)
    if not 0 < len(entries) <= MOST_MODULES:
        raise FolderError(f"{folder / MODULES} lists {len(entries)} modules", DOWNLOAD)
    return entries


def _read_listing(path: Path, position: int, entry: object) -> tuple[str, str, str]:
    """Return the folder, the class path and the name of an entry."""
    what = f"{path}: entry {position}"
    if not isinstance(entry, dict):
        raise FolderError(f"{what} is not a JSON object", DOWNLOAD)
    place, type_name = read_setting(entry, "path", str, path), read_setting(entry, "type", str, path)
    if place is None or not type_name:
        raise FolderError(f"{what} has no {'type' if place is not None else 'path'}", DOWNLOAD)
    return place, type_name, str(read_setting(entry, "name", (str, int), path, position))


def _read_entry(folder: Path, path: Path, position: int, entry: Any) -> Module:
    place, type_name, name = _read_listing(path, position, entry)
    read_setting(entry, "idx", int, path)
    arguments = tuple(map(str, read_setting(entry, "kwargs", list, path, [])))
    return read_module(folder, place, type_name, name, path, first=position == 0, arguments=arguments)


def _check_distinct(folder: Path, path: Path, modules: tuple[Module, ...], numbers: list[object]) -> None:
    """Check that no two entries share an idx, a name or a folder. The first module may be in the model's own folder; Normalize
    needs no folder."""
    folders = [str(module.path) for module in modules if module.path != folder or KINDS[module.kind].needs_folder]
    listed: dict[str, list[Any]] = {"idx": numbers, "name": [module.name for module in modules], "path": folders}
    for what, values in listed.items():
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise FolderError(f"{path}: two modules have the {what} {shorten(str(twice[0]))!r}", DOWNLOAD)


def _read_config(path: Path, kind: Kind) -> dict[str, Any]:
    """Return the config of a module in ``path``, with the current names of its keys."""
    name = next((name for name in kind.configs if is_there(path / name)), None)
    if name is None:
        if kind.needs_config:
            raise FolderError(f"{path} has no {' and no '.join(kind.configs)}", DOWNLOAD)
        return {}
    largest = LARGEST_VOCABULARY if kind.has_vocabulary else LARGEST_CONFIG
    config: dict[str, Any] = read_json(resolve_inside(path, name, str(path)), largest=largest)
    for old, new in kind.renamed.items():
        if old in config and new not in config:
            config[new] = config.pop(old)
    return config
