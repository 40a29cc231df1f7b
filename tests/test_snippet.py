"""The program that a verb prints runs the file it made: after every edit, rewrite and recipe, on every kind of input."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from baked_folders import write_tokenizer
from conftest import FIXTURES
from encoders import HIDDEN, IDS, MASK, TYPE_IDS, tiny_encoder
from golden import Case, case_files
from joints import joint
from onnx import TensorProto, helper, numpy_helper
from printed_programs import run_program
from safetensors.numpy import save_file
from speech import make_speech_encoder
from test_baked_sizes import BAKED, picture_encoder
from test_mask_meaning import TWO_MASKS

import graphsurgery
from graphsurgery import (
    AddNormalize,
    AddPooling,
    FixDim,
    Fuse,
    FuseAttention,
    Half,
    OptionalInput,
    PaddingFree,
    PooledToken,
    Quantize,
    Simplify,
)
from graphsurgery.edits.add_dense import AddDense
from graphsurgery.edits.edit import Edit
from graphsurgery.edits.rename import Rename
from graphsurgery.outcome import Outcome
from graphsurgery.recipe import list_recipes, read_recipe
from graphsurgery.snippet import make_snippet


def list_cases() -> list[Path]:
    """One golden case for each edit and each kind of inputs that its outputs have: the program depends on nothing else."""
    found: dict[tuple[str, str], Path] = {}
    for path in case_files():
        case = Case.read(path)
        if case.after is not None:
            inputs = next(line for line in case.after.splitlines() if "=>" in line).partition("=>")[0]
            found.setdefault((path.parent.name, inputs), path)
    return list(found.values())


DONE = list_cases()
RECIPES = list(list_recipes().values())
LOGITS = "logits"


def check_program(done: Outcome) -> np.ndarray:
    """What the program gives: numbers, and none of them made of nothing."""
    made = run_program(done.snippet)
    name = done.snippet.rpartition(" = session.run(")[0].rpartition("\n")[2]
    found = np.asarray(made[name])
    assert found.size and np.isfinite(found.astype(np.float64)).all(), done.snippet
    assert max(map(len, done.snippet.splitlines())) <= 160, "a line that no terminal shows whole"
    return found


def apply(steps: list[Any], source: Any, folder: Path) -> Outcome:
    return graphsurgery.run(steps, source, output=folder / "out.onnx", verify=False)


@pytest.mark.parametrize("path", DONE, ids=[f"{path.parent.name}/{path.stem}" for path in DONE])
def test_after_every_edit(path: Path, tmp_path: Path) -> None:
    case = Case.read(path)
    check_program(apply(case.edits(), case.source(), tmp_path))


STEPS: dict[str, Any] = {
    "simplify": Simplify(), "fuse": Fuse(), "attention": FuseAttention(), "half": Half(), "pooled-token": PooledToken(),
    "padding-free": PaddingFree("rows"), "quantize": Quantize(),
}  # fmt: skip


@pytest.mark.parametrize("name", STEPS)
def test_after_a_rewrite(name: str, tmp_path: Path) -> None:
    """`optimize` and `quantize` apply these."""
    folder = shutil.copytree(FIXTURES / "bert", tmp_path / "bert")
    assert check_program(apply([AddPooling("cls"), STEPS[name]], folder / "model.onnx", folder)).shape == (2, 32)


def with_logits(*dims: int | str) -> onnx.ModelProto:
    """A classifier of texts, ``logits [batch, 1]``, or a masked-language model, ``[batch, seq, vocabulary]``."""
    model, rng = tiny_encoder(), np.random.default_rng(0)
    weight = rng.standard_normal((8, dims[-1])).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "classes"))
    node = helper.make_node("MatMul", [HIDDEN, "classes"], [LOGITS], "classify")
    if len(dims) == 2:
        model.graph.node.append(helper.make_node("ReduceMean", [HIDDEN], ["mean"], "average", axes=[1], keepdims=0))
        node.input[0] = "mean"
    model.graph.node.append(node)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, dims))
    return model


def place_weights(step: Any, width: int, folder: Path) -> tuple[Any, int]:
    """A step with weights of the right width if it has some, and the width behind it."""
    if not isinstance(step, AddDense):
        return step, width
    place, wide = folder / f"{Path(step.weights).stem}.safetensors", 8 if step.target == HIDDEN else width
    rng = np.random.default_rng(0)
    save_file({"weight": rng.standard_normal((6, wide)).astype(np.float32), "bias": np.zeros(6, np.float32)}, place)
    return replace(step, weights=str(place)), width if step.keep_target else 6


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_after_every_recipe(path: Path, tmp_path: Path) -> None:
    steps, width = [], 8
    for step in read_recipe(path).steps:
        placed, width = place_weights(step, width, tmp_path)
        steps.append(placed)
    sounds = {"hubert", "wav2vec2", "wavlm"}
    others = {
        "add-activation": with_logits("batch", 1), "add-splade-pooling": with_logits("batch", "sequence", 50),
        "extract-tower": joint(),
    }  # fmt: skip
    write_tokenizer(tmp_path)
    source = make_speech_encoder() if path.stem in sounds else others.get(steps[0].verb, tiny_encoder())
    assert len(check_program(apply(steps, source, tmp_path))) == (1 if path.stem in sounds else 2)


def waves() -> onnx.ModelProto:
    """An encoder of waveforms: a convolution over windows of 400 samples, 320 apart."""
    model = onnx.parser.parse_model("""
    <ir_version: 9, opset_import: ["" : 18]>
    waves (float[batch, samples] input_values) => (float[batch, frames, 8] last_hidden_state) {
        cut = Unsqueeze(input_values, one) frames_last = Conv<strides = [320]>(cut, filters)
        last_hidden_state = Transpose<perm = [0, 2, 1]>(frames_last)
    }
    """)
    for name, array in {"filters": np.ones((8, 1, 400), np.float32), "one": np.array([1])}.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def convolved_picture() -> onnx.ModelProto:
    """A tower without a table of positions, which takes pictures of any size, and whose channels have a name."""
    model = picture_encoder(1)
    for dim, name in zip(model.graph.input[0].type.tensor_type.shape.dim[1:], ("channels", "height", "width"), strict=True):
        dim.dim_param = name
    return model


MASKED = {
    "true at padding": ("bool[batch, sequence] src", "seen = Not(src) m = Cast<to = 1>(seen)", "not:src"),
    "added": ("float[batch, sequence] src", "m = Exp(src)", "additive:src"),
    "int32": ("int32[batch, sequence] src", "m = Cast<to = 1>(src)", "src"),
}
"""The type of the mask, how the encoder reads it, and its name for add-pooling."""


def masked(kind: str) -> onnx.ModelProto:
    declared, read, _ = MASKED[kind]
    model = onnx.parser.parse_model(f"""
    <ir_version: 9, opset_import: ["" : 18]>
    masked (int64[batch, sequence] input_ids, {declared}) => (float[batch, sequence, 4] last_hidden_state) {{
        x = Gather(table, input_ids) {read} last = Unsqueeze(m, two) last_hidden_state = Mul(x, last)
    }}
    """)
    table = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    for name, array in {"table": table, "two": np.array([2])}.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def two_masks() -> onnx.ModelProto:
    proto = onnx.parser.parse_model(TWO_MASKS.replace("OTHERWISE", "Identity"))
    table = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(table, "table"))
    return proto


MEAN = AddPooling("mean")
INPUTS: dict[str, tuple[Callable[[], onnx.ModelProto], list[Edit]]] = {
    "batch of 3": (tiny_encoder, [MEAN, FixDim(("batch=3",))]),
    "length 12": (tiny_encoder, [MEAN, FixDim(("sequence=12",))]),
    "length 2": (tiny_encoder, [MEAN, FixDim(("sequence=2",))]),
    "batch and length": (tiny_encoder, [MEAN, FixDim(("batch=1", "sequence=12"))]),
    "a prompt": (tiny_encoder, [AddPooling("mean", skip_prompt="input")]),
    "a prompt and a length": (tiny_encoder, [AddPooling("mean", skip_prompt="input"), FixDim(("sequence=12",))]),
    "an optional mask": (tiny_encoder, [MEAN, OptionalInput(MASK)]),
    "optional types": (lambda: tiny_encoder(inputs=[TYPE_IDS]), [MEAN, OptionalInput(TYPE_IDS)]),
    "renamed": (tiny_encoder, [MEAN, Rename(name=(f"{IDS}=tokens", f"{MASK}=valid"))]),
    "a float mask": (lambda: tiny_encoder(mask_dtype=TensorProto.FLOAT), [MEAN]),
    "int32": (lambda: tiny_encoder(mask_dtype=TensorProto.INT32, ids_dtype=TensorProto.INT32), [MEAN]),
    "a second mask": (two_masks, [MEAN]),
    "waveforms": (waves, [AddNormalize(HIDDEN)]),
    "pictures of one size": (lambda: picture_encoder(9), [AddPooling("mean", mask="ones")]),
    "pictures of any size": (convolved_picture, [AddPooling("mean", mask="ones")]),
    **{kind: ((lambda kind=kind: masked(kind)), [AddPooling("mean", mask=MASKED[kind][2])]) for kind in MASKED},
    **{f"baked in: {kind}": (one[0], [MEAN]) for kind, one in BAKED.items()},
}


@pytest.mark.parametrize("has_tokenizer", [True, False], ids=["texts", "made up"])
@pytest.mark.parametrize("kind", INPUTS)
def test_on_every_kind_of_input(kind: str, has_tokenizer: bool, tmp_path: Path) -> None:
    """A fixed batch or length, prompts, optional inputs, masks of any meaning, dtypes, pictures, waveforms."""
    source, steps = INPUTS[kind]
    if has_tokenizer:
        write_tokenizer(tmp_path)
    done = apply(steps, source(), tmp_path)
    assert np.abs(check_program(done)).max() > 0, "every token was hidden"


def test_texts_are_padded_as_the_folder_says(tmp_path: Path) -> None:
    """At a fixed length: on the folder's side, with its id, and cut so that the last special token stays."""
    write_tokenizer(tmp_path, padding_side="left", pad_token="fine")
    done = apply([MEAN, FixDim(("sequence=4",))], tiny_encoder(), tmp_path)
    made = run_program(done.snippet)
    assert made["ids"].tolist()[0] == [2, 1, 5, 3] and 'direction="left", pad_id=13' in done.snippet


def test_a_tokenizer_that_cannot_be_read_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    done = apply([MEAN], tiny_encoder(), tmp_path)
    assert "# made-up tokens" in done.snippet and check_program(done).shape == (1, 8)


def test_any_name_can_be_written(tmp_path: Path) -> None:
    """Quotes and backslashes in names of inputs, outputs and files."""
    source = tiny_encoder(names={IDS: 'i"d\\s', HIDDEN: "o'\n"})
    folder = tmp_path / 'a "b" \\c'
    folder.mkdir()
    model = graphsurgery.load(source)
    graphsurgery.save(model, folder / "m.onnx")
    assert run_program(make_snippet(model, folder / "m.onnx"))["embedding"].shape[-1] == 8
