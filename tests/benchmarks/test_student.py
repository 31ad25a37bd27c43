"""The short table of the shipped student's page, and the check of the weights that ship, on figures made by hand."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from medkd.bundle import bundle_folder
from medkd.data import DecathlonTask
from medkd.engines import SavedModel, run_split_file
from medkd.study.job import jobs_of, read_result
from medkd.study.study_file import load_study

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


def test_the_distillation_is_chosen_by_the_last_epoch_of_the_validation_volumes(student, results):
    for name, runs in results["runs"].items():
        for seed, run in enumerate(runs):
            run["history"] = [{"epoch": 1, "val_dice": 0.1}, {"epoch": 2, "val_dice": 0.5 + 0.1 * seed}]
            run["history"] = run["history"][: 1 if name == "control" else 2]
    del results["runs"]["alone"]
    assert student.validation_table(results)[2:-1] == [
        "| teacher | 1 | 0.500 |", "| alone | 0 | – |", "| control | 2 | 0.100 |", "| distilled | 2 | 0.550 |"
    ]  # fmt: skip


STUDY = """
runs:
  teacher: {recipe: teacher, network: multitask_unet, once: true}
  alone: {recipe: alone, network: unet_tiny, overrides: {epochs: EPOCHS}}
  distilled: {recipe: distill, network: unet_tiny, teacher: teacher}
tables: [{title: All, control: alone, rows: [teacher, alone, distilled]}]
scales: {small: {seeds: [0, 1]}}
"""


def test_a_table_goes_on_from_what_is_stored_unless_a_recipe_changed(student, monkeypatch, tmp_path, tiny_task):
    monkeypatch.setattr(student, "STUDY_FILES", tmp_path)
    monkeypatch.setattr(student, "SHIPPED", {"spleen_ct_teacher": "teacher"})
    monkeypatch.setattr(student, "KEPT", {})
    monkeypatch.setattr(student, "stored", lambda name: tmp_path / f"{name}.json")
    (tmp_path / "table.yaml").write_text(STUDY.replace("EPOCHS", "3"))
    study = load_study(tmp_path / "table.yaml", data=tiny_task)
    runs = {"teacher": [result(0, 0.9)], "alone": [result(0, 0.5)], "distilled": [result(1, 0.8)]}
    content = {"study": study.to_dict() | {"data": tiny_task.name}, "runs": runs, "machine": {"cores": 2}}
    (tmp_path / "table.json").write_text(json.dumps(content))
    (tmp_path / "table.yaml").write_text(STUDY.replace("EPOCHS", "4"))
    student.restore(tmp_path / "out", tiny_task)
    jobs = jobs_of(load_study(tmp_path / "table.yaml", data=tiny_task), tmp_path / "out")
    found = {job.id: read_result(job) for job in jobs}
    assert {id for id, figures in found.items() if figures} == {"teacher-0", "distilled-1"}
    assert found["distilled-1"] == {**runs["distilled"][0], "machine": {"cores": 2}}
    teacher = tmp_path / "out" / "runs" / "teacher-0"
    assert SavedModel.read(teacher) == SavedModel.read(bundle_folder("spleen_ct_teacher"))
    assert json.loads(run_split_file(teacher).read_text())["test"] == DecathlonTask.load(tiny_task).split().test


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
