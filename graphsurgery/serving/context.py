"""The steps of every route: choose how texts are tokenised, ask the service, and convert its vectors to the requested form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from graphsurgery.embedding.prompts import choose_prompt
from graphsurgery.embedding.tokenizer import CUT, ERROR
from graphsurgery.errors import GraphSurgeryError
from graphsurgery.serving.answers import Answer, Answers
from graphsurgery.serving.errors import OverloadedError, UnhealthyError
from graphsurgery.serving.inputs import Item, ItemReader
from graphsurgery.serving.schemas import Direction
from graphsurgery.serving.service import Service
from graphsurgery.serving.settings import ServeSettings
from graphsurgery.serving.towers import TEXT, Facts, TextOptions
from graphsurgery.serving.writing import Form, shape_vectors

FOLDER_OF_FILE = "onnx"
"""The folder inside a model folder that holds its ONNX files."""

AS_IT_IS = Form()
"""Vectors as the file gives them."""


@dataclass(frozen=True)
class Context:
    """A service with its settings, and the steps that routes share."""

    service: Service
    settings: ServeSettings

    @cached_property
    def reader(self) -> ItemReader:
        return ItemReader(self.service.towers, self.settings)

    @property
    def facts(self) -> Facts:
        """The facts of the text tower, or of the first tower if there is none."""
        found = self.service.facts
        return found.get(TEXT) or next(iter(found.values()))

    @cached_property
    def name(self) -> str:
        """The name of the model, which is the name of its folder."""
        folder = Path(self.facts.model).absolute().parent
        return folder.parent.name if folder.name == FOLDER_OF_FILE else folder.name

    def choose_options(
        self, truncate: bool | None = None, direction: Direction | None = None, prompt_name: str | None = None
    ) -> TextOptions:
        """Return how to tokenise the texts of a request. Raises RequestError for a prompt that the folder does not have."""
        prompt = choose_prompt(self.facts.prompts, self.facts.default_prompt, prompt_name)
        is_cut = self.settings.cut_long if truncate is None else truncate
        return TextOptions(prompt, CUT if is_cut else ERROR, (direction or "right").lower())

    async def answer(self, items: Sequence[Item], options: TextOptions, form: Form = AS_IT_IS) -> Answers:
        """Return an answer for each input, in their order. Inputs may be of several kinds. Each answer may hold its own error.

        Raises what `shape_vectors` raises for a ``form`` that the model cannot give, before anything is computed.
        """
        kinds = list(dict.fromkeys(one.kind for one in items))
        for kind in kinds:
            self._require_form(kind, form)
        if len(kinds) == 1:
            return await self._answer_kind(kinds[0], items, options)
        found: list[Answer] = [Answer(None)] * len(items)
        parts: list[Answers] = []
        for kind in kinds:
            places = [place for place, one in enumerate(items) if one.kind == kind]
            parts.append(await self._answer_kind(kind, [items[place] for place in places], options))
            for place, one in zip(places, parts[-1].answers, strict=True):
                found[place] = one
        return Answers(
            found, sum(one.tokenization for one in parts), sum(one.queue for one in parts), sum(one.inference for one in parts)
        )

    async def _answer_kind(self, kind: str, items: Sequence[Item], options: TextOptions) -> Answers:
        return await self.service.answer(kind, [one.content for one in items], options if kind == TEXT else TextOptions())

    def _require_form(self, kind: str, form: Form) -> None:
        """Raise what `shape_vectors` raises for a form that the model cannot give. It is tried once for each form."""
        facts = self.service.facts[kind]
        if (kind, form) not in self._known_forms:
            shape_vectors([np.zeros(facts.dims, facts.dtype)], form, facts)
            self._known_forms.add((kind, form))

    @cached_property
    def _known_forms(self) -> set[tuple[str, Form]]:
        return set()

    def shape(self, items: Sequence[Item], answers: Answers, form: Form = AS_IT_IS) -> list[np.ndarray]:
        """Return the vectors of a request. Raises the first error of an input, whose message names the place of the input."""
        for error in find_errors(answers.answers, [one.place for one in items]).values():
            raise error
        return self.shape_answered(items, answers.answers, form)

    def shape_answered(self, items: Sequence[Item], answers: Sequence[Answer], form: Form) -> list[np.ndarray]:
        """Return the vectors of inputs that have no error, one for each of ``answers``."""
        rows: dict[int, np.ndarray] = {}
        for kind in dict.fromkeys(one.kind for one in items):
            places = [place for place, one in enumerate(items) if one.kind == kind]
            vectors = [vector for place in places if (vector := answers[place].vector) is not None]
            rows |= zip(places, shape_vectors(vectors, form, self.service.facts[kind]), strict=True)
        return [rows[place] for place in range(len(items))]


def find_errors(answers: Sequence[Answer], names: Sequence[str]) -> dict[int, GraphSurgeryError]:
    """Return the errors of inputs, by the number of the input. The messages contain the ``names`` of the inputs.

    Raises UnhealthyError and OverloadedError, because they concern the whole request.
    """
    found: dict[int, GraphSurgeryError] = {}
    for place, one in enumerate(answers):
        if isinstance(one.error, UnhealthyError | OverloadedError):
            raise one.error
        if one.error is not None:
            found[place] = type(one.error)(f"`{names[place]}`: {one.error.message}", one.error.advice)
    return found
