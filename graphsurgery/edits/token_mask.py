"""The mask: how users ask for it, where it is found, and how the graph computes it.

``m [batch, seq]`` bool is true at tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphsurgery.deferred import gs
from graphsurgery.edits.draft_operators import BOOL, INT32, INT64, Operators
from graphsurgery.edits.edit import parameter
from graphsurgery.encoder.attention import COUNTED
from graphsurgery.encoder.modalities import WAVEFORM, find_input
from graphsurgery.encoder.roles import MASK_NAMES, Roles, find_roles, is_ids_like
from graphsurgery.errors import MaskError, NameNotFoundError, require_value
from graphsurgery.interface import type_name
from graphsurgery.model.model import Model
from graphsurgery.remarks import Warn
from graphsurgery.runtime.establish import establish_mask, require_batch_first
from graphsurgery.runtime.mask_forms import ADDITIVE, LENGTHS, NONZERO, NOT, list_possible_forms
from graphsurgery.runtime.probing import GRAPH
from graphsurgery.suggestions import suggest

ONES, PAD = "ones", "pad"
"""Masks that no input gives: every position is a token; every id but one is a token."""
PREFIXED = (NOT, ADDITIVE, LENGTHS)
"""Forms of a mask input that are written as a prefix of its name. A name without a prefix means `NONZERO`."""
OTHER_NAMES = {"padded": NOT}
"""Other words for these forms: fairseq's padding mask is true at padding."""
MEANING = {
    NONZERO: "not 0 at tokens",
    NOT: "0 at tokens and not 0 at padding",
    ADDITIVE: "0 at tokens and a large negative number at padding",
    LENGTHS: "the number of tokens in each row",
}
NEEDED = {LENGTHS: "integers of [batch]", ADDITIVE: "floats of [batch, seq]"}
LONGEST_ID = 10
OPTION = ("--mask",)


def mask_parameter(
    help: str = "The mask: an input's name (a token is where it is not 0), not:NAME or padded:NAME (a token is where it is 0), "
    "additive:NAME (0 at tokens, a large negative number at padding), lengths:NAME (tokens per row, [batch]), ones (every "
    "position is a token), or pad:ID (tokens are the ids other than ID).",
) -> Any:
    """Declare the parameter of an edit that `find_mask` reads."""
    return parameter(help, None, "SPEC", otherwise="the attention mask input")


def ids_parameter() -> Any:
    """Declare the parameter that names the ids, which `find_mask` reads as well."""
    return parameter("The input with the token ids.", None, "NAME", otherwise="input_ids")


@dataclass(frozen=True)
class MaskSpec:
    """A mask as users ask for it. `parse` is the only place where an edit reads such a text."""

    kind: str
    """One of `mask_forms` for an input, `ONES` or `PAD`."""
    text: str
    """The text that the spec was read from, and that files record."""
    name: str | None = None
    """The input, if it is one."""
    pad_id: int | None = None
    """The id of padding, if tokens are the other ids."""

    @classmethod
    def parse(cls, text: str) -> MaskSpec:
        """Read ``NAME``, ``not:NAME``, ``padded:NAME``, ``additive:NAME``, ``lengths:NAME``, ``ones`` or ``pad:ID``.

        Raise MaskError if ID is not a token id.
        """
        if not isinstance(text, str):
            raise MaskError(f"a mask is named by a text, and {text!r} is not one", "write an input's name, ones or pad:ID")
        if text == ONES:
            return cls(ONES, text)
        kind, _, number = text.partition(":")
        kind = OTHER_NAMES.get(kind, kind)
        if kind in PREFIXED and number:
            return cls(kind, text, name=number)
        if kind != PAD or kind == text:
            return cls(NONZERO, text, name=text)
        digits = number.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= LONGEST_ID and abs(int(number)) < 1 << 31):
            raise MaskError(f"--mask {text[:40]} does not give a token id", "write the padding token's id, such as pad:0")
        return cls(PAD, text, pad_id=int(number))

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Mask:
    """A mask that was found in a model, and the input of token ids if there is one."""

    spec: MaskSpec
    ids: str | None
    warnings: tuple[str, ...] = ()
    """Warnings about how the encoder itself uses the mask."""


