"""What a training step costs, as MTMS-KD publishes it and as medkd runs it.

    python benchmarks/training.py steps             # the table of steps, about 15 minutes on two cores
    python benchmarks/training.py choices           # what bfloat16, torch.compile and kept memory do
    python benchmarks/training.py growth            # against batch size and image size
    python benchmarks/training.py epoch DATA        # two epochs on a task folder, and where their time goes
    python benchmarks/training.py precision DATA    # S1 in bfloat16 and in float32, three seeds
    python benchmarks/training.py steps --device cuda
    python benchmarks/training.py report            # docs/performance.md from the stored JSON

Each form of a step lives in a process of its own, so that its memory is its own, and the processes of a row take turns,
so that ratios hold on a busy machine. A figure is the median of the rounds after a warm-up.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import torch
from peak_memory import process_peak_mib
from training_epoch import measure_epochs
from training_page import write_performance_page
from training_precision import measure_precision
from training_steps import Setting, matrix_rate, run_form

from medkd.files import write_json
from medkd.machine import machine_facts

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
# The first step builds everything, the second fills the allocator.
THREADS, WARM_UP, ROUNDS, FEWER_ROUNDS = 2, 2, 5, 3
ROWS = {
    "teacher step, T1": ("teacher published", "teacher"),
    "student step, S1": ("student published", "student"),
    "distillation step, B + PMD": ("B+PMD published", "B+PMD uncached", "B+PMD cached", "student"),
    "distillation step, all terms": ("all published", "all uncached", "all cached", "student"),
}
CHOICES = {
    "teacher step, T1": ("teacher", "teacher bfloat16"),
    "student step, S1": ("student", "student bfloat16", "student compiled", "student returning memory"),
}
GROWTH = [(batch, 256) for batch in (2, 8, 32)] + [(8, size) for size in (128, 512)]
GROWTH_FORMS = ("student", "B+PMD uncached", "B+PMD cached")


def measure_row(forms: Sequence[str], setting: Setting, rounds: int) -> dict[str, dict[str, Any]]:
    """Seconds and peak memory of each form of a step, taken in turns."""
    context = multiprocessing.get_context("spawn")
    workers = {}
    for form in forms:
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(there, form, setting), daemon=True)
        process.start()
        there.close()
        workers[form] = (here, process)
    times: dict[str, list[float]] = {form: [] for form in forms}
    for round_index in range(WARM_UP + rounds):
        for form, (pipe, _) in workers.items():
            pipe.send(True)
            seconds = pipe.recv()
            if round_index >= WARM_UP:
                times[form].append(seconds)
    figures = {}
    for form, (pipe, process) in workers.items():
        pipe.send(False)
        figures[form] = {"seconds": median(times[form]), "rounds": times[form], **pipe.recv()}
        process.join()
        print(f"  {form:<26}{figures[form]['seconds']:8.3f} s{figures[form]['peak_mib']:8.0f} MiB", flush=True)
    return figures


def _work(pipe: Connection, form: str, setting: Setting) -> None:
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        run_form(form, setting, Path(folder), Turns(pipe, setting.device))
        kept = sum(file.stat().st_size for file in Path(folder).glob("teacher/**/*.npy"))
    peak = torch.cuda.max_memory_allocated() / 2**20 if setting.device == "cuda" else process_peak_mib()
    pipe.send({"peak_mib": peak, "cache_bytes_per_slice": kept / setting.batch})


class Turns:
    """Waits until the next step is wanted, and times it."""

    def __init__(self, pipe: Connection, device: str) -> None:
        self.pipe = pipe
        self.device = device
        self.started = 0.0

    def wait(self) -> bool:
        """Whether another step is wanted; returns when it is."""
        is_wanted = self.pipe.recv()
        self.started = time.perf_counter()
        return is_wanted

    def done(self) -> None:
        """Tell how long the step took."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.pipe.send(time.perf_counter() - self.started)


def main() -> None:
    """Measure one part, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("steps", "choices", "growth", "epoch", "precision", "report"))
    parser.add_argument("data", nargs="?", type=Path, help="task folder, for epoch and precision")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    if options.part == "report":
        write_performance_page(ROOT / "docs" / "performance.md", RESULTS)
        return
    results: dict[str, Any] = {"machine": machine_facts()}
    if options.part in ("epoch", "precision"):
        if options.data is None:
            parser.error(
                f"{options.part} needs a task folder: python benchmarks/training.py {options.part} Task09_Spleen"
            )
        results |= (measure_epochs if options.part == "epoch" else measure_precision)(options.data)
    elif options.part == "growth":
        results["rounds"] = FEWER_ROUNDS
        results["points"] = [
            {"batch": batch, "size": size, **measure_row(GROWTH_FORMS, Setting(batch, size), FEWER_ROUNDS)}
            for batch, size in GROWTH
        ]
    else:
        setting = Setting(device=options.device)
        rows, rounds = (ROWS, ROUNDS) if options.part == "steps" else (CHOICES, FEWER_ROUNDS)
        results |= {"setting": asdict(setting), "rounds": rounds, "matrix_tflops": matrix_rate(options.device)}
        results["rows"] = {row: measure_row(forms, setting, rounds) for row, forms in rows.items()}
    suffix = "" if options.device == "cpu" else f"_{options.device}"
    write_json(RESULTS / f"training_{options.part}{suffix}.json", results)


if __name__ == "__main__":
    main()
