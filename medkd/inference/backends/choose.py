"""Which backend runs a model."""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

import numpy as np

from medkd.engines.saved_model import SavedModel
from medkd.errors import UserError
from medkd.inference.backends.backend import AUTO, BACKENDS, Backend
from medkd.inference.backends.model_file import OnnxFile

PACKAGES = {"openvino": "openvino", "onnx": "onnxruntime"}
# Of the largest logit: what is rounded otherwise is far below, a network that was changed on the way far above.
TOLERANCE = 1e-3
TRIAL_SLICES, TRIALS = 4, 3


def create_backend(
    folder: str | Path, key: str, name: str = AUTO, device: str | None = None, threads: int | None = None
) -> Backend:
    """Make the backend that runs a model.

    Args:
        folder: of a run, or a bundle.
        key: of the model, see :func:`~medkd.inference.backends.model_file.model_hash`.
        name: one of :data:`BACKENDS`, or ``auto``: torch where there is a GPU, else the fastest that is installed and
            whose logits agree with those of torch. That is found out on first use and remembered.
        device: of torch, such as ``cuda:1``; the others run on the processor.
        threads: of the processor; by default all that the process may use, with torch as many as it uses already.

    Raises:
        UserError: it is not known or not installed, disagrees with torch, or the model cannot be used.
    """
    if name not in (AUTO, *BACKENDS):
        raise UserError(f"the backend {name!r} is not known: choose {', '.join((AUTO, *BACKENDS))}.")
    if threads is not None and threads < 1:
        raise UserError(f"threads is {threads}: give 1 or more.")
    on_processor = device in (None, "cpu")
    if not on_processor and name not in (AUTO, "torch"):
        raise UserError(f"{name} runs on the processor, not on {device}: choose the backend torch.")
    if name == "torch" or not on_processor or (name == AUTO and device is None and _has_gpu()):
        return _torch(folder, device, threads)
    file = OnnxFile(folder, key)
    if name == AUTO:
        return _fastest(folder, file, device, threads)
    model = SavedModel.read(folder)
    _check_installed(name)
    file.make()
    backend = _on_processor(name, file, model, threads)
    if not _facts(name, folder, file, model, threads)["agrees"]:
        raise UserError(f"{name} gives other logits than torch for the model of {folder}: choose the backend torch.")
    return backend


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _fastest(folder: str | Path, file: OnnxFile, device: str | None, threads: int | None) -> Backend:
    names = [name for name, package in PACKAGES.items() if importlib.util.find_spec(package)]
    model = SavedModel.read(folder)
    if not names or model.network.get("spatial_dims", 2) != 2:
        return _torch(folder, device, threads)
    try:
        file.make()
        facts = {name: _facts(name, folder, file, model, threads) for name in names}
    except UserError:  # It cannot be written as ONNX, or nothing can be kept.
        return _torch(folder, device, threads)
    facts = {name: fact for name, fact in facts.items() if fact["agrees"]}
    best = min(facts, key=lambda name: facts[name]["seconds_per_slice"], default="torch")
    # torch takes seconds to import and hundreds of MB, so it has to be much faster.
    if best == "torch" or facts[best]["seconds_per_slice"] > 1.5 * facts[best]["torch_seconds_per_slice"]:
        return _torch(folder, device, threads)
    return _on_processor(best, file, model, threads)


def _facts(name: str, folder: str | Path, file: OnnxFile, model: SavedModel, threads: int | None) -> dict[str, Any]:
    """How a backend compares with torch on this machine: remembered, else measured."""
    entry = f"{name} {_version(PACKAGES[name])}"
    # Workers that start together wait for the one that measures: times taken side by side would mislead.
    with file.alone():
        known = file.known()
        if entry not in known:
            known[entry] = _compare(name, folder, file, model, threads)
            file.remember(known)
    facts: dict[str, Any] = known[entry]
    return facts


def _compare(name: str, folder: str | Path, file: OnnxFile, model: SavedModel, threads: int | None) -> dict[str, Any]:
    preprocessing = model.preprocessing
    shape = (TRIAL_SLICES, preprocessing.in_channels, preprocessing.size, preprocessing.size)
    slices = np.random.default_rng(0).random(shape, np.float32)
    reference, torch_seconds = _trial(_torch(folder, "cpu", threads), slices)
    try:
        logits, seconds = _trial(_on_processor(name, file, model, threads), slices)
    except Exception:  # Neither library has a common class for its errors.
        return {"agrees": False}
    agrees = logits.shape == reference.shape and bool(
        np.abs(logits - reference).max() <= TOLERANCE * np.abs(reference).max()
    )
    return {"agrees": agrees, "seconds_per_slice": seconds, "torch_seconds_per_slice": torch_seconds}


def _trial(backend: Backend, slices: np.ndarray) -> tuple[np.ndarray, float]:
    """The logits, and the seconds for a slice."""
    logits = backend(slices)
    seconds = []
    for _ in range(TRIALS):
        started = time.perf_counter()
        backend(slices)
        seconds.append(time.perf_counter() - started)
    return logits, min(seconds) / len(slices)


def _torch(folder: str | Path, device: str | None, threads: int | None) -> Backend:
    from medkd.inference.backends.torch_backend import TorchBackend

    return TorchBackend(SavedModel.read(folder).load_network(folder), device, threads)


def _on_processor(name: str, file: OnnxFile, model: SavedModel, threads: int | None) -> Backend:
    # torch keeps the number that its process has; these have none until they are told.
    threads = threads or usable_cores()
    if name == "openvino":
        from medkd.inference.backends.openvino_backend import OpenVinoBackend

        return OpenVinoBackend(file.path, model.preprocessing.size, threads)
    from medkd.inference.backends.onnx_backend import OnnxBackend

    return OnnxBackend(file.path, threads)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # It came under another name, such as onnxruntime-gpu.
        return ", ".join(f"{name} {version(name)}" for name in packages_distributions().get(package, []))


def _check_installed(name: str) -> None:
    if not importlib.util.find_spec(PACKAGES[name]):
        raise UserError(f"{PACKAGES[name]} is not installed: pip install medkd[{name}], or choose the backend torch.")


def _has_gpu() -> bool:
    """Whether it is worth asking torch, which takes seconds to import, for a GPU."""
    if not (Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi")):
        return False
    import torch

    return torch.cuda.is_available()