def find_mask(model: Model, asked: str | None, ids: str | None, pooled: str, *, takes_samples: bool = False) -> Mask:
    """Find the mask that is ``asked`` for, else the attention mask input; ``ids`` names the input of token ids.

    ``pooled`` is the value of tokens that the mask is for. ``takes_samples``: whether the mask may say which samples of a
    waveform are a clip's, because it is turned into one of frames.

    Raise MaskError, which lists the choices, if there is none, if it has not the form that is asked for, if it says which
    samples are a clip's where frames are needed, or if the encoder takes it for something else than it is asked for as;
    LayoutError if the sequence stands before the batch.
    """
    spec = None if asked is None else MaskSpec.parse(asked)
    named = None if spec is None or spec.name is None or model.interface.input(spec.name) is None else spec.name
    roles = find_roles(model.interface, ids, named)
    require_batch_first(model, roles, pooled)
    if ids is not None and model.interface.input(ids) is None:
        near = suggest(ids, (one.name for one in model.interface.inputs))
        raise NameNotFoundError(f"the model has no input {ids!r}", f"{near}its inputs are {_list_input_names(model)}")
    spec = spec or MaskSpec.parse(_find_default_name(model, roles))
    if spec.kind == PAD:
        return Mask(spec, _find_ids_for_padding(roles, spec))
    if not takes_samples:
        _require_positions(model, spec, pooled)
    warnings = () if spec.name is None else _check_mask_input(model, spec, ids)
    return Mask(spec, roles.ids.name if roles.ids else None, warnings)


def _require_positions(model: Model, spec: MaskSpec, pooled: str) -> None:
    """Raise MaskError for a mask of the samples of a waveform: ``pooled`` has frames, which are fewer."""
    waveform, value = find_input(model, WAVEFORM), model.interface.input(spec.name or "")
    if waveform is None or value is None:
        return
    samples = waveform.value.last_dim
    if spec.kind == LENGTHS or (value.rank == 2 and (samples is None or value.last_dim in (None, samples))):
        raise MaskError(
            f"{value} tells the samples of each clip, and {pooled} has frames, which are fewer",
            "only add-pooling counts the frames of samples: by such a mask, or by a new input with --lengths; --mask ones "
            "takes every frame",
            ("--mask",),
        )


def build_mask(ops: Operators, mask: Mask, x: gs.Tensor) -> gs.Variable:
    """Build ``m [batch, seq]`` bool, true at tokens, for ``x [batch, seq, dim]``.

    By the kind of the spec: mask != 0; mask = 0 (not, additive); p < lengths, p = 0, 1, ..., seq - 1; true everywhere (ones);
    ids != pad id.
    """
    if mask.spec.kind == ONES:
        return _fill(ops, x, np.bool_(True))
    if mask.spec.kind == LENGTHS:
        one = _fill(ops, x, np.int64(1))
        positions = ops.node("CumSum", one, ops.constant(1, np.int64, "axis"), name="positions", exclusive=1)
        lengths = ops.cast(ops.draft.tensor(require_value(mask.spec.name, "the lengths' name")), INT64, "lengths")
        return ops.node("Less", positions, ops.unsqueeze(lengths, 1, "lengths_2d"), name="mask")
    if mask.spec.kind == PAD:
        ids = ops.draft.tensor(require_value(mask.ids, "ids"))
        pad = ops.constant(mask.spec.pad_id, np.int64 if ids.dtype == np.int64 else np.int32, "pad_id")
        return ops.node("Not", ops.node("Equal", ids, pad, name="is_padding"), name="mask")
    given = ops.draft.tensor(require_value(mask.spec.name, "the mask's name"))
    is_nonzero = mask.spec.kind == NONZERO
    if given.dtype != np.bool_:
        given = ops.cast(given, BOOL, "mask" if is_nonzero else "is_padding")
    return given if is_nonzero else ops.node("Not", given, name="mask")


def _fill(ops: Operators, x: gs.Tensor, number: np.generic) -> gs.Variable:
    """Build ``[batch, seq]`` of one number, for ``x [batch, seq, dim]``."""
    shape = ops.node("Shape", x, name="shape")
    batch_seq = ops.node(
        "Slice", shape, ops.constant([0], np.int64, "start"), ops.constant([2], np.int64, "end"), name="batch_seq"
    )
    return ops.node("ConstantOfShape", batch_seq, name="ones", value=gs.Constant("ones", np.full(1, number)))


