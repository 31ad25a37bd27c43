"""The forms of a training step run at a small size, and the page says what the figures say."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
FORMS = [
    "teacher published", "teacher", "teacher bfloat16",
    "student published", "student", "student bfloat16", "student returning memory",
    *(f"{terms} {way}" for terms in ("B+PMD", "all") for way in ("published", "uncached", "cached")),
]  # fmt: skip


@pytest.fixture
def benchmark_module(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


class Turns:
    """Wants three steps."""

    def __init__(self) -> None:
        self.left = 3
        self.taken = 0

    def wait(self) -> bool:
        self.left -= 1
        return self.left >= 0

    def done(self) -> None:
        self.taken += 1


@pytest.mark.parametrize("form", FORMS)
def test_every_form_takes_the_steps_that_are_wanted(benchmark_module, form, tmp_path):
    steps: ModuleType = benchmark_module("training_steps")
    turns = Turns()
    setting = steps.Setting(batch=4, size=32, teacher_channels=(2, 3, 4, 5, 6))
    steps.run_form(form, setting, tmp_path, turns)
    assert turns.taken == 3
    kept = len(list(tmp_path.glob("teacher/**/*.npy")))
    terms = {"B+PMD": 2, "all": 4}.get(form.partition(" ")[0], 0)
    assert kept == (4 * terms if form.endswith(" cached") else 0), "one file for each slice and term"


def stored(folder: Path, teacher_seconds: float) -> None:
    machine = {"gpu": None, "processor": "P", "threads": 2, "torch": "t"}

    def form(seconds: float) -> dict:
        return {"seconds": seconds, "peak_mib": 1000.0, "cache_bytes_per_slice": 2048.0}

    student = {"student": form(0.5)}
    distilled = {"B+PMD published": form(10.0), "B+PMD uncached": form(5.0), "B+PMD cached": form(0.6), **student}
    contents = {
        "steps": {
            "machine": machine, "rounds": 5, "matrix_tflops": 0.5,
            "setting": {"batch": 8, "size": 256, "device": "cpu"},
            "rows": {
                "teacher step, T1": {"teacher published": form(40.0), "teacher": form(teacher_seconds)},
                "student step, S1": {"student published": form(1.0), **student},
                "distillation step, B + PMD": distilled,
            },
        },
        "choices": {
            "machine": machine, "rounds": 3,
            "rows": {"student step, S1": {"student": form(0.5), "student bfloat16": form(0.6)}},
        },
        "growth": {"machine": machine, "rounds": 3, "points": [{"batch": 8, "size": 128, **distilled}]},
        "epoch": {
            "machine": machine, "data": "Task", "size": 128, "batch": 20, "cache_bytes": 5e6,
            "epochs": [{"seconds": 10.0, "steps": 7, "data": 1.0, "teacher": 6.0, "student and losses": 2.0,
                        "validation": 0.5, "logging": 0.5}],
        },
        "precision": {
            "machine": machine, "data": "Task", "scale": {"epochs": 3},
            "dice": {"float32": [0.5, 0.7], "bfloat16": [0.5, 0.6]},
            "float32": {"mean": 0.6, "sd": 0.1414}, "bfloat16": {"mean": 0.55, "sd": 0.0707},
        },
    }  # fmt: skip
    for part, content in contents.items():
        (folder / f"training_{part}.json").write_text(json.dumps(content))


def test_the_page_says_what_was_reached_and_what_was_missed(benchmark_module, tmp_path):
    stored(tmp_path, teacher_seconds=20.0)
    benchmark_module("training_page").write_performance_page(tmp_path / "page.md", tmp_path)
    text = (tmp_path / "page.md").read_text()
    assert "| teacher step, T1 | medkd | 20 | 2.0 x | 4 x, missed | 1000 |" in text
    assert "| student step, S1 | medkd | 0.5 | 2.0 x | 2 x | 1000 |" in text
    assert "| distillation step, B + PMD | medkd, first epoch | 5 | 2.0 x | 2.5 x, missed | 1000 |" in text
    assert "| distillation step, B + PMD | medkd, cache warm | 0.6 | 16.7 x | 15 x | 1000 |" in text
    assert "takes 1.20 of the student's own, within 1.5" in text
    # 3 x 2 x 79.3e9 x 8 operations.
    assert "T1 trains on 0.40 slices a second: 3.81 TFLOP in 20 s are 0.19 TFLOP/s," in text
    assert "38% of what a plain matrix product reaches" in text
    assert "the convolutions alone would take 7.6 s" in text
    assert "| student step, S1 | as medkd runs it | 0.5 | 1.00 |" in text
    assert "| student step, S1 | bfloat16 | 0.6 | 1.20 |" in text
    assert "| 8 | 128 | 0.5 s, 1000 MiB | 5 s, 1000 MiB | 0.6 s, 1000 MiB | 2 |" in text
    assert "| 1 | 10.0 | 10.0% | 60.0% | 20.0% | 5.0% | 5.0% |" in text
    assert "| bfloat16 | 0.500, 0.600 | 0.550 | 0.071 |" in text
    assert "Not measured: no GPU was at hand." in text


def test_a_teacher_fast_enough_misses_nothing(benchmark_module, tmp_path):
    stored(tmp_path, teacher_seconds=9.0)
    benchmark_module("training_page").write_performance_page(tmp_path / "page.md", tmp_path)
    assert "| teacher step, T1 | medkd | 9 | 4.4 x | 4 x | 1000 |" in (tmp_path / "page.md").read_text()
