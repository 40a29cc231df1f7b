"""embed: every row once and in order, whatever kills the run; what is wrong with a row is told, and nothing is lost."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import FIXTURES, ROOT

import graphsurgery
from graphsurgery import Embedder, embed_file
from graphsurgery.cli.main import OK, WRONG, run
from graphsurgery.embedding import budgets
from graphsurgery.embedding import embed_file as module
from graphsurgery.errors import GraphSurgeryError, MissingPackageError, OutputExistsError, RequestError, SurroundingsError

TEXTS = ["the cat sat", "a", "it is cold today.", "a vector of length one", "the cat", "find it", "zebra"]
PART = 3
CLOSE = 1e-6


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embed") / "bert"
    shutil.copytree(FIXTURES / "bert", folder)
    (folder / "config_sentence_transformers.json").write_text('{"prompts": {"query": "find: "}}', encoding="utf-8")
    return graphsurgery.bake(folder, verify=False).folder


@pytest.fixture(autouse=True)
def small_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(budgets.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(module, "PART_ROWS", PART)


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"{text}\n" for text in TEXTS), encoding="utf-8")
    return path


def read(path: Path) -> tuple[list[Any], np.ndarray]:
    """The texts and the vectors of a Parquet output."""
    table = pq.read_table(path, page_checksum_verification=True)
    return table.column("text").to_pylist(), np.array(table.column("embedding").to_pylist(), dtype=np.float64)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- what is written ------------------------------------------------------------------------------------------------------


def test_every_row_once_and_in_order(baked: Path, lines: Path, tmp_path: Path) -> None:
    done = embed_file(lines, baked, output=tmp_path / "out.parquet")
    texts, vectors = read(tmp_path / "out.parquet")
    assert texts == TEXTS and (done.rows, done.dims, done.resumed) == (7, 32, 0)
    np.testing.assert_allclose(vectors, Embedder(baked).encode(TEXTS), atol=CLOSE)
    schema = pq.read_schema(tmp_path / "out.parquet")
    assert schema.field("embedding").type == pa.list_(pa.float32(), 32)
    told = json.loads(schema.metadata[b"graphsurgery"])
    assert told["model_sha256"] == [digest(baked / "onnx" / "model.onnx")]
    assert told["tokenizer_sha256"] == digest(baked / "tokenizer.json")
    assert (told["prompt"], told["precision"], told["dims"], told["max_length"]) == ("", "float32", None, 32)
    assert not list(tmp_path.glob("*.parts")) and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_all_columns_are_carried_along(form: str, baked: Path, tmp_path: Path) -> None:
    rows = [{"id": place, "body": text, "kind": None if place == 5 else "x"} for place, text in enumerate(TEXTS)]
    path = tmp_path / f"in.{form}"
    if form == "jsonl":
        path.write_text("".join(f"{json.dumps(one)}\n" for one in rows), encoding="utf-8")
    elif form == "csv":
        path.write_text("id,body,kind\n" + "".join(f'{one["id"]},"{one["body"]}",{one["kind"] or ""}\n' for one in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    embed_file(path, baked, output=tmp_path / "out.parquet", column="body", id_column="id", prompt_name="query", dims=8)
    found = pq.read_table(tmp_path / "out.parquet")
    numbers = [str(one["id"]) if form == "csv" else one["id"] for one in rows]
    assert found.column("id").to_pylist() == numbers and found.column("body").to_pylist() == TEXTS
    assert found.column("kind").to_pylist() == [("" if form == "csv" else None) if n == 5 else "x" for n in range(7)]
    wanted = Embedder(baked).encode(TEXTS, "query", dims=8)
    np.testing.assert_allclose(found.column("embedding").to_pylist(), wanted, atol=CLOSE)


@pytest.mark.parametrize("precision", [None, "float16", "int8", "ubinary"])
@pytest.mark.parametrize("suffix", [".npy", ".jsonl", ".parquet"])
def test_formats_and_precisions(precision: str | None, suffix: str, baked: Path, lines: Path, tmp_path: Path) -> None:
    ranges = np.array([[-1.0] * 32, [1.0] * 32], np.float32)
    np.save(tmp_path / "ranges.npy", ranges)
    given = {"ranges": tmp_path / "ranges.npy"} if precision == "int8" else {}
    out = tmp_path / f"out{suffix}"
    embed_file(lines, baked, output=out, precision=precision, **given)
    wanted = Embedder(baked).encode(TEXTS, precision=precision, ranges=ranges if given else None)
    if suffix == ".npy":
        found = np.load(out)
        assert found.dtype == wanted.dtype
    elif suffix == ".jsonl":
        rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        assert [one["text"] for one in rows] == TEXTS
        found = np.array([one["embedding"] for one in rows])
    else:
        found = np.array(pq.read_table(out).column("embedding").to_pylist())
    np.testing.assert_allclose(found.astype(np.float64), wanted.astype(np.float64), atol=CLOSE)


def test_stdin(baked: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"one\ntwo\n")))
    out = tmp_path / "out.npy"
    assert run(["embed", "-", "--model", str(baked), "-o", str(out)]) == OK
    assert "2 rows, 32 dims each (float32)" in " ".join(capsys.readouterr().out.split())
    np.testing.assert_allclose(np.load(out), Embedder(baked).encode(["one", "two"]), atol=CLOSE)


def test_progress_and_the_report(baked: Path, lines: Path, tmp_path: Path, capsys) -> None:
    told: list[tuple[Any, ...]] = []
    embed_file(lines, baked, output=tmp_path / "out.npy", progress=lambda *one: told.append(one))
    assert [one[1:] for one in told if one[0].startswith("embedding rows")] == [(0, 7), (3, 7), (6, 7)]
    assert "texts/s" in told[1][0] and " left" in told[1][0]
    lines.write_text("long " * 60 + "\n", encoding="utf-8")
    assert run(["embed", str(lines), "--model", str(baked), "-o", str(tmp_path / "b.npy"), "--json"]) == OK
    found = json.loads(capsys.readouterr().out)
    assert found["cut"] == 1 and found["warnings"] == ["1 texts were cut at 32 tokens"]


# --- rows that cannot be embedded -----------------------------------------------------------------------------------------

BAD = {"": "the text is empty", "half \\ud83d": "half of a surrogate pair", 5: "is 5", None: "the text is empty"}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_row_stops_or_goes_on(bad: Any, baked: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "in.jsonl", tmp_path / "out.parquet"
    rows = [{"id": f"r{place}", "text": text} for place, text in enumerate([*TEXTS[:4], bad, *TEXTS[4:]])]
    written = "".join(json.dumps(one).replace("\\\\u", "\\u") + "\n" for one in rows)
    path.write_text(written, encoding="utf-8")
    with pytest.raises(RequestError, match=r"row 4 \(id 'r4'\): ") as caught:
        embed_file(path, baked, output=out, id_column="id")
    assert BAD[bad] in str(caught.value) and "--on-error skip" in caught.value.advice and not out.exists()
    done = embed_file(path, baked, output=out, id_column="id", on_error="skip")
    assert list(done.errors) == [4] and BAD[bad] in done.errors[4] and done.resumed == PART
    assert "1 rows have no vector: 4 (" in done.warnings[0]
    found = pq.read_table(out).column("embedding").to_pylist()
    assert found[4] is None and len(found) == 8
    wanted = Embedder(baked).encode(TEXTS)
    np.testing.assert_allclose(found[:4] + found[5:], wanted, atol=CLOSE)


def test_lines_that_are_no_json(baked: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "a"}\nnonsense\n[1]\n{"text": "b"}\n', encoding="utf-8")
    done = embed_file(path, baked, output=tmp_path / "out.npy", on_error="skip")
    assert done.errors[1].startswith("it is not JSON") and done.errors[2] == "it is not a JSON object"
    assert np.isnan(np.load(tmp_path / "out.npy")).all(axis=1).tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("content", "name", "given", "said"),
    [
        ("", "in.txt", {}, "holds no rows"),
        ("a\n", "in.txt", {"column": "body"}, "no column 'body'"),
        ('{"text": "a"}\n', "in.jsonl", {"id_column": "id"}, "no column 'id'"),
        ('{"text": "a", "n": 1}\n{"text": "b", "n": "x"}\n', "in.jsonl", {}, "'n' .* several kinds"),
        ('{"text": "a"}\n' * PART + '{"text": "b", "n": 1}\n', "in.jsonl", {}, "row 3 has the column 'n'"),
        ('{"text": "a", "n": 1}\n' * PART + '{"text": "b", "n": "x"}\n', "in.jsonl", {}, "'n' is int64 in the first rows"),
        ('{"text": "a", "embedding": 1}\n', "in.jsonl", {}, "has a column 'embedding' already"),
        ("a\n", "in.dat", {}, "does not tell its format"),
        ("a\n", "in.parquet", {}, "is not Parquet"),
        ("a\n", "in.txt", {"format": "xml"}, "the format 'xml' is not known"),
        ("a\n", "in.txt", {"on_error": "stop"}, "on_error is 'stop'"),
        ("a\n", "in.txt", {"prompt_name": "qery"}, "no prompt 'qery'"),
        ("a\n", "in.txt", {"dims": 99}, "99 dims were asked for"),
        ("a\n", "in.txt", {"engine": "rey"}, "engine is 'rey'"),
        ("a\n", "in.txt", {"workers": 2}, "workers is 2, and the engine is process"),
        ("a\n", "in.txt", {"engine": "ray", "workers": 0}, "workers is 0"),
    ],
)
def test_what_is_refused(content: str, name: str, given: dict, said: str, baked: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(RequestError, match=said) as caught:
        embed_file(tmp_path / name, baked, output=tmp_path / "out.parquet", **given)
    assert caught.value.advice and not (tmp_path / "out.parquet").exists()


def test_places_that_are_refused(baked: Path, lines: Path, tmp_path: Path, monkeypatch) -> None:
    for given, error, said in (
        ({"texts": tmp_path / "none.txt"}, SurroundingsError, "cannot read"),
        ({"output": tmp_path / "out.csv"}, RequestError, "does not tell its format"),
        ({"output": tmp_path / "none" / "out.npy"}, SurroundingsError, "there is no folder"),
    ):
        with pytest.raises(error, match=said):
            embed_file(**{"texts": lines, "model": baked, "output": tmp_path / "out.npy"} | given)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingPackageError, match="needs pyarrow"):
        embed_file(lines, baked, output=tmp_path / "out.npy")
    assert run(["embed", str(lines), "--model", str(baked), "-o", str(tmp_path / "out.npy")]) == WRONG


def test_ray_is_asked_for_by_its_extra(baked: Path, lines: Path, tmp_path: Path, monkeypatch) -> None:
    """Before anything is read. tests/services embeds with it."""
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(MissingPackageError, match="needs Ray Data") as caught:
        embed_file(lines, baked, output=tmp_path / "out.npy", engine="ray")
    assert "graphsurgery[ray]" in caught.value.advice and not (tmp_path / "out.npy.parts").exists()


def test_an_output_that_exists_is_kept(baked: Path, lines: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    out.write_bytes(b"mine")
    with pytest.raises(OutputExistsError, match="exists already"):
        embed_file(lines, baked, output=out)
    assert out.read_bytes() == b"mine" and not (tmp_path / "out.npy.parts").exists()
    embed_file(lines, baked, output=out, force=True)
    assert np.load(out).shape == (7, 32)


# --- runs that are interrupted --------------------------------------------------------------------------------------------


class Stopped(BaseException):
    """The end of a run, at some place."""


def stop_after(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run stops after it has written so many parts."""
    write, left = module.PartsFolder.write_part, [parts]

    def write_part(self: Any, number: int, part: Any) -> None:
        if not left[0]:
            raise Stopped
        left[0] -= 1
        write(self, number, part)

    monkeypatch.setattr(module.PartsFolder, "write_part", write_part)


