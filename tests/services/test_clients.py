"""Clients that people use, each against the service: it gets the vectors of the Embedder without being told of it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cohere
import numpy as np
import openai
import pytest
from huggingface_hub import InferenceClient, constants
from huggingface_hub.errors import HfHubHTTPError
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference
from served_folders import bake_fixture, listen, make_tower, open_text_tower
from serving import FakeTower

from graphsurgery import Embedder
from graphsurgery.serving.text_tower import TextTower
from graphsurgery.serving.towers import PAIR

TEXTS = ["the cat sat", "a", "a vector of length one"]
LONG = "the cat " * 40
CLOSE = 1e-6
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> TextTower:
    return open_text_tower(bake_fixture(tmp_path_factory.mktemp("clients") / "bert"))


@pytest.fixture(scope="module")
def model(tower: TextTower) -> Embedder:
    return tower.embedder


@pytest.fixture(scope="module")
def address(tower: TextTower) -> Iterator[str]:
    with listen(tower) as found:
        yield found


@pytest.fixture(scope="module")
def ranker() -> Iterator[str]:
    """A cross-encoder whose scores grow with the letters that a text shares with the query."""
    with listen(make_tower(PAIR, lambda pair: [len(set(pair[0]) & set(pair[1])) - 1.0], 1)) as found:
        yield found


def close(found: Any, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(np.array(found, dtype=np.float32), wanted, atol=CLOSE)


def test_openai(address: str, model: Embedder) -> None:
    """It asks for base64 unless told otherwise, and retries what is refused: not what is wrong."""
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    found = client.embeddings.create(model="text-embedding-3-small", input=TEXTS)
    close([one.embedding for one in found.data], model.encode(TEXTS))
    assert found.usage.prompt_tokens == sum(map(len, model.tokenize(TEXTS))) and found.model == "bert-baked"
    cut = client.embeddings.create(model="any", input="the cat sat", dimensions=8, encoding_format="float")
    close(cut.data[0].embedding, model.encode("the cat sat", dims=8))
    long = client.embeddings.with_raw_response.create(model="any", input=LONG)
    assert long.headers["x-truncated-inputs"] == "1" and long.parse().usage.model_extra == {"truncated_inputs": 1}
    assert [one.id for one in client.models.list()] == ["bert-baked"]
    with pytest.raises(openai.UnprocessableEntityError, match="check_embedding_ctx_length=False") as caught:
        client.embeddings.create(model="any", input=[[101, 102]])
    assert caught.value.code == "validation" and caught.value.type == "invalid_request_error"


def test_hugging_face(address: str, model: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows no route but the address itself. Offline, it would refuse to ask this machine, too."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    client = InferenceClient(model=address)
    close(client.feature_extraction("the cat sat"), model.encode(["the cat sat"]))
    chosen = client.feature_extraction(
        LONG, prompt_name="query", truncate=True, truncation_direction="right", normalize=True, dimensions=8
    )
    close(chosen, model.embed([LONG], "query", 8).vectors)
    wanted = model.similarity(model.encode(TEXTS[:1]), model.encode(TEXTS))[0]
    close(client.sentence_similarity(TEXTS[0], other_sentences=TEXTS), wanted)
    with pytest.raises(HfHubHTTPError) as caught:
        client.feature_extraction(LONG, truncate=False)
    assert caught.value.response.status_code == 422 and "the model takes 32" in str(caught.value)


def test_cohere(address: str, model: Embedder) -> None:
    client = cohere.ClientV2(api_key="none", base_url=address)
    found = client.embed(texts=TEXTS, model="any", input_type="search_query", embedding_types=["float", "ubinary"])
    close(found.embeddings.float_, model.encode(TEXTS, "query"))
    assert found.embeddings.ubinary == model.encode(TEXTS, "query", precision="ubinary").tolist()
    assert found.texts == TEXTS and found.meta.billed_units.input_tokens == sum(map(len, model.tokenize(TEXTS, "query")))
    with pytest.raises(cohere.UnprocessableEntityError, match="needs the ranges"):
        client.embed(texts=TEXTS, model="any", input_type="search_query", embedding_types=["int8"])


def test_cohere_reranks(ranker: str) -> None:
    client = cohere.ClientV2(api_key="none", base_url=ranker)
    found = client.rerank(model="any", query="abc", documents=["x", "abc", "a"], top_n=2)
    assert [one.index for one in found.results] == [1, 2]
    close([one.relevance_score for one in found.results], 1 / (1 + np.exp([-2.0, 0.0])))


def test_llama_index(address: str, model: Embedder) -> None:
    client = TextEmbeddingsInference(model_name="any", base_url=address, text_instruction="", query_instruction="find: ")
    close(client.get_text_embedding_batch(TEXTS), model.encode(TEXTS))
    close(client.get_query_embedding("the cat sat"), model.encode("the cat sat", "query"))


def test_curl(address: str, model: Embedder) -> None:
    """Without a header, curl says that its body is a form. JSON is taken all the same."""
    for body in ('{"inputs": ["the cat sat"]}', '{"inputs": "the cat sat"}'):
        done = subprocess.run(["curl", "-sf", f"{address}/embed", "-d", body], capture_output=True, check=True, text=True)
        close(json.loads(done.stdout), model.encode(["the cat sat"]))


def test_curl_sends_a_file(tmp_path: Path) -> None:
    """The bytes of a picture are the body, as they are."""
    (tmp_path / "a.png").write_bytes(b"\x89PNG" * 1000)
    command = ["-H", "content-type: image/png", "--data-binary", f"@{tmp_path / 'a.png'}"]
    with listen(make_tower("image", lambda data: [float(len(data)), 0.0], 2)) as address:
        for path in ("/embed?normalize=false", "/?normalize=false"):
            done = subprocess.run(["curl", "-sf", f"{address}{path}", *command], capture_output=True, check=True, text=True)
            assert json.loads(done.stdout) == [[4000.0, 0.0]]


# --- refusals -------------------------------------------------------------------------------------------------------------


def test_a_key(tower: TextTower, model: Embedder) -> None:
    with listen(tower, api_key="secret") as address:
        ask = openai.OpenAI(base_url=f"{address}/v1", api_key="secret", max_retries=0).embeddings.create
        close(ask(model="any", input="a").data[0].embedding, model.encode("a"))
        known = TextEmbeddingsInference(model_name="any", base_url=address, auth_token="secret")
        close(known.get_text_embedding("a"), model.encode("a"))
        with pytest.raises(openai.AuthenticationError, match="API key"):
            openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0).embeddings.create(model="any", input="a")
        with pytest.raises(cohere.UnauthorizedError):
            cohere.ClientV2(api_key="none", base_url=address).embed(texts=["a"], model="any", input_type="search_query")


def test_a_full_queue() -> None:
    """Clients know the refusal, and for how long to wait."""
    tower = FakeTower()
    tower.gate.clear()
    with listen(tower, max_queue=1) as address, ThreadPoolExecutor() as pool:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        first = pool.submit(client.embeddings.create, model="any", input="two words")
        try:
            assert tower.entered.acquire(timeout=30)
            with pytest.raises(openai.RateLimitError) as caught:
                client.embeddings.create(model="any", input="a")
            assert caught.value.response.headers["retry-after"] == "1" and caught.value.type == "rate_limit_error"
            other = cohere.ClientV2(api_key="none", base_url=address)
            with pytest.raises(cohere.TooManyRequestsError):
                other.embed(texts=["a"], model="any", input_type="search_query", request_options={"max_retries": 0})
        finally:
            tower.gate.set()
        assert first.result().data[0].embedding == [2, 9, 1]


# --- the documentation ----------------------------------------------------------------------------------------------------

PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
DOCUMENTED = "http://127.0.0.1:8080"
PROGRAMS = re.findall(r"^```py\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [
    line for block in re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL) for line in block.splitlines()
]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda one: one.split()[1])
def test_documented_programs(program: str, address: str, model: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each ends with vectors of one or of two texts."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    names: dict[str, Any] = {}
    exec(program.replace(DOCUMENTED, address), names)
    prompt = "query" if "search_query" in program else None
    texts = ["How are you?", "It is cold today."][: len(names["vectors"])]
    close(names["vectors"], model.encode(texts, prompt))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: one.split()[2].rpartition(":8080")[2])
def test_documented_commands(command: str, address: str) -> None:
    done = subprocess.run(shlex.split(command.replace(DOCUMENTED, address)), capture_output=True, check=True, text=True)
    assert json.loads(done.stdout)


def test_the_documentation_has_both() -> None:
    assert len(PROGRAMS) == 4 and len(COMMANDS) == 4
