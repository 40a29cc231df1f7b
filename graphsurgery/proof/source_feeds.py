"""The feeds of a proof: drawn for the source's inputs as the recorded edits describe them, and real text."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from graphsurgery.encoder.head import read_head_steps
from graphsurgery.encoder.limits import find_tables
from graphsurgery.encoder.modalities import PICTURE
from graphsurgery.encoder.roles import IDS_NAMES, MASK_NAMES, Roles, find_roles
from graphsurgery.errors import GraphSurgeryError, RequestError, UnsupportedModelError
from graphsurgery.interface import Value, read_value
from graphsurgery.model.model import Model
from graphsurgery.proof.pictures import ImageFeed
from graphsurgery.references.chain import Chain, Link, NameInSource
from graphsurgery.references.pooling import name_prompt_input
from graphsurgery.references.recorded_mask import RecordedMask
from graphsurgery.runtime.baked_sizes import make_feed_generator_for, restrict_to_baked_sizes
from graphsurgery.runtime.feeds import FeedGenerator, require_drawable
from graphsurgery.runtime.mask_forms import NONZERO, mean_the_same
from graphsurgery.runtime.media import Medium
from graphsurgery.runtime.media_sizes import MOST_WEIGHTS
from graphsurgery.runtime.probing import SEQUENCE_FIRST, Run, find_layout_by_run, find_meaning_by_run, is_form_of_run
from graphsurgery.runtime.second_masks import feed_second_masks
from graphsurgery.runtime.session import open_session
from graphsurgery.runtime.texts import SENTENCES, Encoded, find_tokenizer, read_texts, tokenize

OPTIONAL, ADDED, IMAGES = "optional-input", "add-input", "add-image-input"
ROLES = ("ids", "mask", "types", "positions")


def make_feed_generator(source: Model, chain: Chain | None = None) -> FeedGenerator:
    """Return a generator of feeds for the inputs that ``source`` has after the edits of ``chain``.

    The ids and the mask are the inputs that ``chain``, or the edits that the source records itself, name as such. The embedding
    tables are the source's. Raise UnsupportedModelError if one of these edits cannot be read, because the meaning of its inputs
    is unknown then, or if an input is too large to be drawn.
    """
    chain, own = chain or Chain(), Chain(read_head_steps(source))
    ids, mask, prompt = _find_names(source, chain, own)
    roles = find_roles(source.interface, ids=ids, mask=mask)
    after = chain.apply_fields(source)[-1]
    inputs = {value.name: value for value in after.interface.inputs}
    require_drawable(after.interface.inputs)
    masks = [_find_mask(link) for link in (*chain, *own)]
    pad = next((one.pad_id for one in masks if one is not None and one.pad_id is not None), None)
    tables = find_tables(source, roles)
    form = _find_form(masks)
    if form is None and any(one is not None for one in masks):  # the tokens are those of the ids, or all positions
        form = _find_form_by_run(source, FeedGenerator(roles, tables))
    form = form or NONZERO
    sized = feed_second_masks(source, restrict_to_baked_sizes(source, FeedGenerator(roles, tables, form=form)))
    ones = frozenset(chain.input_name_in_output(name) or name for name in sized.ones)
    named = ((medium, chain.input_name_in_output(medium.name)) for medium in sized.media)
    media = [replace(medium, name=name) for medium, name in named if name in inputs]
    media = [replace(medium, only=medium.only and not _is_literal(inputs[medium.name])) for medium in media]
    images = find_images(chain)
    media += [] if images is None else [Medium(images.name, PICTURE, (*images.kept, 3))]
    limits = [link.reference.longest(link.parameters) for link in chain]
    most = min((limit for limit in limits if limit is not None), default=None)

    def generator(inputs: dict[str, Value], fed: FeedGenerator | None = None) -> FeedGenerator:
        still = {role: inputs.get(_name_after(chain, getattr(roles, role)) or "") for role in ROLES}
        lengths = _find_lengths(chain)
        still |= {"mask": inputs[lengths]} if lengths in inputs else {}
        taken = {value.name for value in still.values() if value is not None}
        others = tuple(value for value in inputs.values() if value.name not in taken)
        called = _find_prompt(chain) or prompt
        unread = {behind(name) for link, behind in chain.walk_inputs_from_output() if link.edit == ADDED for name in link.added}
        return FeedGenerator(
            Roles(**still, others=others), tables, pad if still["ids"] is not None else None,
            called if called in inputs else None, fed, most, form, frozenset(unread),
            ones=ones, baked=sized.baked, media=tuple(media),
        )  # fmt: skip

    optional = {name: value for name, value in _list_inputs(after).items() if name in _list_optional(chain)}
    return generator(inputs, generator(inputs | optional) if optional else None)


def _is_literal(value: Value) -> bool:
    """Return whether all dims of an input but the first are numbers."""
    return all(isinstance(dim, int) for dim in (value.dims or (None, None))[1:])


def _find_names(source: Model, chain: Chain, own: Chain) -> tuple[str | None, str | None, str | None]:
    """Return the ids, mask and prompt length of ``source``, as ``chain`` and the edits that the source records name them."""
    known = list(_find_recorded_roles(source, chain, own))
    ids, mask, prompt = (next((one[place] for one in known if one[place] is not None), None) for place in range(3))
    return ids, mask, prompt


@dataclass(frozen=True)
class TriedInputs:
    """Whether a run of the source confirms what recorded edits take its inputs for."""

    wrong: str = ""
    """What the run contradicts; empty if it contradicts nothing."""
    unknown: tuple[str, ...] = ()
    """What the run does not show."""


def try_inputs(run: Run, source: Model, chain: Chain) -> TriedInputs:
    """Run the source to see whether its masks are what the edits of ``chain`` read them as, and the batch comes first."""
    unknown: list[str] = []
    ids, usual_mask, _ = _find_names(source, chain, Chain(read_head_steps(source)))
    for link, origin in chain.walk_from_source():
        mask = _find_mask(link)
        if mask is None:
            continue
        name = None if mask.input is None else origin(mask.input)
        roles = find_roles(source.interface, ids, usual_mask if name is None else name)
        generator = make_feed_generator_for(source, roles, _find_form([mask]) or NONZERO)
        try:
            tried = _try_inputs(run, generator, link.edit, name is not None, chain.starts)
        except UnsupportedModelError as error:
            tried = TriedInputs(unknown=(f"what the source takes its inputs for: {error}",))
        if tried.wrong:
            return tried
        unknown += tried.unknown
    return TriedInputs(unknown=tuple(dict.fromkeys(unknown)))


def _try_inputs(run: Run, generator: FeedGenerator, edit: str, has_mask: bool, starts: Collection[str]) -> TriedInputs:
    if find_layout_by_run(run, generator, starts) == SEQUENCE_FIRST:
        return TriedInputs(f"{edit} is for [batch, seq], and in the source the sequence comes before the batch")
    value = generator.roles.mask
    if not has_mask or value is None or is_form_of_run(run, generator):
        return TriedInputs()
    meaning = find_meaning_by_run(run, generator)
    if meaning.form is not None and not mean_the_same(meaning.form, generator.form):
        return TriedInputs(f"{edit} reads the mask {value.name} as {generator.form}, and to the source it is {meaning.form}")
    if meaning.form is not None or not meaning.mixes:
        return TriedInputs()
    what = f"the mask {value.name}: no run of the source shows at which of its values a position is a token"
    return TriedInputs(unknown=(f"{what}; it was fed as {edit} reads it",))


def _find_form(masks: Sequence[RecordedMask | None]) -> str | None:
    """Return the form of the mask input, as recorded edits read it. None if none of them reads it."""
    kinds = (one.kind.removesuffix(":") or NONZERO for one in masks if one is not None and one.input is not None)
    return next(kinds, None)


def _find_form_by_run(source: Model, generator: FeedGenerator) -> str:
    """Return the form in which ``source`` takes a mask that no recorded edit reads. It is `NONZERO` if no run shows it."""
    if generator.roles.mask is None or source.weight_bytes > MOST_WEIGHTS:
        return NONZERO
    try:
        sized = feed_second_masks(source, restrict_to_baked_sizes(source, generator))
        meaning = find_meaning_by_run(open_session(source).run, sized)
    except (GraphSurgeryError, MemoryError):  # the proof that runs the source says so
        return NONZERO
    return meaning.form or NONZERO


def _list_inputs(model: Model) -> dict[str, Value]:
    """Return every input that the graph lists, including those with a default."""
    return {info.name: read_value(info) for info in model.proto.graph.input}


def _list_optional(chain: Chain) -> set[str]:
    """Return the inputs to which ``chain`` gave a default."""
    return {behind(link.parameters["input"]) for link, behind in chain.walk_inputs_from_output() if link.edit == OPTIONAL}


def _find_recorded_roles(source: Model, chain: Chain, own: Chain) -> Iterator[tuple[str | None, ...]]:
    """Yield the ids, mask and prompt length that recorded edits name, by the source's names. ``own`` are the source's edits."""
    for link, origin in chain.walk_from_source():
        yield _find_inputs(source, _read_roles(link), origin)
    yield from [_find_inputs(source, _read_roles(link), behind) for link, behind in own.walk_inputs_from_output()][::-1]
    for ids, mask in product(IDS_NAMES, MASK_NAMES) if own else ():  # for inputs that a recorded edit renamed
        yield _find_inputs(source, (ids, mask, None), own.input_name_in_output)


def _read_roles(link: Link) -> tuple[str | None, ...]:
    mask = _find_mask(link)
    return link.parameters.get("ids"), None if mask is None else mask.input, name_prompt_input(link.parameters)


def _find_mask(link: Link) -> RecordedMask | None:
    mask = link.parameters.get("mask")
    return mask if isinstance(mask, RecordedMask) else None


def _find_inputs(source: Model, names: Sequence[str | None], called: NameInSource) -> tuple[str | None, ...]:
    in_source = [None if name is None else called(name) for name in names]
    return tuple(name if name is not None and source.interface.input(name) is not None else None for name in in_source)


def _name_after(chain: Chain, value: Value | None) -> str | None:
    """Return the name of the source's input ``value`` after ``chain``."""
    return None if value is None else chain.input_name_in_output(value.name)


