"""A wrong model folder is refused at once, by a message that names the file and the way out, and nothing is left behind."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from baked_folders import (
    HIDDEN,
    USUAL,
    Entry,
    dense,
    external,
    normalize,
    pooling,
    put_json,
    transformer,
    tree,
    write_folder,
)  # fmt: skip
from effort import at_most_calls
from encoders import HIDDEN as HIDDEN_STATE
from encoders import tiny_encoder
from torch_files import zip_of

from graphsurgery.baking.bake import bake
from graphsurgery.cli.main import OK, WRONG, run
from graphsurgery.folders.files import LARGEST_CONFIG

"""What a refusal may take."""
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n"
Spoil = Callable[[Path], list[object] | None]
"""Spoils the folder at ``model`` in the folder that it is given; the options to bake with, if any."""
CASES: dict[str, tuple[Spoil, tuple[str, ...]]] = {}


def case(*words: str) -> Callable[[Spoil], Spoil]:
    """A case: what the message and the advice must say."""

    def added(spoil: Spoil) -> Spoil:
        CASES[spoil.__name__] = spoil, words
        return spoil

    return added


def usual(place: Path, *entries: Entry, **more: Any) -> Path:
    return write_folder(place / "model", entries or USUAL, **more)


def headed(place: Path, head: Entry) -> Path:
    return usual(place, transformer(), pooling(), head, normalize())


def relisted(place: Path, **change: str) -> Path:
    """The second entry of modules.json changed."""
    folder = usual(place)
    listed = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    listed[1] |= change
    put_json(folder / "modules.json", listed)
    return folder


# --- modules.json ---------------------------------------------------------------------------------------------------------


@case("modules.json", "sentence-transformers model", "add-pooling", "model.onnx")
def no_modules_json(place: Path) -> None:
    (usual(place) / "modules.json").unlink()


@case("modules.json is not JSON", "download")
def modules_json_that_is_no_json(place: Path) -> None:
    put_json(usual(place) / "modules.json", "{")


@case("modules.json", "entry 0")
def modules_json_of_nonsense(place: Path) -> None:
    put_json(usual(place) / "modules.json", [1, "x", None])


@case("modules.json lists 0 modules")
def modules_json_that_is_empty(place: Path) -> None:
    put_json(usual(place) / "modules.json", [])


@case("modules.json", "a JSON object")
def modules_json_that_is_no_list(place: Path) -> None:
    put_json(usual(place) / "modules.json", {})


@case("modules.json", "'evil.Pooling'", "known are", "Pooling")
def a_class_that_is_not_known(place: Path) -> None:
    relisted(place, type="evil.Pooling")


@case("modules.json", "'..'", "must lie in")
def a_module_above_the_folder(place: Path) -> None:
    relisted(place, path="../1_Pooling")


@case("modules.json", "absolute")
def a_module_at_an_absolute_path(place: Path) -> None:
    relisted(place, path="/etc")


@case("modules.json", "symlink")
def a_module_behind_a_symlink(place: Path) -> None:
    folder = usual(place)
    shutil.move(folder / "1_Pooling", place / "elsewhere")
    (folder / "1_Pooling").symlink_to(place / "elsewhere")


@case("modules.json", "9_Pooling", "not a folder")
def a_module_that_is_not_there(place: Path) -> None:
    relisted(place, path="9_Pooling")


@case("graphsurgery", "baked it already")
def a_folder_that_was_baked(place: Path) -> None:
    bake(write_folder(place / "source"), place / "model", verify=False)


# --- modules in an order that makes no model ------------------------------------------------------------------------------


@case("0_N: the first module is a Normalize", "Transformer")
def normalize_first(place: Path) -> None:
    usual(place, normalize("0_N"), transformer("1_T"), pooling(place="2_P"))


@case("0_D: the first module is a Dense")
def dense_before_the_transformer(place: Path) -> None:
    usual(place, dense(place="0_D"), transformer("1_T"), pooling(place="2_P"))


@case("2_P: Pooling writes 'sentence_embedding'", "before it wrote already")
def pooling_twice(place: Path) -> None:
    usual(place, transformer(), pooling(), pooling(place="2_P"))


@case("1_T: a Transformer module cannot be baked here")
def two_transformers(place: Path) -> None:
    usual(place, transformer(), transformer("1_T"), pooling(place="2_P"))


@case("model has no module that pools", "add-pooling")
def nothing_that_pools(place: Path) -> None:
    usual(place, transformer(), normalize())


@case("3_D: Dense writes 'a'", "module_output_name")
def two_modules_that_write_one_name(place: Path) -> None:
    usual(place, transformer(), pooling(), dense(module_output_name="a"), dense(place="3_D", module_output_name="a"))


@case("2_Dense: Dense reads 'nobody'", "there are sentence_embedding, token_embeddings", "module_input_name")
def a_name_that_nobody_makes(place: Path) -> None:
    headed(place, dense(module_input_name="nobody"))


@case("2_Dense: Dense writes", "not a valid name")
def a_name_that_no_file_holds(place: Path) -> None:
    headed(place, dense(module_output_name="\ud800"))


@case("1_B: a BoW module cannot be baked", "Pooling")
def a_bag_of_words_behind_an_encoder(place: Path) -> None:
    usual(place, transformer(), Entry("BoW", "1_B", {"vocab": ["a"]}), pooling(place="2_P"))


# --- configs --------------------------------------------------------------------------------------------------------------


@case("1_Pooling/config.json", "9 wide", f"the encoder's are {HIDDEN}", "another model")
def a_pooling_width_that_is_not_the_encoders(place: Path) -> None:
    usual(place, transformer(), pooling(dimension=9))


@case("1_Pooling/config.json", "'median'", "lasttoken")
def a_pooling_mode_that_is_not_known(place: Path) -> None:
    usual(place, transformer(), pooling("median"))


@case("2_Dense", "'torch.nn.Foo'", "known", "tanh")
def an_activation_that_is_not_known(place: Path) -> None:
    headed(place, dense(activation="torch.nn.Foo"))


@case("2_Dense", "'os.system'")
def an_activation_that_is_none(place: Path) -> None:
    headed(place, dense(activation="os.system"))


@case("model: max_seq_length is 0")
def no_tokens_at_all(place: Path) -> None:
    usual(place, transformer(max_seq_length=0), pooling())


@case("config_sentence_transformers.json", "100", "fewer than 8")
def a_cut_of_more_than_there_is_by_the_folder(place: Path) -> None:
    put_json(usual(place) / "config_sentence_transformers.json", {"truncate_dim": 100})


@case("config_sentence_transformers.json", "'a' is not a text")
def a_prompt_that_is_no_text(place: Path) -> None:
    put_json(usual(place) / "config_sentence_transformers.json", {"prompts": {"a": 5}})


@case("config.json is not a regular file")
def a_config_that_is_a_folder(place: Path) -> None:
    (usual(place) / "config.json").mkdir()


@case("config.json is not a regular file")
def a_config_that_is_a_pipe(place: Path) -> None:
    os.mkfifo(usual(place) / "config.json")


@case("1_Pooling/config.json is not a regular file")
def a_pooling_config_that_is_a_pipe(place: Path) -> None:
    path = usual(place) / "1_Pooling" / "config.json"
    path.unlink()
    os.mkfifo(path)


@case("1_Pooling/config.json has", "bytes, more than")
def a_huge_config(place: Path) -> None:
    with (usual(place) / "1_Pooling" / "config.json").open("wb") as file:
        file.truncate(LARGEST_CONFIG + 1)


@case("tokenizer.json cannot be read", "the model's own tokenizer.json")
def a_tokenizer_that_is_no_json(place: Path) -> None:
    """What is published has to work: a tokenizer that nobody can read is refused; where there is none, the README says so."""
    put_json(usual(place) / "tokenizer.json", "{")


@case("tokenizer.json is not a regular file")
def a_tokenizer_that_is_a_pipe(place: Path) -> None:
    path = usual(place) / "tokenizer.json"
    path.unlink()
    os.mkfifo(path)


@case("tokenizer.json", "symlink")
def a_tokenizer_from_elsewhere(place: Path) -> None:
    path = usual(place) / "tokenizer.json"
    shutil.move(path, place / "secret.json")
    path.symlink_to(place / "secret.json")


# --- weights --------------------------------------------------------------------------------------------------------------


@case("2_Dense has no model.safetensors", "download")
def no_weights(place: Path) -> None:
    (headed(place, dense()) / "2_Dense" / "model.safetensors").unlink()


@case("2_Dense", "takes 9 dims", f"has {HIDDEN}")
def a_dense_of_another_width(place: Path) -> None:
    headed(place, dense(columns=9))


@case("2_L", "takes 5 dims")
def a_layer_norm_of_another_width(place: Path) -> None:
    headed(place, Entry("LayerNorm", "2_L", {}, dict.fromkeys(("norm.weight", "norm.bias"), np.ones(5, np.float32))))


@case("2_Dense/model.safetensors", "'linear.weight'", "not finite")
def weights_that_are_not_finite(place: Path) -> None:
    head = dense()
    head.weights["linear.weight"][0, 0] = np.nan
    headed(place, head)


@case("2_Dense/model.safetensors", "int32, not floats")
def weights_of_integers(place: Path) -> None:
    head = dense()
    assert isinstance(head.weights, dict)
    head.weights["linear.weight"] = np.ones((6, HIDDEN), np.int32)
    headed(place, head)


@case("2_Dense/model.safetensors is a Git LFS pointer", "git lfs pull")
def a_pointer_to_weights(place: Path) -> None:
    (headed(place, dense()) / "2_Dense" / "model.safetensors").write_text(POINTER, encoding="utf-8")


class Touch:
    """What makes a file where a pickle of it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.canary}",)


