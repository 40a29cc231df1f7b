"""A tower of pictures: it takes the bytes of a picture file, and gives an embedding.

Pillow decodes the bytes as in transformers' `load_image`: it turns the picture as its EXIF data say, and converts it to RGB.
Resizing, cropping and normalising happen in the graph (`add-image-input`). A file that takes pixels gets these steps added when
it is opened.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from graphsurgery.edits.add_image_input import CPU, CUDA, AddImageInput
from graphsurgery.edits.draft_operators import UINT8
from graphsurgery.encoder.modalities import PICTURE, find_input
from graphsurgery.errors import FolderError, GraphSurgeryError, MissingPackageError, RequestError, UnsupportedModelError
from graphsurgery.interface import Value
from graphsurgery.model.model import Model
from graphsurgery.model.parsing import shorten
from graphsurgery.runtime.devices import choose_device
from graphsurgery.serving.errors import InvalidRequestError
from graphsurgery.serving.file_tower import FileTower
from graphsurgery.serving.settings import ServeSettings
from graphsurgery.serving.towers import IMAGE, Prepared

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
"""The formats that are opened. Pillow knows others: PostScript runs a further program, and broken TIFF files fill the log."""
DEEP = ("I", "F")
"""The first letters of Pillow's modes with more than 8 bits. Converting them to RGB would clip them at 255."""
MOST_ELONGATED = 200
"""The largest ratio of a picture's long edge to its short one. A processor that scales the short edge to 224 pixels would turn
more elongated pictures into gigabytes."""
EDGE_OF_POSITION = 64
"""A square with this edge in pixels counts as one position, so that the usual budget holds two million pixels in one run."""
FEWEST_POSITIONS = 49
"""The positions of a small picture. CLIP's usual model makes this many tokens of every picture, whatever its size."""
MOST_HELD = 1 << 20
"""A picture with more pixels than this waits in its encoded form, and is decoded again for its run. A file of 100 kB can hold
25 million pixels, so a queue of decoded pictures could fill the memory."""
SAMPLES, SAMPLE_EDGE = 3, 64
"""How many pictures a file is tried with, and their edge in pixels."""
SEND = f"send the bytes of one file of {', '.join(FORMATS)}"


def decode_picture(data: object, most_pixels: int) -> np.ndarray:
    """Return a picture file as uint8 ``[height, width, 3]``: red, green and blue, turned as its EXIF data say.

    Transparency is dropped, as transformers drops it. If there are several frames, the first one is taken. Raises
    InvalidRequestError for anything but a complete picture of at most ``most_pixels``.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise InvalidRequestError(f"a picture is {type(data).__name__}, not bytes", SEND)
    if not len(data):
        raise InvalidRequestError("a picture has no bytes", SEND)
    try:
        with _open(data) as image:
            _check_header(image, most_pixels)
            return _read(image)
    except GraphSurgeryError:
        raise
    except Exception as error:  # Pillow's decoders raise errors of many types for damaged files
        said = shorten(str(error)) or type(error).__name__
        raise InvalidRequestError(f"a picture cannot be decoded: {said}", SEND) from error


def _import_pillow() -> ModuleType:
    """Return Pillow's module ``Image``. Raises MissingPackageError if Pillow is not installed."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingPackageError("pictures need the package pillow", "pip install pillow") from error
    return Image


def _open(data: bytes | bytearray | memoryview) -> Image:
    """Open a picture without decoding its pixels."""
    pillow = _import_pillow()
    try:
        return pillow.open(io.BytesIO(data), formats=FORMATS)
    except OSError as error:  # Pillow's UnidentifiedImageError
        raise InvalidRequestError(f"{len(data)} bytes are no picture of a known format", SEND) from error
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
        raise InvalidRequestError("a picture has far too many pixels", "make it smaller") from error


def _check_header(image: Image, most_pixels: int) -> None:
    """Raise InvalidRequestError if the header shows that the picture is too large, too elongated or of too many bits."""
    width, height = image.size
    if width * height > most_pixels:
        what = f"a picture has {width} x {height} pixels, and at most {most_pixels} are allowed"
        raise InvalidRequestError(what, "make it smaller, or start the service with a larger --max-pixels")
    if max(width, height) > MOST_ELONGATED * min(width, height):
        what = f"a picture has {width} x {height} pixels: one edge is more than {MOST_ELONGATED} times the other"
        raise InvalidRequestError(what, "cut it into parts")
    if image.mode.startswith(DEEP):
        what = f"a picture has more than 8 bits for each pixel (Pillow's mode {image.mode})"
        raise InvalidRequestError(what, "convert it to 8 bits, by the brightness that matters in it")


def _read(image: Image) -> np.ndarray:
    from PIL import ImageOps

    return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


class PictureTower(FileTower):
    """Embeds pictures. Only pictures of the same size share a batch."""

    kind = IMAGE

    def __init__(self, model: Model, settings: ServeSettings) -> None:
        """Open a file. If it takes pixels, first add the steps of the folder's image processor to the graph.

        Raises UnsupportedModelError for a file with further inputs, or that takes pictures of one size only; FolderError if it
        takes pixels and its folder does not say how to make them; MissingPackageError if Pillow is not installed; and what
        `FileTower` raises.
        """
        taking_bytes = _add_processor(model, settings)
        self._input = _find_pictures(taking_bytes).name
        self._most_pixels = settings.max_pixels
        levels = np.random.default_rng(0).integers(0, 256, (SAMPLES, SAMPLE_EDGE, SAMPLE_EDGE, 3), dtype=np.uint8)
        super().__init__(taking_bytes, settings, {self._input: levels}, _import_pillow().__version__)

    def decode(self, data: object) -> Prepared:
        picture = decode_picture(data, self._most_pixels)
        height, width, _ = picture.shape
        size = max(height * width // EDGE_OF_POSITION**2, FEWEST_POSITIONS)
        return Prepared(picture if height * width <= MOST_HELD else data, size, group=(height, width))

    def run(self, inputs: Sequence[Prepared]) -> np.ndarray:
        pictures = [
            one.content if isinstance(one.content, np.ndarray) else decode_picture(one.content, self._most_pixels)
            for one in inputs
        ]
        return self.run_feed({self._input: np.stack(pictures)})


def _add_processor(model: Model, settings: ServeSettings) -> Model:
    """Return ``model``, changed to take uint8 pictures if it takes pixels as floats."""
    held = find_input(model, PICTURE)
    if held is None or held.value.dtype == UINT8:
        return model
    device = CPU if choose_device(settings.providers).is_cpu else CUDA
    try:
        return AddImageInput(device=device).apply(model)
    except (RequestError, FolderError) as error:
        raise FolderError(
            f"{model.path} takes pixels, and how to make them of pictures is not known: {error.message}",
            "put the model's preprocessor_config.json into the folder, or see `graphsurgery add-image-input --help`",
        ) from error


def _find_pictures(model: Model) -> Value:
    """Return the only input of ``model``. Raises UnsupportedModelError unless it takes pictures of any size."""
    held = find_input(model, PICTURE)
    dims = None if held is None else held.value.dims
    is_free = dims is not None and len(dims) == 4 and dims[3] == 3 and not any(isinstance(one, int) for one in dims[1:3])
    if held is None or not is_free or len(model.interface.inputs) != 1:
        listed = ", ".join(map(str, model.interface.inputs))
        raise UnsupportedModelError(
            f"{model.path} takes {listed}, and not pictures alone, [batch, height, width, 3] of any size",
            "take a tower of pictures: graphsurgery extract-tower --tower image, or graphsurgery bake",
        )
    return held.value
