"""What segmenting a CT costs from file to saved mask: each backend, MONAI's own pieces beside them, and how it grows.

    python benchmarks/inference.py backends    # the three backends and MONAI's pipeline, about 5 minutes on two cores
    python benchmarks/inference.py growth      # against the number of slices and of workers, about 5 minutes
    python benchmarks/inference.py report      # docs/inference_speed.md from the stored JSON

The first of them trains S1 briefly on phantoms, about 3 minutes more; ``--model RUN`` takes another model instead.
Every way lives in a process of its own, so that its memory is its own; nothing else runs meanwhile. The CT is drawn,
not scanned, and its mask is compared with the truth, so that what is timed is known to be an organ.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

# As medkd infer does, before numpy is imported here and in the processes that measure.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import nibabel
import numpy as np
from inference_page import write_inference_page
from peak_memory import process_peak_mib

from medkd.data.phantom import make_phantom, write_phantom_task
from medkd.files import write_json

# What a process of a measurement imports counts in its memory: torch, MONAI and backends only where they are used.

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
THREADS, ROUNDS, FEWER_ROUNDS, COLD_ROUNDS, MONAI_ROUNDS = 2, 5, 3, 3, 2
PACKAGES = {"openvino": "openvino", "onnx": "onnxruntime", "torch": "torch"}

# Of the CT in mm: the medians of 20 portal venous CT of the abdomen (BTCV), so 100 slices are 4.45 mm apart.
FIELD, BODY_SLICES, SCAN_SEED = (340.8, 340.8, 445.0), 100, 7
GROWTH_SLICES, GROWTH_WORKERS = [50, 100, 200, 500, 1000], [1, 2]
# What a scanner adds to slices thinner than those that were drawn.
NOISE_HU = 6.0

# Of the brief training. The volumes are the cohort too.
VOLUMES, VOLUME_SHAPE, TASK_SEED = 16, (256, 256, 40), 1
RECIPE: dict[str, Any] = {
    "network_name": "unet_s1",
    "size": 256,
    "student_share": 1.0,
    "epochs": 10,
    "batch_size": 8,
    "learning_rate": 0.003,
    "schedule": "cosine",
    "empty_per_foreground": 0.5,
    "val_interval": 5,
}


@dataclass(frozen=True)
class Drawn:
    """A CT that was drawn, and the organ in it.

    Attributes:
        scan: its file.
        truth: of its organ.
    """

    scan: Path
    truth: Path

    def facts(self) -> dict[str, Any]:
        """What the page says of it."""
        image = nibabel.Nifti1Image.from_filename(self.scan)
        return {
            "shape": list(image.shape),
            "spacing": [round(float(size), 3) for size in image.header.get_zooms()],
            "dtype": str(image.get_data_dtype()),
            "file_mb": self.scan.stat().st_size / 1e6,
            "voxel_mb": math.prod(image.shape) * image.get_data_dtype().itemsize / 1e6,
            "truth_ml": self.compare(self.truth)["volume_ml"],
        }

    def compare(self, mask: Path) -> dict[str, float]:
        """Volume of a mask, and its Dice with the truth."""
        image = nibabel.Nifti1Image.from_filename(mask)
        found, true = (
            np.asarray(image.dataobj) > 0,
            np.asarray(nibabel.Nifti1Image.from_filename(self.truth).dataobj) > 0,
        )
        return {
            "volume_ml": float(found.sum() * abs(np.linalg.det(image.affine[:3, :3])) / 1000),
            "dice": float(2 * (found & true).sum() / max(1, found.sum() + true.sum())),
        }


def draw_scan(folder: Path, matrix: int, slices: int) -> Drawn:
    """Draw the CT of one body, cut into so many slices."""
    drawn = Drawn(folder / f"ct_{matrix}x{slices}.nii.gz", folder / f"truth_{matrix}x{slices}.nii.gz")
    if drawn.truth.is_file():
        return drawn
    hu, label, affine = _body(matrix)
    which = np.arange(slices) * BODY_SLICES // slices
    scan = np.empty((matrix, matrix, slices), np.int16, order="F")
    rng = np.random.default_rng(SCAN_SEED)
    for index, source in enumerate(which):
        noise = NOISE_HU * rng.standard_normal((matrix, matrix), np.float32) if slices > BODY_SLICES else 0
        scan[..., index] = np.rint(hu[..., source] + noise)
    folder.mkdir(parents=True, exist_ok=True)
    spacing = np.divide(FIELD, scan.shape)
    affine = np.block([[np.sign(affine[:3, :3]) * spacing, affine[:3, 3:]], [np.array([0, 0, 0, 1])]])
    nibabel.save(nibabel.Nifti1Image(scan, affine), drawn.scan)
    nibabel.save(nibabel.Nifti1Image(label[..., which], affine), drawn.truth)
    return drawn


@lru_cache(maxsize=1)
def _body(matrix: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return make_phantom(SCAN_SEED, shape=(matrix, matrix, BODY_SLICES))


def train_model(out: Path) -> Path:
    """Train S1 on phantoms; one that has finished is left as it is."""
    from medkd.bundle import STUDENT
    from medkd.recipes import run_recipe

    data = {"dataset_dir": str(_phantoms(out)), "cache_dir": str(out / "cache")}
    return run_recipe(STUDENT, "train", data | RECIPE, out / "run")


def _phantoms(out: Path) -> Path:
    task = out / "Task09_Phantom"
    if not (task / "dataset.json").is_file():
        write_phantom_task(task, VOLUMES, TASK_SEED, shape=VOLUME_SHAPE)
    return task


def installed_backends() -> list[str]:
    """Those that can be measured here, the fastest first."""
    return [name for name, package in PACKAGES.items() if importlib.util.find_spec(package)]


def load_each(model: Path, backends: list[str]) -> None:
    """Write the ONNX file and check every backend against torch, which is done once for a model."""
    from medkd.inference.segmenter import Segmenter

    for backend in backends:
        Segmenter.load(model, backend, threads=THREADS)


def in_own_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """What ``work`` returns, done by a new process that has imported nothing else."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def measure_backend(model: Path, scan: Path, mask: Path, backend: str, rounds: int) -> dict[str, Any]:
    """Seconds from file to saved mask and measurements with the model loaded, the parts of them, and peak memory."""
    started = time.perf_counter()
    from medkd.inference.segmenter import Segmenter

    segmenter = Segmenter.load(model, backend, threads=THREADS)
    load_seconds = time.perf_counter() - started

    def segment() -> None:
        result = segmenter(scan)
        result.save(mask)
        write_json(mask.with_suffix(".json"), result.measurements)

    return {
        "backend": segmenter.backend.name,
        "load_seconds": load_seconds,
        **_repeat(segment, rounds),
        "parts": measure_parts(segmenter, scan, mask),
    }


