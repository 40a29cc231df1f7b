"""add-image-input: against Pillow, against the slow processors' arithmetic of sizes, and every planted fault caught."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import image_faults
import numpy as np
import pytest
from faults import Fault
from image_faults import EQUIVALENT, IMAGE_FAULTS
from onnx import TensorProto, helper
from picture_towers import picture_tower
from PIL import Image
from test_baked_sizes import picture_encoder

import graphsurgery
from graphsurgery import AddImageInput, AddNormalize, InputType, Rename
from graphsurgery.encoder.head import read_head_steps
from graphsurgery.errors import FolderError, RequestError
from graphsurgery.model.model import Model
from graphsurgery.proof.pictures import ImageFeed, draw_images
from graphsurgery.references.image_input import REFERENCE, find_size, process
from graphsurgery.report import Verdict
from graphsurgery.runtime.session import Session

pytestmark = pytest.mark.usefixtures("all_feeds")
PASSED, FAILED = Verdict.PASSED, Verdict.FAILED
SETTINGS: dict[str, Any] = {
    "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"shortest_edge": 48}, "resample": 3,
    "do_center_crop": True, "crop_size": {"height": 48, "width": 48}, "do_rescale": True, "rescale_factor": 1 / 255,
    "do_normalize": True, "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
}  # fmt: skip
SQUASHED = {
    "image_processor_type": "ViTImageProcessor", "size": {"height": 40, "width": 33}, "crop_size": None, "do_center_crop": None,
}  # fmt: skip
SIZES = ((48, 48), (17, 23), (61, 47), (150, 201), (333, 77), (501, 37), (31, 300), (7, 5))
FILTERS = {2: Image.Resampling.BILINEAR, 3: Image.Resampling.BICUBIC, 1: Image.Resampling.LANCZOS}


def write_config(folder: Path, **changed: Any) -> str:
    """The settings with some of them changed; None leaves one out."""
    path = folder / "preprocessor_config.json"
    settings = {name: value for name, value in (SETTINGS | changed).items() if value is not None}
    path.write_text(json.dumps(settings), encoding="utf-8")
    return str(path)


def add_images(folder: Path, tower: tuple[int, int], opset: int = 18, **changed: Any) -> Model:
    """A tower of pictures of that size, with the processor in the graph."""
    return AddImageInput(write_config(folder, **changed)).apply(graphsurgery.load(picture_tower(tower, opset)))


def open_pixels(model: Model) -> Session:
    """A session that gives the pixels, too."""
    proto = model.to_proto()
    proto.graph.output.append(helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, None))
    return Session(proto.SerializeToString(), threads=1)


def read_parameters(model: Model) -> Any:
    return REFERENCE.read(read_head_steps(model)[-1].parameters)


def resize_by_pillow(picture: np.ndarray, height: int, width: int, resample: int) -> np.ndarray:
    """What Pillow 12 and older give: first along the width, then along the height. Pillow 13 chooses the order."""
    wide = Image.fromarray(picture).resize((width, len(picture)), FILTERS[resample])
    return np.asarray(wide.resize((width, height), FILTERS[resample]))


def crop_slowly(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """As transformers' slow processors: from (size - crop) // 2 on, zeros around what is too small."""
    old_height, old_width = picture.shape[:2]
    top, left = (old_height - height) // 2, (old_width - width) // 2
    if top >= 0 and left >= 0:
        return picture[top : top + height, left : left + width]
    new_height, new_width = max(height, old_height), max(width, old_width)
    padded = np.zeros((new_height, new_width, 3), dtype=picture.dtype)
    top_pad, left_pad = math.ceil((new_height - old_height) / 2), math.ceil((new_width - old_width) / 2)
    padded[top_pad : top_pad + old_height, left_pad : left_pad + old_width] = picture
    top, left = max(0, top + top_pad), max(0, left + left_pad)
    return padded[top : top + height, left : left + width]