def find_images(chain: Chain) -> ImageFeed | None:
    """Return how the input of pictures is fed that ``chain`` added, if it added one."""
    found = [
        ImageFeed(behind(link.parameters["name"]), link.parameters["resize"], link.parameters["crop"])
        for link, behind in chain.walk_inputs_from_output() if link.edit == IMAGES
    ]  # fmt: skip
    return next(iter(found), None)


def _find_prompt(chain: Chain) -> str | None:
    """Return the input that holds the prompt's length, if ``chain`` added one."""
    links = chain.walk_inputs_from_output()
    prompts = [behind(name) for link, behind in links if (name := name_prompt_input(link.parameters)) is not None]
    return prompts[-1] if prompts else None


def _find_lengths(chain: Chain) -> str | None:
    """Return the input that holds the lengths of clips, if ``chain`` added one."""
    links = list(chain.walk_inputs_from_output())
    added = [behind(name) for link, behind in links if link.parameters.get("frame_steps") for name in link.added]
    return added[0] if added else None


def require_texts(
    model: Model, other: Model, generator: FeedGenerator, path: str | os.PathLike[str], longest: int, advice: str
) -> Encoded:
    """Return the texts of a file as `find_texts` does. Raise RequestError with this ``advice`` if they cannot be fed."""
    encoded, why_not = find_texts(model, other, generator, path, generator.limit_length(longest))
    if encoded is None:
        raise RequestError(f"the texts of {os.fspath(path)} cannot be fed: {why_not}", advice)
    return encoded


