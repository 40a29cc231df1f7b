"""A tower of speech: it takes the bytes of a WAV file, and gives the vector of the clip.

The standard library's `wave` reads the samples. It is pure Python, so hostile bytes cannot exploit a decoder written in C.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from graphsurgery.edits.add_waveform_normalize import AddWaveformNormalize, choose_mask, find_waveform
from graphsurgery.edits.clips import EXACT, NORMALIZED_SOUND
from graphsurgery.edits.token_mask import ONES, MaskSpec
from graphsurgery.encoder.frames import compute_receptive_field, find_frame_steps
from graphsurgery.encoder.head import POOLING, list_recorded_edits
from graphsurgery.errors import FolderError, UnsupportedModelError
from graphsurgery.folders.files import find_model_folder, read_json, read_setting
from graphsurgery.folders.picture_config import PROCESSOR
from graphsurgery.interface import Value
from graphsurgery.model.model import Model
from graphsurgery.model.parsing import shorten
from graphsurgery.runtime.mask_forms import encode_mask
from graphsurgery.runtime.masks import make_mask
from graphsurgery.serving.errors import InvalidRequestError
from graphsurgery.serving.file_tower import FileTower
from graphsurgery.serving.settings import ServeSettings
from graphsurgery.serving.towers import AUDIO, Prepared

SAMPLES_OF_POSITION = 320
"""This many samples count as one position of a run, because the usual models turn them into one frame."""
UNKNOWN_SIZE = 0xFFFFFFFF
"""The size that programs declare in a WAV file that they write to a pipe, when they do not know yet how long it will be."""
SAMPLES = 3
"""How many clips a file is tried with."""
SIGNED = {2: "<i2", 4: "<i4"}
"""numpy's dtypes by the bytes of a sample. There is none for three bytes, and samples of one byte are unsigned."""
SEND = "send the bytes of a WAV file of whole numbers (PCM): ffmpeg -i clip -ar {rate} -ac 1 -c:a pcm_s16le clip.wav"