@case("2_Dense/pytorch_model.bin", "'posix.system'", "was not run")
def a_pickle_that_runs_code(place: Path) -> None:
    folder = headed(place, dense())
    (folder / "2_Dense" / "model.safetensors").unlink()
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(pickle.dumps({"linear.weight": Touch(place / "canary")}, 2))


@case("2_Dense/pytorch_model.bin", "'posix.system'", "was not run")
def a_pickle_in_an_archive_that_runs_code(place: Path) -> None:
    folder = headed(place, dense())
    (folder / "2_Dense" / "model.safetensors").unlink()
    zip_of(folder / "2_Dense" / "pytorch_model.bin", pickle.dumps({"linear.weight": Touch(place / "canary")}, 2), {})


@case("0_S has no model.safetensors")
def a_static_embedding_without_a_table(place: Path) -> None:
    usual(place, Entry("StaticEmbedding", "0_S"), at="")


@case("0_S/model.safetensors", "[5]")
def a_static_embedding_whose_table_is_none(place: Path) -> None:
    usual(place, Entry("StaticEmbedding", "0_S", None, {"embedding.weight": np.ones(5, np.float32)}), at="")


# --- the ONNX file --------------------------------------------------------------------------------------------------------


@case("no onnx/model.onnx", "graphsurgery export", "model")
def no_onnx_file(place: Path) -> None:
    usual(place, at="")