def interrupt(baked: Path, lines: Path, out: Path, parts: int, **given: Any) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        stop_after(parts, patch)
        embed_file(lines, baked, output=out, **given)


def test_a_run_goes_on_where_the_last_one_ended(baked: Path, lines: Path, tmp_path: Path, monkeypatch) -> None:
    embed_file(lines, baked, output=tmp_path / "whole.parquet")
    out = tmp_path / "out.parquet"
    interrupt(baked, lines, out, 2)
    assert not out.exists()
    done = embed_file(lines, baked, output=out)
    assert done.resumed == 2 * PART and done.rows == 7 and digest(out) == digest(tmp_path / "whole.parquet")


def test_the_batches_are_those_of_the_run_that_began(baked: Path, lines: Path, tmp_path: Path, monkeypatch) -> None:
    """A budget that is measured anew may come out otherwise. It is kept with the parts."""
    budgets_of: list[int | None] = []
    embed = Embedder.embed
    monkeypatch.setattr(
        Embedder, "embed", lambda self, *a, **b: budgets_of.append(self.max_batch_tokens) or embed(self, *a, **b)
    )
    for measured in (64, 2048):
        monkeypatch.setattr(Embedder, "measure_budget", lambda *_, measured=measured: measured)
        if measured == 64:
            interrupt(baked, lines, tmp_path / "out.npy", 1)
    embed_file(lines, baked, output=tmp_path / "out.npy")
    assert set(budgets_of) == {64}


