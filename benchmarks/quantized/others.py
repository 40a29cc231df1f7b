"""The quantised files of other programs, by the name of their row, each made as its documentation says.

All start from the same float32 file with its head, except sentence-transformers' own, which quantises the transformer alone and
gets the same head afterwards. Where products of uint8 with int8 overflow (x86 without VNNI), ONNX Runtime's tools get
``reduce_range``, as its documentation says: 7 bits for int8 weights. Optimum's presets are taken as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import graphsurgery
from graphsurgery import AddPooling
from quantized.given import THREADS, Feed, Given, Made, open_onnx, saturates


class OpenVINORunner:
    """A model compiled by OpenVINO for the CPU. It computes in float32 whatever is not in integers."""

    def __init__(self, model: Any) -> None:
        import openvino

        hints = {"INFERENCE_NUM_THREADS": THREADS, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        compiled = openvino.Core().compile_model(model, "CPU", hints)
        self._request = compiled.create_infer_request()
        self._outputs = [port.get_any_name() for port in compiled.outputs]

    def run(self, feeds: Feed, outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        self._request.infer(feeds)
        found = {name: self._request.get_tensor(name).data.copy() for name in self._outputs}
        return {name: found[name] for name in outputs or found}


class FeedReader:
    """Gives the calibration feeds to ONNX Runtime one by one."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)


def make_dynamic(weights: str, per_channel: bool, given: Given) -> Made:
    """ONNX Runtime's dynamic quantisation, with ``weights`` in QInt8 or QUInt8."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = given.folder / f"dynamic-{weights}-{per_channel}.onnx"
    reduce_range = weights == "QInt8" and saturates()
    quantize_dynamic(
        given.baked, path, weight_type=getattr(QuantType, weights), per_channel=per_channel, reduce_range=reduce_range
    )
    return open_onnx(path)


def make_static(with_weights_alone: bool, given: Given) -> Made:
    """ONNX Runtime's static quantisation in QDQ form, with ranges from the calibration texts.

    ``with_weights_alone``: only products with stored weights, instead of every operator that it can quantise.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared, path = given.folder / "prepared.onnx", given.folder / f"static-{with_weights_alone}.onnx"
    quant_pre_process(given.baked, prepared, skip_symbolic_shape=True)
    options: dict[str, Any] = {"op_types_to_quantize": ["MatMul", "Gemm"]} if with_weights_alone else {}
    quantize_static(
        prepared, path, FeedReader(given.calibration), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, reduce_range=saturates(),
        extra_options={"MatMulConstBOnly": True}, **options,
    )  # fmt: skip
    return open_onnx(path)


def make_optimum(preset: str, given: Given) -> Made:
    """One of Optimum's presets, of its dynamic kind, as ``optimum-cli onnxruntime quantize`` takes it."""
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    folder = given.folder / f"optimum-{preset}"
    configuration = getattr(AutoQuantizationConfig, preset)(is_static=False)
    quantizer = ORTQuantizer.from_pretrained(given.baked.parent, file_name=given.baked.name)
    quantizer.quantize(configuration, save_dir=folder)
    return open_onnx(_find_only(folder, "*.onnx"))


def make_sentence_transformers(given: Given) -> Made:
    """The function that sentence-transformers has for it, on its own folder, with its preset for VNNI."""
    from sentence_transformers import SentenceTransformer, export_dynamic_quantized_onnx_model

    options = {"file_name": "onnx/model.onnx", "provider": "CPUExecutionProvider"}
    model = SentenceTransformer(str(given.model_folder), device="cpu", backend="onnx", model_kwargs=options)
    export_dynamic_quantized_onnx_model(model, "avx512_vnni", str(given.model_folder))
    encoder = _find_only(given.transformer.parent, "*qint8*.onnx")
    path = given.folder / "sentence-transformers.onnx"
    graphsurgery.run([AddPooling("mean", normalize=True)], encoder, output=path, verify=False)
    return open_onnx(path)


def make_openvino(given: Given) -> Made:
    """The float32 file in OpenVINO, for comparison."""
    return Made(OpenVINORunner(str(given.baked)), given.baked.stat().st_size)


def make_nncf(given: Given) -> Made:
    """NNCF's quantisation after training for transformers, in OpenVINO."""
    import nncf
    import openvino

    feeds = given.calibration
    model = openvino.Core().read_model(given.baked)
    quantised = nncf.quantize(model, nncf.Dataset(feeds), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(feeds))
    path = given.folder / "nncf.xml"
    openvino.save_model(quantised, path)
    return Made(OpenVINORunner(str(path)), path.stat().st_size + path.with_suffix(".bin").stat().st_size)


def _find_only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise RuntimeError(f"{len(found)} files are called {pattern}, and one was expected")
    return found[0]


MAKERS: Mapping[str, Callable[[Given], Made]] = {
    "ONNX Runtime, `quantize_dynamic`, int8 per channel": partial(make_dynamic, "QInt8", True),
    "ONNX Runtime, `quantize_dynamic`, int8 per tensor": partial(make_dynamic, "QInt8", False),
    "ONNX Runtime, `quantize_dynamic`, uint8 per channel": partial(make_dynamic, "QUInt8", True),
    "ONNX Runtime, `quantize_dynamic`, uint8 per tensor": partial(make_dynamic, "QUInt8", False),
    "ONNX Runtime, `quantize_static`, every operator": partial(make_static, False),
    "ONNX Runtime, `quantize_static`, products with weights": partial(make_static, True),
    "Optimum, preset `avx512_vnni`": partial(make_optimum, "avx512_vnni"),
    "Optimum, preset `avx2`": partial(make_optimum, "avx2"),
    "sentence-transformers, `export_dynamic_quantized_onnx_model`": make_sentence_transformers,
    "OpenVINO, float32": make_openvino,
    "OpenVINO, NNCF": make_nncf,
}