@case("nope.onnx", "onnx/model.onnx, onnx/model_fp16.onnx", "by its name")
def an_onnx_file_that_is_not_there(place: Path) -> list[object]:
    folder = usual(place)
    shutil.copy(folder / "onnx" / "model.onnx", folder / "onnx" / "model_fp16.onnx")
    return ["--onnx", "nope.onnx"]


@case("'..'", "ONNX file")
def an_onnx_file_elsewhere_that_is_not_there(place: Path) -> list[object]:
    usual(place)
    return ["--onnx", "../other.onnx"]


@case("onnx/model.onnx", "already pools", "--replace", "options of graphsurgery add-pooling")
def an_onnx_file_that_pools(place: Path) -> None:
    usual(place, encoder=tiny_encoder(names={HIDDEN_STATE: "sentence_embedding"}))


@case("onnx/model.onnx: the protobuf is broken", "truncated")
def a_truncated_onnx_file(place: Path) -> None:
    path = usual(place) / "onnx" / "model.onnx"
    path.write_bytes(path.read_bytes()[:-50])


@case("onnx/model.onnx: the file is empty")
def an_empty_onnx_file(place: Path) -> None:
    (usual(place) / "onnx" / "model.onnx").write_bytes(b"")


@case("onnx/model.onnx is a Git LFS pointer", "git lfs pull")
def a_pointer_to_an_onnx_file(place: Path) -> None:
    (usual(place) / "onnx" / "model.onnx").write_text(POINTER, encoding="utf-8")