@pytest.mark.parametrize("damage", ["flip", "cut", "other rows", "no Parquet"])
def test_a_damaged_part_is_made_again(damage: str, baked: Path, lines: Path, tmp_path: Path) -> None:
    embed_file(lines, baked, output=tmp_path / "whole.parquet")
    out = tmp_path / "out.parquet"
    interrupt(baked, lines, out, 2)
    part = tmp_path / "out.parquet.parts" / "000001.parquet"
    content = bytearray(part.read_bytes())
    if damage == "flip":
        content[200] ^= 4
    elif damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "other rows":
        table = pq.read_table(part)
        pq.write_table(table.slice(0, 1), part)
        content = bytearray(part.read_bytes())
    else:
        content = bytearray(b"rubbish")
    part.write_bytes(bytes(content))
    assert embed_file(lines, baked, output=out).resumed == PART
    assert digest(out) == digest(tmp_path / "whole.parquet")


@pytest.mark.parametrize(
    ("given", "said"),
    [({"dims": 8}, "dims was None and is 8"), ({"prompt": "x"}, "prompt was '' and is 'x'"), ({}, "input was")],
)
def test_parts_of_other_vectors_are_refused(given: dict, said: str, baked: Path, lines: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    interrupt(baked, lines, out, 1)
    if not given:
        lines.write_text("other\n", encoding="utf-8")
    with pytest.raises(RequestError, match=said) as caught:
        embed_file(lines, baked, output=out, **given)
    assert "--force" in caught.value.advice
    done = embed_file(lines, baked, output=out, force=True, **given)
    assert done.resumed == 0 and len(np.load(out)) == (7 if given else 1)


def test_two_runs_at_once(baked: Path, lines: Path, tmp_path: Path, monkeypatch) -> None:
    """The second is refused while the first is at work, and goes on when that has ended."""
    out = tmp_path / "out.npy"

    def call(*_: Any) -> None:
        with pytest.raises(RequestError, match="another run is making"):
            embed_file(lines, baked, output=out)

    embed_file(lines, baked, output=out, progress=call)
    assert np.load(out).shape == (7, 32)


def test_a_run_that_ended_before_the_parts_were_removed(baked: Path, lines: Path, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "out.npy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.PartsFolder, "remove", lambda _: None)
        embed_file(lines, baked, output=out)
    before = digest(out)
    embed_file(lines, baked, output=out)
    assert digest(out) == before and not (tmp_path / "out.npy.parts").exists()
    with pytest.raises(OutputExistsError):
        embed_file(lines, baked, output=out)


PROGRAM = f"""
import sys
from graphsurgery.embedding import embed_file
embed_file.PART_ROWS = {PART}
print("ready", flush=True)
embed_file.embed_file(sys.argv[1], sys.argv[2], output=sys.argv[3])
"""
KILLS = 4
SEED = 20


def test_a_run_that_is_killed_ends_with_the_same_bytes(baked: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments, again and again, and then a run to the end."""
    path = tmp_path / "many.txt"
    path.write_text("".join(f"{text} {place}\n" for place in range(40) for text in TEXTS), encoding="utf-8")
    embed_file(path, baked, output=tmp_path / "whole.parquet")
    out, drawn = tmp_path / "out.parquet", random.Random(SEED)
    command = [sys.executable, "-c", PROGRAM, str(path), str(baked), str(out)]
    killed = 0
    for delay in (0.05, *(drawn.uniform(0.1, 2.0) for _ in range(KILLS - 1))):
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
            assert process.stdout is not None and process.stdout.readline()
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        killed += process.returncode == -signal.SIGKILL
        if out.exists():
            break
    if not out.exists():
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    assert killed
    assert digest(out) == digest(tmp_path / "whole.parquet")


def test_errors_are_ours(baked: Path, lines: Path, tmp_path: Path) -> None:
    with pytest.raises(GraphSurgeryError):
        embed_file(lines, tmp_path / "no folder", output=tmp_path / "out.npy")