def exclude_prompt(ops: Operators, m: gs.Tensor, length: gs.Tensor) -> gs.Variable:
    """Build m and not p - first < N: ``m [batch, seq]`` bool without the N positions from each row's first token on.

    p = 0, 1, ..., seq - 1; first ``[batch, 1]`` is the first p with m = 1; ``length`` N is int64 ``[1]``.
    """
    first = ops.node("ArgMax", ops.cast(m, INT32, "mask_int"), name="first", axis=1, keepdims=1)
    positions = ops.positions(m, np.int64, from_zero=True)
    in_prompt = ops.node("Less", ops.node("Sub", positions, first, name="from_first"), length, name="in_prompt")
    return ops.node("And", m, ops.node("Not", in_prompt, name="behind_prompt"), name="mask")


def _find_default_name(model: Model, roles: Roles) -> str:
    if roles.mask is None:
        usual = ", ".join(MASK_NAMES[:3])
        raise MaskError(
            f"the model has no attention mask input ({usual}, ...); its inputs are {_list_input_names(model)}",
            f"{_suggest_masks(model, roles)}, or choose --mask ones (every position is a token) or --mask pad:ID (every id "
            "but ID is one)",
            OPTION,
        )
    return roles.mask.name


def _suggest_masks(model: Model, roles: Roles) -> str:
    """Say how to name the inputs that the graph takes as a mask."""
    specs = _list_masks(model, roles)
    return f"it could be --mask {' or --mask '.join(specs)}" if specs else "name it with --mask NAME"


def _list_masks(model: Model, roles: Roles) -> list[str]:
    """Return the specs of the inputs that the graph takes as a mask."""
    known = (roles.ids, roles.types, roles.positions)
    others = [one.name for one in model.interface.inputs if one not in known]
    meant = [(name, establish_mask(model, name, may_run=False).form) for name in others]
    return [_format_spec(form, name) for name, form in meant if form is not None]


def _format_spec(form: str, name: str) -> str:
    """Return the spec of an input whose mask is in ``form``."""
    return name if form == NONZERO else f"{form}:{name}"


def _check_mask_input(model: Model, spec: MaskSpec, ids: str | None) -> tuple[str, ...]:
    """Check that ``spec`` describes its input as the encoder uses it, and return warnings."""
    name = require_value(spec.name, "the mask's name")
    value = model.interface.input(name)
    if value is None:
        whole = model.interface.input(spec.text)  # an input that is itself called lengths:0
        forms = () if whole is None else list_possible_forms(whole)
        choices = [*[f"--mask {_format_spec(form, spec.text)}" for form in forms if form != NONZERO], "ones", "pad:ID"]
        near = suggest(name, (one.name for one in model.interface.inputs))
        raise NameNotFoundError(
            f"the model has no input {name!r} to take as the mask",
            f"{near}its inputs are {_list_input_names(model)}; or use {' or '.join(choices)}",
        )
    forms = list_possible_forms(value)
    if spec.kind not in forms:
        others = _list_masks(model, find_roles(model.interface, ids)) if not forms else []
        choices = [f"--mask {spec}" for spec in (*[_format_spec(form, name) for form in forms], *others, "ones", "pad:ID")]
        raise MaskError(
            f"the mask input is {value}; --mask {spec} needs {NEEDED.get(spec.kind, 'numbers or booleans of [batch, seq]')}",
            f"choose {' or '.join(choices)}", OPTION,
        )  # fmt: skip
    meaning = establish_mask(model, name, ids)
    if meaning.form is not None and meaning.form != spec.kind:
        shown = "the graph shows" if meaning.shown_by == GRAPH else "a run of the model shows"
        raise MaskError(
            f"--mask {spec} reads {name} as {MEANING[spec.kind]}, and {shown} that it is {MEANING[meaning.form]}",
            f"write --mask {_format_spec(meaning.form, name)}", OPTION,
        )  # fmt: skip
    if not meaning.behind_alone:
        return ()
    seen = "in a run of the encoder no padding but that behind all tokens made no difference: pad behind the tokens"
    return (Warn(COUNTED if meaning.shown_by == GRAPH else seen),)


def _find_ids_for_padding(roles: Roles, spec: MaskSpec) -> str:
    if roles.ids is None or not is_ids_like(roles.ids):
        found = f"{roles.ids.name} is {type_name(roles.ids.dtype)} of rank {roles.ids.rank}" if roles.ids else "there is none"
        raise MaskError(
            f"--mask {spec} needs an integer [batch, seq] input of token ids, but {found}",
            "name it with --ids NAME",
            ("--ids",),
        )
    return roles.ids.name


def _list_input_names(model: Model) -> str:
    return ", ".join(value.name for value in model.interface.inputs) or "none"
