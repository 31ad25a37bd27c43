"""The page of the methods, from invented results whose differences are known."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from medkd.methods import method_names

FOLDER = Path(__file__).parents[2] / "benchmarks"
MACHINE = {"gpu": None, "processor": "P", "threads": 2, "torch": "t", "monai": "m", "medkd": "k"}


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("methods_page")


def run(seed: int, dice: float, terms: bool = True) -> dict:
    figures = {"spleen": dict.fromkeys(("dice", "iou", "precision", "recall"), dice)}
    facts = {
        "seed": seed, "best_val_dice": 0.5, "mean": figures,
        "cases": [{"name": f"v{index}", "labels": {"spleen": {"dice": dice}}} for index in range(3)],
    }  # fmt: skip
    if terms:
        row = {"segmentation": 0.5, "weighted": {"segmentation": 0.25}, "gradient": {"segmentation": 0.125}}
        facts["terms"] = [row | {"epoch": 1}, row | {"epoch": 9, "segmentation": 0.375}]
    return facts


def written(page: ModuleType, path: Path) -> str:
    methods = {"teacher": [run(0, 0.9, terms=False)], "control": [run(0, 0.6), run(1, 0.7)], "kd": [run(0, 0.7)]}
    results = {"machine": MACHINE, "scale": {"teacher": {"size": 64}, "students": {"epochs": 9}}, "methods": methods}
    row = {"control_ms": 100.0, "method_ms": 250.0, "control_peak_mib": 1000.0, "method_peak_mib": 1300.0}
    losses = {
        "machine": MACHINE,
        "setting": {"batch": 8, "size": 256, "threads": 2, "rounds": 7},
        "student_ms": 400.0,
        "rows": [
            {"loss": "Cheap", "scale": "encoder", "ms": 4.0, "share": 0.01},
            {"loss": "Dear", "scale": "logits", "ms": 80.0, "share": 0.2},
        ],
    }
    page.write_methods_page(path, results, {"machine": MACHINE, "steps": 8, "rows": {"kd": row}}, losses)
    return path.read_text()


def test_the_page_says_what_the_figures_say(page, tmp_path):
    text = written(page, tmp_path / "methods.md")
    assert "| `control` | 2 | 0.650 ± 0.071 | 0.500 ± 0.000 | 100 |  |" in text
    assert "| `kd` | 1 | 0.700 | 0.500 | 250 (2.5 x control) | 300 |" in text
    assert "| `kd` | +0.100 |" in text, "against the seed both have"
    assert "| `kd` | segmentation | 0.5 | 0.25 | 0.125 | 0.375 | 0.25 | 0.125 |" in text
    assert "the others of epoch 9" in text
    assert "| Cheap | 4 ms, 1% |  |  |  |" in text
    assert "Above 15%: Dear at the logits (20%)." in text


def test_the_page_lists_every_method(page, tmp_path):
    text = written(page, tmp_path / "methods.md")
    assert all(f"| `{name}` | " in text for name in method_names())
    assert "0.9 RegionAffinityLoss (decoder)" in text
