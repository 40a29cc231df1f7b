"""The parameters of pooling, compared with the model folder's config: modes, prompt and token weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from graphsurgery.deferred import gs
from graphsurgery.edits.draft_operators import FLOAT, Operators
from graphsurgery.edits.pooling_graph import MODES
from graphsurgery.encoder.head import WORD_WEIGHTS, read_head_steps
from graphsurgery.encoder.hidden_state import infer_values, make_missing_value_error
from graphsurgery.errors import RequestError
from graphsurgery.folders.pooling_config import PoolingConfig, find_pooling_config
from graphsurgery.graph.graph import Graph
from graphsurgery.interface import Value
from graphsurgery.model.dtypes import FLOATS
from graphsurgery.model.model import Model
from graphsurgery.model.names import Namer
from graphsurgery.remarks import Warn

DIVIDING = ("mean", "mean_sqrt_len_tokens", "weightedmean")
"""The pooling modes that divide by the sum of the token weights, if there are any, as in sentence-transformers."""
AUTO, INPUT = "auto", "input"
WEIGHTED = "weightedmean"
OTHER_NAMES = {
    "average": "mean", "avg": "mean", "last": "lasttoken", "last_token": "lasttoken", "last-token": "lasttoken",
    "mean_pooling": "mean", "weighted_mean": "weightedmean",
}  # fmt: skip
"""What other programs call pooling modes, and what these are in sentence-transformers."""
FIRST, ABSOLUTE = "first", "absolute"
"""Where the positions that weigh tokens count from: a row's first token, or the first position."""
PROMPT_LENGTH = "prompt_length"
"""The input that gives the number of positions of a prompt."""
PROMPT_VALUE = Value(PROMPT_LENGTH, onnx.TensorProto.INT64, (1,))
MOST_DIGITS = 9
PROMPT_LENGTH_HELP = (
    "N is prompt_length of sentence-transformers: the number of tokens of the prompt alone, including special tokens before it "
    "but not the one after it"
)


def read_prompt(model: Model, asked: str | None) -> str | None:
    """Return ``input`` or a number in digits. Raises RequestError for anything else, or if the new input's name is taken."""
    if asked is None:
        return None
    text = str(asked).strip()
    if text == INPUT:
        if Namer.of(model.proto).has(PROMPT_LENGTH):
            raise RequestError(f"the name {PROMPT_LENGTH!r} is taken in this graph", "give the prompt's length as a number")
        return INPUT
    if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS):
        raise RequestError(
            f"{asked!r} is not a number of positions", f"give a number such as --skip-prompt 5 ({PROMPT_LENGTH_HELP}), or input"
        )
    return str(int(text))


def read_modes(asked: tuple[str, ...], model: Path | None, prompt: str | None) -> tuple[tuple[str, ...], list[str]]:
    """Return the requested modes, or for ``auto`` the config's, and warnings if the request differs from the config.

    Modes may be in capitals, and have the names of `OTHER_NAMES`. Raise RequestError for an unknown mode, and for ``auto``
    without a config.
    """
    asked = tuple(OTHER_NAMES.get(mode.lower(), mode.lower()) for mode in asked)
    if asked == (AUTO,):
        config = find_pooling_config(model) if model is not None else None
        if config is None:
            raise RequestError(
                "there is no 1_Pooling/config.json beside or above the model to read the pooling mode from",
                "name the model's folder with --like, or give the mode that the model was trained with: --mode mean or cls "
                "for most encoders, lasttoken for decoders",
                ("--mode",),
            )
        if not config.include_prompt and prompt is None:
            raise RequestError(
                f"{config.path} says include_prompt: false, so a prompt's tokens are not pooled; it does not say how many",
                f"give --skip-prompt N ({PROMPT_LENGTH_HELP}; 0 for texts without a prompt), or input to feed it in every run",
            )
        return config.modes, _compare_prompt(config, prompt)
    for mode in asked:
        if mode not in MODES:
            raise RequestError(f"the pooling mode {mode!r} is not known", f"choose from {', '.join(MODES)}, or auto")
    return asked, _compare_with_config(asked, model, prompt)


def _compare_with_config(asked: tuple[str, ...], model: Path | None, prompt: str | None) -> list[str]:
    try:
        config = find_pooling_config(model) if model is not None else None
    except RequestError as error:
        return [Warn(str(error))]
    if config is None:
        return []
    found = _compare_prompt(config, prompt)
    if asked != config.modes:
        says = ",".join(config.modes)
        found.append(Warn(f"{config.path} says {says}, but {','.join(asked)} was requested: the vectors will differ"))
    return found


def _compare_prompt(config: PoolingConfig, prompt: str | None) -> list[str]:
    if not config.include_prompt and prompt is None:
        return [
            Warn(
                f"{config.path} says include_prompt: false, but the prompt's tokens are pooled: the vectors will differ; "
                "leave them out with --skip-prompt"
            )
        ]
    if config.include_prompt and prompt is not None:
        return [Warn(f"{config.path} says that a prompt's tokens are pooled, but they are left out: the vectors will differ")]
    return []


def read_weights_from(asked: str | None, modes: Sequence[str]) -> str | None:
    """Return where the positions of weightedmean count from, or None if it is not among ``modes``.

    Raise RequestError for anything else, and if it is asked for without weightedmean.
    """
    if asked not in (None, FIRST, ABSOLUTE):
        raise RequestError(f"positions cannot be counted from {asked!r}", f"choose --weights-from {FIRST} or {ABSOLUTE}")
    if asked is not None and WEIGHTED not in modes:
        what = f"--weights-from is for {WEIGHTED}, and the mode is {','.join(modes)}"
        raise RequestError(what, f"leave it out, or choose --mode {WEIGHTED}")
    return (asked or FIRST) if WEIGHTED in modes else None


@dataclass(frozen=True)
class TokenWeights:
    """The value ``[batch, seq]`` that holds the tokens' weights."""

    name: str
    is_float32: bool

    def build(self, ops: Operators) -> gs.Tensor:
        """Return the value in float32."""
        found = ops.draft.tensor(self.name)
        return found if self.is_float32 else ops.cast(found, FLOAT, "token_weights_float32")


def find_token_weights(model: Model, name: str | None, modes: Sequence[str]) -> TokenWeights | None:
    """Find the value ``name``, else that of the newest recorded add-word-weights. Return None if no mode divides by weights.

    Raises NameNotFoundError if there is no such value, RequestError if it does not hold floats ``[batch, seq]``.
    """
    found = name if name is not None else _find_recorded_name(model)
    if found is None or not any(mode in DIVIDING for mode in modes):
        return None
    graph = Graph.of(model)
    if graph.value(found) is None:
        raise make_missing_value_error(graph, found, "add-word-weights makes token weights")
    value = model.interface.input(found) or model.interface.output(found) or infer_values(model).output(found)
    if value is not None and (value.rank not in (2, None) or value.dtype not in (*FLOATS, onnx.TensorProto.UNDEFINED)):
        raise RequestError(
            f"{value} cannot hold the tokens' weights", "name a value of floats [batch, seq] with --token-weights"
        )
    return TokenWeights(found, value is not None and value.dtype == FLOAT)


def _find_recorded_name(model: Model) -> str | None:
    names = [str(step.parameters["token_weights"]) for step in read_head_steps(model) if step.edit == WORD_WEIGHTS]
    return names[-1] if names else None
