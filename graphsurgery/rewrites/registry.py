"""Every rewrite by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphsurgery.edits.parameters import make_from_parameters
from graphsurgery.errors import RecipeError, RequestError
from graphsurgery.rewrites.compute_pooled_token import PooledToken
from graphsurgery.rewrites.convert_to_half import Half
from graphsurgery.rewrites.fuse_attention import FuseAttention
from graphsurgery.rewrites.fuse_encoder import Fuse
from graphsurgery.rewrites.fuse_rotary import FuseRotary
from graphsurgery.rewrites.pack_tokens import PaddingFree
from graphsurgery.rewrites.quantize_encoder import Quantize
from graphsurgery.rewrites.reattach_head import ReattachHead
from graphsurgery.rewrites.rewrite import Rewrite
from graphsurgery.rewrites.simplify_encoder import Simplify
from graphsurgery.suggestions import find_spelling, suggest

ALL: tuple[type[Rewrite], ...] = (
    ReattachHead, Simplify, FuseRotary, FuseAttention, Fuse, PaddingFree, Half, PooledToken, Quantize,
)  # fmt: skip
"""All rewrites, in the order in which they were applied to old files, which record several of them in one entry."""
REWRITES: dict[str, type[Rewrite]] = {rewrite.name: rewrite for rewrite in ALL}


def make_rewrite(name: str, given: Mapping[str, Any], where: str) -> Rewrite:
    """Return the rewrite that is called ``name``.

    Raises RecipeError if there is none, if it refuses the parameters, and as `make_from_parameters`.
    """
    name = find_spelling(name, REWRITES)
    if name not in REWRITES:
        advice = f"{suggest(name, REWRITES)}the rewrites are {', '.join(REWRITES)}"
        raise RecipeError(f"{where}: there is no rewrite {name!r}", advice)
    try:
        return make_from_parameters(REWRITES[name], given, where)
    except RecipeError:
        raise
    except RequestError as error:
        raise RecipeError(f"{where}: {error.message}", error.advice) from error


def read_recorded_rewrites(parameters: Mapping[str, Any]) -> list[Rewrite]:
    """Return the rewrites that one entry of a file records, in order."""
    return [found for rewrite in ALL if (found := rewrite.from_record(parameters)) is not None]