def _repeat(work: Callable[[], Any], rounds: int) -> dict[str, Any]:
    """Seconds of the first time and of each later one, and the peak of the process, loading included.

    The Segmenter has the system count its peak anew for every scan, so it is asked each time.
    """
    seconds, peaks = [], [_peak_mb()]
    for _ in range(1 + rounds):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
        peaks.append(_peak_mb())
    return {
        "first": seconds[0],
        "rounds": seconds[1:],
        "best": min(seconds[1:]),
        "seconds": median(seconds[1:]),
        "peaks_mb": peaks,
        "peak_mb": max(peaks),
    }


def _peak_mb() -> float:
    return process_peak_mib() * 2**20 / 1e6


def measure_parts(segmenter: Any, scan: Path, mask: Path) -> dict[str, float]:
    """The seconds of each part of one more segmentation; what is in none of them is ``other``."""
    from medkd.data.grid import SliceGrid
    from medkd.inference import segmenter as module

    watch = Stopwatch()
    timed = [
        (module, "read_scan", "load"),
        # What is waited for: the network answers some slices while the next are prepared.
        (Future, "result", "network"),
        (SliceGrid, "label_slices", "post-process"),
        (module, "postprocess", "post-process"),
        (module, "measure_labels", "measure"),
    ]
    with ExitStack() as stack:
        for owner, name, part in timed:
            stack.enter_context(patch.object(owner, name, watch.call(part, getattr(owner, name))))
        slices = watch.steps("pre-process", module.stacked_slices)
        stack.enter_context(patch.object(module, "stacked_slices", slices))
        start = time.perf_counter()
        result = segmenter(scan)
        watch.call("save", result.save)(mask)
        total = time.perf_counter() - start
    return {**watch.seconds, "other": total - sum(watch.seconds.values())}


class Stopwatch:
    """Adds up the seconds that functions take.

    Attributes:
        seconds: of each part.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def call(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part] += time.perf_counter() - start

        return timed

    def steps(self, part: str, function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """The same generator function, timed while it makes its next item."""

        def timed(*args: Any) -> Iterator[Any]:
            return iter(self.call(part, partial(next, function(*args), None)), None)

        return timed


def measure_monai(way: str, model: Path, scan: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """The same as :func:`measure_backend` for MONAI's pieces."""
    started = time.perf_counter()
    import torch
    from monai_pipeline import slice_pipeline, volume_pipeline

    torch.set_num_threads(THREADS)
    pipeline = volume_pipeline(folder) if way == "monai" else slice_pipeline(folder, model)
    load_seconds = time.perf_counter() - started
    parts: list[dict[str, float]] = []
    figures = _repeat(lambda: parts.append(pipeline(scan)), rounds)
    return {"load_seconds": load_seconds, **figures, "parts": parts[-1]}


