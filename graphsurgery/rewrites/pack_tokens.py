"""The rewrite ``padding-free``: the encoder computes on the tokens of a batch alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from graphsurgery.compare.tolerance import FLOAT32
from graphsurgery.edits.edit import parameter
from graphsurgery.edits.token_mask import ONES, PAD, MaskSpec
from graphsurgery.encoder.attention import COUNTED
from graphsurgery.encoder.head import KEEP_PADDED, PADDING_FREE, read_padding_free_form
from graphsurgery.encoder.roles import find_roles
from graphsurgery.errors import AlreadyAppliedError, MaskError, RequestError, UnsupportedModelError, require_value
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.write_back import replace_graph
from graphsurgery.interface import Value
from graphsurgery.model.model import Model
from graphsurgery.rewrites.detect_architecture import detect_architecture
from graphsurgery.rewrites.head_parts import split_head
from graphsurgery.rewrites.padding_free.lower import GATHER, ROW_BY_ROW, add_full_check, pack_tokens
from graphsurgery.rewrites.padding_free.two_ways import choose_by_padding
from graphsurgery.rewrites.padding_free.unfuse import unfuse
from graphsurgery.rewrites.rewrite import Context, Rewrite, Rewritten
from graphsurgery.rewrites.unchangeable import require_float_encoder, require_open_encoder
from graphsurgery.runtime.establish import establish_mask

FORMS = (ROW_BY_ROW, GATHER)
OLDEST_OPSET = 13
"""The opset since which a Loop takes sequences, and Split, Squeeze and ReduceSum have their axes as inputs."""
POOL_FIRST = "pool first, with add-pooling, and let it drop the hidden state"


@dataclass(frozen=True)
class PaddingFree(Rewrite):
    """Compute the encoder on the tokens of a batch alone, ``[1, tokens, ...]`` instead of ``[batch, seq, ...]``.

    With ``rows``, attention runs row by row in a Loop, where nothing is padded: no time or memory goes into padding, and no
    mask is needed. Its core is com.microsoft.MultiHeadAttention. With ``gather``, attention stays as it is; queries, keys and
    values are gathered to ``[batch, seq, ...]`` before it and packed again after it, with standard operators.

    With ``keep_padded``, the file also keeps the encoder as it was, and an If (ONNX, opset 1) runs it on batches in which every
    position is a token.
    """

    name: ClassVar[str] = "padding-free"
    summary: ClassVar[str] = "compute the encoder on tokens alone, without padding"
    exactness: ClassVar[str] = FLOAT32
    doing: ClassVar[str] = "taking the padding out of the encoder"

    form: str = parameter(
        "How attention runs: row by row, or on values gathered back to the padded batch.", ROW_BY_ROW, "|".join(FORMS)
    )
    keep_padded: bool = parameter("Keep the encoder as it was, too, and let it run on batches without any padding.", False)

    def __post_init__(self) -> None:
        """Raise RequestError for an unknown form."""
        if self.form not in FORMS:
            raise RequestError(f"there is no form {self.form!r}", f"choose from {', '.join(FORMS)}")

    def check(self, model: Model) -> None:
        require_float_encoder(model, self.name)
        if read_padding_free_form(model) is not None:
            raise AlreadyAppliedError(
                "the encoder is padding-free already", "use it as it is, or rewrite the file it was made of"
            )
        opset = max((one.version for one in model.proto.opset_import if not one.domain), default=0)
        if opset < OLDEST_OPSET:
            what = f"the file has opset {opset}, and {self.name} needs {OLDEST_OPSET}"
            raise UnsupportedModelError(what, "raise it with onnx.version_converter, or export the model again")
        shown = next((value for value in model.interface.outputs if _has_positions(value)), None)
        if shown is not None:
            what = f"the output {shown} has values for padded positions, which this rewrite does not compute"
            raise UnsupportedModelError(what, POOL_FIRST)
        _find_mask(model)

    def apply(self, encoder: Model, context: Context) -> Rewritten:
        """Take the padding out of ``encoder``. Raises UnsupportedModelError if its graph mixes tokens outside of attention, or
        in a way that ``form`` cannot express."""
        require_open_encoder(encoder)
        ids, mask = _find_mask(require_value(context.whole, "the whole model"))
        editor = Editor(encoder.proto)
        unfuse(editor)
        plain = replace_graph(encoder, editor.finish())
        namer, editor = editor.namer, Editor(plain.proto)
        editor.namer = namer  # it knows the names of both
        given = (ids, require_value(mask.name, "the mask's name"), mask.kind)
        by_row, others = pack_tokens(plain, editor, self.form, *given)
        how = [f"{by_row} row by row"] * bool(by_row) + [f"{others} as before, on values gathered back to rows"] * bool(others)
        note = f"the encoder computes on tokens alone; attentions: {', '.join(how) or 'none'}"
        recorded: dict[str, Any] = {PADDING_FREE: self.form}
        if self.keep_padded:
            is_full = add_full_check(plain, editor, *given)
            made = choose_by_padding(encoder.proto, editor.finish(), is_full, namer)
            note, recorded = f"{note}; batches without any padding run as before", recorded | {KEEP_PADDED: True}
        else:
            made = editor.finish()
        return Rewritten(replace_graph(encoder, made), recorded, (note,), architecture=detect_architecture(encoder))

    def list_fallbacks(self) -> Iterator[Self]:
        if self.form == ROW_BY_ROW:
            yield replace(self, form=GATHER)

    @classmethod
    def from_record(cls, parameters: Mapping[str, Any]) -> Self | None:
        form = parameters.get(PADDING_FREE)
        return cls(form, bool(parameters.get(KEEP_PADDED))) if form in FORMS else None

    @property
    def label(self) -> str:
        return f"{self.name} or padded" if self.keep_padded else self.name

    def __str__(self) -> str:
        return f"{self.name} ({self.form}{', or padded' if self.keep_padded else ''})"


def _has_positions(value: Value) -> bool:
    """Return whether a value may have one element or vector for each position, by its declared dims."""
    return value.dims is None or (len(value.dims) > 1 and not isinstance(value.dims[1], int))


def _find_mask(model: Model) -> tuple[str, MaskSpec]:
    """Return the input of token ids, and the mask by which the head of ``model`` pools.

    Raises UnsupportedModelError if the file records no head, and MaskError if its mask is not an input.
    """
    parts = split_head(model)
    steps = [one.step.given for one in parts.head if isinstance(one.step.given.get("mask"), str)]
    if not steps:
        raise UnsupportedModelError(
            "the file records no pooling that leaves out padding, so that values at padded positions may be needed",
            f"{POOL_FIRST}; `graphsurgery optimize --rehead` (the rewrite reattach-head) replaces a head of another program",
        )
    masks = sorted({str(step["mask"]) for step in steps})
    if len(masks) > 1:
        raise MaskError(
            f"the head reads several masks: {', '.join(masks)}", "let all its edits read the encoder's attention mask"
        )
    mask, ids = MaskSpec.parse(masks[0]), steps[0].get("ids")
    ids = ids or getattr(find_roles(parts.encoder.interface).ids, "name", None)
    if mask.kind in (ONES, PAD) or mask.name is None:
        raise MaskError(
            f"the head pools with the mask {mask}, which is no input of the encoder", "pool with the encoder's attention mask"
        )
    if ids is None:
        raise UnsupportedModelError("the encoder has no input of token ids", "this rewrite needs one, [batch, seq]")
    if establish_mask(parts.encoder, mask.name, ids).behind_alone:
        raise UnsupportedModelError(COUNTED, "")
    return ids, mask