@case("onnx/model.onnx", "symlink")
def an_onnx_file_behind_a_symlink(place: Path) -> None:
    path = usual(place) / "onnx" / "model.onnx"
    shutil.move(path, place / "x.onnx")
    path.symlink_to(place / "x.onnx")


@case("onnx/model.onnx", "model.onnx_data", "are missing")
def external_data_that_are_not_there(place: Path) -> None:
    folder = usual(place)
    external(folder)
    (folder / "onnx" / "model.onnx_data").unlink()


@case("onnx/model.onnx: no output is [batch, seq, hidden]", "logits", "add-pooling")
def an_onnx_file_of_another_task(place: Path) -> None:
    usual(place, encoder=tiny_encoder(names={HIDDEN_STATE: "logits"}))


@case("onnx/model.onnx", "no attention mask", "add-pooling")
def an_encoder_without_a_mask(place: Path) -> None:
    usual(place, encoder=tiny_encoder(mask_dtype=None))


# --- what is asked for ----------------------------------------------------------------------------------------------------


@case("no Router", "'query'", "--route")
def a_route_of_no_router(place: Path) -> list[object]:
    usual(place)
    return ["--route", "query"]


@case("100", "fewer than 8")
def a_cut_of_more_than_there_is(place: Path) -> list[object]:
    usual(place)
    return ["--truncate-dim", "100"]


@case("'x' is not a number", "--truncate-dim 256")
def a_cut_to_no_number(place: Path) -> list[object]:
    usual(place)
    return ["--truncate-dim", "x"]


@case("int8 needs each dim's smallest and largest", "--ranges")
def bytes_without_ranges(place: Path) -> list[object]:
    usual(place)
    return ["--output-precision", "int8"]


@case("ranges.npy is [2, 5]", f"[2, {HIDDEN}]")
def ranges_of_another_width(place: Path) -> list[object]:
    usual(place)
    np.save(place / "ranges.npy", np.zeros((2, 5)))
    return ["--output-precision", "int8", "--ranges", place / "ranges.npy"]


@case("'int3'", "--output-precision")
def a_precision_that_is_not_known(place: Path) -> list[object]:
    usual(place)
    return ["--output-precision", "int3"]


@case("'pooler'", "token_embeddings")
def an_output_that_cannot_be_kept(place: Path) -> list[object]:
    usual(place)
    return ["--keep-output", "pooler"]


@case("is not a folder", "modules.json")
def a_file_in_place_of_a_folder(place: Path) -> None:
    (place / "model").write_text("x", encoding="utf-8")


@case("the folder", "does not exist")
def nothing_at_all(place: Path) -> None:
    assert not (place / "model").exists()


