"""Model folders are read as sentence-transformers reads them, and hostile ones are refused by typed errors."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from effort import at_most_calls

from graphsurgery.errors import FolderError, RequestError
from graphsurgery.folders.files import LARGEST_CONFIG, find_onnx, list_onnx_files, read_json, read_setting, resolve_inside
from graphsurgery.folders.modules import KINDS, TRANSFORMER_CONFIGS, Module, read_modules
from graphsurgery.folders.pooling_config import PoolingConfig, find_pooling_config, parse_pooling
from graphsurgery.folders.router import read_default_route, read_route_mappings, read_routes
from graphsurgery.folders.transformer_config import (
    EncoderConfig,
    FolderConfig,
    TransformerSettings,
    choose_score_activation,
    read_encoder_config,
    read_folder_config,
    read_transformer_settings,
)

LONGEST_MESSAGE = 2000
OLD, NEW = "sentence_transformers.models.", "sentence_transformers.sentence_transformer.modules."


def put(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def refused(call: Callable[[], object], *words: str) -> FolderError:
    with at_most_calls(), pytest.raises(FolderError) as caught:
        call()
    message = str(caught.value)
    assert [word for word in words if word not in message] == [], message
    assert len(message) < LONGEST_MESSAGE and caught.value.advice
    message.encode()  # what no terminal can print is spelt out
    return caught.value


# --- files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "..",
        "../x",
        "a/../../x",
        "a/..",
        "C:\\x",
        "C:x",
        "\\\\host\\x",
        "a\\b",
        "x\0y",
        "a/",
        "x" * 5000,
        "x" * 300 + "/y",
        "\ud800",
        "out/x",
        "out",
        "loop/x",
    ],
)
def test_what_leads_out_is_refused(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "out").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder / "loop")
    if name in ("x" * 300 + "/y", "loop/x"):  # these are inside, and cannot be opened
        refused(lambda: read_json(resolve_inside(folder, name, "config")), str(folder))
    else:
        refused(lambda: resolve_inside(folder, name, "modules.json"), "modules.json")


def test_what_stays_inside(tmp_path: Path) -> None:
    put(tmp_path / "a" / "config.json", {"x": 1})
    (tmp_path / "b").symlink_to("a")
    for name in ("a/config.json", "./a/config.json", "b/config.json"):
        assert read_json(resolve_inside(tmp_path, name, "")) == {"x": 1}
    assert resolve_inside(tmp_path, "absent", "") == tmp_path / "absent"


def test_the_hugging_face_cache(tmp_path: Path) -> None:
    repository = tmp_path / "models--a--b"
    put(repository / "blobs" / "0123", {"x": 1})
    put(tmp_path / "models--c--d" / "blobs" / "4567", {"x": 2})
    snapshot = repository / "snapshots" / "89ab"
    (snapshot / "1_Pooling").mkdir(parents=True)
    (snapshot / "1_Pooling" / "config.json").symlink_to("../../../blobs/0123")
    (snapshot / "other.json").symlink_to("../../../models--c--d/blobs/4567")
    stored = tmp_path / "blobs" / "ab" / f"ab{'0' * 62}"  # where huggingface_hub keeps what repositories share
    put(stored, {"x": 3})
    (snapshot / "shared.json").symlink_to(stored)
    assert read_json(resolve_inside(snapshot, "shared.json", "")) == {"x": 3}
    assert read_json(resolve_inside(snapshot, "1_Pooling/config.json", "")) == {"x": 1}
    assert read_json(resolve_inside(snapshot / "1_Pooling", "config.json", "")) == {"x": 1}
    refused(lambda: resolve_inside(snapshot, "other.json", ""), "symlink")


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe{\0}\0", "not JSON"),
        (b'{"a": "\xff"}', "not JSON"),
        (b"\xef\xbb\xbf\xef\xbb\xbf{}", "BOM"),
        (b"[" * 100_000, "deep"),
        (b'{"a":' * 100_000, "deep"),
        (b"9" * 100_000, "not JSON"),
        (b"[]", "a JSON list, not a JSON object"),
        (b'"x"', "'x'"),
        (b"null", "None"),
        (b"3", "3"),
        (b" " * (LARGEST_CONFIG + 1), "bytes"),
    ],
)
def test_broken_json(data: bytes, word: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(data)
    refused(lambda: read_json(path), word, str(path))


def test_json_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "nowhere").symlink_to("absent")
    for name, word in (("pipe", "regular"), ("folder", "regular"), ("absent", "No such"), ("nowhere", "No such")):
        refused(lambda path=tmp_path / name: read_json(path), word, name)
    refused(lambda: read_json(Path("/dev/zero")), "regular")
    if os.geteuid() != 0:
        put(tmp_path / "secret", {}).chmod(0)
        refused(lambda: read_json(tmp_path / "secret"), "ermission")


def test_settings() -> None:
    config = {"a": 1, "b": True, "c": "x", "n": None, "l": [1]}
    path = Path("config.json")
    assert read_setting(config, "a", int, path) == 1
    assert read_setting(config, "n", int, path, 7) == read_setting(config, "absent", int, path, 7) == 7
    assert read_setting(config, "c", (str, list), path) == "x"
    for key, kind in (("b", int), ("a", bool), ("c", int), ("l", dict), ("a", (str, list))):
        refused(lambda key=key, kind=kind: read_setting(config, key, kind, path), repr(key))


# --- modules --------------------------------------------------------------------------------------------------------------


def model(folder: Path, *entries: tuple[str, str, object]) -> Path:
    """A folder whose modules.json lists (class path, place, config); a str as config is the name of a file to leave out."""
    listed = []
    for number, (type_name, place, config) in enumerate(entries):
        listed.append({"idx": number, "name": str(number), "path": place, "type": type_name})
        if config is not None:
            put(folder / place / "config.json", config)
    put(folder / "modules.json", listed)
    return folder


POOLING = (OLD + "Pooling", "1_Pooling", {"word_embedding_dimension": 4, "pooling_mode_mean_tokens": True})


@pytest.mark.parametrize(
    ("type_name", "kind"),
    [
        (OLD + "Dense", "Dense"),
        (OLD + "Dense.Dense", "Dense"),
        ("sentence_transformers.base.modules.dense.Dense", "Dense"),
        (NEW + "pooling.Pooling", "Pooling"),
        (NEW + "layer_norm.LayerNorm", "LayerNorm"),
        (NEW + "Normalize", "Normalize"),
        ("sentence_transformers.sparse_encoder.models.SpladePooling", "SpladePooling"),
        ("sentence_transformers.sparse_encoder.models.SpladePooling.SpladePooling", "SpladePooling"),
        ("sentence_transformers.sparse_encoder.modules.splade_pooling.SpladePooling", "SpladePooling"),
        ("sentence_transformers.cross_encoder.modules.logit_score.LogitScore", "LogitScore"),
        (OLD + "WordWeights", "WordWeights"),
        ("pylate.models.Dense.Dense", "Dense"),
        ("pylate.models.Dense", "Dense"),
    ],
)
def test_class_paths_of_every_age(type_name: str, kind: str, tmp_path: Path) -> None:
    (found,) = read_modules(model(tmp_path, (type_name, "0_X", {"a": 1})))
    config = {} if kind == "Normalize" else {"a": 1}
    if type_name.startswith("pylate"):
        config |= {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
    assert found == Module(kind, "0", tmp_path / "0_X", config, type_name)


@pytest.mark.parametrize(
    "type_name",
    [
        "custom_st.Transformer",
        "sentence_transformers.models.Module",
        "sentence_transformers.models.Evil",
        "os.system",
        "sentence_transformers.Pooling",
        "sentence_transformers.losses.Pooling",
        "evil.sentence_transformers.models.Pooling",
        "sentence_transformers.models.Pooling\n",
        "sentence_transformers.models.a.b.Pooling",
        "pylate.models.ColBERT",
        "Pooling",
        "sentence_transformers.models.pylate Dense",
        "\ud800",
    ],
)
def test_a_class_that_is_not_known_is_refused_by_name(type_name: str, tmp_path: Path) -> None:
    folder = model(tmp_path, POOLING, (type_name, "2_X", {}))
    refused(lambda: read_modules(folder), repr(type_name), "Pooling", "Dense", "Router")


def test_a_usual_folder(tmp_path: Path) -> None:
    folder = model(tmp_path, (OLD + "Transformer", "", None), POOLING, (OLD + "Normalize", "2_Normalize", None))
    put(folder / "config.json", {"model_type": "bert"})
    put(folder / "sentence_bert_config.json", {"max_seq_length": 256, "do_lower_case": False, "model_args": {"a": 1}})
    first, second, third = read_modules(folder)
    assert (first.kind, first.path) == ("Transformer", folder)
    assert first.config == {"max_seq_length": 256, "do_lower_case": False, "model_kwargs": {"a": 1}}
    assert second.config == {"embedding_dimension": 4, "pooling_mode_mean_tokens": True}
    assert (third.kind, third.path, third.config) == ("Normalize", folder / "2_Normalize", {})


@pytest.mark.parametrize("name", TRANSFORMER_CONFIGS)
def test_seven_names_of_one_config(name: str, tmp_path: Path) -> None:
    folder = model(tmp_path, (OLD + "Transformer", "0_Transformer", None))
    put(folder / "0_Transformer" / name, {"max_seq_length": 77})
    (found,) = read_modules(folder)
    assert read_transformer_settings(found).max_seq_length == 77


def test_places(tmp_path: Path) -> None:
    """model2vec writes a dot, others a slash at the end; a Normalize in the model's own folder takes nothing from it."""
    put(tmp_path / "1_Dense" / "config.json", {})
    types = (OLD + "StaticEmbedding", ".", None), (OLD + "Dense", "1_Dense/", None), (OLD + "Normalize", "", None)
    assert [module.path for module in read_modules(model(tmp_path, *types))] == [tmp_path, tmp_path / "1_Dense", tmp_path]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("WordEmbeddings", "wordembedding_config.json"),
        ("CNN", "cnn_config.json"),
        ("LSTM", "lstm_config.json"),
        ("BoW", "config.json"),
    ],
)
def test_configs_by_other_names(kind: str, name: str, tmp_path: Path) -> None:
    folder = model(tmp_path, (OLD + kind, "0_X", {"wrong": 1} if name != "config.json" else None))
    (folder / "0_X").mkdir(exist_ok=True)
    refused(lambda: read_modules(folder), name)
    put(folder / "0_X" / name, {"word_embedding_dimension": 3, "in_word_embedding_dimension": 3})
    renamed = {"CNN": "in_embedding_dimension", "LSTM": "embedding_dimension"}.get(kind, "word_embedding_dimension")
    assert read_modules(folder)[0].config[renamed] == 3


