"""The towers of a joint model of texts and pictures, each taken out of it and declared at the sizes at which it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphsurgery.baking.features import SENTENCE
from graphsurgery.edits.edit import Edit
from graphsurgery.edits.extract_tower import ExtractTower
from graphsurgery.edits.fix_dim import FixDim
from graphsurgery.encoder.towers import KINDS, has_two_towers
from graphsurgery.folders.modules import Module
from graphsurgery.folders.transformer_config import read_transformer_settings
from graphsurgery.model.model import Model
from graphsurgery.runtime.baked_sizes import declare_baked_sizes


@dataclass(frozen=True)
class TakenTower:
    """A tower, and the edits that took it out of the joint model. Its vectors are not normalised."""

    model: Model
    edits: tuple[Edit, ...]


def take_tower(joint: Model, kind: str, target: str | None = None) -> TakenTower:
    """Take the tower of a ``kind`` out of ``joint``, and declare the only size of pictures at which it runs.

    ``target`` is its embedding, if the graph leaves that open. Raises what `ExtractTower` raises.
    """
    extract = ExtractTower(kind, target)
    model = extract.apply(joint)
    sizes = _list_only_sizes(model)
    if not sizes:
        return TakenTower(model, (extract,))
    fix = FixDim(tuple(f"{name}={size}" for name, size in sizes.items()))
    return TakenTower(fix.apply(model), (extract, fix))


def take_towers(module: Module, encoder: Model) -> Mapping[str, TakenTower]:
    """Return both towers of ``encoder`` if it is a joint model and ``module`` embeds by a tower of it; otherwise nothing."""
    settings = None if module.own_class else read_transformer_settings(module)
    if settings is None or settings.output_name != SENTENCE or not has_two_towers(encoder):
        return {}
    return {kind: take_tower(encoder, kind) for kind in KINDS}


def _list_only_sizes(model: Model) -> dict[str, int]:
    """Return the dims that ``model`` declares free although it runs at one size alone, with that size."""
    declared, _ = declare_baked_sizes(model)
    pairs = (
        pair
        for before, after in zip(model.interface.inputs, declared.inputs, strict=True)
        for pair in zip(before.dims or (), after.dims or (), strict=True)
    )
    return {name: size for name, size in pairs if isinstance(name, str) and isinstance(size, int)}