# --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_named(name: str, tmp_path: Path, capsys) -> None:
    spoil, words = CASES[name]
    options = spoil(tmp_path) or []
    before = tree(tmp_path)
    with at_most_calls():
        code = run(["bake", str(tmp_path / "model"), *map(str, options)])
    captured = capsys.readouterr()
    said = captured.err.replace(str(tmp_path), "")
    assert code == WRONG and not captured.out and "Traceback" not in said, said
    assert said.startswith("error: ") and "what to do: " in said
    assert [word for word in words if word not in said] == [], said
    assert tree(tmp_path) == before and ".tmp" not in said, "nothing is left behind, nor told of"
    assert run(["bake", str(tmp_path / "model"), *map(str, options), "--json"]) == WRONG
    told = json.loads(capsys.readouterr().out)["error"]
    assert told["message"] and told["advice"] and told["type"].endswith("Error")


def test_there_are_many() -> None:
    assert len(CASES) >= 50


@pytest.mark.parametrize(
    ("spoil", "verdict"),
    [
        (lambda folder: (folder / "LICENSE").mkdir(), OK),
        (lambda folder: (folder / "tokenizer.json").unlink(), OK),
        (lambda folder: (folder / "README.md").mkdir(), OK),
        (lambda folder: (folder / "onnx" / "broken.onnx").write_bytes(b"x"), OK),
    ],
    ids=["LICENSE is a folder", "no tokenizer", "README is a folder", "a broken variant"],
)
def test_what_does_not_matter(spoil: Callable[[Path], object], verdict: int, tmp_path: Path) -> None:
    folder = usual(tmp_path)
    spoil(folder)
    assert run(["bake", str(folder), "-q"]) == verdict


def test_an_encoder_that_gives_nothing_but_nan(tmp_path: Path, capsys) -> None:
    """A file that is of no use to anybody is no success, proven or not."""
    encoder = tiny_encoder()
    bias = next(one for one in encoder.graph.initializer if one.name == "bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(HIDDEN, np.nan, np.float32), "bias"))
    folder = usual(tmp_path, encoder=encoder)
    for options in ([], ["--no-verify"]):
        assert run(["bake", str(folder), *options]) == WRONG
        said = capsys.readouterr().err
        assert "onnx/model.onnx: the model gives only NaN" in said and "export it again" in said
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


# --- any value anywhere ---------------------------------------------------------------------------------------------------

NASTY = (None, -1, 10**30, "", "../x", "\ud800", [[]], True, {"a": {"b": 1}})


def places(content: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where values are in a JSON document."""
    yield place
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inner:
        yield from places(value, (*place, key))


def replaced(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    whole = inner = copy.deepcopy(content)
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return whole


def full_folder(folder: Path) -> Path:
    """A folder in which every kind of config says something."""
    entries = (transformer(do_lower_case=True), pooling(include_prompt=False), dense(), normalize())
    write_folder(folder, entries)
    put_json(folder / "config.json", {"model_type": "bert", "architectures": ["BertModel"], "max_position_embeddings": 64})
    prompts = {"prompts": {"query": "query : "}, "default_prompt_name": "query", "similarity_fn_name": "cosine"}
    put_json(folder / "config_sentence_transformers.json", {"model_type": "SentenceTransformer", "truncate_dim": 4, **prompts})
    return folder


CONFIGS = (
    "modules.json", "1_Pooling/config.json", "2_Dense/config.json", "config.json", "config_sentence_transformers.json",
    "sentence_bert_config.json", "tokenizer_config.json",
)  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_any_value_anywhere(name: str, tmp_path: Path, capsys) -> None:
    """Each value of each config replaced by each nasty one: baked, or refused by a message that names the folder."""
    folder = full_folder(tmp_path / "model")
    original = json.loads((folder / name).read_text(encoding="utf-8"))
    codes = set()
    for place in places(original):
        for value in NASTY:
            put_json(folder / name, json.dumps(replaced(original, place, value)))
            code = run(["bake", str(folder), "--no-verify", "-q", "--dry-run"])
            said = capsys.readouterr().err
            assert code in (OK, WRONG), (place, value, said)
            assert code == OK or str(folder) in said, (place, value, said)
            codes.add(code)
    assert codes == {OK, WRONG} and [path.name for path in tmp_path.iterdir()] == ["model"]