def test_both_names_of_a_key(tmp_path: Path) -> None:
    folder = model(tmp_path, (OLD + "Pooling", "0_X", {"word_embedding_dimension": 3, "embedding_dimension": 4}))
    assert read_modules(folder)[0].config == {"word_embedding_dimension": 3, "embedding_dimension": 4}


def test_older_transformers(tmp_path: Path) -> None:
    types = ("sentence_transformers.sparse_encoder.models.MLMTransformer", "", None), (OLD + "CLIPModel", "1_CLIPModel", {})
    first, second = read_modules(model(tmp_path, *types))
    assert (first.kind, read_transformer_settings(first).task) == ("Transformer", "fill-mask")
    assert (second.kind, read_transformer_settings(second).method) == ("CLIPModel", "get_text_features")
    assert read_transformer_settings(second).output_name == "sentence_embedding"


def entries(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    base = {"type": OLD + "Normalize"}
    return [{**base, "idx": number, "name": str(number), "path": str(number), **one} for number, one in enumerate(changes)]


@pytest.mark.parametrize(
    ("listed", "word"),
    [
        ("[", "not JSON"),
        ({}, "a JSON object"),
        ([], "0 modules"),
        ([1], "not a JSON object"),
        ([{}], "no path"),
        ([{"path": "x"}], "no type"),
        ([{"path": "x", "type": ""}], "no type"),
        ([{"type": "x"}], "no path"),
        (entries({"path": 3}), "'path'"),
        (entries({"type": ["x"]}), "'type'"),
        (entries({"idx": "0"}), "'idx'"),
        (entries({"name": {}}), "'name'"),
        (entries({"name": [[[[]]]]}), "'name'"),
        (entries({"path": "../x"}), ".."),
        (entries({"path": "/x"}), "absolute"),
        (entries({"path": "/"}), "is empty"),
        (entries({"path": "a\\b"}), "backslash"),
        (entries({"path": "x\0"}), "NUL"),
        (entries({"path": "\ud800"}), "ud800"),
        (entries({}, {"idx": 0}), "idx '0'"),
        (entries({}, {"name": "0"}), "name '0'"),
        (entries({}, {"path": "./0"}), "the path"),
        (entries({"type": OLD + "Transformer", "path": ""}, {"type": OLD + "Transformer", "path": "."}), "the path"),
        (entries({"type": OLD + "Dense"}), "is not a folder"),
        (entries({"type": OLD + "Transformer"}), "is not a folder"),
        (entries({"type": OLD + "Dense", "path": "modules.json"}), "is not a folder"),
        (entries(*[{}] * 1001), "1001 modules"),
        ("[" * 100_000, "deep"),
        (entries({"type": "x" * 100_000}), "unknown class"),
    ],
)
def test_a_malformed_modules_json(listed: object, word: str, tmp_path: Path) -> None:
    put(tmp_path / "modules.json", listed)
    refused(lambda: read_modules(tmp_path), word, str(tmp_path))


def test_no_modules_json(tmp_path: Path) -> None:
    refused(lambda: read_modules(tmp_path), "modules.json")
    refused(lambda: read_modules(tmp_path / "absent"), "modules.json")
    (tmp_path / "modules.json").mkdir()
    refused(lambda: read_modules(tmp_path), "regular")


def test_a_module_outside_of_the_folder(tmp_path: Path) -> None:
    put(tmp_path / "outside" / "config.json", {})
    folder = model(tmp_path / "model", (OLD + "Dense", "0_Dense", None))
    (folder / "0_Dense").symlink_to(tmp_path / "outside")
    refused(lambda: read_modules(folder), "symlink")
    (folder / "0_Dense").unlink()
    (folder / "0_Dense").mkdir()
    (folder / "0_Dense" / "config.json").symlink_to(tmp_path / "outside" / "config.json")
    refused(lambda: read_modules(folder), "symlink")
    (folder / "0_Dense" / "config.json").unlink()
    refused(lambda: read_modules(folder), "config.json")
    os.mkfifo(folder / "0_Dense" / "config.json")
    refused(lambda: read_modules(folder), "regular")


def test_vocabularies_may_be_larger(tmp_path: Path) -> None:
    vocabulary = {"vocab": ["w" * 20] * (LARGEST_CONFIG // 20), "word_weights": {}}
    folder = model(tmp_path, (OLD + "WordWeights", "0_X", vocabulary))
    assert len(read_modules(folder)[0].config["vocab"]) == LARGEST_CONFIG // 20
    model(tmp_path, (OLD + "Dense", "0_X", vocabulary))
    refused(lambda: read_modules(folder), "bytes")


# --- routers --------------------------------------------------------------------------------------------------------------

STRUCTURE = {"query": ["query_0_StaticEmbedding"], "document": ["document_0_StaticEmbedding", "document_1_Normalize"]}
TYPES = {one: OLD + one.rpartition("_")[2] for ids in STRUCTURE.values() for one in ids}


def router(folder: Path, config: object, name: str = "router_config.json", type_name: str = OLD + "Router") -> Module:
    for one in TYPES:
        (folder / "0_X" / one).mkdir(parents=True, exist_ok=True)
    put(folder / "0_X" / name, config)
    return read_modules(model(folder, (type_name, "0_X", None)))[0]


@pytest.mark.parametrize(
    ("type_name", "name"),
    [
        (OLD + "Asym", "config.json"),
        (OLD + "Router", "router_config.json"),
        ("sentence_transformers.base.modules.router.Router", "router_config.json"),
    ],
)
def test_routes(type_name: str, name: str, tmp_path: Path) -> None:
    found = router(tmp_path, {"types": TYPES, "structure": STRUCTURE, "parameters": {"allow_empty_key": True}}, name, type_name)
    assert found.kind == "Router"
    kinds = {route: [module.kind for module in modules] for route, modules in read_routes(found).items()}
    assert kinds == {"query": ["StaticEmbedding"], "document": ["StaticEmbedding", "Normalize"]}
    assert read_routes(found)["query"][0].path == tmp_path / "0_X" / "query_0_StaticEmbedding"
    assert read_default_route(found) == "query" and read_route_mappings(found) == {}


@pytest.mark.parametrize(
    ("parameters", "default"),
    [
        ({}, "query"),
        (None, "query"),
        ({"default_route": None}, "query"),
        ({"default_route": "document"}, "document"),
        ({"allow_empty_key": False}, None),
        ({"default_route": "document", "allow_empty_key": False}, "document"),
    ],
)
def test_default_routes(parameters: object, default: str | None, tmp_path: Path) -> None:
    assert read_default_route(router(tmp_path, {"types": TYPES, "structure": STRUCTURE, "parameters": parameters})) == default


def test_route_mappings(tmp_path: Path) -> None:
    mapped = {"('query', None)": "query", "(None, ('text', 'image'))": "document", "(None, None)": "document"}
    config = {"types": TYPES, "structure": STRUCTURE, "parameters": {"route_mappings": mapped}}
    expected = {("query", None): "query", (None, ("image", "text")): "document", (None, None): "document"}
    assert read_route_mappings(router(tmp_path, config)) == expected


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"structure": {}}, "no route"),
        ({"structure": None}, "no route"),
        ({"structure": []}, "'structure'"),
        ({"types": 3}, "'types'"),
        ({"structure": {"query": []}}, "'query'"),
        ({"structure": {"query": "x"}}, "'query'"),
        ({"structure": {"q": ["x"]}}, "'x'"),
        ({"structure": {"q": [{}]}}, "a JSON object"),
        ({"types": {"query_0_StaticEmbedding": 3}}, "no type"),
        ({"types": {"query_0_StaticEmbedding": "os.system"}}, "os.system"),
        ({"types": {"../x": OLD + "Normalize"}, "structure": {"q": ["../x"]}}, ".."),
        ({"types": {"x": OLD + "Dense"}, "structure": {"q": ["x"]}}, "is not a folder"),
        ({"types": {str(one): OLD + "Normalize" for one in range(1001)}}, "1001"),
        ({"parameters": []}, "'parameters'"),
        ({"parameters": {"default_route": "x"}}, "'x'"),
        ({"parameters": {"default_route": 1}}, "'default_route'"),
        ({"parameters": {"allow_empty_key": "yes"}}, "'allow_empty_key'"),
        ({"parameters": {"route_mappings": {"('q', None)": "x"}}}, "'x'"),
        ({"parameters": {"route_mappings": []}}, "'route_mappings'"),
        ({"parameters": {"route_mappings": {"('q', None)": {}}}}, "a JSON object"),
    ],
)
def test_a_malformed_router(change: dict, word: str, tmp_path: Path) -> None:
    found = router(tmp_path, {"types": TYPES, "structure": STRUCTURE, "parameters": {}} | change)
    refused(lambda: (read_routes(found), read_default_route(found), read_route_mappings(found)), word)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "query",
        "('q',)",
        "('q', 1)",
        "(None, ('a', 1))",
        "__import__('os').mkdir('canary')",
        "(" * 150,
        "(" * 5000,
        "('q', None",
        "\0",
    ],
)
def test_route_mappings_run_nothing(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mapped = {"types": TYPES, "structure": STRUCTURE, "parameters": {"route_mappings": {key: "query"}}}
    found = router(tmp_path, mapped)
    refused(lambda: read_route_mappings(found), "(task, modality)")
    assert not (tmp_path / "canary").exists()


def test_routes_of_what_is_no_router(tmp_path: Path) -> None:
    (found,) = read_modules(model(tmp_path, POOLING))
    for call in (read_routes, read_default_route, read_route_mappings):
        refused(lambda call=call: call(found), "Pooling")


# --- what folders say of themselves ---------------------------------------------------------------------------------------


def step(config: dict[str, Any]) -> Module:
    return Module("Transformer", "0", Path("model"), config, OLD + "Transformer")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, TransformerSettings()),
        ({"max_seq_length": 128, "do_lower_case": True}, TransformerSettings(128, True)),
        ({"max_seq_length": None}, TransformerSettings()),
        (
            {"transformer_task": "fill-mask"},
            TransformerSettings(None, False, "fill-mask", "token_embeddings", "forward"),
        ),
        (
            {"transformer_task": "sequence-classification", "module_output_name": "scores"},
            TransformerSettings(None, False, "sequence-classification", "scores", "forward"),
        ),
        (
            {
                "modality_config": {"text": {"method": "get_text_features", "method_output_name": None}},
                "module_output_name": "x",
            },
            TransformerSettings(None, False, "feature-extraction", "x", "get_text_features"),
        ),
        (
            {"modality_config": {"audio": {"method": "forward", "method_output_name": "last_hidden_state"}}},
            TransformerSettings(None, False, "feature-extraction", "token_embeddings", None),
        ),
    ],
)
def test_transformer_settings(config: dict, expected: TransformerSettings) -> None:
    assert read_transformer_settings(step(config)) == expected


