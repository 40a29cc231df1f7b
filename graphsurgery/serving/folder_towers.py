"""Open the towers of a model folder. The inputs and outputs of its files decide which towers it has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from graphsurgery.embedding.embedder import Embedder
from graphsurgery.encoder.head import EMBEDDING
from graphsurgery.encoder.modalities import PICTURE, SPECTROGRAM, TOKEN_IDS, WAVEFORM, list_modalities
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.folders.files import find_onnx, is_folder, is_there
from graphsurgery.folders.transformer_config import read_encoder_config
from graphsurgery.model.loading import load
from graphsurgery.model.model import Model
from graphsurgery.serving.pair_tower import PairTower
from graphsurgery.serving.picture_tower import PictureTower
from graphsurgery.serving.settings import ServeSettings
from graphsurgery.serving.speech_tower import SpeechTower
from graphsurgery.serving.text_tower import TextTower
from graphsurgery.serving.towers import AUDIO, IMAGE, PAIR, TEXT, Tower

PICTURES = "image.onnx"
"""The file of pictures beside that of texts, as `bake` and `split-towers` write it."""
CROSS_ENCODER = "CrossEncoder"


def open_towers(folder: str | os.PathLike[str], settings: ServeSettings) -> dict[str, Tower]:
    """Open the towers of a folder, or of one ONNX file, and return them by their kinds.

    - A file that takes token ids embeds texts. If its output is the score of a cross-encoder, it scores pairs of texts.
    - A file that takes pictures embeds pictures. ``image.onnx`` beside a file of texts is a second tower.
    - A file that takes waveforms embeds clips of speech.

    Raises:
        UnsupportedModelError: a file takes something else, or both texts and pictures, or the towers give vectors of different
            widths.
        FolderError, RequestError, MissingPackageError, SurroundingsError: as the towers raise them.
    """
    path = Path(folder)
    model = load(find_onnx(path)[0] if is_folder(path) else path)
    kinds = {one.kind for one in list_modalities(model)}
    _require_one_kind(model, kinds)
    if PICTURE in kinds:
        return {IMAGE: PictureTower(model, settings)}
    if WAVEFORM in kinds:
        return {AUDIO: SpeechTower(model, settings)}
    return _open_text_towers(path, settings)


def _require_one_kind(model: Model, kinds: set[str]) -> None:
    if {TOKEN_IDS, PICTURE} <= kinds:
        raise UnsupportedModelError(
            f"{model.path} takes texts and pictures at once", "make a file of each tower: graphsurgery split-towers, or bake"
        )
    if SPECTROGRAM in kinds:
        raise UnsupportedModelError(
            f"{model.path} takes spectrograms, and the service does not make them of sound",
            "serve an encoder of waveforms, such as HuBERT, wav2vec2 or WavLM",
        )


def _open_text_towers(path: Path, settings: ServeSettings) -> dict[str, Tower]:
    embedder = Embedder(
        path, providers=settings.providers, threads=settings.threads, max_batch_tokens=settings.max_batch_tokens
    )
    if is_cross_encoder(embedder):
        return {PAIR: PairTower(embedder)}
    towers: dict[str, Tower] = {TEXT: TextTower(embedder)}
    pictures = embedder.path.with_name(PICTURES)
    if is_folder(path) and is_there(pictures):
        towers[IMAGE] = PictureTower(load(pictures), settings)
        _require_one_space(embedder.path, towers)
    return towers


def is_cross_encoder(embedder: Embedder) -> bool:
    """Return whether a file scores pairs of texts: its output has one column, or the folder is a classifier's."""
    value = embedder.model.interface.output(embedder.output)
    if value is not None and value.last_dim == 1:
        return True
    if embedder.output == EMBEDDING:
        return False
    encoder = read_encoder_config(embedder.folder)
    return embedder.config.model_type == CROSS_ENCODER or (encoder is not None and encoder.is_classifier)


def _require_one_space(path: Path, towers: Mapping[str, Tower]) -> None:
    widths = {kind: tower.width for kind, tower in towers.items()}
    if 0 not in widths.values() and len(set(widths.values())) > 1:
        what = " and ".join(f"{width} dims ({kind})" for kind, width in widths.items())
        raise UnsupportedModelError(
            f"the files in {path.parent} are not of one model: their vectors have {what}",
            f"serve one of them alone, such as {path.with_name(PICTURES)}",
        )
