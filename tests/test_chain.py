"""The chain of references: names through renames, in one pass, and every text of a record read once."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import FIXTURES
from encoders import tiny_encoder

import graphsurgery
from graphsurgery import AddNormalize, AddPooling, Rename, run
from graphsurgery.edits import add_pooling, token_mask
from graphsurgery.errors import MaskError, UnsupportedModelError
from graphsurgery.model import model as models
from graphsurgery.model.provenance import Step
from graphsurgery.references import chain as chains
from graphsurgery.references.chain import Chain, Link
from graphsurgery.references.recorded_mask import RecordedMask

pytestmark = pytest.mark.usefixtures("loaded_anew")
NAMES = ("a", "b", "c", "d", "ids", "mask", "hidden")


def step(edit: str, **given: Any) -> Step:
    return Step(edit, given, "0", "", {})


UNASKED = dict.fromkeys(("value", "inputs", "dims", "empty"))
"""Parameters of drop-input that files record for caches and numbers alone."""


def drawn_steps(rng: random.Random) -> list[Step]:
    """Edits of any names in any order, as no file has to have them."""
    made = []
    for _ in range(rng.randint(1, 8)):
        one, other, third = rng.sample(NAMES, 3)
        pooling: dict[str, Any] = {
            "mode": "mean",
            "hidden_state": one,
            "mask": other,
            "ids": third,
            "output_name": rng.choice(NAMES),
        }
        pooling |= {"normalize": False, "keep_output": [], "token_weights": third, "skip_prompt": "input", "width": 3}
        made.append(
            rng.choice([
                step("rename", name=[f"{one}={other}", f"{other}={third}"], dim=[]),
                step("rename", name=[f"{one}={rng.choice('xyz')}"], dim=[]),
                step("add-normalize", target=one),
                step("truncate", target=one, dim="4,2", keep_length=True),
                step("add-pooling", **pooling),
                step("drop-input", input=one, fill="ones", like=other, dtype="int64", **UNASKED),
                step("input-type", to="int64", input=[one], inside=[f"{one}_inside"], dtypes=["int32"]),
            ])
        )  # fmt: skip
    return made


# What the names are, by definition: step by step, from each place anew.


def origin(links: Sequence[Link], name: str) -> str | None:
    for link in reversed(links):
        if name in link.makes or name in link.stand_ins or name in link.added:
            return None
        name = {new: old for old, new in link.names.items()}.get(name, name)
    return name


def destiny(links: Sequence[Link], name: str) -> str:
    for link in links:
        if name in link.makes:
            return name
        name = link.names.get(name, name)
    return name


def input_destiny(links: Sequence[Link], name: str) -> str:
    for link in links:
        new = link.names.get(name, name)
        name = name if new in link.stand_ins else new
    return name


def made(links: Sequence[Link]) -> set[str]:
    found: set[str] = set()
    for link in links:
        found = {link.names.get(name, name) for name in found} | set(link.makes)
    return found


@pytest.mark.parametrize("seed", range(200))
def test_names(seed: int) -> None:
    chain = Chain(drawn_steps(random.Random(seed)))
    links = chain.links
    asked = sorted({*NAMES, *"xyz", "ids_inside", "prompt_length", "a_4", "a_2"})
    for place, (link, tell) in enumerate(chain.walk_from_source()):
        assert link is links[place] and [tell(name) for name in asked] == [origin(links[:place], name) for name in asked]
    for place, (link, tell) in enumerate(_told(chain.walk_from_output, asked)):
        assert link is links[len(links) - 1 - place] and tell == [destiny(links[len(links) - place :], name) for name in asked]
    for place, (_, tell) in enumerate(_told(chain.walk_inputs_from_output, asked)):
        assert tell == [input_destiny(links[len(links) - place :], name) for name in asked]
    for name in asked:
        assert chain.name_in_source(name) == origin(links, name) and chain.name_in_output(name) == destiny(links, name)
        assert chain.input_name_in_output(name) == input_destiny(links, name)
    assert chain.made == made(links)
    read = [(place, link, name) for place, link in enumerate(links) for name in link.reads]
    assert set(chain.starts) == {
        found for place, link, name in read if name not in link.added and (found := origin(links[:place], name)) is not None
    }
    through = {place: link.reference.values_after is not None for place, link in enumerate(links)}
    assert chain.read == {destiny(links[place + through[place] :], name) for place, _, name in read}
    assert list(chain.stand_ins) == [
        destiny(links[place + 1 :], name) for place, link in enumerate(links) for name in link.stand_ins
    ]


def _told(
    tell: Callable[[], Iterator[tuple[Link, Callable[[str], str]]]], names: Sequence[str]
) -> list[tuple[Link, list[str]]]:
    """Ask at each link, for what is told is valid till the next one."""
    return [(link, [called(name) for name in names]) for link, called in tell()]


def test_a_record_that_cannot_be_read_makes_no_chain() -> None:
    for bad in (
        step("fold"), step("fix-dim", dim=["batch=x"]), step("rename", name=["a"], dim=[]),
        step("truncate", target="", dim="4,4", keep_length=True),
        step("mask-tokens", target="x", mask="pad:x", ids="ids", skip_first=False),
        step("mask-tokens", target="x", mask="pad:0", ids=None, skip_first=False),
    ):  # fmt: skip
        with pytest.raises(UnsupportedModelError):
            Chain([bad])


# --- how often --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Counter[str]]:
    """Counts the calls of functions, by their names."""
    calls: Counter[str] = Counter()

    def watch(*places: tuple[Any, str]) -> Counter[str]:
        for holder, name in places:
            right = getattr(holder, name)

            def counting(*given: Any, _right: Any = right, _name: str = name, **more: Any) -> Any:
                calls[_name] += 1
                return _right(*given, **more)

            monkeypatch.setattr(holder, name, counting)
        return calls

    return watch


def test_nothing_is_looked_for_twice(counted: Any) -> None:
    """One hidden state, one mask, whose text is read once by the edit and once by each reference that is made of the record."""
    calls = counted(
        (add_pooling, "find_hidden_state"), (add_pooling, "find_mask"), (token_mask.MaskSpec, "parse"), (models, "read_steps")
    )
    model = graphsurgery.load(FIXTURES / "bert" / "model.onnx")
    pooled = AddPooling("mean", normalize=True).apply(model)
    read_once_each = {"find_hidden_state": 1, "find_mask": 1, "parse": 1, "read_steps": 2}  # those of both models
    assert calls == read_once_each
    assert [one.edit for one in pooled.recorded] == ["add-pooling"] and pooled.recorded is pooled.recorded
    assert calls == read_once_each


@pytest.mark.parametrize("count", [1, 8])
def test_a_proof_reads_each_step_once(count: int, counted: Any, tmp_path: Path) -> None:
    """However many edits there are: once for the proof, and once for the look whether the record is what was asked for."""
    names = ["sentence_embedding", *(f"name_{place}" for place in range(count))]
    renames = [Rename((f"{old}={new}",)) for old, new in pairwise(names)]
    calls = counted((chains, "apply_fields"), (RecordedMask, "read"))
    links = counted((Link, "of"))
    done = run([AddPooling("mean"), AddNormalize(), *renames], tiny_encoder(), output=tmp_path / "out.onnx")
    assert done.report and links["of"] == 2 * (count + 2)
    assert calls["read"] == 2 and calls["apply_fields"] == 2 * (count + 1)  # add-pooling's fields, and those of each rename


@pytest.mark.parametrize(
    ("text", "kind", "name", "pad_id"),
    [
        ("ones", "ones", None, None), ("pad:0", "pad", None, 0), ("pad:-1", "pad", None, -1), ("pad:007", "pad", None, 7),
        ("attention_mask", "nonzero", "attention_mask", None), ("pad", "nonzero", "pad", None),
        ("not:", "nonzero", "not:", None), ("not:x", "not", "x", None),
        ("additive:x", "additive", "x", None), ("lengths:x", "lengths", "x", None),
    ],
)  # fmt: skip
def test_a_mask_as_text(text: str, kind: str, name: str | None, pad_id: int | None) -> None:
    """The edits and the references read it apart from each other, and alike; the text itself is what files record."""
    spec = token_mask.MaskSpec.parse(text)
    assert (spec.kind, spec.name, spec.pad_id, str(spec)) == (kind, name, pad_id, text)
    recorded = RecordedMask.read({"mask": text, "ids": "ids"})
    assert (recorded.input, recorded.pad_id, recorded.is_everywhere) == (name, pad_id, kind == "ones")
    assert recorded.kind == (f"{kind}:" if text == f"{kind}:{name}" else "")


@pytest.mark.parametrize("text", ["pad:", "pad:x", "pad:1.5", "pad:--1", "pad:99999999999", "pad:4294967296"])
def test_a_mask_that_names_no_token(text: str) -> None:
    with pytest.raises(MaskError, match="does not give a token id"):
        token_mask.MaskSpec.parse(text)
