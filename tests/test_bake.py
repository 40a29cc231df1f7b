"""bake, through the command line and the library: what it leaves, that all of it is true, and that it leaves nothing else."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from baked_folders import (
    HIDDEN,
    OLD,
    USUAL,
    Entry,
    dense,
    drawn,
    external,
    normalize,
    pooling,
    put,
    put_json,
    transformer,
    tree,
    write_folder,
    write_tokenizer,
)  # fmt: skip
from conftest import FIXTURES, ROOT
from encoders import BFLOAT16, FLOAT16, tiny_encoder
from hub import lay_out
from tokenizers import Tokenizer

import graphsurgery
from graphsurgery.baking import bake as baking
from graphsurgery.baking.bake import bake
from graphsurgery.cli.main import OK, VERDICT, WRONG, run
from graphsurgery.edits import pooling_graph
from graphsurgery.edits.add_pooling import AddPooling
from graphsurgery.edits.edit import Edit
from graphsurgery.errors import FolderError, OutputExistsError, RequestError, SurroundingsError, VerificationFailed
from graphsurgery.exporting import export_folder
from graphsurgery.folders.pooling_config import parse_pooling
from graphsurgery.model.certificate import PACKAGES, read_certificate
from graphsurgery.version import __version__

FILES = (
    "1_Pooling/config.json",
    "README.md",
    "graphsurgery.json",
    "onnx/model.onnx",
    "tokenizer.json",
    "tokenizer_config.json",
)
BOOLEANS = {
    "cls": "pooling_mode_cls_token", "max": "pooling_mode_max_tokens", "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens", "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}  # fmt: skip
"""The modes and keys of sentence-transformers up to 5.3, in the order in which it concatenates."""


def command(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """The command line in this process, with --json."""
    capsys.readouterr()
    code = run([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def embed(folder: Path, output: str = "sentence_embedding", ids: tuple[int, ...] = (4, 5, 6), **more: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    feed = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)} | more
    return session.run([output], {value.name: feed[value.name] for value in session.get_inputs()})[0]


def readme_program(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]


def run_program(folder: Path) -> dict[str, Any]:
    """The names that the README's program makes, run in the folder."""
    scope: dict[str, Any] = {}
    with contextlib.chdir(folder), contextlib.redirect_stdout(None):
        exec(readme_program(folder), scope)
    return scope


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def certificate(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "graphsurgery.json").read_text(encoding="utf-8"))


# --- what a bake leaves ---------------------------------------------------------------------------------------------------


def test_files_and_certificate(tmp_path: Path, capsys) -> None:
    folder = write_folder(tmp_path / "model", (transformer(), pooling(), dense(), normalize()))
    put_json(folder / "config_sentence_transformers.json", {"prompts": {"query": "query : "}})
    (folder / "LICENSE").write_text("do what you like", encoding="utf-8")
    (folder / "unrelated.txt").write_text("not to be published", encoding="utf-8")
    before = tree(folder)
    code, told = command("bake", folder, capsys=capsys)
    assert code == OK and told["report"]["verdict"] == "PASSED"
    baked = tmp_path / "model-baked"
    assert Path(told["folder"]) == baked, "the default output stands beside the folder"
    there = {path.relative_to(baked).as_posix() for path in baked.rglob("*") if path.is_file()}
    assert there == {*FILES, "LICENSE", "config_sentence_transformers.json"} == set(told["files"])
    for name in ("tokenizer.json", "tokenizer_config.json", "LICENSE", "config_sentence_transformers.json"):
        assert (baked / name).read_bytes() == (folder / name).read_bytes()
    assert tree(folder) == before and sorted(path.name for path in tmp_path.iterdir()) == ["model", "model-baked"]
    facts = certificate(baked)
    assert facts["files"] == {name: sha256(baked / name) for name in there - {"graphsurgery.json"}}
    assert facts["sources"] == {name: sha256(folder / name) for name in facts["sources"]}
    assert set(facts["sources"]) == {
        "onnx/model.onnx", "modules.json", "config_sentence_transformers.json", "1_Pooling/config.json", "2_Dense/config.json",
        "2_Dense/model.safetensors", "tokenizer.json", "tokenizer_config.json", "LICENSE",
    }  # fmt: skip
    assert [step["edit"] for step in facts["steps"]] == ["add-pooling", "add-dense", "add-normalize"]
    assert facts["graphsurgery"] == __version__ and set(facts["versions"]) == {"python", *PACKAGES}
    assert facts["versions"]["onnxruntime"] == onnxruntime.__version__
    assert [module["kind"] for module in facts["modules"]] == ["Transformer", "Pooling", "Dense", "Normalize"]
    assert facts["interface"]["outputs"][0] == {"name": "sentence_embedding", "dtype": "float32", "dims": ["batch", 6]}
    assert facts["report"]["verdict"] == "PASSED" and facts["model"] == "model"


