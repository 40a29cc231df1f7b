"""The tower of texts: through the service a text has the vector that `Embedder.encode` gives it, bit for bit."""

from __future__ import annotations

import asyncio
import shutil
from typing import Any

import numpy as np
import pytest
from baked_folders import put_json
from conftest import FIXTURES
from serving import serving
from tokenizers import Tokenizer

import graphsurgery
from graphsurgery import Embedder
from graphsurgery.embedding import budgets
from graphsurgery.serving.answers import Answer
from graphsurgery.serving.errors import InvalidRequestError
from graphsurgery.serving.text_tower import TextTower
from graphsurgery.serving.towers import TEXT, Prepared, TextOptions

TEXTS = ("the cat sat", "a", "", "a vector of length one", "the cat sat", "it is cold today.", "the cat " * 40, "NUL \0 byte")
LONG = 6
USUAL = TextOptions()
LONGEST = 32


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> TextTower:
    folder = tmp_path_factory.mktemp("serving") / "bert"
    shutil.copytree(FIXTURES / "bert", folder)
    put_json(folder / "config_sentence_transformers.json", {"prompts": {"query": "find: "}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(budgets.CACHE, str(folder.parent / "cache"))
        made = TextTower(Embedder(graphsurgery.bake(folder, verify=False).folder, max_batch_tokens=64))
        made.warm_up()
    return made


def ask(tower: TextTower, inputs: list[Any], options: TextOptions = USUAL) -> list[Answer]:
    async def answer() -> list[Answer]:
        async with serving(tower) as service:
            return (await service.answer(TEXT, inputs, options)).answers

    return asyncio.run(answer())


@pytest.mark.filterwarnings("ignore::graphsurgery.TruncationWarning")
@pytest.mark.parametrize("prompt", ["", "find: "])
def test_vectors_are_those_of_encode(tower: TextTower, prompt: str) -> None:
    found = ask(tower, list(TEXTS), TextOptions(prompt=prompt))
    wanted = tower.embedder.encode(TEXTS, prompt=prompt)
    assert np.array_equal(np.stack([one.vector for one in found]), wanted)
    assert [one.is_cut for one in found] == [place == LONG for place in range(len(TEXTS))]
    assert [one.tokens for one in found] == [len(one) for one in tower.embedder.tokenize(TEXTS, prompt=prompt)]


def test_facts_are_those_of_the_folder(tower: TextTower) -> None:
    facts = tower.facts
    assert facts.is_batch_invariant and facts.is_normalized and facts.dims == 32 and facts.longest == LONGEST
    assert facts.prompts == {"query": "find: "} and facts.dtype == "float32" and len(facts.sha256) == 64


def test_a_long_text_may_be_cut_from_the_left_or_refused(tower: TextTower) -> None:
    text = "it is cold today. " + "the cat " * 40 + "a vector"
    (found,) = ask(tower, [text], TextOptions(cut_from="left"))
    tokenizer = Tokenizer.from_file(str(tower.embedder.tokenization.folder / "tokenizer.json"))
    tokenizer.enable_truncation(LONGEST, direction="left")
    wanted = ask(tower, [tokenizer.encode(text).ids])[0]
    assert found.is_cut and found.tokens == LONGEST and np.array_equal(found.vector, wanted.vector)
    assert not np.array_equal(found.vector, ask(tower, [text])[0].vector)
    long, short = ask(tower, [text, "a"], TextOptions(on_long="error"))
    assert isinstance(long.error, InvalidRequestError) and "tokens" in long.error.message and short.vector is not None


def test_token_ids_are_embedded_as_they_are(tower: TextTower) -> None:
    ids = tower.embedder.tokenize(["the cat sat"])[0]
    found, wanted, cut = ask(tower, [ids, "the cat sat", ids * 40])
    assert np.array_equal(found.vector, wanted.vector) and found.tokens == len(ids)
    assert cut.is_cut and cut.tokens == LONGEST


@pytest.mark.parametrize("wrong", [[-1], [10**9], [2**70], [1.5], [True], ["a"], [], 3, None, "\ud800"], ids=repr)
def test_what_is_no_text_fails_alone(tower: TextTower, wrong: Any) -> None:
    first, other = tower.prepare([wrong, "a"], TextOptions())
    assert isinstance(first, InvalidRequestError) and "0" not in first.message.split("id")[0]
    assert isinstance(other, Prepared)


def test_tokens_say_where_they_are_in_the_text(tower: TextTower) -> None:
    tokens = tower.list_tokens("the cat", TextOptions())
    assert [one.id for one in tokens] == tower.embedder.tokenize(["the cat"])[0]
    assert [one.is_special for one in tokens] == [True, *[False] * (len(tokens) - 2), True]
    assert (tokens[1].start, tokens[1].stop) == (0, len(tokens[1].text)) and tokens[1].text == "the"
    assert len(tower.list_tokens("the cat", TextOptions(), adds_special=False)) == len(tokens) - 2
