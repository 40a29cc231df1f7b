"""Calibration: statistics of the values of an encoder on texts, made once for each encoder and list of texts."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from graphsurgery.errors import GraphSurgeryError, RequestError
from graphsurgery.model.model import Model
from graphsurgery.model.once import Store, find_once
from graphsurgery.proof.source_feeds import encode_texts, make_feed_generator
from graphsurgery.rewrites.quantize.calibration import Sample, sample_values
from graphsurgery.runtime.feeds import generate_text_feeds
from graphsurgery.runtime.texts import CALIBRATE, bundled_texts, read_texts

BUNDLED = "bundled"
LONGEST = 256
"""Calibration texts are cut at this many tokens."""
_SAMPLES: Store[dict[str, Sample]] = WeakKeyDictionary()


def sample_on_texts(encoder: Model, texts: str, sizes: dict[str, int]) -> dict[str, Sample]:
    """Return statistics of the values ``sizes`` (names and last dims) of ``encoder`` on ``texts``: a file, or `BUNDLED`.

    Raises RequestError if there is no tokenizer beside the model, or if the texts cannot be read or run.
    """
    return find_once(_SAMPLES, encoder, (texts, *sizes), lambda: _sample(encoder, texts, sizes))


def read_calibration_texts(texts: str) -> list[str]:
    """Return the texts of a file, or those of the package for `BUNDLED`."""
    return bundled_texts(CALIBRATE) if texts == BUNDLED else read_texts(texts)


def _sample(encoder: Model, texts: str, sizes: dict[str, int]) -> dict[str, Sample]:
    generator = make_feed_generator(encoder)
    chosen = read_calibration_texts(texts)
    try:
        encoded = encode_texts(encoder, encoder, generator, sorted(chosen, key=len), generator.limit_length(LONGEST))
    except GraphSurgeryError as error:
        what = f"the values of the encoder cannot be calibrated on text: {error}"
        raise RequestError(what, error.advice or "calibrate nothing: calibrate none") from error
    feeds = [feed for batch in encoded.split_into_batches() for feed in generate_text_feeds(generator, batch)]
    return dict(sample_values(encoder, generator, feeds, sizes))
