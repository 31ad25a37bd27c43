"""The short table of the shipped student's page, and the check of the weights that ship, on figures made by hand."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
MEANS = {"teacher": (0.95,), "alone": (0.5, 0.6), "control": (0.7, 0.7), "distilled": (0.8, 0.9)}


@pytest.fixture
def student(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("student")


def result(seed: int, mean: float) -> dict[str, Any]:
    rest = {"iou": 0.5, "recall": 0.5, "precision": 0.5}
    cases = [{"name": name, "labels": {"spleen": {"dice": mean, **rest}}} for name in ("a", "b")]
    pooled = {"spleen": {"dice": mean, **rest}}
    return {"seed": seed, "cases": cases, "pooled": pooled, "parameters": 10, "macs": 10}


@pytest.fixture
def results() -> dict[str, Any]:
    table = {"title": "tiny, 12 volumes", "source": "", "note": "", "control": "control", "published_control": ""}
    runs = [{"name": name, "title": name, "of": None, "once": name == "teacher"} for name in MEANS]
    return {
        "study": {
            "label": "spleen", "seeds": [0, 1], "runs": runs,
            "tables": [{**table, "rows": list(MEANS), "distilled": ["distilled"]}],
        },
        "published": {},
        "runs": {name: [result(seed, mean) for seed, mean in enumerate(means)] for name, means in MEANS.items()},
    }  # fmt: skip


def test_a_row_has_every_model_with_its_interval_and_the_gain_over_the_control(student, results):
    assert student.short_table(results)[2:] == [
        "| tiny, 12 volumes | 0.950 [0.950, 0.950] | 0.550 [0.500, 0.600] | 0.700 [0.700, 0.700] | "
        "0.850 [0.800, 0.900] | +0.150 ± 0.071 [+0.100, +0.200] | 1 |"
    ]
    del results["runs"]["distilled"][1], results["runs"]["alone"]
    cells = student.short_table(results)[2].split(" | ")
    assert cells[2] == "–" and cells[4] == "0.800 [0.800, 0.800] (1 of 2 seeds)"


@pytest.mark.parametrize(("measured", "code"), [(0.9504, 0), (0.96, 1)])
def test_shipped_weights_are_those_of_the_table(measured, code, student, results, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(student, "SHIPPED", {"spleen_ct_teacher": "teacher"})
    monkeypatch.setattr(student, "stored", lambda name: tmp_path / f"{name}.json")
    (tmp_path / "table.json").write_text(json.dumps(results))
    monkeypatch.setattr(student, "evaluate", lambda *_: result(0, measured))
    task = SimpleNamespace(part=lambda part: [], labels={})
    monkeypatch.setattr(student, "DecathlonTask", SimpleNamespace(load=lambda folder: task))
    monkeypatch.setattr(student, "Segmenter", SimpleNamespace(load=lambda *_: None))
    assert student.reproduce(tmp_path) == code
    assert ("0.9500 of a is stored" in capsys.readouterr().out) == bool(code)
