"""What an export starts from: a PyTorch model, the part of it that becomes the file, and inputs to trace and compare it on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphsurgery.errors import RequestError, UnsupportedModelError
from graphsurgery.exporting.packages import import_torch, silence
from graphsurgery.exporting.samples import Sample, make_pictures, make_sounds, make_texts

TOWERS = {"text": "input_ids", "image": "pixel_values"}
"""The towers that can be exported, each with its main input. The model's method for it is get_<tower>_features."""
LOADERS = {"fill-mask": "AutoModelForMaskedLM", "sequence-classification": "AutoModelForSequenceClassification"}
ENCODERS = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}
"""Classes that load the encoder alone of a model that has a decoder, too."""
BY_HAND = "export it by hand with torch.onnx.export"


@dataclass(frozen=True)
class Subject:
    """A PyTorch model in eval mode and float32, and the part of it that becomes the file."""

    folder: Path
    task: str
    model: Any
    compute: Callable[..., Any]
    """The model's method that computes the outputs: forward, or a tower's."""
    outputs: tuple[str, ...]
    """The file's outputs. ``hidden_states.0`` is the first of the result's hidden states."""
    samples: tuple[Sample, ...]
    """Inputs of different sizes. The first one is traced."""

    def run(self, **inputs: Any) -> dict[str, Any]:
        """Return the outputs that PyTorch computes."""
        found = self.compute(**inputs)
        return {name: _pick(found, name) for name in self.outputs}


def load_subject(folder: Path, task: str, tower: str | None = None, *, hidden_states: bool = False) -> Subject:
    """Load the model of ``folder`` with PyTorch.

    Args:
        task: feature-extraction, fill-mask or sequence-classification.
        tower: text or image, for a model of several towers. Its output is ``<tower>_embeds``.
        hidden_states: make every layer's hidden state an output, too.

    Raises:
        MissingPackageError; RequestError if the tower is missing or unknown; UnsupportedModelError if transformers cannot load
        or run the model, or if the model takes anything but text, pictures and waveforms.
    """
    with silence():
        model, missing = _load_model(folder, task)
        check_tower(folder, tower, list_towers(model))
        compute = getattr(model, f"get_{tower}_features") if tower is not None else model.forward
        samples = _make_samples(folder, model, TOWERS[tower] if tower is not None else model.main_input_name, compute)
        output = f"{tower}_embeds" if tower is not None else "logits" if task in LOADERS else "last_hidden_state"
        model.config.output_hidden_states = hidden_states
        found = _run_once(compute, samples[0], folder)
        states = getattr(found, "hidden_states", None) or () if hidden_states else ()
        if hidden_states and not states:
            raise UnsupportedModelError(f"{folder.name} gives no hidden states", "leave out --hidden-states")
        _check_weights(_pick(found, output), missing, folder)
    return Subject(folder, task, model, compute, (output, *(f"hidden_states.{one}" for one in range(len(states)))), samples)


def _load_model(folder: Path, task: str) -> tuple[Any, dict[str, Any]]:
    """Return the model, and those of its parameters that the folder's weights lack. Only these follow gradients."""
    _, transformers = import_torch()
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        name = LOADERS.get(task) or ENCODERS.get(config.model_type, "AutoModel")
        loader = getattr(transformers, name)
        model, loading = loader.from_pretrained(folder, config=config, trust_remote_code=False, output_loading_info=True)
    except Exception as error:  # whatever transformers and the files raise
        raise UnsupportedModelError(
            f"transformers {transformers.__version__} cannot load {folder.name}: {error}",
            f"use the version of transformers that its config.json names, or {BY_HAND}",
        ) from error
    model.config.use_cache = False
    model = model.float().eval()
    lacking = set(loading["missing_keys"])
    parameters = dict(model.named_parameters())  # a parameter that shares another's values is listed once, by one of its names
    missing = {name: one for name, one in parameters.items() if name in lacking}
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in missing)
    return model, missing


def _check_weights(output: Any, missing: Mapping[str, Any], folder: Path) -> None:
    """Raise UnsupportedModelError if ``output`` depends on a parameter that the folder lacks; transformers makes it up.

    It does depend on it if a gradient gets there. A pooler that the output does not use may be missing.
    """
    if output.requires_grad:
        output.sum().backward()
    used = [name for name, parameter in missing.items() if parameter.grad is not None]
    if used:
        raise UnsupportedModelError(
            f"the weights of {folder.name} lack {', '.join(used[:3])}{' and more' * (len(used) > 3)}, which its output needs",
            "download the model folder again, whole; or its config names a class that the weights are not for",
        )


def list_towers(model: Any) -> list[str]:
    """Return the towers of a model that embeds texts and something else, or none."""
    if not hasattr(model, "get_text_features"):
        return []
    return [tower for tower in TOWERS if hasattr(model, f"get_{tower}_features")]


def check_tower(folder: Path, tower: str | None, towers: Sequence[str]) -> None:
    if tower is None and towers:
        listed = " or ".join(f"--tower {one}" for one in towers)
        raise RequestError(f"{folder.name} has several towers, and a file holds one", f"choose {listed}", ("--tower",))
    if tower is not None and tower not in towers:
        what = f"has the towers {', '.join(towers)}" if towers else "has no towers"
        raise RequestError(f"{folder.name} {what}; {tower} was asked for", "choose another, or leave out --tower", ("--tower",))


def _make_samples(folder: Path, model: Any, main: str, compute: Callable[..., Any]) -> tuple[Sample, ...]:
    if main == "input_ids":
        return make_texts(folder, compute)
    if main == "pixel_values":
        return make_pictures(getattr(model.config, "vision_config", model.config), folder)
    if main == "input_values":
        return make_sounds(model.config, folder)
    raise UnsupportedModelError(
        f"{folder.name} takes {main}; export knows encoders of text (input_ids), pictures (pixel_values) and waveforms "
        "(input_values)", BY_HAND,
    )  # fmt: skip


def _run_once(compute: Callable[..., Any], sample: Sample, folder: Path) -> Any:
    torch, _ = import_torch()
    try:
        return compute(**sample.to_tensors(torch))
    except Exception as error:  # whatever the model raises
        raise UnsupportedModelError(f"PyTorch cannot run {folder.name} on {sample.name}: {error}", BY_HAND) from error


def _pick(found: Any, output: str) -> Any:
    """Return an output from a result. A tower's embedding is its ``pooler_output``; older versions return it alone."""
    name, _, index = output.partition(".")
    if name.endswith("_embeds"):
        return found["pooler_output"] if isinstance(found, Mapping) else found
    return found[name][int(index)] if index else found[name]