@pytest.mark.parametrize(
    "config",
    [
        {"max_seq_length": "512"},
        {"max_seq_length": 0},
        {"max_seq_length": True},
        {"do_lower_case": 1},
        {"transformer_task": "dance"},
        {"transformer_task": []},
        {"modality_config": []},
        {"modality_config": {"text": 1}},
        {"module_output_name": 1},
    ],
)
def test_malformed_transformer_settings(config: dict) -> None:
    (key,) = config
    refused(lambda: read_transformer_settings(step(config)), "text" if config == {"modality_config": {"text": 1}} else key)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, (None, None, 2, None)),
        ({"model_type": "bert", "pad_token_id": 0, "id2label": {"0": "LABEL_0"}}, ("bert", 0, 1, None)),
        ({"pad_token_id": [1], "num_labels": 3}, (None, 1, 3, None)),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}, "num_labels": 3}, (None, None, 3, None)),
        ({"sbert_ce_default_activation_function": "torch.nn.Identity"}, (None, None, 2, "torch.nn.Identity")),
        ({"sentence_transformers": {"activation_fn": "torch.nn.Tanh", "version": "4"}}, (None, None, 2, "torch.nn.Tanh")),
        ({"sentence_transformers": {"activation_fn": "a"}, "sbert_ce_default_activation_function": "b"}, (None, None, 2, "a")),
        ({"sentence_transformers": {"version": "4"}, "sbert_ce_default_activation_function": "b"}, (None, None, 2, "b")),
    ],
)
def test_encoder_config(config: dict, expected: tuple, tmp_path: Path) -> None:
    assert read_encoder_config(tmp_path) is None
    put(tmp_path / "config.json", config)
    assert read_encoder_config(tmp_path) == EncoderConfig(*expected, config)


