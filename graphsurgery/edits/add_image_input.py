"""add-image-input: take pictures as bytes, of any size, and process them inside the graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from graphsurgery.edits.draft_operators import FLOAT, UINT8, Operators
from graphsurgery.edits.edit import PATH, GraphEdit, Resolved, parameter, require_opset, resolved_parameter
from graphsurgery.edits.image_graph import ANTIALIAS_SINCE, MODES, process_images
from graphsurgery.edits.inputs import find_input, list_symbolic_dims
from graphsurgery.edits.module_weights import to_absolute_path, to_recorded_path
from graphsurgery.encoder.modalities import PICTURE
from graphsurgery.encoder.modalities import find_input as find_input_of_kind
from graphsurgery.encoder.roles import find_roles
from graphsurgery.errors import RequestError, UnsupportedModelError, require_promised
from graphsurgery.folders.files import find_model_folder
from graphsurgery.folders.processor_config import CONFIGS, Processor, read_processor
from graphsurgery.interface import Dim, Interface, Value, read_value, type_name
from graphsurgery.model.draft import Draft
from graphsurgery.model.dtypes import FLOATS
from graphsurgery.model.model import Model
from graphsurgery.model.names import Namer
from graphsurgery.runtime.baked_sizes import make_feed_generator_for

IMAGES = "images"
CPU, CUDA = "cpu", "cuda"
TARGETS = (CPU, CUDA)
HEIGHT, WIDTH = "height", "width"
DTYPES = ("float16", "float32", "float64")


def find_pixels(model: Model, name: str | None) -> Value:
    """Find the input of pixels: the one of that name, else the first that reaches a convolution as a picture.

    Raises RequestError if there is none, or if it already takes bytes; NameNotFoundError, UnsupportedModelError.
    """
    modality = find_input_of_kind(model, PICTURE) if name is None else None
    name = modality.value.name if modality is not None else name
    if name is None:
        listed = ", ".join(map(str, model.interface.inputs)) or "none"
        raise RequestError(
            f"no input holds pictures [batch, channels, height, width]; the inputs are {listed}",
            "add-image-input is for encoders of pictures; if one of these is an input of pixels, name it with --input",
        )
    value = find_input(model, name)
    if value.dtype == UINT8:
        raise RequestError(f"{value} takes pictures as bytes already", "nothing is left to do")
    if value.rank != 4 or value.dtype not in FLOATS:
        raise RequestError(f"{value} is no input of pixels", "name an input of floats [batch, channels, height, width]")
    if type_name(value.dtype) not in DTYPES:
        raise UnsupportedModelError(f"{value} has a type that pixels cannot be computed in", f"export it with {DTYPES[1]}")
    return value


def check_size(model: Model, value: Value, processor: Processor, path: Path) -> None:
    """Raise RequestError unless the input takes pictures of the size that the processor makes.

    Exporters declare sizes free at which the model does not run, so runs show which one it takes.
    """
    if not processor.size:
        raise RequestError(
            f"{path} keeps each picture's aspect and crops nothing, so that pictures of one batch would differ in size",
            "the model needs pictures of one size: give a crop_size, or a height and a width, in a copy of the config",
        )
    made, declared = (3, *processor.size), (value.dims or ())[1:]
    advice = "name the config that belongs to this model with --config"
    if any(dim != size for dim, size in zip(declared, made, strict=True) if isinstance(dim, int)):
        raise RequestError(f"{path} makes pictures of {join_sizes(made)}, and the model takes {value}", advice)
    if all(isinstance(dim, int) for dim in declared):
        return
    medium = make_feed_generator_for(model, find_roles(model.interface)).find_medium(value)
    if medium is not None and medium.only and medium.sizes != made:
        runs = f"the model runs on pictures of {join_sizes(medium.sizes)} alone"
        raise RequestError(f"{path} makes pictures of {join_sizes(made)}, and {runs}", advice)


def choose_dims(model: Model, value: Value) -> tuple[Dim, Dim, Dim, Dim]:
    """Return the dims of the new input: the batch is that of the pixels, and height and width have names of their own."""
    graph = model.proto.graph
    others = [read_value(info) for info in (*graph.input, *graph.output, *graph.value_info) if info.name != value.name]
    taken = list_symbolic_dims(others)
    height, width = (name if name not in taken else f"image_{name}" for name in (HEIGHT, WIDTH))
    return (value.dims or (None,))[0], height, width, 3


def describe(processor: Processor, products: bool) -> Iterator[str]:
    """Yield notes on what the processor does."""
    steps = []
    if processor.resize:
        shortest = "a shortest edge of " if len(processor.resize) == 1 else ""
        how = " by matrix products" if products else ""
        steps.append(f"resized ({processor.resample}{how}) to {shortest}{join_sizes(processor.resize)}")
    steps += [f"cropped to {join_sizes(processor.crop)}"] if processor.crop else []
    steps += ["normalised"] if processor.mean else []
    yield f"pictures are {', '.join(steps)}, as {processor.kind} does"
    if processor.is_fast:
        yield "the config names the fast processor: that one is up to 2 levels of 255 from the slow one, which the graph equals"


def join_sizes(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes))


@dataclass(frozen=True)
class Found:
    """What the edit found: the input of pixels, and the processor that makes them."""

    value: Value
    processor: Processor
    products: bool
    """Whether pictures are resized by matrix products."""


@dataclass(frozen=True)
class AddImageInput(GraphEdit[Found]):
    """Take pictures of any size as ``images`` uint8 ``[batch, height, width, 3]`` and process them in the graph.

    The colours are red, green and blue. The new input takes the place of the pixels ``[batch, 3, H, W]``. The graph resizes,
    crops around the centre, rescales and normalises as the config of the model's image processor says, with Pillow's two-pass
    algorithm: equal to transformers' slow processors with Pillow 12 or older, apart from single levels of 255 where a sum is
    very near to a half. One batch has pictures of one size. Opset 18 or newer resizes with ONNX's Resize; older opsets, lanczos
    and CUDA resize with matrix products.
    """

    repeatable: ClassVar[bool] = True

    config: str | None = parameter(
        "The config of the image processor, preprocessor_config.json or processor_config.json.", None, PATH,
        otherwise="the one beside the model or in the folder above",
    )  # fmt: skip
    input: str | None = parameter("The input of pixels, [batch, 3, height, width].", None, "NAME", otherwise="the only one")
    name: str = parameter("The name of the new input.", IMAGES, "NAME")
    device: str = parameter(
        "Where the file will run. On cuda, ONNX Runtime resizes bicubic pictures wrongly, so the file uses matrix products.",
        CPU, "cpu|cuda", option="--for",
    )  # fmt: skip
    clamp: bool = parameter(
        "Cut the pixels to the range that the processor can give, (0 - mean) / std to (1 - mean) / std of each channel. This "
        "changes no pixel of a picture; other programs can read the range from the graph.",
        False,
    )
    resize: tuple[str, ...] = resolved_parameter(())
    resample: str = resolved_parameter("")
    crop: tuple[str, ...] = resolved_parameter(())
    scale: str = resolved_parameter("")
    mean: tuple[str, ...] = resolved_parameter(())
    std: tuple[str, ...] = resolved_parameter(())
    dtype: str = resolved_parameter("")
    dims: tuple[str, ...] = resolved_parameter(())

    def resolve(self, model: Model) -> Resolved[Self, Found]:
        """Find the input of pixels and read the processor's config.

        Raises RequestError (no pixels, sizes that differ, names), FolderError (a config that is missing, unreadable or not
        understood), NameNotFoundError, UnsupportedModelError.
        """
        require_opset(model, self.verb)
        if self.device not in TARGETS:
            raise RequestError(f"there is no device {self.device!r}", f"choose --for {CPU} or --for {CUDA}")
        value = find_pixels(model, self.input)
        path = self._find_config(model)
        processor = read_processor(path)
        check_size(model, value, processor, path)
        if not self.name or Namer.of(model.proto).has(self.name):
            what = f"there is already a value {self.name!r}" if self.name else "the new input has no name"
            raise RequestError(what, "choose another name with --name")
        products = self.device == CUDA or model.opset < ANTIALIAS_SINCE or processor.resample not in MODES
        scale = 1.0 if processor.scale is None else processor.scale
        edit = replace(
            self, config=to_recorded_path(model, path), input=value.name,
            resize=tuple(map(str, processor.resize)), resample=processor.resample, crop=tuple(map(str, processor.crop)),
            scale=repr(scale), mean=tuple(map(repr, processor.mean or (0.0,) * 3)),
            std=tuple(map(repr, processor.std or (1.0,) * 3)), dtype=type_name(value.dtype),
            dims=tuple("" if dim is None else str(dim) for dim in choose_dims(model, value)),
        )  # fmt: skip
        return Resolved(edit, Found(value, processor, products), (*describe(processor, products),))

    def _find_config(self, model: Model) -> Path:
        if self.config is not None:
            return to_absolute_path(model, self.config)
        place = model.place or (model.folder and model.folder / "model.onnx")
        for name in CONFIGS:
            folder = find_model_folder(place, name)
            if folder is not None:
                return folder / name
        raise RequestError(
            f"there is no {' or '.join(CONFIGS)} beside the model or above it",
            "sizes, filter, mean and std of a processor cannot be guessed: put the model's own config beside it, or name it "
            "with --config",
        )

    def change(self, draft: Draft, found: Found) -> None:
        draft.changes.infos.append(lambda kind, info: kind != "input" or info.name != found.value.name)
        ops = Operators(draft, f"graphsurgery/inputs/{found.value.name}")
        with draft.at_front():
            images = draft.add_input(self.name, UINT8, list(self._input_value().dims or ()))
            pixels = process_images(ops, images, found.processor, found.products, self.clamp)
            if found.value.dtype != FLOAT:
                pixels = ops.cast(pixels, found.value.dtype, "cast")
            shape = ops.constant([0, 3, *found.processor.size], np.int64, "sizes")
            ops.node("Reshape", pixels, shape, name="pixels", output=found.value.name)

    def _input_value(self) -> Value:
        dims: list[Dim] = [int(dim) if dim.isdecimal() else dim or None for dim in self.dims]
        return Value(self.name, UINT8, tuple(dims))

    def ensure(self, before: Interface, after: Interface) -> None:
        others = tuple(value for value in before.inputs if value.name != self.input)
        require_promised(self.verb, "the inputs", (*others, self._input_value()), after.inputs)
        require_promised(self.verb, "the outputs", before.outputs, after.outputs)