def test_nothing_in_a_baked_folder_names_this_machine(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", (transformer(), pooling(), dense(), normalize()))
    bake(folder)
    for path, (data, _) in tree(tmp_path / "model-baked").items():
        assert str(tmp_path).encode() not in data and tmp_path.name.encode() not in data, path


def test_in_one_file_is_everything(tmp_path: Path) -> None:
    """The vectors are those of the formulas, from the encoder's own hidden states."""
    head = dense(activation="torch.nn.Identity")
    folder = write_folder(tmp_path / "model", (transformer(), pooling(), head, normalize()))
    bake(folder)
    hidden = embed(folder, "last_hidden_state")[0].astype(np.float64)
    made = head.weights["linear.weight"] @ hidden.mean(axis=0) + head.weights["linear.bias"]
    assert np.allclose(embed(tmp_path / "model-baked")[0], made / np.linalg.norm(made), atol=1e-6)


@pytest.mark.parametrize("modes", [["mean"], ["cls"], ["lasttoken"], ["cls", "mean"], ["max", "weightedmean"], list(BOOLEANS)])
@pytest.mark.parametrize("form", ["new", "old"])
def test_the_pooling_config_is_read_by_both_generations(modes: list[str], form: str, tmp_path: Path) -> None:
    config = {"embedding_dimension": HIDDEN, "pooling_mode": modes[0] if len(modes) == 1 else modes}
    if form == "old":
        config = {"word_embedding_dimension": HIDDEN, **{key: mode in modes for mode, key in BOOLEANS.items()}}
    folder = write_folder(tmp_path / "model", (transformer(), Entry("Pooling", "1_Pooling", config)))
    bake(folder, verify=False)
    found = json.loads((tmp_path / "model-baked" / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    new = found["pooling_mode"]
    assert ([new] if isinstance(new, str) else new) == [mode for mode in BOOLEANS if mode in modes]
    assert [mode for mode, key in BOOLEANS.items() if found[key]] == [mode for mode in BOOLEANS if mode in modes]
    assert found["word_embedding_dimension"] == HIDDEN and found["include_prompt"] is True
    assert parse_pooling(found, Path("x")).unknown == ()


def test_an_export_that_pools_already_is_pooled_anew(tmp_path: Path) -> None:
    """Optimum's export of a whole folder: the embedding stands beside the token embeddings that it was made from."""
    folder = write_folder(tmp_path / "model", USUAL)
    path = folder / "onnx" / "model.onnx"
    proto = onnx.load(path)
    rows = proto.graph.output[0].name
    proto.graph.node.append(onnx.helper.make_node("ReduceMax", [rows], ["sentence_embedding"], axes=[1], keepdims=0))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("sentence_embedding", 1, ["batch", HIDDEN]))
    plain = bake(folder, output=tmp_path / "plain")
    onnx.save(proto, path)
    done = bake(folder, output=tmp_path / "anew")
    assert plain.outcome.report and done.outcome.report
    assert [isinstance(step, AddPooling) and step.replace for step in done.plan.steps] == [True, False]
    assert np.allclose(embed(tmp_path / "anew"), embed(tmp_path / "plain"), atol=1e-6)


def test_a_pooling_config_without_a_width_gets_the_encoders(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", (transformer(), Entry("Pooling", "1_Pooling", {"pooling_mode": "cls"})))
    bake(folder, verify=False)
    found = json.loads((tmp_path / "model-baked" / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    assert found["word_embedding_dimension"] == HIDDEN


def test_the_file_itself_certifies_the_same(tmp_path: Path, capsys) -> None:
    folder = write_folder(tmp_path / "model", (transformer(), pooling(), dense(), normalize()))
    code, told = command("bake", folder, capsys=capsys)
    assert code == OK
    model, written = tmp_path / "model-baked" / "onnx" / "model.onnx", certificate(tmp_path / "model-baked")
    found = read_certificate(graphsurgery.load(model))
    assert found is not None and (found.sources, found.versions) == (written["sources"], written["versions"])
    assert (found.verdict, found.checks) == (
        written["report"]["verdict"], {check["name"]: check["verdict"] for check in written["report"]["checks"]}
    )  # fmt: skip
    assert {"encoder untouched", "head proof", "whole proof", "golden vectors"} <= set(found.checks)
    assert command("inspect", model, capsys=capsys)[1]["certificate"] == found.to_json()
    _, told = command("verify", model, "--self", capsys=capsys)
    assert any(str(found) in line for line in told["report"]["observations"])
    assert "made from" in str(found) and "PASSED" in str(found)
    edited, undone = tmp_path / "edited.onnx", tmp_path / "undone.onnx"
    assert command("output-precision", model, "--to", "binary", "-o", edited, capsys=capsys)[0] == OK
    told = command("inspect", edited, capsys=capsys)[1]
    assert told["certificate"] is None and told["goldens"] is False, "they were of another file"
    assert command("strip-head", model, "-o", undone, capsys=capsys)[0] == OK
    assert undone.read_bytes() == (folder / "onnx" / "model.onnx").read_bytes()


def test_a_certificate_with_local_functions(tmp_path: Path, capsys) -> None:
    """They stand behind the metadata; another program that saves the file writes the fields in that order again."""
    encoder = tiny_encoder()
    body = [onnx.helper.make_node("Identity", ["x"], ["y"])]
    encoder.functions.append(onnx.helper.make_function("local", "F", ["x"], ["y"], body, [onnx.helper.make_opsetid("", 18)]))
    encoder.opset_import.append(onnx.helper.make_opsetid("local", 1))
    folder = write_folder(tmp_path / "model", encoder=encoder)
    assert command("bake", folder, capsys=capsys)[0] == OK
    model, again = tmp_path / "model-baked" / "onnx" / "model.onnx", tmp_path / "again.onnx"
    assert read_certificate(graphsurgery.load(model)) is not None
    onnx.save(onnx.load(model), again)
    assert command("verify", again, "--self", capsys=capsys)[0] == OK
    assert command("strip-head", again, "-o", tmp_path / "back.onnx", capsys=capsys)[0] == OK
    assert (tmp_path / "back.onnx").read_bytes() == (folder / "onnx" / "model.onnx").read_bytes()


def test_a_file_is_certified_anew_after_an_edit(tmp_path: Path, capsys) -> None:
    bake(write_folder(tmp_path / "model"), tmp_path / "baked")
    (tmp_path / "cut.toml").write_text('goldens = true\n[[steps]]\nedit = "truncate"\ndim = "4"\n', encoding="utf-8")
    model, cut = tmp_path / "baked" / "onnx" / "model.onnx", tmp_path / "cut.onnx"
    code, told = command("run", tmp_path / "cut.toml", model, "-o", cut, capsys=capsys)
    assert code == OK, told
    assert command("verify", cut, "--self", capsys=capsys)[0] == OK
    found = read_certificate(graphsurgery.load(cut))
    assert found is not None and found.sources == {} and found.verdict == "PASSED"


@pytest.mark.parametrize("change", [{"verdict": "PASSED and more"}, {"sources": ["x"]}, {"verdict": "FAILED"}])
def test_a_certificate_that_is_not_what_was_recorded_is_not_shown(change: dict, tmp_path: Path, capsys) -> None:
    bake(write_folder(tmp_path / "model"), tmp_path / "baked")
    model = tmp_path / "baked" / "onnx" / "model.onnx"
    proto = onnx.load(model)
    entry = next(one for one in proto.metadata_props if "record-certificate" in one.value)
    content = json.loads(entry.value)
    content["parameters"] |= change
    entry.value = json.dumps(content, separators=(",", ":"))
    onnx.save(proto, model)
    assert command("inspect", model, capsys=capsys)[1]["certificate"] is None
    assert command("verify", model, "--self", capsys=capsys)[0] == VERDICT


def test_options_that_would_make_no_difference(tmp_path: Path, capsys) -> None:
    folder = write_folder(tmp_path / "model")
    for option in (("--ranges", "texts.txt"), ("--skip-prompt", "3")):
        code, told = command("bake", folder, *option, capsys=capsys)
        assert (code, told["error"]["type"]) == (WRONG, "RequestError")


def test_two_bakes_give_the_same_bytes(tmp_path: Path) -> None:
    """Wherever the folder lies and wherever it goes."""
    entries = (transformer(), pooling(), dense(), normalize())
    folders = [write_folder(tmp_path / place / "model", entries) for place in ("a", "b/c")]
    bake(folders[0])
    bake(folders[1], tmp_path / "elsewhere")
    bake(folders[1], tmp_path / "unproven", verify=False)
    one, other, unproven = (
        (tmp_path / place / "onnx" / "model.onnx").read_bytes() for place in ("a/model-baked", "elsewhere", "unproven")
    )
    assert one == other
    assert one[:-2000] == unproven[: len(one) - 2000] and b'"verdict":""' in unproven[-2000:], "all but the certificate"


# --- the README -----------------------------------------------------------------------------------------------------------


def kinds_of_folders(tmp_path: Path, kind: str) -> Path:
    """A folder of each kind whose README has to say something of its own."""
    folder = tmp_path / "model"
    match kind:
        case "left padding, cut":
            write_folder(folder, (transformer(max_seq_length=5), pooling("lasttoken")))
            write_tokenizer(folder, padding_side="left")
        case "types and positions":
            write_folder(folder, USUAL, tiny_encoder(inputs=("token_type_ids", "position_ids")))
        case "default prompt, lowercase":
            write_folder(folder, (transformer(do_lower_case=True), pooling()))
            put_json(
                folder / "config_sentence_transformers.json",
                {"prompts": {"query": "query : ", "none": ""}, "default_prompt_name": "query"},
            )
        case "a prompt that is not pooled":
            write_folder(folder, (transformer(), pooling(include_prompt=False)))
            write_tokenizer(folder, sep_token={"content": "[SEP]"})
            put_json(folder / "config_sentence_transformers.json", {"prompts": {"q": "query : "}, "default_prompt_name": "q"})
        case "no tokenizer":
            write_folder(folder, tokenizer=False)
        case "int32":
            write_folder(folder, USUAL, tiny_encoder(ids_dtype=onnx.TensorProto.INT32, mask_dtype=onnx.TensorProto.FLOAT))
        case "static":
            static(folder)
    return folder


def static(folder: Path) -> Path:
    weights = {"embedding.weight": drawn(np.random.default_rng(0), (50, 6))}
    write_folder(folder, (Entry("StaticEmbedding", "0_Static", None, weights), normalize()), at="", tokenizer=False)
    write_tokenizer(folder / "0_Static")
    return folder


@pytest.mark.parametrize(
    "kind",
    ["left padding, cut", "types and positions", "default prompt, lowercase", "a prompt that is not pooled", "no tokenizer",
     "int32", "static"],
)  # fmt: skip
def test_the_readme_runs(kind: str, tmp_path: Path) -> None:
    """Its program, run in the folder, gives what the file gives for the texts tokenised by hand."""
    folder = kinds_of_folders(tmp_path, kind)
    done = bake(folder)
    assert done.outcome.report
    baked = tmp_path / "model-baked"
    scope = run_program(baked)
    found = scope["sentence_embedding"]
    if kind == "no tokenizer":
        assert found.shape == (1, HIDDEN) and "no tokenizer.json" in readme_program(baked)
        return
    session = onnxruntime.InferenceSession(baked / "onnx" / "model.onnx")
    tokenizer = Tokenizer.from_file(str(baked / "tokenizer.json"))
    for row, text in enumerate(("How are you?", "It is cold today.")):
        given = f"query : {text}" if "prompt" in kind else text
        given = given.lower() if "lowercase" in kind else given
        ids = tokenizer.encode(given, add_special_tokens=kind != "static").ids
        ids = [*ids[:4], ids[-1]] if "cut" in kind else ids  # [SEP] is kept
        feed = {
            "input_ids": [ids], "attention_mask": [[1] * len(ids)], "token_type_ids": [[0] * len(ids)],
            "position_ids": [list(range(len(ids)))], "prompt_length": [3],
        }  # fmt: skip
        kinds = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32}
        arrays = {value.name: np.array(feed[value.name], kinds[value.type]) for value in session.get_inputs()}
        wanted = session.run(["sentence_embedding"], arrays)[0]
        if "left" not in kind:  # this encoder has positions of its own, which left padding moves
            assert np.allclose(found[row : row + 1], wanted, atol=1e-6), text
    assert ('direction="left"' in readme_program(baked)) == ("left" in kind)
    if "not pooled" in kind:
        assert scope["session"].get_inputs()[-1].name == "prompt_length" and scope["prompt_tokens"] == 3


@pytest.mark.parametrize("name", ["bert", "bert-fp16", "modernbert", "qwen3", "xlmr"])
def test_the_readme_of_every_fixture_runs(name: str, fixture_copy, tmp_path: Path) -> None:
    """Against the goldens that transformers gave when the fixture was made: the same hidden states, so the same vectors."""
    folder = fixture_copy(name).parent
    bake(folder, tmp_path / "baked", verify=False)
    scope = run_program(tmp_path / "baked")
    vectors = scope["sentence_embedding"]
    assert vectors.shape[0] == 2 and np.isfinite(vectors).all()
    alone = readme_program(tmp_path / "baked").replace('"How are you?", ', "")
    with contextlib.chdir(tmp_path / "baked"), contextlib.redirect_stdout(None):
        exec(alone, scope)
    assert np.allclose(scope["sentence_embedding"][0], vectors[1], atol=1e-2 if "16" in name else 1e-5), "padding matters"


def test_what_the_readme_says(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", (transformer(max_seq_length=20), pooling(["cls", "mean"]), normalize()))
    prompts = {"query": "query : ", "odd": "a | `b`\nc ```d", "none": ""}
    put_json(folder / "config_sentence_transformers.json", {"prompts": prompts, "similarity_fn_name": "dot"})
    card = "---\nlicense: mit\nlanguage:\n- en\n- de\ntags:\n- secret\nlicense_name: mine\n---\n# Model\nlicense: other\n"
    (folder / "README.md").write_text(card, encoding="utf-8")
    bake(folder)
    text = (tmp_path / "model-baked" / "README.md").read_text(encoding="utf-8")
    front, _, body = text.removeprefix("---\n").partition("\n---\n")
    for line in ("license: mit", "language:\n- en\n- de", "license_name: mine", "pipeline_tag: sentence-similarity"):
        assert line in front
    assert "secret" not in front and "other" not in front
    for part in ("Pooling (cls and mean)", "20 tokens", "on the right", "dot similarity", "of unit length", "PASSED", "golden"):
        assert part in body, part
    assert '- `query`: `"query : "`' in body and "``a" not in body and "`none`" not in body
    assert '- `odd`: ```` "a | `b`\\nc ```d" ````' in body and body.count("```") == 2 + 3


def test_the_readme_has_the_figures_of_the_terminal(tmp_path: Path, capsys) -> None:
    assert run(["bake", str(write_folder(tmp_path / "model")), "-v"]) == OK
    shown = " ".join(capsys.readouterr().out.split())
    text = (tmp_path / "model-baked" / "README.md").read_text(encoding="utf-8")
    figures = re.findall(r"- (?:head proof|whole proof|golden vectors): PASSED\. (\d+ cases; .*?)\. [A-Z]", text)
    assert len(figures) == 3 and "limit" in figures[0]
    assert all(" ".join(one.split()) in shown for one in figures), (figures, shown)


def test_without_a_proof_the_readme_claims_none(tmp_path: Path) -> None:
    bake(write_folder(tmp_path / "model"), verify=False)
    text = (tmp_path / "model-baked" / "README.md").read_text(encoding="utf-8")
    assert "Nothing: the proof was skipped" in text and "PASSED" not in text
    assert certificate(tmp_path / "model-baked")["report"] is None


# --- where to -------------------------------------------------------------------------------------------------------------


def test_a_second_bake_is_refused_and_forced(tmp_path: Path, capsys) -> None:
    folder = write_folder(tmp_path / "model")
    baked = tmp_path / "model-baked"
    assert command("bake", folder, capsys=capsys)[0] == OK
    before = tree(tmp_path)
    code, told = command("bake", folder, capsys=capsys)
    assert (code, told["error"]["type"]) == (WRONG, "OutputExistsError") and "--force" in told["error"]["advice"]
    assert tree(tmp_path) == before
    put(folder / "1_Pooling", pooling("max"))
    assert command("bake", folder, "--force", capsys=capsys)[0] == OK
    assert certificate(baked)["steps"][0]["parameters"]["mode"] == "max"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model-baked"]


def thesis(folder: Path) -> None:
    """A folder of someone else."""
    folder.mkdir(exist_ok=True)
    (folder / "thesis.tex").write_text("years of work", encoding="utf-8")


def certified(folder: Path, content: object) -> None:
    folder.mkdir()
    put_json(folder / "graphsurgery.json", content)


def repository(folder: Path) -> None:
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref", encoding="utf-8")


def linked(folder: Path) -> None:
    folder.rename(folder.with_name("real"))
    folder.symlink_to("real")


FOREIGN: dict[str, Callable[[Path], object]] = {
    "a folder of someone else": thesis,
    "an empty folder": Path.mkdir,
    "a file": lambda baked: baked.write_text("x", encoding="utf-8"),
    "a certificate that is none of ours": lambda baked: certified(baked, {"note": "mine"}),
    "a certificate that is not JSON": lambda baked: certified(baked, "{"),
    "a symlink to nowhere": lambda baked: baked.symlink_to("absent"),
}
OURS_AND_MORE: dict[str, Callable[[Path], object]] = {
    "a repository in it": repository,
    "a link in it": lambda baked: (baked / "data").symlink_to(baked.parent),
    "a symlink to it": linked,
    "a file beside the model": lambda baked: (baked / "onnx" / "model_fp16.onnx").write_bytes(b""),
}
"""What may stand where a folder is to be baked, and no force may replace."""


@pytest.mark.parametrize("how", [*FOREIGN, *OURS_AND_MORE])
def test_force_replaces_nothing_but_what_we_made(how: str, tmp_path: Path, capsys) -> None:
    folder, baked = write_folder(tmp_path / "model"), tmp_path / "model-baked"
    if how in OURS_AND_MORE:
        bake(folder, verify=False)
    (FOREIGN | OURS_AND_MORE)[how](baked)
    before = tree(tmp_path)
    code, told = command("bake", folder, "--force", capsys=capsys)
    assert (code, told["error"]["type"]) == (WRONG, "OutputExistsError"), told
    assert tree(tmp_path) == before


def edited_since(baked: Path) -> None:
    """What a user makes of a baked file: other names, and the encoder alone again, byte for byte the source."""
    for verb, *more in (["rename", "--name", "sentence_embedding=vector"], ["strip-head"]):
        assert run([verb, str(baked / "onnx" / "model.onnx"), *more, "-q"]) == OK


def test_force_replaces_what_we_made_in_the_folder_since(tmp_path: Path, capsys) -> None:
    """The files are named; one that another program changed, although it has our records, is somebody's own."""
    folder, baked = write_folder(tmp_path / "model"), tmp_path / "model-baked"
    assert not any("old model-baked" in note for note in bake(folder, verify=False).outcome.notes)
    edited_since(baked)
    code, told = command("bake", folder, capsys=capsys)
    assert code == WRONG and "--force" in told["error"]["advice"]
    renamed = baked / "onnx" / "model.renamed.onnx"
    ours = renamed.read_bytes()
    foreign = onnx.load(renamed)
    foreign.graph.node[0].doc_string = "tuned by hand"
    onnx.save(foreign, renamed)
    code, told = command("bake", folder, "--force", capsys=capsys)
    assert code == WRONG and "another program changed files in it since" in told["error"]["message"], told
    assert told["error"]["message"].endswith("onnx/model.renamed.onnx")
    renamed.write_bytes(ours)
    code, told = command("bake", folder, "--force", capsys=capsys)
    assert code == OK, told
    note = next(note for note in told["notes"] if "old model-baked" in note)
    assert note.endswith("since: onnx/model.encoder.onnx, onnx/model.renamed.onnx")
    assert [path.name for path in (baked / "onnx").iterdir()] == ["model.onnx"]
    assert all("old model-baked" not in note for note in certificate(baked)["notes"])


def test_force_replaces_what_optimize_made_in_the_folder(tmp_path: Path, capsys) -> None:
    """A rewrite cannot be undone. Its record marks the file as ours, and so are the edits behind it."""
    folder, baked = write_folder(tmp_path / "model"), tmp_path / "model-baked"
    bake(folder, verify=False)
    made = baked / "onnx" / "model.onnx"
    graphsurgery.optimize(made, portable=True, verify=False, time=False)
    graphsurgery.run([graphsurgery.Rename(("sentence_embedding=v",))], made.with_name("model.optimized.onnx"), verify=False)
    code, told = command("bake", folder, "--force", "--no-verify", capsys=capsys)
    assert code == OK, told
    note = next(note for note in told["notes"] if "old model-baked" in note)
    assert note.endswith("since: onnx/model.optimized.onnx, onnx/model.renamed.onnx")
    made.with_name("model.optimized.onnx").write_bytes(b"not ours")
    code, told = command("bake", folder, "--force", "--no-verify", capsys=capsys)
    assert code == WRONG and "did not make: onnx/model.optimized.onnx" in told["error"]["message"]


def test_data_of_files_made_since_go_with_them(tmp_path: Path, capsys) -> None:
    folder, baked = write_folder(tmp_path / "model"), tmp_path / "model-baked"
    external(folder)
    bake(folder, verify=False)
    assert (
        run(["rename", str(baked / "onnx/model.onnx"), "--name", "sentence_embedding=v", "-o", str(baked / "v.onnx"), "-q"])
        == OK
    )
    there = sorted(path.name for path in baked.iterdir() if path.name.startswith("v.onnx"))
    assert len(there) == 2, "the file has its own copy of the data"
    code, told = command("bake", folder, "--force", "--no-verify", capsys=capsys)
    assert code == OK and told["notes"][0].endswith(", ".join(there))
    assert not any(path.name.startswith("v.onnx") for path in baked.iterdir())


@pytest.mark.parametrize("where", ["model", ".", "model/baked", "model/onnx", "model/../model", "link", "link/baked"])
def test_the_model_folder_is_never_the_output(where: str, tmp_path: Path, capsys) -> None:
    folder = write_folder(tmp_path / "home" / "model")
    (tmp_path / "home" / "link").symlink_to("model")
    put_json(folder / "graphsurgery.json", {"files": dict.fromkeys(tree(folder), "")})  # even if it says that we made it
    put_json(folder.parent / "graphsurgery.json", {"files": {}})
    before = tree(tmp_path)
    for force in ([], ["--force"]):
        code, told = command("bake", folder, "-o", folder.parent / where, *force, capsys=capsys)
        assert (code, told["error"]["type"]) == (WRONG, "OutputExistsError"), told
    assert tree(tmp_path) == before


def test_names_of_folders(tmp_path: Path, monkeypatch) -> None:
    folder = write_folder(tmp_path / "model")
    (folder / "sub").mkdir()
    for place, given in ((folder, "."), (tmp_path, "model/"), (folder / "sub", "..")):
        monkeypatch.chdir(place)
        assert bake(given, verify=False, dry_run=True).folder == tmp_path / "model-baked"
    with pytest.raises(SurroundingsError):
        bake(folder, tmp_path / "no" / "such" / "folder")
    assert bake(folder, str(tmp_path / "named"), verify=False).folder == tmp_path / "named"


def test_the_cache_of_a_hub_is_no_place_to_write(tmp_path: Path, monkeypatch) -> None:
    snapshot = lay_out(write_folder(tmp_path / "plain"), tmp_path / "hub")
    with pytest.raises(RequestError, match="cache"):
        bake(snapshot)
    bake(snapshot, tmp_path / "out")
    assert certificate(tmp_path / "out")["model"] == "someone/small-model"
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "# small-model, as one ONNX file" in text and 'base_model: "someone/small-model"' in text


# --- options --------------------------------------------------------------------------------------------------------------


def test_a_dry_run_proves_and_leaves_nothing(tmp_path: Path, capsys) -> None:
    folder = write_folder(tmp_path / "model")
    before = tree(tmp_path)
    code, told = command("bake", folder, "--dry-run", capsys=capsys)
    assert (code, told["report"]["verdict"], told["folder"], told["files"]) == (OK, "PASSED", None, [])
    assert tree(tmp_path) == before


def test_a_failed_proof(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(pooling_graph.MODES, "mean", pooling_graph.MODES["max"])
    folder, baked = write_folder(tmp_path / "model"), tmp_path / "model-baked"
    before = tree(tmp_path)
    code, told = command("bake", folder, capsys=capsys)
    assert (code, told["error"]["type"]) == (VERDICT, "VerificationFailed") and tree(tmp_path) == before
    assert told["outcome"]["report"]["verdict"] == "FAILED" and told["outcome"]["output"] is None
    code, told = command("bake", folder, "--dry-run", "--keep-failed", capsys=capsys)
    assert code == VERDICT and tree(tmp_path) == before
    code, told = command("bake", folder, "--keep-failed", capsys=capsys)
    assert code == VERDICT and str(baked) in told["error"]["message"] and ".tmp" not in json.dumps(told)
    assert Path(told["outcome"]["output"]) == baked / "onnx" / "model.onnx"
    assert "FAILED" in (baked / "README.md").read_text(encoding="utf-8")
    assert certificate(baked)["report"]["verdict"] == "FAILED"
    with pytest.raises(VerificationFailed):
        bake(folder, force=True, keep_failed=True)
    assert command("bake", folder, "--no-verify", "--force", capsys=capsys)[0] == OK
    assert command("verify", baked / "onnx" / "model.onnx", "--self", capsys=capsys)[0] == VERDICT


def test_external_data(tmp_path: Path, capsys) -> None:
    folder = write_folder(tmp_path / "model")
    external(folder)
    before = tree(folder)
    code, told = command("bake", folder, capsys=capsys)
    baked = tmp_path / "model-baked"
    assert code == OK and {"onnx/model.onnx", "onnx/model.onnx_data"} < set(told["files"]) and tree(folder) == before
    assert "onnx/model.onnx_data" in certificate(baked)["sources"] and "onnx/model.onnx_data" in certificate(baked)["files"]
    assert "`onnx/model.onnx_data`" in (baked / "README.md").read_text(encoding="utf-8")
    write_folder(tmp_path / "plain")
    bake(tmp_path / "plain")
    assert np.array_equal(embed(baked), embed(tmp_path / "plain-baked"))


def test_an_export_with_external_data(tmp_path: Path, capsys, monkeypatch) -> None:
    """An encoder exported elsewhere keeps its data there, and what the file records of paths starts at the model's folder."""
    folder = write_folder(tmp_path / "model", (transformer(), pooling(), dense()))
    exported = export_folder.Exported(external(write_folder(tmp_path / "elsewhere"), FLOAT16), "feature-extraction", 0.0)
    monkeypatch.setattr(export_folder, "export", lambda *_given, **_options: exported)
    before = tree(folder)
    code, told = command("bake", folder, "--export", capsys=capsys)
    assert code == OK and told["report"]["verdict"] == "PASSED" and tree(folder) == before
    assert "whole proof" in [check["name"] for check in told["report"]["checks"]], told["report"]["not_checked"]
    assert not any("golden" in one for one in told["warnings"])
    assert [step["parameters"].get("weights") for step in told["steps"]][1] == "../2_Dense"
    external(folder, FLOAT16)
    bake(folder, tmp_path / "plain")
    assert np.array_equal(embed(tmp_path / "model-baked"), embed(tmp_path / "plain"))


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16])
def test_half_precision(dtype: int, tmp_path: Path, capsys) -> None:
    """The embedding is float32. What the CPU cannot run has no golden vectors, and says so."""
    folder = write_folder(tmp_path / "model", encoder=tiny_encoder(dtype=dtype))
    code, told = command("bake", folder, capsys=capsys)
    assert code == OK and told["interface"]["after"]["outputs"][0]["dtype"] == "float32"
    ran = dtype == FLOAT16
    assert any("golden" in one for one in told["warnings"]) != ran
    assert any("golden" in line for line in told["report"]["not_checked"]) != ran
    code, told = command("verify", tmp_path / "model-baked" / "onnx" / "model.onnx", "--self", capsys=capsys)
    assert (code, told["report"]["verdict"]) == ((OK, "PASSED") if ran else (VERDICT, "NOT CHECKED"))


def test_truncate_dim(tmp_path: Path, capsys) -> None:
    """One number cuts the embedding, several become outputs beside it."""
    folder = write_folder(tmp_path / "model")
    bake(folder, tmp_path / "whole", verify=False)
    whole = embed(tmp_path / "whole")
    names = {"sentence_embedding": 4, "sentence_embedding_6": 6, "sentence_embedding_3": 3}
    for given, dims in (("4", {"sentence_embedding": 4}), ("6,3", names | {"sentence_embedding": HIDDEN})):
        code, told = command("bake", folder, "-o", tmp_path / given, "--truncate-dim", given, capsys=capsys)
        assert code == OK
        assert {value["name"]: value["dims"][1] for value in told["interface"]["after"]["outputs"]} == dims
        for name, dim in dims.items():
            wanted = whole[:, :dim] / np.linalg.norm(whole[:, :dim])
            assert np.allclose(embed(tmp_path / given, name), wanted, atol=1e-6)
        text = (tmp_path / given / "README.md").read_text(encoding="utf-8")
        assert text.count(", of unit length") == len(dims) and ("first 3 dims" in text) == ("," in given)
    assert len(bake(folder, tmp_path / "list", truncate_dim=[6, 3]).outcome.interface.outputs) == 3
    assert bake(folder, tmp_path / "int", truncate_dim=4).outcome.interface.outputs[0].dims == ("batch", 4)


def test_a_folder_that_cuts_itself(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    for dim in (4, HIDDEN):
        put_json(folder / "config_sentence_transformers.json", {"truncate_dim": dim})
        done = bake(folder, tmp_path / str(dim))
        assert done.outcome.interface.outputs[0].dims == ("batch", dim)
        assert any("nothing is cut off" in note for note in done.plan.notes) == (dim == HIDDEN)


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> list[Edit]:
    """The edits that are applied, one by one."""
    found: list[Edit] = []
    right = Edit.apply

    def apply(self: Edit, model: graphsurgery.Model, **more: bool) -> graphsurgery.Model:
        found.append(self)
        return right(self, model, **more)

    monkeypatch.setattr(Edit, "apply", apply)
    return found


@pytest.mark.parametrize(
    ("entries", "width"),
    [
        ([pooling(["cls", "mean"])], 2 * HIDDEN), ([pooling(), dense(6)], 6),
        ([pooling(), dense(12, activation="torch.nn.modules.activation.GLU"), dense(4, 6, place="3_Dense")], 4),
        ([pooling(), dense(12, activation="torch.nn.modules.activation.GLU")], 6),
    ],
    ids=["two modes", "dense", "two layers", "halved"],
)  # fmt: skip
def test_a_folder_whose_cut_leaves_all(entries: list[Entry], width: int, tmp_path: Path, applied: list[Edit]) -> None:
    """The modules' configs tell how wide the embedding is. Each edit is applied once: none to learn that width."""
    folder = write_folder(tmp_path / "model", [transformer(), *entries])
    put_json(folder / "config_sentence_transformers.json", {"truncate_dim": width})
    done = bake(folder, tmp_path / "out", verify=False)
    assert done.outcome.interface.outputs[0].dims == ("batch", width) and applied == list(done.plan.steps)
    assert any("nothing is cut off" in note for note in done.plan.notes)


def test_configs_that_name_another_width(tmp_path: Path) -> None:
    """Where the folder's cut was left out because of them, the file itself is looked at."""
    folder = write_folder(tmp_path / "model", [transformer(), pooling(), dense(6, out_features=4)])
    put_json(folder / "config_sentence_transformers.json", {"truncate_dim": 4})
    with pytest.raises(FolderError, match=r"cuts the embedding to 4 dims.*has 6 dims"):
        bake(folder, tmp_path / "out", verify=False)
    assert not (tmp_path / "out").exists()


def test_an_edit_that_fails_is_blamed_after_one_pass(tmp_path: Path, applied: list[Edit]) -> None:
    """The error knows the edit that raised it: no edit is applied again to find it."""
    folder = write_folder(tmp_path / "model", [transformer(), pooling(), dense(6, 5)])
    with pytest.raises(FolderError, match="2_Dense") as caught:
        bake(folder, tmp_path / "out")
    assert [edit.verb for edit in applied] == ["add-pooling", "add-dense"] and caught.value.edit is applied[-1]


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_output_precision(precision: str, tmp_path: Path, capsys) -> None:
    folder = write_folder(tmp_path / "model")
    bake(folder, tmp_path / "whole", verify=False)
    whole = embed(tmp_path / "whole")
    np.save(tmp_path / "ranges.npy", np.array([[-1.0] * HIDDEN, [1.0] * HIDDEN], np.float32))
    options = ["--ranges", tmp_path / "ranges.npy"] if precision.endswith("int8") else []
    code, told = command("bake", folder, "--output-precision", precision, *options, capsys=capsys)
    assert code == OK and told["report"]["verdict"] == "PASSED"
    found = embed(tmp_path / "model-baked")
    shift = 0 if precision[0] == "u" else 128
    bits = np.packbits(whole > 0, axis=-1).astype(int)
    buckets = np.floor((whole + 1) / (2 / 255)).astype(int)
    assert np.abs(found.astype(int) + shift - (buckets if options else bits)).max() <= (1 if options else 0)
    assert found.dtype == (np.int8 if shift else np.uint8)
    assert ("elsewhere:ranges.npy" in certificate(tmp_path / "model-baked")["sources"]) == bool(options)
    assert command("verify", tmp_path / "model-baked" / "onnx" / "model.onnx", "--self", capsys=capsys)[0] == OK


@pytest.mark.parametrize("name", ["token_embeddings", "last_hidden_state"])
def test_keep_output(name: str, tmp_path: Path, capsys) -> None:
    folder = write_folder(tmp_path / "model")
    code, told = command("bake", folder, "--keep-output", name, capsys=capsys)
    assert code == OK
    names = [value["name"] for value in told["interface"]["after"]["outputs"]]
    assert names == ["sentence_embedding", "last_hidden_state"]
    assert np.array_equal(embed(tmp_path / "model-baked", "last_hidden_state"), embed(folder, "last_hidden_state"))


def test_one_of_several_files(tmp_path: Path, capsys) -> None:
    folder = write_folder(tmp_path / "model")
    (folder / "onnx" / "model_O4.onnx").write_bytes(tiny_encoder(seed=1).SerializeToString())
    (folder / "model.onnx").write_bytes(tiny_encoder(seed=2).SerializeToString())
    vectors = {}
    for given in ([], ["--onnx", "model_O4.onnx"], ["--onnx", "onnx/model_O4.onnx"], ["--onnx", "model.onnx"]):
        place = tmp_path / f"baked{len(vectors)}"
        code, told = command("bake", folder, "-o", place, *given, capsys=capsys)
        assert code == OK
        note = next(note for note in told["notes"] if note.startswith("the encoder is"))
        assert note.count(".onnx") == 3 and "--onnx" in note, "the others are listed"
        vectors[str(given)] = embed(place).tobytes()
    assert len(set(vectors.values())) == 3


def router(folder: Path, default: str | None) -> Path:
    """A folder whose one module is a Router of two routes."""
    write_folder(folder, (transformer(),))
    types, structure = {}, {}
    for route, mode in (("query", "cls"), ("document", "max")):
        first, second = f"{route}_0_Transformer", f"{route}_1_Pooling"
        for name in (first, second):
            (folder / "0_Router" / name).mkdir(parents=True)
        put(folder / "0_Router" / second, pooling(mode))
        types |= {first: OLD + "Transformer", second: OLD + "Pooling"}
        structure[route] = [first, second]
    parameters = {"default_route": default, "allow_empty_key": False}
    put_json(folder / "0_Router" / "router_config.json", {"types": types, "structure": structure, "parameters": parameters})
    put_json(folder / "modules.json", [{"idx": 0, "name": "0", "path": "0_Router", "type": OLD + "Router"}])
    return folder


def test_routes(tmp_path: Path, capsys) -> None:
    folder = router(tmp_path / "model", None)
    code, told = command("bake", folder, capsys=capsys)
    assert code == WRONG and "query, document" in told["error"]["message"] and "--route" in told["error"]["advice"]
    assert command("bake", folder, "--route", "neither", capsys=capsys)[0] == WRONG
    modes = {}
    for route in ("query", "document"):
        code, told = command("bake", folder, "--route", route, "-o", tmp_path / route, capsys=capsys)
        assert code == OK and any(f"route {route}" in note for note in told["notes"])
        modes[route] = certificate(tmp_path / route)["steps"][0]["parameters"]["mode"]
    assert modes == {"query": "cls", "document": "max"}
    assert not np.allclose(embed(tmp_path / "query"), embed(tmp_path / "document"))
    assert bake(router(tmp_path / "other", "document")).outcome.report


def test_static_embedding(tmp_path: Path, capsys) -> None:
    """No ONNX file at all; real text is proven with the tokenizer that lies in the module's folder."""
    folder = static(tmp_path / "model")
    code, told = command("bake", folder, capsys=capsys)
    assert code == OK and not any("real text" in line for line in told["report"]["not_checked"]), told["report"]["not_checked"]
    assert "0_Static/model.safetensors" in certificate(tmp_path / "model-baked")["sources"]
    from safetensors.numpy import load_file

    table = load_file(folder / "0_Static" / "model.safetensors")["embedding.weight"]
    mean = table[[4, 5, 6]].mean(axis=0)
    assert np.allclose(embed(tmp_path / "model-baked")[0], mean / np.linalg.norm(mean), atol=1e-6)


# --- the terminal ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_the_terminal(columns: int, fixture_copy, tmp_path: Path) -> None:
    """Nothing is cut, nothing names a temporary file, and the program that is shown runs as it is."""
    folder = fixture_copy("qwen3").parent
    command = [sys.executable, "-m", "graphsurgery", "bake", folder.name, "--verbose"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": str(columns)}
    done = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == OK and not done.stderr, done.stderr
    assert ".tmp" not in done.stdout and "…" not in done.stdout
    start, _, rest = done.stdout.partition("Run it\n")
    program, _, end = rest.partition("\nPrograms that read")
    assert all(len(line) <= columns for line in (*start.splitlines(), *end.splitlines()))
    assert "golden vectors" in " ".join(start.split()) or columns == 40
    for name in ("graphsurgery.json", "README.md", "onnx/model.onnx"):
        assert name in end
    with contextlib.chdir(folder.parent), contextlib.redirect_stdout(None):
        exec(program, {})


def test_quiet_and_errors(tmp_path: Path, capsys) -> None:
    folder = write_folder(tmp_path / "model")
    assert run(["bake", str(folder), "-q"]) == OK
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert run(["bake", str(folder)]) == WRONG
    captured = capsys.readouterr()
    assert not captured.out and "error:" in captured.err and "what to do:" in captured.err and "Traceback" not in captured.err


# --- when it is stopped ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", ["reading", "published", "staged", "proving", "committing"])
def test_an_interrupt_leaves_nothing_behind(after: str, tmp_path: Path) -> None:
    """SIGINT in a process of its own, at a place that it tells of and waits at."""
    folder = write_folder(tmp_path / "model")
    places = {
        "reading": "graphsurgery.baking.bake:plan_bake", "published": "graphsurgery.baking.bake:collect_companion_files",
        "staged": "graphsurgery.baking.bake:run", "proving": "graphsurgery.runner:verify_itself",
        "committing": "graphsurgery.baking.bake:commit_folder",
    }  # fmt: skip
    module, name = places[after].split(":")
    script = (
        f"import sys, time\nimport graphsurgery.baking.bake, graphsurgery.runner\nmodule = sys.modules[{module!r}]\n"
        "def wait(*_, **__):\n    print('here', flush=True)\n    time.sleep(60)\n"
        f"module.{name} = wait\nfrom graphsurgery.cli.main import main\nmain(['bake', {str(folder)!r}])\n"
    )
    before = tree(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "nothing was left behind" in err and "Traceback" not in err
    assert tree(tmp_path) == before


def test_an_interrupt_at_any_time(tmp_path: Path) -> None:
    """SIGINT after more and more time: the folder is whole or not there, and nothing else is."""
    folder = write_folder(tmp_path / "model")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for step in range(6):
        process = subprocess.Popen(
            [sys.executable, "-m", "graphsurgery", "bake", str(folder), "-q"], cwd=ROOT, env=environment, stderr=subprocess.PIPE
        )
        time.sleep(0.25 + 0.12 * step)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        left = {path.name for path in tmp_path.iterdir()} - {"model"}
        assert left in (set(), {"model-baked"}), left
        if left:
            facts = certificate(tmp_path / "model-baked")
            assert all(sha256(tmp_path / "model-baked" / name) == digest for name, digest in facts["files"].items())
            shutil.rmtree(tmp_path / "model-baked")


def test_a_replacement_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch) -> None:
    folder = write_folder(tmp_path / "model")
    bake(folder, verify=False)
    before = tree(tmp_path)
    original = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if Path(target).name == "model-baked" and "onnx" in {path.name for path in self.iterdir()} and not failed:
            failed.append(True)
            raise OSError(28, "No space left on device")
        return original(self, target)

    failed: list[bool] = []
    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(SurroundingsError, match="No space"):
        bake(folder, verify=False, force=True)
    assert failed and tree(tmp_path) == before


def test_a_folder_made_meanwhile_stays(tmp_path: Path, monkeypatch) -> None:
    """Another process takes the name while the proof runs, with and without force."""
    folder, baked = write_folder(tmp_path / "model"), tmp_path / "model-baked"
    original = baking.write_readme

    def slow(*arguments: Any) -> str:
        thesis(baked)
        return original(*arguments)

    monkeypatch.setattr(baking, "write_readme", slow)
    with pytest.raises(OutputExistsError):
        bake(folder, verify=False)
    assert [path.name for path in baked.iterdir()] == ["thesis.tex"]
    shutil.rmtree(baked)
    with monkeypatch.context() as unhurried:
        unhurried.setattr(baking, "write_readme", original)
        bake(folder, verify=False)
    with pytest.raises(OutputExistsError):
        bake(folder, verify=False, force=True)
    assert (baked / "thesis.tex").is_file() and (baked / "onnx" / "model.onnx").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model-baked"]


def test_a_full_disk(tmp_path: Path) -> None:
    """On a file system of a few hundred KiB: exit code 2, and it is as empty as before."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed: no file system can be mounted")
    folder, small = write_folder(tmp_path / "model"), tmp_path / "small"
    small.mkdir()
    script = (
        f"mount -t tmpfs -o size=24k none {small} && {sys.executable} -m graphsurgery bake {folder} -o {small}/baked -q; "
        f"echo code $?; ls -A {small}"
    )
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    if "code" not in done.stdout or "mount:" in done.stderr:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()[:200]}")
    assert done.stdout.split() == ["code", str(WRONG)], done
    assert "No space left" in done.stderr and "nothing was left behind" in done.stderr


# --- fixtures -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [path.parent.name for path in sorted(FIXTURES.glob("*/modules.json"))])
def test_every_fixture(name: str, fixture_copy, tmp_path: Path, capsys) -> None:
    folder = fixture_copy(name).parent
    before = tree(folder)
    code, told = command("bake", folder, "-o", tmp_path / "baked", capsys=capsys)
    assert code == OK and told["report"]["verdict"] == "PASSED" and tree(folder) == before
    code, told = command("verify", tmp_path / "baked" / "onnx" / "model.onnx", "--self", capsys=capsys)
    assert (code, told["report"]["verdict"]) == (OK, "PASSED")
    code, told = command("verify", tmp_path / "baked/onnx/model.onnx", "--against", folder / "model.onnx", capsys=capsys)
    assert (code, told["report"]["verdict"]) == (OK, "PASSED")


def test_the_library_calls_it_too(tmp_path: Path) -> None:
    done = graphsurgery.bake(write_folder(tmp_path / "model"), dry_run=True)
    assert done.outcome.report and not done.files