@pytest.mark.parametrize(
    "config",
    [
        {"pad_token_id": "0"},
        {"pad_token_id": [0, 1]},
        {"id2label": 3},
        {"num_labels": "3"},
        {"model_type": 1},
        {"sentence_transformers": 1},
    ],
)
def test_malformed_encoder_config(config: dict, tmp_path: Path) -> None:
    put(tmp_path / "config.json", config)
    refused(lambda: read_encoder_config(tmp_path), *config)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, FolderConfig()),
        (
            {"prompts": {"query": "q: ", "document": None}, "default_prompt_name": "query"},
            FolderConfig(prompts={"query": "q: ", "document": ""}, default_prompt_name="query"),
        ),
        (
            {"model_type": "CrossEncoder", "activation_fn": "torch.nn.Tanh"},
            FolderConfig("CrossEncoder", activation="torch.nn.Tanh"),
        ),
        ({"similarity_fn_name": "dot_product", "truncate_dim": 64}, FolderConfig(similarity="dot", truncate_dim=64)),
        ({"similarity_fn_name": None, "prompts": None, "__version__": {"pytorch": "2"}}, FolderConfig()),
    ],
)
def test_folder_config(config: dict, expected: FolderConfig, tmp_path: Path) -> None:
    assert read_folder_config(tmp_path) == FolderConfig()
    put(tmp_path / "config_sentence_transformers.json", config)
    found = read_folder_config(tmp_path)
    assert found.raw == config
    assert found == FolderConfig(**{**vars(expected), "raw": config})


