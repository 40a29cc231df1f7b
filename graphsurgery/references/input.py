"""add-input: an input that changes nothing."""

from __future__ import annotations

import numpy as np
import onnx

from graphsurgery.interface import Dim, Interface
from graphsurgery.references.fields import Fields, Info
from graphsurgery.references.input_edits import check_dtype, compute_nothing, keep_outputs
from graphsurgery.references.reference import Parameters, Reference, parse_number


def _read(parameters: Parameters) -> Parameters:
    """Read ``dims``: numbers, names, and empty texts for unknown dims."""
    check_dtype(parameters["to"])
    return {**parameters, "dims": tuple(map(_read_dim, parameters["dims"]))}


def _read_dim(text: str) -> Dim:
    number = parse_number(text)
    return number if number is not None else text or None


def _declare_input(parameters: Parameters) -> list[Info]:
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(parameters["to"]))
    return [onnx.helper.make_tensor_value_info(parameters["input"], kind, parameters["dims"])]


def _explain_misfit(parameters: Parameters, before: Interface) -> str | None:
    if before.input(parameters["input"]) is not None:
        return f"there is already an input {parameters['input']!r}"
    like = before.input(parameters["like"])
    if like is None:
        return f"there is no input {parameters['like']!r}"
    return None if like.dims == parameters["dims"] else f"{like} does not have the recorded dims"


REFERENCE = Reference(
    reads=lambda _: [],
    makes=lambda _: [],
    value=compute_nothing,
    outputs=keep_outputs,
    read=_read,
    fields=Fields(inputs=_declare_input),
    misfit=_explain_misfit,
)