def infer_command(model: Path, scans: Path, out: Path, backend: str, *more: str) -> float:
    """Seconds of ``medkd infer``, from the start of its process to its end."""
    words = ["infer", model, scans, "--out", out, "--backend", backend, "--no-preview", *more]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "medkd", *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def run_backends(model: Path, out: Path, matrix: int, slices: int) -> dict[str, Any]:
    """Each backend warm and cold, then MONAI's pieces."""
    drawn = draw_scan(out / "scans", matrix, slices)
    ways: dict[str, Any] = {}
    for backend in installed_backends():
        mask = out / backend / "mask.nii.gz"
        figures = in_own_process(measure_backend, model, drawn.scan, mask, backend, ROUNDS)
        arguments = (model, drawn.scan, out / backend / "cold", backend, "--threads", str(THREADS))
        cold = [infer_command(*arguments) for _ in range(COLD_ROUNDS)]
        ways[backend] = {**figures, "cold": cold, **drawn.compare(mask)}
        _tell(backend, ways[backend])
    for way in ("monai slices", "monai"):
        folder = out / way.replace(" ", "_")
        ways[way] = in_own_process(measure_monai, way, model, drawn.scan, folder, MONAI_ROUNDS)
        ways[way] |= drawn.compare(folder / drawn.scan.name.replace(".nii", "_seg.nii"))
        _tell(way, ways[way])
    return {"scan": drawn.facts(), "ways": ways}


def run_growth(model: Path, out: Path, matrix: int, numbers: list[int]) -> dict[str, Any]:
    """One backend against the number of slices, and ``medkd infer`` over a cohort against the number of workers."""
    backend = installed_backends()[0]
    points = []
    for slices in numbers:
        drawn = draw_scan(out / "scans", matrix, slices)
        mask = out / "growth" / f"mask_{slices}.nii.gz"
        figures = in_own_process(measure_backend, model, drawn.scan, mask, backend, FEWER_ROUNDS)
        points.append({"slices": slices, "file_mb": drawn.facts()["file_mb"], **figures, **drawn.compare(mask)})
        _tell(f"{slices} slices", points[-1])
    scans = _phantoms(out) / "imagesTr"
    workers = [
        measure_workers(model, scans, out / "cohort" / str(number), backend, number) for number in GROWTH_WORKERS
    ]
    return {
        "points": points,
        "cohort": {"scans": len(list(scans.iterdir())), "shape": list(VOLUME_SHAPE)},
        "workers": workers,
    }


def measure_workers(model: Path, scans: Path, out: Path, backend: str, workers: int) -> dict[str, Any]:
    """``medkd infer`` over a cohort with the threads shared out among the workers."""
    threads = max(1, THREADS // workers)
    more = ("--workers", str(workers), "--threads", str(threads))
    shutil.rmtree(out, ignore_errors=True)  # Its manifest is that of these rounds.
    seconds = [infer_command(model, scans, out, backend, *more) for _ in range(FEWER_ROUNDS)]
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    figures = {
        "workers": workers,
        "threads": threads,
        "rounds": seconds,
        "seconds": median(seconds),
        "scans_per_minute": 60 * len({row["name"] for row in rows}) / median(seconds),
        "peak_mb": max(row["measurements"]["peak_mb"] for row in rows),
    }
    _tell(f"{workers} workers", figures)
    return figures


def _tell(what: str, figures: dict[str, Any]) -> None:
    print(f"{what:<14}{figures['seconds']:>8.2f} s{figures['peak_mb']:>8.0f} MB", flush=True)


def main() -> None:
    """Measure one part, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("backends", "growth", "report"))
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "inference", help="folder for scans, model, masks")
    parser.add_argument("--model", type=Path, metavar="RUN", help="instead of one trained on phantoms in --out")
    parser.add_argument("--matrix", type=int, default=512)
    parser.add_argument("--slices", type=int, nargs="+", help="of the CT; for growth several numbers")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    options = parser.parse_args()
    if options.part == "report":
        write_inference_page(ROOT / "docs" / "inference_speed.md", options.results)
        return
    # For all processes; what the user has cached stays as it is.
    os.environ |= {"OMP_NUM_THREADS": str(THREADS), "MEDKD_CACHE": str(options.out.absolute() / "cache")}
    from medkd.machine import machine_facts

    backends = installed_backends()
    model = options.model or train_model(options.out)
    in_own_process(load_each, model, backends)
    if options.part == "backends":
        results = run_backends(model, options.out, options.matrix, (options.slices or [BODY_SLICES])[0])
    else:
        results = run_growth(model, options.out, options.matrix, options.slices or GROWTH_SLICES)
    trained = None if options.model else {"volumes": VOLUMES, "shape": VOLUME_SHAPE, "recipe": RECIPE}
    versions = {PACKAGES[name]: version(PACKAGES[name]) for name in backends}
    write_json(
        options.results / f"inference_{options.part}.json",
        {"machine": machine_facts() | versions, "model": trained or options.model.name, **results},
    )


if __name__ == "__main__":
    main()