@pytest.mark.parametrize(
    "config",
    [
        {"prompts": []},
        {"prompts": {"q": 1}},
        {"prompts": {"q": "x"}, "default_prompt_name": "y"},
        {"similarity_fn_name": "MaxSim?"},
        {"model_type": 1},
        {"truncate_dim": "64"},
        {"activation_fn": []},
        {"default_prompt_name": 1},
    ],
)
def test_malformed_folder_config(config: dict, tmp_path: Path) -> None:
    put(tmp_path / "config_sentence_transformers.json", config)
    refused(lambda: read_folder_config(tmp_path), "config_sentence_transformers.json")


def test_score_activations() -> None:
    said = FolderConfig(activation="torch.nn.Tanh")
    assert choose_score_activation(said, EncoderConfig(activation="x"), 1) == "torch.nn.Tanh"
    assert choose_score_activation(FolderConfig(), EncoderConfig(activation="x"), 1) == "x"
    assert choose_score_activation(FolderConfig(), EncoderConfig(), 1) == "torch.nn.Sigmoid"
    assert choose_score_activation(FolderConfig(), EncoderConfig(), 3) == "torch.nn.Identity"


# --- pooling --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "modes", "dimension"),
    [
        ({"word_embedding_dimension": 4, "pooling_mode_mean_tokens": False}, ("mean",), 4),
        ({"embedding_dimension": 4}, ("mean",), 4),
        ({"embedding_dimension": 4, "pooling_mode": ["max", "cls"]}, ("max", "cls"), 4),
        ({"pooling_mode_lasttoken": True, "pooling_mode_cls_token": True}, ("cls", "lasttoken"), None),
    ],
)
def test_pooling_modes(config: dict, modes: tuple[str, ...], dimension: int | None) -> None:
    assert parse_pooling(config, Path("x")) == PoolingConfig(Path("x"), modes, True, dimension)