def decode_clip(data: object, rate: int, most_seconds: float) -> np.ndarray:
    """Return the samples of a WAV file, ``[samples]`` float32 from -1 to 1. Several channels are averaged.

    Raises InvalidRequestError for anything but a complete WAV file of integer samples, with ``rate`` samples a second, that
    lasts at most ``most_seconds``.
    """
    advice = SEND.format(rate=rate)
    if not isinstance(data, bytes | bytearray | memoryview):
        raise InvalidRequestError(f"a clip is {type(data).__name__}, not bytes", advice)
    if not len(data):
        raise InvalidRequestError("a clip has no bytes", advice)
    try:
        with wave.open(io.BytesIO(data)) as file:
            form, content = file.getparams(), file.readframes(len(data))
    except Exception as error:  # the module does not document which errors it raises for other bytes
        said = shorten(str(error)) or type(error).__name__
        raise InvalidRequestError(f"a clip cannot be read as a WAV file: {said}", advice) from error
    frame = form.nchannels * form.sampwidth
    if form.framerate != rate:
        raise InvalidRequestError(f"a clip has {form.framerate} samples a second, and the model takes {rate}", advice)
    if len(content) // frame < form.nframes < UNKNOWN_SIZE // frame:
        what = f"a clip ends after {len(content) // frame} of the {form.nframes} samples that its header declares"
        raise InvalidRequestError(what, "send the whole file")
    samples = _read_samples(content[: len(content) // frame * frame], form.sampwidth, advice)
    clip = samples.reshape(-1, form.nchannels).mean(axis=1, dtype=np.float64).astype(np.float32)
    if len(clip) > most_seconds * rate:
        what = f"a clip lasts {len(clip) / rate:.1f} seconds, and at most {most_seconds:g} are allowed"
        raise InvalidRequestError(what, "cut it into parts, or start the service with a larger --max-clip-s")
    return clip


def _read_samples(content: bytes, width: int, advice: str) -> np.ndarray:
    """Return samples of ``width`` bytes, as numbers from -1 to 1."""
    if width == 1:
        return np.frombuffer(content, np.uint8).astype(np.float64) / 128 - 1
    if width == 3:  # each becomes the upper bytes of a number of four
        wide = np.zeros((len(content) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(content, np.uint8).reshape(-1, 3)
        content, width = wide.tobytes(), 4
    if width not in SIGNED:
        raise InvalidRequestError(f"a clip has samples of {width} bytes", advice)
    return np.frombuffer(content, SIGNED[width]).astype(np.float64) / (1 << (8 * width - 1))


class SpeechTower(FileTower):
    """Embeds clips. Clips of different lengths share a run only if padding does not change a clip's vector.

    Otherwise only clips of the same length share a run.
    """

    kind = AUDIO

    def __init__(self, model: Model, settings: ServeSettings) -> None:
        """Open a file. If its folder says that sound is normalised, add that step to the graph.

        Raises UnsupportedModelError for a file with further inputs; FolderError if its folder does not say how many samples a
        second it takes; and what `FileTower` raises.
        """
        self.rate, normalizes = _read_processor(model)
        self._shortest = _find_shortest(model)
        self._most_seconds = settings.max_clip_seconds
        if normalizes and not any(edit["edit"] == NORMALIZED_SOUND for edit in list_recorded_edits(model)):
            model = AddWaveformNormalize().apply(model)
        self._input = find_waveform(model, None)
        spec = choose_mask(model, self._input)
        self._form = spec.kind
        self._mask = None if spec.name is None else model.interface.input(spec.name)
        _check_inputs(model, self._input, self._mask)
        self.is_padded = _leaves_padding_out(model, spec)
        noise = np.random.default_rng(0).standard_normal((SAMPLES, self._shortest + self.rate // 10)).astype(np.float32)
        super().__init__(model, settings, self._make_feed([*noise]), self.rate)

    def decode(self, data: object) -> Prepared:
        clip = decode_clip(data, self.rate, self._most_seconds)
        if len(clip) < self._shortest:
            what = f"a clip has {len(clip)} samples, and the model needs {self._shortest} or more"
            raise InvalidRequestError(what, "send a longer clip")
        return Prepared(clip, -(-len(clip) // SAMPLES_OF_POSITION), group=None if self.is_padded else len(clip))

    def run(self, inputs: Sequence[Prepared]) -> np.ndarray:
        return self.run_feed(self._make_feed([one.content for one in inputs]))

    def _make_feed(self, clips: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Return clips as the inputs of the file. Clips shorter than the longest are padded with zeros at the end."""
        own = make_mask([len(one) for one in clips])
        sound = np.zeros(own.shape, np.float32)
        sound[own] = np.concatenate(clips)
        feed = {self._input.name: sound[:, None] if self._input.rank == 3 else sound}
        return feed if self._mask is None else {**feed, self._mask.name: encode_mask(own, self._form, self._mask)}


def _read_processor(model: Model) -> tuple[int, bool]:
    """Return (samples a second, whether each clip is normalised), as the config of the feature extractor says."""
    folder = find_model_folder(model.place, PROCESSOR)
    path = Path(PROCESSOR) if folder is None else folder / PROCESSOR
    config = {} if folder is None else read_json(path)
    rate = read_setting(config, "sampling_rate", int, path)
    if rate is None or rate < 1:
        raise FolderError(
            f"no {PROCESSOR} beside {model.path} or above it states a sampling_rate",
            "put the model's own there; HuBERT, wav2vec2 and WavLM take 16000 samples a second",
        )
    return rate, read_setting(config, "do_normalize", bool, path, True)


def _find_shortest(model: Model) -> int:
    """Return the samples of one frame, or 1 if they cannot be counted."""
    try:
        return compute_receptive_field(find_frame_steps(model, find_waveform(model, None).name))
    except UnsupportedModelError:
        return 1


def _check_inputs(model: Model, waveform: Value, mask: Value | None) -> None:
    unknown = [one for one in model.interface.inputs if one not in (waveform, mask)]
    if unknown:
        raise UnsupportedModelError(
            f"{model.path} takes {unknown[0]} beside its waveforms, and what that holds is not known",
            "let it take lengths: graphsurgery add-pooling --lengths",
        )


def _leaves_padding_out(model: Model, spec: MaskSpec) -> bool:
    """Return whether padding after a clip leaves the vector of the clip unchanged."""
    poolings = [edit for edit in list_recorded_edits(model) if edit["edit"] == POOLING]
    return spec.kind != ONES and any(edit.get("padding") == EXACT for edit in poolings)
