"""The page of figures, from an invented result whose differences are known."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "results_page.py"


@pytest.fixture(scope="module")
def page() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results_page", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(seed: int, dices: list[float]) -> dict:
    cases = [{"name": f"v{index}", "labels": {"spleen": {"dice": dice}}} for index, dice in enumerate(dices)]
    mean = sum(dices) / len(dices)
    figures = {"spleen": dict.fromkeys(("dice", "iou", "precision", "recall"), mean)}
    return {
        "seed": seed,
        "parameters": 57297,
        "cases": cases,
        "mean": figures,
        "pooled_slices": figures,
        "train_seconds": 60,
    }


def arm(name: str, *runs: list[float]) -> dict:
    return {
        "name": name,
        "config": "distill",
        "overrides": {"epochs": 50},
        "runs": [run(seed, dices) for seed, dices in enumerate(runs)],
    }


def written(page: ModuleType, tmp_path: Path, better: dict) -> str:
    machine = {"gpu": None, "processor": "P", "threads": 1, "torch": "t", "monai": "m", "medkd": "k"}
    arms = {
        "teacher": arm("Teacher", [0.9, 0.9]),
        "alone": arm("Alone", [0.3, 0.5]),
        "control": arm("Control", [0.5, 0.7], [0.6, 0.8]),
        "pmd_bottleneck": better,
    }
    page.write_results_page({"machine": machine, "arms": arms}, tmp_path / "results.md", "python x.py")
    return (tmp_path / "results.md").read_text()


def test_figures_by_hand(page, tmp_path):
    text = written(page, tmp_path, arm("Distilled", [0.7, 0.8], [0.8, 0.9]))
    # Means of the seeds are 0.6 and 0.7, their standard deviation is 0.0707.
    assert "| Control | 57,297 | 2 | 0.650 ± 0.071 |" in text
    # By volume over seeds: control 0.55 and 0.75, distilled 0.75 and 0.85; by seed +0.15 twice.
    assert "| Distilled | +0.150 | +0.100 to +0.200 | 2 of 2 | +0.150, +0.150 |" in text
    assert "- Distilled: better than the control" in text
    assert "| v1 | 0.900 | 0.500 | 0.750 | 0.850 |" in text
    assert "Dice changes by: Control: +0.250; Distilled: +0.400." in text


def test_an_interval_that_holds_zero_says_so(page, tmp_path):
    text = written(page, tmp_path, arm("D", [0.4, 0.8], [0.5, 0.9]))
    assert "-0.100 to +0.100 (holds 0) | 1 of 2" in text
    assert "- D: cannot be told from the control" in text


def test_a_loss_is_called_a_loss(page, tmp_path):
    assert "- D: worse than the control" in written(page, tmp_path, arm("D", [0.3, 0.5], [0.4, 0.6]))


def test_an_arm_that_was_not_run_is_left_out(page, tmp_path):
    assert "Distilled" not in written(page, tmp_path, arm("Distilled"))


def test_only_common_seeds_are_compared(page, tmp_path):
    # The control's first seed has means 0.5 and 0.7.
    assert "| D | +0.100 | +0.100 to +0.100 | 2 of 2 | +0.100 |" in written(page, tmp_path, arm("D", [0.6, 0.8]))


def test_seeds_that_disagree_decide_nothing(page, tmp_path):
    text = written(page, tmp_path, arm("D", [0.6, 0.8], [0.56, 0.76]))
    assert "- D: cannot be told from the control." in text