def test_pooling_keys_that_are_not_known() -> None:
    found = parse_pooling({"embedding_dimension": 4, "include_prompt": False, "pooling_mode_new": True, "a": 1}, Path("x"))
    assert (found.include_prompt, found.unknown) == (False, ("a", "pooling_mode_new"))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"pooling_mode": []},
        {"pooling_mode": [["mean"]]},
        {"pooling_mode": [3]},
        {"pooling_mode": {}},
        {"include_prompt": "no"},
        {"pooling_mode_mean_tokens": "yes"},
        {"embedding_dimension": 0},
        {"embedding_dimension": "4"},
        {"pooling_mode": "median"},
    ],
)
def test_malformed_pooling(config: dict) -> None:
    refused(lambda: parse_pooling({"pooling_mode": "mean", **config} if "include_prompt" in config else config, Path("x")), "x")


def test_a_pooling_config_outside_of_the_folder(tmp_path: Path) -> None:
    put(tmp_path / "outside" / "config.json", {"embedding_dimension": 4})
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "1_Pooling").symlink_to(tmp_path / "outside")
    with pytest.raises(RequestError, match="symlink"):
        find_pooling_config(tmp_path / "model" / "model.onnx")


# --- ONNX files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "name", "taken", "others"),
    [
        (["model.onnx"], None, "model.onnx", ()),
        (["onnx/model.onnx", "model.onnx"], None, "onnx/model.onnx", ("model.onnx",)),
        (["onnx/model.onnx", "onnx/model_O2.onnx", "a.onnx"], None, "onnx/model.onnx", ("onnx/model_O2.onnx", "a.onnx")),
        (["onnx/model.onnx", "onnx/model_fp16.onnx"], "model_fp16.onnx", "onnx/model_fp16.onnx", ("onnx/model.onnx",)),
        (["onnx/model.onnx", "model.onnx"], "model.onnx", "model.onnx", ("onnx/model.onnx",)),
        (["deep/er/x.onnx"], "deep/er/x.onnx", "deep/er/x.onnx", ()),
    ],
)
def test_find_onnx(there: list[str], name: str | None, taken: str, others: tuple[str, ...], tmp_path: Path) -> None:
    for one in there:
        put(tmp_path / one, "")
    assert find_onnx(tmp_path, name) == (tmp_path / taken, others)


