"""The three programs that can write the file: transformers' own exporter, Optimum, and torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from graphsurgery.errors import MissingPackageError, UnsupportedModelError
from graphsurgery.exporting.packages import has_exporter, import_optional, import_torch, silence
from graphsurgery.exporting.samples import BATCH
from graphsurgery.exporting.subject import BY_HAND, ENCODERS, Subject

TASKS = {"feature-extraction": "feature-extraction", "fill-mask": "fill-mask", "sequence-classification": "text-classification"}
"""Optimum's name for each task of sentence-transformers' Transformer module."""
OPSET = 18
LARGEST = 2 << 30
"""Weights of this many bytes or more are written to a data file beside the ONNX file."""
FRAMES = "frames"
"""The name of an output's dim that is computed from an input's."""
NEWER = "pip install -U transformers onnxscript 'torch>=2.11'"
OPTIMUM = f"pip install optimum-onnx; or take the exporter of newer versions: {NEWER}"


def require_exporter() -> None:
    """Raise MissingPackageError if transformers exports by itself and a package for that is missing.

    Call it before loading a model, which may take minutes. Whether an older version of transformers needs Optimum depends on
    the model.
    """
    _, transformers = import_torch()
    if has_exporter(transformers):
        _load_exporter()


def write_onnx(subject: Subject, path: Path) -> str:
    """Write the subject to ``path``. Return the program that did it, with its version.

    From transformers 5 on that is its own exporter. Before, it is Optimum for text, and torch for what Optimum 0.1.0 cannot
    do: T5 encoders, towers, waveforms with a mask, hidden states.

    Raises MissingPackageError without the program; UnsupportedModelError if it fails.
    """
    _, transformers = import_torch()
    if has_exporter(transformers):
        program, write = f"transformers {transformers.__version__}", _write_with_transformers
    elif _suits_optimum(subject):
        import_optional("optimum.exporters.onnx", OPTIMUM)
        program, write = f"Optimum {version('optimum-onnx')}", _write_with_optimum
    else:
        program, write = f"torch {version('torch')}", _write_with_torch
    try:
        with silence():
            write(subject, path)
    except (MissingPackageError, UnsupportedModelError):
        raise
    except Exception as error:  # whatever these programs raise
        raise UnsupportedModelError(
            f"{program} cannot export {subject.folder.name}: {error}", f"try a newer version, or {BY_HAND}"
        ) from error
    if not path.is_file():
        raise UnsupportedModelError(f"{program} wrote no file for {subject.folder.name}", BY_HAND)
    return program


def _suits_optimum(subject: Subject) -> bool:
    is_plain = len(subject.outputs) == 1 and not subject.outputs[0].endswith("_embeds")
    return is_plain and "input_ids" in subject.samples[0].arrays and subject.model.config.model_type not in ENCODERS


def _write_with_optimum(subject: Subject, path: Path) -> None:
    main_export = import_optional("optimum.exporters.onnx", OPTIMUM).main_export
    main_export(str(subject.folder), path.parent, task=TASKS[subject.task], library_name="transformers", do_validation=False)


def _write_with_torch(subject: Subject, path: Path) -> None:
    """Export by tracing. The mask that is traced contains zeros; without them torch would write it as a constant."""
    torch, _ = import_torch()
    sample, names = subject.samples[0], list(subject.samples[0].arrays)

    class Part(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = subject.model

        def forward(self, *inputs: Any) -> tuple[Any, ...]:
            return tuple(subject.run(**dict(zip(names, inputs, strict=True))).values())

    dynamic = {name: {axis: dim for axis, dim in enumerate(dims) if isinstance(dim, str)} for name, dims in sample.dims.items()}
    varying = dynamic.get("input_ids", {0: BATCH, 1: FRAMES} if "input_values" in dynamic else {0: BATCH})
    for name in subject.outputs:
        dynamic[name] = {0: BATCH} if name.endswith("_embeds") else varying
    torch.onnx.export(
        Part().eval(), tuple(sample.to_tensors(torch).values()), str(path), input_names=names,
        output_names=list(subject.outputs), dynamic_axes=dynamic, opset_version=OPSET, dynamo=False,
    )  # fmt: skip


def _write_with_transformers(subject: Subject, path: Path) -> None:
    """Export with transformers' own exporter, and name dims as Optimum does."""
    torch, _ = import_torch()
    exporters, exporter, ir = _load_exporter()
    sample = subject.samples[0]
    free = {
        name: {axis: torch.export.Dim.AUTO for axis, dim in enumerate(dims) if isinstance(dim, str)}
        for name, dims in sample.dims.items()
    }
    config = exporters.OnnxConfig(dynamic_shapes=free, opset_version=OPSET)
    with _limit_outputs(subject):
        program = exporter.export(subject.model, sample.to_tensors(torch), config).program
    name_dims(program, sample.dims, subject.folder.name)
    ir.passes.common.ClearMetadataAndDocStringPass()(program)  # paths of this machine, line by line
    program.producer_name = program.producer_name or "pytorch"
    size = sum(value.const_value.nbytes for value in program.graph.initializers.values())
    ir.save(program, str(path), external_data=f"{path.name}.data" if size >= LARGEST else None)


def _load_exporter() -> tuple[Any, Any, Any]:
    """Return `transformers.exporters`, its exporter to ONNX, and `onnx_ir`. Raises MissingPackageError."""
    exporters, ir = import_optional("transformers.exporters", NEWER), import_optional("onnx_ir", NEWER)
    try:
        return exporters, exporters.OnnxExporter(), ir
    except ImportError as error:
        raise MissingPackageError(f"transformers cannot export: {error}", NEWER) from error


@contextmanager
def _limit_outputs(subject: Subject) -> Iterator[None]:
    """Let the model compute the wanted outputs alone, because the exporter writes whatever it returns."""
    subject.model.forward = subject.run
    try:
        yield
    finally:
        del subject.model.forward


def name_dims(program: Any, dims: Mapping[str, tuple[str | int, ...]], model: str) -> None:
    """Give the symbols of an ``onnx_ir.Model`` the names that ``dims`` has for them, wherever they occur.

    Two inputs of one batch may have two symbols for it; they become one. An output's dim that is computed from an input's gets
    a plain name. Raises UnsupportedModelError if a dim that has to vary was fixed.
    """
    names: dict[str, str] = {}
    for value in program.graph.inputs:
        for axis, wanted in enumerate(dims[value.name]):
            found = value.shape[axis]
            if isinstance(wanted, str) and isinstance(found, int):
                raise UnsupportedModelError(f"the exporter fixed {wanted} of {value.name} at {found} in {model}", BY_HAND)
            if isinstance(wanted, str):
                names[str(found)] = wanted
    for value in [*program.graph.inputs, *(one for node in program.graph.all_nodes() for one in node.outputs)]:
        if value.shape is not None:
            value.shape = type(value.shape)([_rename_dim(dim, names) for dim in value.shape])
    for value in program.graph.outputs:
        value.shape = type(value.shape)([FRAMES if _is_formula(dim) else dim for dim in value.shape])


def _is_formula(dim: Any) -> bool:
    return not isinstance(dim, int) and dim.value is not None and not dim.value.isidentifier()


def _rename_dim(dim: Any, names: Mapping[str, str]) -> int | str | None:
    """Return a dim with its symbols renamed, also within a formula."""
    if isinstance(dim, int) or dim.value is None:
        return dim if isinstance(dim, int) else None
    return re.sub(r"[A-Za-z_]\w*", lambda found: names.get(found[0], found[0]), dim.value)