def process_by_pillow(picture: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    """The levels ``[height, width, 3]`` that a slow processor makes, with Pillow's own filters."""
    size = settings["size"]
    if "shortest_edge" in size:
        height, width = picture.shape[:2]
        short, long = min(height, width), max(height, width)
        longer = int(size["shortest_edge"] * long / short)
        new = (size["shortest_edge"], longer) if height <= width else (longer, size["shortest_edge"])
    else:
        new = (size["height"], size["width"])
    levels = resize_by_pillow(picture, *new, settings["resample"])
    return crop_slowly(levels, *settings["crop_size"].values()) if settings.get("crop_size") else levels


def find_levels(pixels: np.ndarray) -> np.ndarray:
    """The levels ``[height, width, 3]`` that pixels ``[3, height, width]`` were made of."""
    mean, std = np.array(SETTINGS["image_mean"]), np.array(SETTINGS["image_std"])
    return (pixels.transpose(1, 2, 0).astype(np.float64) * std + mean) * 255


@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize(
    ("changed", "size"),
    [
        ({}, (48, 48)),
        (SQUASHED, (40, 33)),
        ({"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 20}, "crop_size": {"height": 32, "width": 18}},
         (32, 18)),
    ],
    ids=["cropped", "squashed", "padded"],
)  # fmt: skip
def test_levels_are_those_of_pillow(resample: int, changed: dict[str, Any], size: tuple[int, int], tmp_path: Path) -> None:
    """By Resize and by products: one level off at most (two when enlarging more than five times), in few values; equal levels
    give equal pixels; and no more than the reference allows."""
    settings = SETTINGS | changed | {"resample": resample}
    models = [add_images(tmp_path, size, opset, **changed, resample=resample) for opset in (18, 11)]
    sessions = [open_pixels(model) for model in models]
    off, values = np.zeros(2), 0
    for seed, (height, width) in enumerate(SIZES):
        images = draw_images(np.random.default_rng(seed), 2, height, width)
        wanted = np.stack([process_by_pillow(picture, settings) for picture in images]).astype(np.float64)
        expected = process(images, read_parameters(models[0]))
        values += wanted.size
        for place, session in enumerate(sessions):
            pixels = session.run({"images": images})["pixel_values"]
            assert np.all(np.abs(pixels - expected.values) <= expected.tolerance)
            levels = np.stack([find_levels(one) for one in pixels])
            away = np.abs(levels - wanted)
            assert away.max() < (2.01 if min(height, width) * 5 < max(size) else 1.01)
            assert np.abs(levels - np.round(levels)).max() < 255 * 0.28 * 1e-6  # equal levels, equal pixels to 1e-6
            off[place] += (away > 0.5).sum()
    assert np.all(off / values <= (0.01 if resample == 2 else 0.0005))


def test_the_reference_is_sharp(tmp_path: Path) -> None:
    """It knows nearly all levels exactly, or it would allow anything."""
    parameters = read_parameters(add_images(tmp_path, (48, 48)))
    images = draw_images(np.random.default_rng(0), 2, 150, 201)
    assert (process(images, parameters).tolerance > 1e-3).mean() < 0.1


@pytest.mark.parametrize(("edge", "crop"), [(224, 224), (256, 224), (20, 32), (7, 8)])
def test_sizes_are_exact(edge: int, crop: int, tmp_path: Path) -> None:
    """New sizes, padding and the place of the crop, for every height and width from 1 to 600: the graph's own nodes of
    integers, on all sizes at once, against the arithmetic of the slow processors."""
    model = add_images(tmp_path, (crop, crop), size={"shortest_edge": edge}, crop_size={"height": crop, "width": crop})
    nodes = {node.name.removeprefix("graphsurgery/inputs/pixel_values/"): node for node in model.to_proto().graph.node}
    pads = crop > edge
    last = ["resize/new_size", *(["crop/pad/before", "crop/pad/after"] if pads else []), "crop/start"]
    kept = [node for name, node in nodes.items() if name.startswith(("resize/shortest", "resize/m", "resize/new", "crop"))]
    kept = [node for node in kept if node.op_type not in ("Pad", "Slice", "Concat")]
    shortest = nodes["resize/shortest"]
    shortest.input.append("last")
    size = nodes["size"].output[0]
    inputs = [helper.make_tensor_value_info(size, TensorProto.INT64, ["n", 2])]
    outputs = [helper.make_tensor_value_info(nodes[name].output[0], TensorProto.INT64, None) for name in last]
    graph = helper.make_graph(kept, "sizes", inputs, outputs, [helper.make_tensor("last", TensorProto.INT64, [1], [1])])
    session = Session(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString())
    heights, widths = (array.ravel() for array in np.mgrid[1:601, 1:601])
    found = list(session.run({size: np.stack([heights, widths], 1)}).values())
    long, short = np.maximum(heights, widths), np.minimum(heights, widths)
    longer = (edge * long / short).astype(np.int64)  # int(size * long / short)
    new = np.stack([np.where(heights <= widths, edge, longer), np.where(heights <= widths, longer, edge)], 1)
    assert np.array_equal(found[0], new)
    missing = np.maximum(new, crop) - new
    if pads:
        assert np.array_equal(found[1], np.ceil(missing / 2)) and np.array_equal(found[2], missing - np.ceil(missing / 2))
    assert np.array_equal(found[-1], (new + missing - crop) // 2)
    some = np.random.default_rng(0).integers(1, 601, (200, 2))
    assert all(find_size(*map(int, one), (edge,)) == tuple(new[(one[0] - 1) * 600 + one[1] - 1]) for one in some)


def test_a_batch_is_as_one_by_one(tmp_path: Path) -> None:
    session = open_pixels(add_images(tmp_path, (48, 48)))
    images = draw_images(np.random.default_rng(0), 3, 70, 90)
    together = session.run({"images": images})
    for row in range(3):
        alone = session.run({"images": images[row : row + 1]})
        assert all(np.array_equal(alone[name][0], together[name][row]) for name in ("pixel_values", "image_embeds"))


@pytest.mark.parametrize("opset", [18, 17])
def test_embeddings_are_those_of_the_slow_processor(opset: int, tmp_path: Path) -> None:
    tower = Session(picture_tower((48, 48)).SerializeToString())
    session = open_pixels(add_images(tmp_path, (48, 48), opset))
    mean, std = np.array(SETTINGS["image_mean"]), np.array(SETTINGS["image_std"])
    for seed, (height, width) in enumerate(SIZES):
        images = draw_images(np.random.default_rng(seed), 1, height, width)
        slow = (process_by_pillow(images[0], SETTINGS) / 255 - mean) / std
        wanted = tower.run({"pixel_values": slow.transpose(2, 0, 1)[None].astype(np.float32)})["image_embeds"][0]
        found = session.run({"images": images})["image_embeds"][0]
        assert found @ wanted / (np.linalg.norm(found) * np.linalg.norm(wanted)) >= 0.99999


def test_half_precision_pixels_are_cast_last(tmp_path: Path) -> None:
    source = graphsurgery.load(picture_tower((48, 48), dtype=TensorProto.FLOAT16))
    output = AddImageInput(write_config(tmp_path)).apply(source)
    assert output.proto.graph.node[-4].name.endswith("patches")
    assert graphsurgery.verify(output, against=source).verdict is PASSED


def test_in_any_order_with_other_edits(tmp_path: Path) -> None:
    """Normalised before and after, and renamed: each file is proven against the tower, and against the file before it."""
    source = graphsurgery.load(picture_tower((8, 8)))
    images = AddImageInput(write_config(tmp_path, size=8, crop_size=8))
    named = Rename(("images=pictures", "image_embeds=embedding"), ("height=rows",))
    for edits in ([AddNormalize(), images, named], [images, named, AddNormalize("embedding")]):
        models = [source]
        for edit in edits:
            models.append(edit.apply(models[-1]))
        for before in models[:-1]:
            report = graphsurgery.verify(models[-1], against=before)
            assert report.verdict is PASSED and not any("only zeros were fed" in line for line in report.not_checked)
    again = images.apply(source)
    with pytest.raises(RequestError, match="takes pictures as bytes already"):
        images.apply(again)
    with pytest.raises(RequestError):
        InputType("int32").apply(again)


def test_the_config_is_found_beside_the_model(tmp_path: Path) -> None:
    """In the model's folder or the one above, under either name, and within a processor of several inputs."""
    (tmp_path / "onnx").mkdir()
    path = tmp_path / "onnx" / "model.onnx"
    path.write_bytes(picture_tower((48, 48)).SerializeToString())
    with pytest.raises(RequestError, match=r"there is no preprocessor_config\.json or processor_config\.json"):
        AddImageInput().apply(graphsurgery.load(path))
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": SETTINGS}), encoding="utf-8")
    output = AddImageInput().apply(graphsurgery.load(path))
    assert read_parameters(output)["config"] == "../processor_config.json"
    write_config(tmp_path / "onnx", resample=2)
    assert read_parameters(AddImageInput().apply(graphsurgery.load(path)))["resample"] == "bilinear"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"image_processor_type": None, "feature_extractor_type": None}, "names no image_processor_type"),
        ({"image_processor_type": 3}, "image_processor_type is 3"),
        ({"image_processor_type": "Siglip2ImageProcessor"}, "NaFlex"),
        ({"image_processor_type": "ConvNextImageProcessor"}, "ConvNextImageProcessor is not understood"),
        ({"do_pad": True}, "do_pad = True"),
        ({"crop_pct": 0.9}, "crop_pct = 0.9"),
        ({"size": None}, "size is missing"),
        ({"resample": None}, "resample is missing"),
        ({"crop_size": None}, "crop_size is missing"),
        ({"image_mean": None}, "image_mean is missing"),
        ({"resample": 0}, r"resample is 0 \(nearest\)"),
        ({"resample": 5}, r"resample is 5 \(hamming\)"),
        ({"resample": "bicubic"}, "resample is 'bicubic'"),
        ({"resample": [3]}, "resample is a JSON list"),
        ({"image_std": float("nan")}, "image_std is nan"),
        ({"size": {"longest_edge": 48}}, "longest_edge"),
        ({"size": {"shortest_edge": 48, "longest_edge": 96}}, "longest_edge"),
        ({"size": {"shortest_edge": 0}}, "size is 0"),
        ({"size": {"shortest_edge": 1 << 40}}, "size is"),
        ({"size": {"shortest_edge": 48.5}}, "size is 48.5"),
        ({"crop_size": [48, 48]}, "crop_size is"),
        ({"crop_size": True}, "crop_size is True"),
        ({"image_std": [0.2, 0.2, 0]}, "image_std is"),
        ({"image_std": [0.2, 0.2]}, "image_std is"),
        ({"image_mean": ["0.5"] * 3}, "image_mean is"),
        ({"rescale_factor": 0}, "rescale_factor is 0"),
        ({"rescale_factor": -1}, "rescale_factor is -1"),
        ({"do_resize": "yes"}, "'do_resize' is 'yes'"),
        (SQUASHED | {"do_center_crop": True}, "ViTImageProcessor does not crop"),
        (SQUASHED | {"size": {"shortest_edge": 48}}, "shortest_edge"),
        ({"image_processor_type": "ChineseCLIPImageProcessor"}, "ChineseCLIPImageProcessor needs"),
        ({"image_processor_type": "ChineseCLIPImageProcessor", "size": 48}, "ChineseCLIPImageProcessor needs"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(changed: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=says) as error:
        AddImageInput(write_config(tmp_path, **changed)).apply(graphsurgery.load(picture_tower((48, 48))))
    assert error.value.advice


@pytest.mark.parametrize(
    ("changed", "size", "resize", "crop"),
    [
        ({"size": 48, "crop_size": 48}, (48, 48), (48,), (48, 48)),
        ({"image_processor_type": None, "feature_extractor_type": "CLIPFeatureExtractor", "do_rescale": None,
          "rescale_factor": None}, (48, 48), (48,), (48, 48)),
        ({"image_processor_type": "CLIPImageProcessorFast", "do_pad": False, "device": "cpu"}, (48, 48), (48,), (48, 48)),
        (SQUASHED | {"size": 48}, (48, 48), (48, 48), ()),
        (SQUASHED | {"image_processor_type": "SiglipImageProcessor"}, (40, 33), (40, 33), ()),
        ({"image_processor_type": "ChineseCLIPImageProcessor", "size": {"height": 48, "width": 48}}, (48, 48), (48, 48),
         (48, 48)),
        ({"size": {"height": 60, "width": 50}}, (48, 48), (60, 50), (48, 48)),
    ],
)  # fmt: skip
def test_forms_of_configs(
    changed: dict[str, Any], size: tuple[int, int], resize: Sequence[int], crop: Sequence[int], tmp_path: Path
) -> None:
    source = graphsurgery.load(picture_tower(size))
    output = AddImageInput(write_config(tmp_path, **changed)).apply(source)
    parameters = read_parameters(output)
    assert (parameters["resize"], parameters["crop"], parameters["scale"]) == (tuple(resize), tuple(crop), 1 / 255)
    assert graphsurgery.verify(output, against=source, head_only=True).verdict is not FAILED


def test_the_config_of_another_size_is_refused(tmp_path: Path) -> None:
    """Also where the file declares any size, and runs at one only: a table of positions has a row for each patch."""
    source = graphsurgery.load(picture_encoder(9))
    square = {"image_processor_type": "ViTImageProcessor", "crop_size": None, "do_center_crop": None}
    with pytest.raises(RequestError, match="runs on pictures of 3 x 12 x 12 alone"):
        AddImageInput(write_config(tmp_path, **square, size=16)).apply(source)
    output = AddImageInput(write_config(tmp_path, **square, size=12)).apply(source)
    assert graphsurgery.verify(output, against=source).verdict is PASSED
    assert not [line for line in graphsurgery.inspect(output).warnings if "runs only" in line]


def test_fed_pictures_are_of_every_kind() -> None:
    """Smaller, larger, odd, much longer one way than the other; and those of the whole proof are not resized."""
    feed = ImageFeed("images", (48,), (40, 40))
    sizes = [size for _, some in feed.list_sizes() for size in some]
    assert min(map(min, sizes)) == 1 and max(map(max, sizes)) >= 96
    assert any(max(size) > 5 * min(size) for size in sizes) and any(size[0] % 2 for size in sizes)
    assert feed.kept == (48, 51) and ImageFeed("images", (40, 33), ()).kept == (40, 33)
    drawn = draw_images(np.random.default_rng(0), 2, 30, 40)
    assert drawn.dtype == np.uint8 and drawn.shape == (2, 30, 40, 3) and not np.array_equal(drawn[0], drawn[1])
    assert drawn.min() == 0 and drawn.max() == 255


CASES = list(dict.fromkeys(fault.case for fault in (*IMAGE_FAULTS, *EQUIVALENT)))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_spoilt_was_right(case: image_faults.Processed) -> None:
    assert graphsurgery.verify(graphsurgery.load(case.output), against=case.loaded).verdict is PASSED


@pytest.mark.parametrize("fault", IMAGE_FAULTS, ids=str)
def test_faults_are_caught(fault: Fault) -> None:
    assert graphsurgery.verify(fault.spoilt(), against=fault.case.loaded, head_only=True).verdict is FAILED


@pytest.mark.parametrize("fault", EQUIVALENT, ids=str)
def test_equivalents_pass(fault: Fault) -> None:
    assert fault.why
    assert graphsurgery.verify(fault.spoilt(), against=fault.case.loaded).verdict is PASSED


def test_a_file_that_forgot_its_edit_is_not_checked() -> None:
    """Its inputs are not the tower's, and nothing says how they belong together."""
    case = image_faults.CLIP
    output = case.output.__class__.FromString(case.output.SerializeToString())
    del output.metadata_props[:]
    assert graphsurgery.verify(output, against=case.loaded).verdict is Verdict.NOT_CHECKED


def test_there_are_enough() -> None:
    assert len({str(fault) for fault in IMAGE_FAULTS}) == len(IMAGE_FAULTS) >= 60