def test_no_onnx(tmp_path: Path) -> None:
    assert f"graphsurgery export {tmp_path}" in refused(lambda: find_onnx(tmp_path), "onnx/model.onnx", "model.onnx").advice
    put(tmp_path / "onnx" / "model_O2.onnx", "")
    (tmp_path / "model.onnx").mkdir()
    assert "graphsurgery export" not in refused(lambda: find_onnx(tmp_path), "model_O2.onnx").advice
    refused(lambda: find_onnx(tmp_path, "x.onnx"), "x.onnx", "model_O2.onnx")
    refused(lambda: find_onnx(tmp_path / "absent"), "absent")


def test_onnx_outside_of_the_folder(tmp_path: Path) -> None:
    outside = put(tmp_path / "outside.onnx", "")
    folder = tmp_path / "model"
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx" / "model.onnx").symlink_to(outside)
    assert list_onnx_files(folder) == ()
    refused(lambda: find_onnx(folder), "symlink")
    for name in ("../outside.onnx", str(outside), "a\\b.onnx", "x\0.onnx"):
        refused(lambda name=name: find_onnx(folder, name), "asked for")


def test_every_kind_is_told_apart() -> None:
    assert all(KINDS[kind].configs or not KINDS[kind].needs_config for kind in KINDS)
    assert all(KINDS[kind].needs_folder or not KINDS[kind].needs_config for kind in KINDS)
