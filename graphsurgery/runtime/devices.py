"""Where a session runs: ONNX Runtime's execution providers, by short names, and the processors of this process."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphsurgery.deferred import onnxruntime
from graphsurgery.errors import MissingPackageError, RequestError
from graphsurgery.suggestions import suggest

CPU_PROVIDER = "CPUExecutionProvider"
PROVIDERS = {"cpu": CPU_PROVIDER, "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
"""ONNX Runtime's names of execution providers by the short names that are accepted."""
AUTO = "auto"
GPU_ADVICE = (
    "pip uninstall onnxruntime, then pip install onnxruntime-gpu (the two overwrite each other), on a machine with the "
    "provider's libraries; or leave the provider out"
)
QUOTAS = (Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))
"""The files in which Linux states how many processors a container may use: of cgroup version 2, and of version 1."""


@dataclass(frozen=True)
class Device:
    """What a session runs on. The default, which proofs use, is the CPU alone."""

    providers: tuple[str, ...] = (CPU_PROVIDER,)
    """ONNX Runtime's names of execution providers, the preferred one first."""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Options of providers, by their names."""
    frees_memory: bool = False
    """Whether memory goes back to the system after a run, instead of into an arena that grows to the largest run."""

    @property
    def is_cpu(self) -> bool:
        return self.providers[0] == CPU_PROVIDER


CPU = Device()


def choose_device(asked: str | Sequence[str], cache: Path | None = None) -> Device:
    """Return the device for the providers ``asked``: names of `PROVIDERS`, names of ONNX Runtime's own, or ``auto``.

    ``auto`` is CUDA if this ONNX Runtime has it, and otherwise the CPU. The CPU computes what a provider cannot.
    TensorRT keeps the engines that it builds in the folder ``cache``.

    Raises:
        RequestError: a name is unknown, or none is given.
        MissingPackageError: this ONNX Runtime lacks a provider. Without this error it would silently run on the CPU.
    """
    there = onnxruntime.get_available_providers()
    names = [asked] if isinstance(asked, str) else list(asked)
    if names == [AUTO]:
        names = ["cuda" if PROVIDERS["cuda"] in there else "cpu"]
    if not names:
        raise RequestError("no provider is given", f"give {AUTO}, {', '.join(PROVIDERS)}, or several in order of preference")
    full = [_find_provider(name) for name in names]
    missing = next((one for one in full if one not in there), None)
    if missing is not None:
        what = f"this ONNX Runtime has no {missing}; it has {', '.join(there)}"
        raise MissingPackageError(what, GPU_ADVICE)
    options = {}
    if cache is not None and PROVIDERS["tensorrt"] in full:
        options[PROVIDERS["tensorrt"]] = {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(cache)}
    return Device(tuple(dict.fromkeys((*full, CPU_PROVIDER))), options, frees_memory=True)


def _find_provider(name: str) -> str:
    known = onnxruntime.get_all_providers()
    found = PROVIDERS.get(name.lower(), name)
    if found not in known:
        choices = (AUTO, *PROVIDERS)
        raise RequestError(
            f"ONNX Runtime has no provider {name!r}",
            f"{suggest(name, choices)}choose from {', '.join(choices)}, or {', '.join(known)}",
        )
    return found


def count_processors() -> int:
    """Return how many processors this process may use: those it may run on, and no more than its container's quota."""
    with suppress(AttributeError):
        return max(1, min(len(os.sched_getaffinity(0)), _read_quota() or os.cpu_count() or 1))
    return os.cpu_count() or 1


def _read_quota() -> int | None:
    """Return the processors that the container may keep busy, at least one, or None if there is no limit."""
    with suppress(OSError, ValueError):
        quota, period = QUOTAS[0].read_text(encoding="ascii").split()
        return None if quota == "max" else max(1, int(quota) // int(period))
    with suppress(OSError, ValueError):
        micros = int(QUOTAS[1].read_text(encoding="ascii"))
        period_file = QUOTAS[1].with_name("cpu.cfs_period_us")
        return max(1, micros // int(period_file.read_text(encoding="ascii"))) if micros > 0 else None
    return None