def find_texts(
    source: Model, output: Model, generator: FeedGenerator, path: str | os.PathLike[str] | None, longest: int | None = None
) -> tuple[Encoded | None, str | None]:
    """Return tokenised texts: the user's, or sentences of our own. Without a usable tokenizer, return None and the reason.

    A model of pictures or sound alone has no texts, which needs no reason. Texts are cut at ``longest`` tokens, by default the
    generator's `longest_text`.

    Raise an error instead if the user asked for texts.
    """
    if path is None and generator.roles.ids is None and generator.media:
        return None, None
    texts = SENTENCES if path is None else read_texts(os.fspath(path))
    try:
        return encode_texts(source, output, generator, texts, longest or generator.longest_text), None
    except UnsupportedModelError as error:
        return None, f"real text: {error}"
    except GraphSurgeryError as error:
        if path is not None:
            raise
        return None, f"real text: {error}"


def encode_texts(source: Model, output: Model, generator: FeedGenerator, texts: Sequence[str], longest: int) -> Encoded:
    """Return ``texts`` tokenised by the tokenizer of either model, cut at ``longest`` tokens.

    Raise RequestError without a tokenizer, UnsupportedModelError if the model does not take its ids, and the errors of
    `tokenize`.
    """
    tokenizer = find_tokenizer(source.place) or find_tokenizer(output.path)
    if tokenizer is None:
        raise RequestError(
            "there is no tokenizer.json beside the model or above it",
            "put the tokenizer.json of the model beside it",
        )
    if generator.roles.ids is None:
        raise UnsupportedModelError("the model has no input of token ids")
    encoded = tokenize(tokenizer, texts, longest)
    vocabulary = generator.tables.vocabulary
    if vocabulary is not None and int(np.max(encoded.ids)) >= vocabulary:
        raise UnsupportedModelError(f"{tokenizer.name} gives ids beyond the {vocabulary} rows of the embedding table")
    return encoded
