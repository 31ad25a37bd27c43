"""The short table of the shipped student's page, and the check of the weights that ship, on figures made by hand."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from medkd.bundle import bundle_folder
from medkd.data import DecathlonTask, Preprocessing
from medkd.engines import SavedModel, load_model, run_split_file
from medkd.networks import create_network
from medkd.study.job import jobs_of, read_result
from medkd.study.study_file import load_study

FOLDER = Path(__file__).parents[2] / "benchmarks"
MEANS = {"teacher": (0.95,), "alone": (0.5, 0.6), "control": (0.7, 0.7), "distilled": (0.8, 0.9)}

MODEL = SavedModel({"name": "unet_s1", "channels": [2, 3]}, Preprocessing(size=32), {0: "background", 1: "spleen"})
WEIGHTS = {"teacher": (0.95,), "control": (0.5, 0.7), "distilled": (0.8, 0.9)}
TASK = SimpleNamespace(part=lambda part: part, labels={})


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
    monkeypatch.setattr(student, "KEPT", {bundle_folder("spleen_ct_teacher") / "models": "teacher"})
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


@pytest.fixture
def installed(student, results, monkeypatch, tmp_path):
    """Bundles in a temporary folder, with what ``install`` made of runs whose weights tell their figures."""
    monkeypatch.setattr(student, "stored", lambda name: tmp_path / f"{name}.json")
    monkeypatch.setattr(student, "bundle_folder", lambda bundle: tmp_path / bundle)
    monkeypatch.setattr(student, "KEPT", {tmp_path / "spleen_ct_teacher" / "models": "teacher"})
    monkeypatch.setattr(student, "CANDIDATES", ("control", "distilled"))
    monkeypatch.setattr(student, "DecathlonTask", SimpleNamespace(load=lambda folder: TASK))
    monkeypatch.setattr(student, "Segmenter", SimpleNamespace(load=lambda folder, backend: folder))
    monkeypatch.setattr(student, "evaluate", figures_of_weights)
    monkeypatch.setattr(student, "CARD", tmp_path / "card.json")
    cases = [{"name": name, "student": {"dice": 0.86}, "teacher": {"dice": 0.96}} for name in ("a", "b")]
    (tmp_path / "card.json").write_text(json.dumps({"cases": cases}))
    results["runs"]["shipped-teacher"] = [result(0, 0.95)]
    (tmp_path / "table.json").write_text(json.dumps(results))
    for bundle in student.STUDENT, student.TEACHER:
        (tmp_path / bundle).mkdir()
    for run, levels in WEIGHTS.items():
        for seed, level in enumerate(levels):
            save_level(tmp_path / "runs" / f"{run}-{seed}", level)
    student.install(tmp_path, tmp_path)
    return tmp_path


def save_level(folder: Path, level: float) -> None:
    """A model all of whose weights are ``level``."""
    state = create_network(**MODEL.network).state_dict()
    MODEL.save(folder, {name: torch.full_like(tensor, level) for name, tensor in state.items()})


def figures_of_weights(folder: Path, part: str, labels: Any, postprocessed: bool) -> dict[str, Any]:
    """Test volumes have the level of the weights as their Dice, validation volumes 0.1 less, cleaned ones 0.01 more."""
    level = next(iter(load_model(folder).state_dict().values())).mean().item()
    return result(0, level - 0.1 * (part == "val") + 0.01 * postprocessed)


def test_the_mean_that_validates_better_ships(student, installed):
    shipped = json.loads((installed / "shipped.json").read_text())
    assert shipped["ships"] == "distilled"
    for bundle in student.STUDENT, student.TEACHER:
        assert SavedModel.read(installed / bundle).compact == ("spleen",)
    control = shipped["candidates"]["control"]
    assert control["seeds"] == {"0": {"a": 0.4, "b": 0.4}, "1": {"a": 0.6, "b": 0.6}}
    assert control["val"] == {"a": 0.5, "b": 0.5} and control["test"] == {"a": 0.6, "b": 0.6}
    lines = student.shipped_table(shipped, json.loads((installed / "table.json").read_text()))
    assert lines[2:] == [
        "| control | 0.400, 0.600 | 0.500 | 0.700, 0.700 | 0.600 [0.600, 0.600] |",
        "| **distilled, ships** | 0.700, 0.800 | 0.750 | 0.800, 0.900 | 0.850 [0.850, 0.850] |",
    ]


@pytest.mark.parametrize(("level", "code"), [(0.85, 0), (0.8504, 0), (0.86, 1)])
def test_shipped_weights_are_those_whose_figures_are_stored(level, code, student, installed, capsys):
    assert student.reproduce(installed) == 0
    save_level(installed / student.STUDENT / "models", level)
    capsys.readouterr()
    assert student.reproduce(installed) == code
    out = capsys.readouterr().out
    assert ("spleen_ct_student a: Dice 0.8600, but 0.8500 is stored" in out) == bool(code)
    assert ("spleen_ct_student a post-processed: Dice 0.8700, but 0.8600 is stored" in out) == bool(code)
    assert "spleen_ct_teacher b post-processed: Dice 0.9600, as stored" in out
    assert out.count("as stored") == (4 if code else 8)
